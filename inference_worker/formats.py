"""Which picture files are read, and how unknown ones are called; decided on a file's first bytes."""

import functools
import importlib
from typing import Final

from PIL import Image

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
HEIF: Final = "HEIF"
MEDIA_TYPES: Final = frozenset(
    {"image/jpeg", "image/jpg", "image/pjpeg", "image/png", "image/webp", "image/tiff", "image/bmp", "image/x-ms-bmp"}
)
HEIF_TYPES: Final = frozenset({"image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence"})
HEIF_LIBRARIES: Final = ("pi_heif", "pillow_heif")
"""Neither is a dependency: the first decodes only, the second brings an encoder under the GPL."""
HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
SIGNATURES: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"BM", "image/bmp"),
    (b"GIF8", "image/gif"),
    (b"%PDF", "application/pdf"),
    (b"<svg", "image/svg+xml"),
    (b"\x00\x00\x00\x0cJXL ", "image/jxl"),
    (b"\x00\x00\x00\x0cjP  ", "image/jp2"),
)


def identify(data: bytes) -> str:
    """The media type of a file by its first bytes, whatever its sender called it; empty if they say nothing."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "image/heic" if brand in HEIF_BRANDS else "image/avif" if brand in {b"avif", b"avis"} else "video/mp4"
    return next((name for signature, name in SIGNATURES if data.startswith(signature)), "")


@functools.cache
def load_heif() -> bool:
    """Teach Pillow HEIC if one of the libraries for it is installed; says whether it now reads it."""
    for name in HEIF_LIBRARIES:
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        library.register_heif_opener()
        return HEIF in Image.OPEN
    return False


def is_read(media_type: str) -> bool:
    """Whether pictures of this type can be decoded here."""
    return media_type in MEDIA_TYPES or (media_type in HEIF_TYPES and load_heif())
