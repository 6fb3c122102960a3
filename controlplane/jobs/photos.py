"""What jobs keep of the pictures that come in: photos without their metadata, results with a label."""

import asyncio
import dataclasses
import hashlib
from typing import Final

from controlplane.jobs.model import Picture
from controlplane.pictures.facts import MAX_PHOTO_BYTES, MAX_RESULT_BYTES
from controlplane.pictures.inspection import prepare
from controlplane.pictures.labels import Label

ASIDE_BYTES: Final = 1024 * 1024
"""Larger ones are looked at in a thread."""
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
    sha256: str

    def at(self, key: str) -> Picture:
        """Describe it as it lies at *key*."""
        return Picture(key=key, media_type=self.media_type, size_bytes=len(self.content), sha256=self.sha256)


async def keep_photo(content: bytes, *, is_stripped: bool) -> Kept:
    """Say what to store of a photo.

    Args:
        content: The file as it came.
        is_stripped: Whether its metadata are dropped: where and when it was taken, by whom and with what.

    Raises:
        InvalidInputError: It is none that workers read, or not only a photo.
    """
    return await _keep(content, is_stripped=is_stripped, words=None, max_bytes=MAX_PHOTO_BYTES)


async def keep_result(content: bytes, *, is_stripped: bool, words: Label | None) -> Kept:
    """Say what to store of a worker's picture.

    Args:
        content: The file as the worker sent it.
        is_stripped: Whether the metadata that a worker wrote into it, or copied, are dropped.
        words: Who coloured it, to be written into it; None for no label.

    Raises:
        InvalidInputError: It is no picture.
    """
    return await _keep(content, is_stripped=is_stripped, words=words, max_bytes=MAX_RESULT_BYTES)


async def _keep(content: bytes, *, is_stripped: bool, words: Label | None, max_bytes: int) -> Kept:
    def prepare_it() -> Kept:
        facts, kept = prepare(content, is_stripped=is_stripped, words=words, max_bytes=max_bytes)
        return Kept(kept, facts.media_type, hashlib.sha256(kept).hexdigest())

    # A photo of 12 megapixels takes 2 ms; 32 MiB made to be searched through take a second, which others need not wait.
    return prepare_it() if len(content) <= ASIDE_BYTES else await asyncio.to_thread(prepare_it)


def ending_of(media_type: str) -> str:
    """Return what a file of this media type is called at its end."""
    return _ENDINGS.get(media_type, "bin")
