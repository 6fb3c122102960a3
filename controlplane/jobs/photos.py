"""Pure: what kind of picture some bytes are, by what they begin with; what a sender calls them proves nothing."""

from typing import Final

from controlplane.errors import InvalidInputError

MAX_PHOTO_BYTES: Final = 32 * 1024 * 1024
"""What a worker reads at most."""

_BEGINNINGS: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"BM", "image/bmp"),
)
_ENDINGS: Final = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/tiff": "tif",
    "image/bmp": "bmp",
}


def media_type_of(content: bytes) -> str:
    """Return the media type of a photo.

    Raises:
        InvalidInputError: It is empty, too large, or none of the formats that workers read.
    """
    if not content:
        raise InvalidInputError("image", "is empty", "send a photo")
    if len(content) > MAX_PHOTO_BYTES:
        raise InvalidInputError("image", f"has {len(content)} bytes", f"send at most {MAX_PHOTO_BYTES}")
    for beginning, media_type in _BEGINNINGS:
        if content.startswith(beginning):
            return media_type
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    raise InvalidInputError("image", "is no photo that workers read", "send a JPEG, PNG, WebP, TIFF or BMP")


ENDINGS: Final = frozenset({*_ENDINGS.values(), "bin"})
"""All that `ending_of` gives."""


def ending_of(media_type: str) -> str:
    """Return what a file of this media type is called at its end."""
    return _ENDINGS.get(media_type, "bin")
