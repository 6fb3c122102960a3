"""What a picture file is, how large it may be, and the words in which it is refused."""

import dataclasses
from collections.abc import Sequence
from typing import Final, Protocol, Self

from controlplane.errors import InvalidInputError

MAX_PHOTO_BYTES: Final = 32 * 1024 * 1024
"""What a worker reads at most."""
MAX_RESULT_BYTES: Final = 128 * 1024 * 1024
"""A worker's PNG of a large photo is larger than the photo."""
MAX_PIXELS: Final = 100_000_000
"""More than any worker takes unless it is told to: what a worker's own limit refuses, it says itself."""
MAX_SIDE_PX: Final = 65_535
MAX_ICC_BYTES: Final = 4 * 1024 * 1024
"""The largest colour profiles in use, those of printing presses, have about 3 MiB."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One picture: a file with several is none that is read here. Sides in pixels, as stored, before *orientation*.

    *orientation* is EXIF's, 1 to 8.
    """

    media_type: str
    width_px: int
    height_px: int
    orientation: int = 1


class PictureFile(Protocol):
    """A file that was read; every byte of it is either the picture's or `beside` it."""

    @property
    def facts(self) -> Facts:
        """What it is."""

    @property
    def beside(self) -> Sequence[bytes]:
        """All that is no pixels, which is where another file may hide."""

    @property
    def trailer(self) -> bytes:
        """What stands behind the picture's end."""

    def stripped(self) -> Self:
        """Return the file with what its pixels need and nothing else."""

    def labelled(self, packet: bytes, text: str) -> Self:
        """Return the file with *packet* as its only XMP, *text* where the format has a place for it, and no trailer."""

    def pack(self) -> bytes:
        """Return the file's bytes; pixels are copied as they are."""


def make_facts(media_type: str, width: int, height: int, orientation: int = 1) -> Facts:
    """Build facts.

    Raises:
        InvalidInputError: The picture has no pixels, or too many.
    """
    if width < 1 or height < 1:
        raise refuse(f"is {width} x {height} pixels", "send a photo that has some")
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise refuse(
            f"announces {width} x {height} pixels",
            f"scale it down to {MAX_PIXELS} pixels or fewer, {MAX_SIDE_PX} a side",
        )
    return Facts(media_type=media_type, width_px=width, height_px=height, orientation=orientation)


def refuse(problem: str, fix: str) -> InvalidInputError:
    """Make the error that says what is wrong with a picture."""
    return InvalidInputError("image", problem, fix)


def damaged(name: str, what: str) -> InvalidInputError:
    """Make the error for a file that breaks its format's own rules; *what* says where."""
    return refuse(f"is a damaged or cut-off {name} ({what})", "send the whole file, or save it anew")
