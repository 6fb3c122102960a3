"""Between lightness and the pictures that ComfyUI reads and writes."""

import hashlib
import io
import struct
from typing import Final

import numpy as np
from PIL import Image

from inference_worker.comfyui.errors import UnusableAnswerError
from inference_worker.imaging import Floats, compute_lab

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MAX_PIXELS: Final = 40_000_000
MAX_STRETCH: Final = 0.03
"""How far the shape of an answer may be from the question's; sizes are rounded, shapes are not to change."""


def draw_grey(lightness: Floats) -> bytes:
    """A PNG of lightness (1, 1, h, w), 0..100: the grey that has it."""
    light = lightness[0, 0].astype(np.float64)
    luminance = np.where(light > 8, ((light + 16) / 116) ** 3, light * 27 / 24389)
    encoded = np.where(luminance <= 0.0031308, luminance * 12.92, 1.055 * luminance ** (1 / 2.4) - 0.055)
    grey = np.clip(np.rint(encoded * 255), 0, 255).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(grey).convert("RGB").save(target, "PNG", compress_level=1)
    return target.getvalue()


def read_colour(data: bytes, height: int, width: int) -> Floats:
    """The ab planes (2, h, w) of a picture that ComfyUI made of one of *height* x *width*.

    Raises:
        UnusableAnswerError: No picture, too large a one, or one of another shape.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            wide, high = image.size
            if wide * high > MAX_PIXELS:
                raise UnusableAnswerError(f"comfyui: the picture it made has {wide} x {high} pixels, far too many")
            if abs((wide * height) / (high * width) - 1) > MAX_STRETCH:
                raise UnusableAnswerError(f"comfyui: made {wide} x {high} of {width} x {height}: the shape differs")
            pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as exc:
        raise UnusableAnswerError("comfyui: the picture it made cannot be read") from exc
    return np.ascontiguousarray(np.moveaxis(compute_lab(pixels)[..., 1:], -1, 0))


def name_content(data: bytes) -> str:
    """A short name for bytes; the same bytes have the same one."""
    return hashlib.sha256(data).hexdigest()[:32]
