"""Everything between bytes and the network, as pure functions: decode, grey check, size policy, Lab, recombine.

The photo's own lightness is never resampled: the network sees a small copy and only its colour (ab) is scaled up, so
a small model still gives a sharp picture. Colours outside sRGB are mixed with the grey of the same luminance rather
than clipped, because clipping changes the lightness: luminance is linear in linear RGB, so the mix keeps it exactly.

A photo without colour is kept as a view of one plane, its last axis without a stride: a third of the memory, and
every function below then works on one channel and looks its lightness up.
"""

import contextlib
import dataclasses
import enum
import io
import math
import struct
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from inference_worker.errors import TooManyPixelsError, UnreadableImageError, UnsupportedTypeError
from inference_worker.formats import FORMATS, HEIF, identify, is_read, load_heif
from inference_worker.sizing import STRIDE_PX

Floats: TypeAlias = NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.uint8]
"""Height x width x 3, sRGB."""

CUBIC: Final = Image.Resampling.BICUBIC
MAX_SCANS: Final = 100
"""A progressive JPEG has about ten; each decodes the whole picture again, so a small file could cost minutes."""
CHECK_SIDE_PX: Final = 128
COLOUR_RESIDUAL: Final = 6.0
"""Measured on 131 photos: finds 96 % of colour photos, calls no sepia and 1.5 % of noisy toned JPEGs colour."""
BAND_PIXELS: Final = 32_768
"""Pixels recombined at once: bounds the memory that a large photo takes, and the planes stay in the core's cache."""

_WHITE: Final = np.array([0.95047, 1.0, 1.08883], dtype=np.float32)
_TO_XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=np.float32,
)
_LEVELS: Final = np.arange(256, dtype=np.float32) / 255
_LINEAR: Final = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
_EPSILON: Final = 216 / 24389
_KAPPA: Final = 24389 / 27
_TINY: Final = np.float32(1e-9)
_GREY_LIGHTNESS: Final = np.where(_LINEAR > _EPSILON, 116 * np.cbrt(_LINEAR) - 16, _KAPPA * _LINEAR).astype(np.float32)
_GREY_F: Final = ((_GREY_LIGHTNESS + 16) / 116).astype(np.float32)
_SRGB_STEPS: Final = 16_383
"""Linear light is looked up in as many steps; the darkest step is a fifth of an 8-bit level."""
_OVER_WHITE_TO_STEPS: Final = (np.linalg.inv(_TO_XYZ.astype(np.float64)) * _WHITE * _SRGB_STEPS).astype(np.float32)
_MIDDLES: Final = np.minimum(1.0, (np.arange(_SRGB_STEPS + 1) + 0.5) / _SRGB_STEPS)
_SRGB_LEVELS: Final = np.rint(
    255 * np.where(_MIDDLES <= 0.0031308, _MIDDLES * 12.92, 1.055 * _MIDDLES ** (1 / 2.4) - 0.055)
).astype(np.uint8)


class Encoding(enum.StrEnum):
    """The picture formats a worker answers in."""

    PNG = "image/png"
    JPEG = "image/jpeg"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Which pictures are taken; checked on the header, before any pixel is decoded."""

    max_pixels: int = 24_000_000
    min_side_px: int = 64
    max_aspect: float = 4.0


def decode(data: bytes, limits: Limits, *, declared: str = "", admit: Callable[[int], None] = lambda _: None) -> Pixels:
    """Read a picture as upright sRGB; alpha is laid on white, 16-bit and CMYK are converted.

    Args:
        data: The file's content.
        limits: What is refused by its header alone.
        declared: The media type the sender gave; decides only how unknown bytes are called.
        admit: Told how many pixels the header announces, before any is decoded; may refuse by raising.

    Raises:
        UnsupportedTypeError: Not a format the worker reads.
        TooManyPixelsError: The header announces more pixels than allowed.
        UnreadableImageError: Broken data, too small, or too narrow.
    """
    found = identify(data) or declared
    if not is_read(found):
        raise UnsupportedTypeError(found or "unknown")
    try:
        with Image.open(io.BytesIO(data), formats=(*FORMATS, HEIF) if load_heif() else FORMATS) as image:
            _check_shape(*image.size, limits)
            if image.format == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
                raise UnreadableImageError(
                    f"image: the JPEG has more than {MAX_SCANS} scans; save it as a baseline one"
                )
            admit(image.width * image.height)
            image.load()
            _turn_upright(image)
            return _to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise TooManyPixelsError(0, 0, limits.max_pixels) from exc
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError) as exc:
        raise UnreadableImageError(
            "image: the data is damaged or cut off and cannot be decoded; send the whole file"
        ) from exc


def _check_shape(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooManyPixelsError(width, height, limits.max_pixels)
    if min(width, height) < limits.min_side_px:
        raise UnreadableImageError(
            f"image: {width} x {height} is too small; the shorter side needs {limits.min_side_px} pixels or more"
        )
    if max(width, height) > limits.max_aspect * min(width, height):
        raise UnreadableImageError(
            f"image: {width} x {height} is too narrow; crop it to a ratio of {limits.max_aspect:g}:1 or less"
        )


def _turn_upright(image: Image.Image) -> None:
    """Turn it in place: a copy of a photo that is upright already would cost as much as decoding it."""
    with contextlib.suppress(OSError, SyntaxError, ValueError, struct.error, KeyError, TypeError, ZeroDivisionError):
        ImageOps.exif_transpose(image, in_place=True)  # a broken EXIF block does not spoil good pixels


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return _scale_deep(np.asarray(image, dtype=np.float32))
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        image = Image.alpha_composite(white, with_alpha)
    if image.mode in {"1", "L"}:
        return _as_grey(np.asarray(image.convert("L"), dtype=np.uint8))
    if image.mode != "RGB":
        image = image.convert("RGB")
    red, green, blue = (np.asarray(image.getchannel(channel), dtype=np.uint8) for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return _as_grey(red)
    return np.asarray(image, dtype=np.uint8)


def _as_grey(plane: Pixels) -> Pixels:
    """Three channels that are views of one *plane*."""
    return np.broadcast_to(plane[..., None], (*plane.shape, 3))


def get_grey_plane(rgb: Pixels) -> Pixels | None:
    """The one plane behind a photo that `decode` found to be without colour; None for any other."""
    return rgb[..., 0] if rgb.strides[2] == 0 else None


def _scale_deep(values: Floats) -> Pixels:
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(finite.max(initial=0.0))
    full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
    grey = np.clip(np.rint(finite * (255 / full)), 0, 255).astype(np.uint8)
    return _as_grey(grey)


def compute_lab(rgb: Pixels) -> Floats:
    """CIE Lab (D65) of sRGB pixels; L in 0..100."""
    xyz = (_LINEAR[rgb] @ _TO_XYZ.T) / _WHITE
    f = np.where(xyz > _EPSILON, np.cbrt(xyz), (_KAPPA * xyz + 16) / 116).astype(np.float32)
    parts = (116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2]))
    return np.stack(parts, axis=-1).astype(np.float32)


def compute_lightness(rgb: Pixels) -> Floats:
    """The L plane alone, 0..100."""
    plane = get_grey_plane(rgb)
    if plane is not None:
        return _GREY_LIGHTNESS[plane]
    y = _LINEAR[rgb] @ _TO_XYZ[1]
    lightness: Floats = np.where(y > _EPSILON, 116 * np.cbrt(y) - 16, _KAPPA * y).astype(np.float32)
    return lightness


def measure_residual_chroma(rgb: Pixels) -> float:
    """How much colour is left when a one-dimensional tint is taken away; 95th percentile, Lab units.

    A sepia, cyanotype or otherwise toned print is a curve in Lab: its ab is a function of L. What a cubic in L cannot
    explain is colour of the scene.
    """
    if get_grey_plane(rgb) is not None:
        return 0.0
    image = Image.fromarray(rgb)
    image.thumbnail((CHECK_SIDE_PX, CHECK_SIDE_PX), Image.Resampling.BOX)
    lab = compute_lab(np.asarray(image, dtype=np.uint8)).reshape(-1, 3).astype(np.float64)
    x = lab[:, 0] / 50 - 1
    powers = np.stack([np.ones_like(x), x, x**2, x**3], axis=1)
    curve, *_ = np.linalg.lstsq(powers, lab[:, 1:], rcond=None)
    left = lab[:, 1:] - powers @ curve
    return float(np.percentile(np.hypot(left[:, 0], left[:, 1]), 95))


def choose_net_size(width: int, height: int, side_px: int) -> tuple[int, int]:
    """Width and height of the network's input: the photo's shape, about *side_px* squared in area, multiples of 32.

    Keeping the area, not the longer side, keeps the cost of every photo the same.
    """
    ratio = math.sqrt(width / height)
    wide = max(1, round(side_px * ratio / STRIDE_PX))
    high = max(1, round(side_px / ratio / STRIDE_PX))
    return wide * STRIDE_PX, high * STRIDE_PX


def prepare(rgb: Pixels, side_px: int, *, is_square: bool = False) -> Floats:
    """The network's input: lightness (1, 1, h, w) of a small copy; squeezed into a square if *is_square*."""
    size = (side_px, side_px) if is_square else choose_net_size(rgb.shape[1], rgb.shape[0], side_px)
    plane = get_grey_plane(rgb)
    small = Image.fromarray(rgb if plane is None else plane).resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.uint8)
    return compute_lightness(pixels if plane is None else _as_grey(pixels))[None, None]


def recombine(rgb: Pixels, ab: Floats) -> Pixels:
    """Put the predicted colour *ab* (2, h, w) under the photo's own full-resolution lightness."""
    height, width = rgb.shape[:2]
    low = (width, ab.shape[1])  # sideways once; each band below then only goes up
    planes = [Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)).resize(low, CUBIC) for plane in ab]
    scale = ab.shape[1] / height
    coloured = np.empty(rgb.shape, np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        box = (0.0, top * scale, float(width), min(bottom * scale, float(ab.shape[1])))
        size = (width, bottom - top)
        a, b = (np.asarray(plane.resize(size, CUBIC, box=box), dtype=np.float32) for plane in planes)
        _paint(coloured[top:bottom], *_find_luminance(rgb[top:bottom]), a, b)
    return coloured


def _find_luminance(rgb: Pixels) -> tuple[Floats, Floats]:
    """Y, 0..1, and its part of Lab, f(Y)."""
    plane = get_grey_plane(rgb)
    if plane is not None:
        return _LINEAR.take(plane), _GREY_F.take(plane)
    y = _LINEAR[rgb] @ _TO_XYZ[1]
    return y, np.where(y > _EPSILON, np.cbrt(y), (_KAPPA * y + 16) / 116).astype(np.float32)


def _invert_f(f: Floats) -> Floats:
    """X, Y or Z over white from its part of Lab: a cube, and a line below 6/29."""
    cubed = f * f
    cubed *= f
    is_dark = f <= np.float32(6 / 29)
    if is_dark.any():
        line = f * np.float32(116 / _KAPPA)
        line -= np.float32(16 / _KAPPA)
        np.copyto(cubed, line, where=is_dark)
    return cubed


def _paint(target: Pixels, luminance: Floats, fy: Floats, a: Floats, b: Floats) -> None:
    """Write the sRGB of these Lab planes; planes, because numpy is slow along a last axis of three."""
    luminance = luminance.reshape(-1)
    over_white = np.empty((3, luminance.size), np.float32)
    over_white[0] = _invert_f(fy + a * np.float32(1 / 500)).reshape(-1)
    over_white[1] = luminance
    over_white[2] = _invert_f(fy - b * np.float32(1 / 200)).reshape(-1)
    linear = _OVER_WHITE_TO_STEPS @ over_white
    low, high = linear.min(axis=0), linear.max(axis=0)
    if low.min() < 0 or high.max() > _SRGB_STEPS:
        _mix_with_grey(linear, low, high, luminance * np.float32(_SRGB_STEPS))
    levels = _SRGB_LEVELS.take(linear.astype(np.uint16))
    for channel in range(3):
        target[..., channel] = levels[channel].reshape(fy.shape)


def _mix_with_grey(linear: Floats, low: Floats, high: Floats, grey: Floats) -> None:
    """Leave of each colour the largest share that keeps every channel within its range, and fill up with grey."""
    kept = grey / np.maximum(grey - low, _TINY)
    np.minimum(kept, (_SRGB_STEPS - grey) / np.maximum(high - grey, _TINY), out=kept)
    np.clip(kept, 0, 1, out=kept)
    linear -= grey
    linear *= kept
    linear += grey
    np.clip(linear, 0, _SRGB_STEPS, out=linear)


def encode(rgb: Pixels, encoding: Encoding) -> bytes:
    """Write the picture as a file; PNG is compressed lightly, since a worker's time costs more than its bytes."""
    target = io.BytesIO()
    image = Image.fromarray(rgb)
    match encoding:
        case Encoding.PNG:
            image.save(target, "PNG", compress_level=1)
        case Encoding.JPEG:
            image.save(target, "JPEG", quality=92, subsampling=0)
    return target.getvalue()


def choose_encoding(accept: str) -> Encoding:
    """The answer's format for an `Accept` header: PNG, unless JPEG is named and PNG is not liked better."""
    jpeg, png = 0.0, 0.0
    for entry in accept.lower().split(","):
        kind, _, parameters = entry.partition(";")
        match kind.strip():
            case "image/jpeg" | "image/jpg":
                jpeg = _read_quality(parameters)
            case "image/png":
                png = _read_quality(parameters)
            case _:
                pass
    return Encoding.JPEG if jpeg > png else Encoding.PNG


def _read_quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
