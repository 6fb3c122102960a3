"""The three things that are done to a picture's file: it is read and judged, stripped, labelled."""

from collections.abc import Callable, Mapping
from typing import Final

from controlplane.pictures.bmp import read_bmp
from controlplane.pictures.facts import MAX_PHOTO_BYTES, Facts, PictureFile, refuse
from controlplane.pictures.foreign import check_foreign, identify
from controlplane.pictures.jpeg import read_jpeg
from controlplane.pictures.labels import Label, packet_of
from controlplane.pictures.png import read_png
from controlplane.pictures.tiff import read_tiff
from controlplane.pictures.webp import read_webp

_READERS: Final[Mapping[bytes, Callable[[bytes], PictureFile]]] = {
    b"\xff\xd8\xff": read_jpeg,
    b"\x89PNG\r\n\x1a\n": read_png,
    b"II*\x00": read_tiff,
    b"MM\x00*": read_tiff,
    b"BM": read_bmp,
}


def inspect(content: bytes, *, max_bytes: int = MAX_PHOTO_BYTES) -> Facts:
    """Read a picture's structure, whatever its sender calls it; what stands in it takes time in proportion to its size.

    Raises:
        InvalidInputError: It is empty, too large, damaged, or none of the formats that workers read; it is an animation
            or has several pages; it announces too many pixels or more than it holds; or it is another file as well.
    """
    return _open(content, max_bytes).facts


def strip(content: bytes, *, max_bytes: int = MAX_PHOTO_BYTES) -> bytes:
    """Return a picture with what its pixels need: orientation, colour profile, resolution, and no other metadata.

    Pixels are copied, not coded again. Twice is the same as once.

    Raises:
        InvalidInputError: As in `inspect`.
    """
    return _open(content, max_bytes).stripped().pack()


def label(content: bytes, words: Label, *, max_bytes: int = MAX_PHOTO_BYTES) -> bytes:
    """Return a picture that says who coloured it, in place of any XMP that it had; pixels are copied.

    What stands behind the picture is dropped. A BMP has no place for a label and comes back with its pixels only; a
    TIFF loses its other metadata.

    Raises:
        InvalidInputError: As in `inspect`.
    """
    return prepare(content, is_stripped=False, words=words, max_bytes=max_bytes)[1]


def prepare(
    content: bytes, *, is_stripped: bool, words: Label | None = None, max_bytes: int = MAX_PHOTO_BYTES
) -> tuple[Facts, bytes]:
    """Do all of the above that is wanted, with one reading; with nothing wanted the bytes are those that came.

    Raises:
        InvalidInputError: As in `inspect`.
    """
    file = _open(content, max_bytes)
    if not is_stripped and words is None:
        return file.facts, content
    facts = file.facts
    if is_stripped:
        file = file.stripped()
    if words is not None:
        file = file.labelled(packet_of(words, facts.orientation), words.text)
    return facts, file.pack()


def _open(content: bytes, max_bytes: int) -> PictureFile:
    if not content:
        raise refuse("is empty", "send a photo")
    if len(content) > max_bytes:
        raise refuse(f"has {len(content)} bytes", f"send at most {max_bytes}")
    file = _reader_of(content)(content)
    check_foreign(content, file)
    return file


def _reader_of(content: bytes) -> Callable[[bytes], PictureFile]:
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return read_webp
    for beginning, reader in _READERS.items():
        if content.startswith(beginning):
            return reader
    name = identify(content)
    raise refuse(
        f"is {name}, not a photo that workers read" if name else "is no photo that workers read",
        "send a JPEG, PNG, WebP, TIFF or BMP",
    )
