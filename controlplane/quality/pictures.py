"""From bytes to pixels, with Pillow: answers are read with care, since a broken version sends anything."""

import io
import struct
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from controlplane.quality.colour import Pixels
from controlplane.quality.sanity import Flaw, Unusable, View, measure

FORMATS: Final = ("JPEG", "PNG", "WEBP")
PHOTO_FORMATS: Final = (*FORMATS, "TIFF", "BMP")
PLAIN_MODES: Final = frozenset({"1", "L", "P", "RGB", "CMYK"})


def read_photo(data: bytes) -> Pixels:
    """The pixels of a photo of the test set.

    Raises:
        OSError: It is no picture.
    """
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"), dtype=np.uint8)


def read_upright(data: bytes) -> Pixels:
    """The pixels of a photo that a client sent, turned as its EXIF says, as a worker turns it.

    Raises:
        OSError: It is no picture.
        ValueError: It has transparency or 16 bits, which every program shows in its own way.
    """
    with Image.open(io.BytesIO(data), formats=PHOTO_FORMATS) as opened:
        if opened.mode not in PLAIN_MODES or "transparency" in opened.info:
            raise ValueError(opened.mode)
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"), dtype=np.uint8)


def make_grey(data: bytes) -> bytes:
    """A photo as a grey PNG; one that has no colour planes is returned as it is.

    Raises:
        OSError: It is no picture.
    """
    with Image.open(io.BytesIO(data)) as opened:
        if opened.mode == "L":
            return data
        grey = opened.convert("RGB").convert("L")
    target = io.BytesIO()
    grey.save(target, "PNG")
    return target.getvalue()


def read_answer(data: bytes, photo: Pixels) -> View | Unusable:
    """Measure an answer to *photo*; its size is checked before any pixel is decoded."""
    height, width = photo.shape[:2]
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.size != (width, height):
                found = f"{opened.width} x {opened.height}"
                return Unusable(Flaw.WRONG_SIZE, f"{found} instead of {width} x {height}")
            rgb = np.asarray(opened.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError, Warning) as exc:
        return Unusable(
            Flaw.UNREADABLE, f"{len(data)} bytes that are no whole JPEG, PNG or WebP ({type(exc).__name__})"
        )
    except Image.DecompressionBombError:
        return Unusable(Flaw.WRONG_SIZE, f"enormous instead of {width} x {height}")
    return measure(rgb, photo)
