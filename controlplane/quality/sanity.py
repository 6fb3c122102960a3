"""What is wrong with one answer by itself, whatever another version makes of the same photo.

The limits were set on 66 photos: the shipped models stay inside them with a wide margin, as PNG and as JPEG down to
quality 60; each kind of bug that they are for lies far outside.
"""

import dataclasses
import enum
from typing import Final

import numpy as np

from controlplane.quality import colour
from controlplane.quality.colour import Floats, Pixels
from controlplane.quality.features import shrink

SIDE_PX: Final = 128
"""Colours are compared on copies of this size: coding noise is gone there, and what people notice is left."""


class Flaw(enum.StrEnum):
    """One thing that is wrong with an answer."""

    MISSING = "no answer"
    UNREADABLE = "unreadable"
    WRONG_SIZE = "wrong size"
    LIGHTNESS = "lightness changed"
    GREY = "grey"
    PALE = "pale"
    GARISH = "garish"
    CLIPPED = "clipped"
    TINTED = "of one tint"


FATAL: Final = (Flaw.MISSING, Flaw.UNREADABLE, Flaw.WRONG_SIZE, Flaw.LIGHTNESS, Flaw.GREY)
"""What no single picture of a sound version shows; the other flaws count by their share."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """Where a picture stops being sane."""

    lightness: float = 5.0
    """Largest change of L (0..100) that 99 % of the picture, seen at 128 px, must keep: a colorizer adds colour only.
    A JPEG of quality 60 reaches 3.6, a blur of 2 px or a shift of 8 px 20 to 70."""
    grey: float = 3.0
    """Colourfulness below which a picture is grey."""
    pale: float = 8.0
    """Colourfulness below which it is pale; the muted shipped model has 11 to 59."""
    garish: float = 75.0
    """Colourfulness above which it is garish; a natural photo has about 40."""
    clipped: float = 0.25
    """Share of pixels at the edge of sRGB; the vivid shipped model has at most 0.16."""
    tinted: float = 0.35
    """Colour that no single tint explains, relative to all colour; a sepia picture has 0.07, a sound one over 0.37."""


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """One readable answer, measured: everything that a comparison needs, in 0.4 MB at most."""

    lab: Floats
    """Lab at 128 px."""
    lightness: float
    """The 99th percentile of |dL| against the photo, at 128 px."""
    colourfulness: float
    chroma: float
    clipped: float
    """A share, 0..1."""
    residual: float
    """Chroma that no tint explains, in Lab units."""
    small: Pixels | None = None
    """The picture as networks look at it, at most 256 px long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unusable:
    """An answer that cannot be measured, and in a few words why."""

    flaw: Flaw
    words: str


def measure(rgb: Pixels, photo: Pixels) -> View:
    """Measure an answer that is as large as the *photo* it was made from."""
    lab = colour.shrink_to_lab(rgb, SIDE_PX)
    change = np.abs(lab[..., 0] - colour.shrink_to_lab(photo, SIDE_PX)[..., 0])
    return View(
        lab=lab,
        lightness=float(np.percentile(change, 99)),
        colourfulness=colour.measure_colourfulness(rgb),
        chroma=colour.measure_chroma(lab),
        clipped=colour.measure_clipped(rgb),
        residual=colour.measure_residual(lab),
        small=shrink(rgb),
    )


def find_flaws(seen: View | Unusable, bounds: Bounds) -> tuple[Flaw, ...]:
    """Name what is wrong with an answer."""
    if isinstance(seen, Unusable):
        return (seen.flaw,)
    is_grey = seen.colourfulness < bounds.grey
    found = (
        (Flaw.LIGHTNESS, seen.lightness > bounds.lightness),
        (Flaw.GREY, is_grey),
        (Flaw.PALE, not is_grey and seen.colourfulness < bounds.pale),
        (Flaw.GARISH, seen.colourfulness > bounds.garish),
        (Flaw.CLIPPED, seen.clipped > bounds.clipped),
        (Flaw.TINTED, not is_grey and seen.residual < bounds.tinted * seen.chroma),
    )
    return tuple(flaw for flaw, is_there in found if is_there)
