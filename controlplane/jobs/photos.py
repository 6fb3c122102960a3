"""What jobs keep of the pictures that come in: photos without their metadata, results with a label."""

import dataclasses
import hashlib
from typing import Final

from controlplane.jobs.model import Picture
from controlplane.pictures.facts import MAX_PHOTO_BYTES, MAX_RESULT_BYTES
from controlplane.pictures.inspection import prepare
from controlplane.pictures.labels import Label

__all__ = ["MAX_PHOTO_BYTES", "Kept", "ending_of", "keep_photo", "keep_result"]

_ENDINGS: Final = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/tiff": "tif",
    "image/bmp": "bmp",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A picture as it is to be stored."""

    content: bytes
    media_type: str

    def at(self, key: str) -> Picture:
        """Describe it as it lies at *key*."""
        digest = hashlib.sha256(self.content).hexdigest()
        return Picture(key=key, media_type=self.media_type, size_bytes=len(self.content), sha256=digest)


def keep_photo(content: bytes, *, is_stripped: bool) -> Kept:
    """Say what to store of a photo.

    Args:
        content: The file as it came.
        is_stripped: Whether its metadata are dropped: where and when it was taken, by whom and with what.

    Raises:
        InvalidInputError: It is none that workers read, or not only a photo.
    """
    facts, content = prepare(content, is_stripped=is_stripped)
    return Kept(content, facts.media_type)


def keep_result(content: bytes, *, is_stripped: bool, words: Label | None) -> Kept:
    """Say what to store of a worker's picture.

    Args:
        content: The file as the worker sent it.
        is_stripped: Whether the metadata that a worker wrote into it, or copied, are dropped.
        words: Who coloured it, to be written into it; None for no label.

    Raises:
        InvalidInputError: It is no picture.
    """
    facts, content = prepare(content, is_stripped=is_stripped, words=words, max_bytes=MAX_RESULT_BYTES)
    return Kept(content, facts.media_type)


def ending_of(media_type: str) -> str:
    """Return what a file of this media type is called at its end."""
    return _ENDINGS.get(media_type, "bin")
