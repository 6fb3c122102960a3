"""What can be measured of colours, as pure functions over arrays: Lab, CIEDE2000, hue, colourfulness, SSIM.

Own code, because scikit-image costs 100 MB at run time; tests hold it against scikit-image and published values.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Height x width x 3, sRGB."""

HUE_BINS: Final = 36
SSIM_WINDOW_PX: Final = 7
NEUTRAL_SPREAD: Final = 24
"""Levels of 255 between a pixel's channels up to which it counts as black, white or grey."""
AB_SPAN: Final = 200.0
"""What SSIM takes for the range of a and b: differences well below 3 % of it count as noise."""

_WHITE: Final = np.array([0.95047, 1.0, 1.08883], dtype=np.float32)
_TO_XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=np.float32,
)
_LEVELS: Final = np.arange(256, dtype=np.float32) / 255
_LINEAR: Final = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
_EPSILON: Final = 216 / 24389
_KAPPA: Final = 24389 / 27


def compute_lab(linear: Floats) -> Floats:
    """CIE Lab (D65) of linear sRGB light, 0..1 on the last axis; L in 0..100."""
    xyz = (linear @ _TO_XYZ.T) / _WHITE
    f = np.where(xyz > _EPSILON, np.cbrt(xyz), (_KAPPA * xyz + 16) / 116)
    parts = (116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2]))
    return np.stack(parts, axis=-1).astype(np.float32)


def shrink_to_lab(rgb: Pixels, side_px: int) -> Floats:
    """Lab of a copy whose sides are at most *side_px*: what an eye sees from afar.

    Blocks of light are averaged, not their sRGB values; the noise of a JPEG cancels out.
    """
    planes: Floats = _LINEAR[rgb]
    height, width = rgb.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    for axis, size in ((0, height), (1, width)):
        edges = np.linspace(0, size, max(1, round(size * scale)) + 1).astype(np.intp)
        counts = np.diff(edges).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        planes = (np.add.reduceat(planes, edges[:-1], axis=axis) / counts).astype(np.float32)
    return compute_lab(planes)


def compute_delta_e(one: Floats, other: Floats) -> Floats:
    """CIEDE2000 between two Lab arrays: 1 is about the smallest difference that people see side by side.

    Method: Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula" (2005), in double precision.
    """
    l1, a1, b1 = np.moveaxis(one.astype(np.float64), -1, 0)
    l2, a2, b2 = np.moveaxis(other.astype(np.float64), -1, 0)
    mean_c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1 + 0.5 * (1 - np.sqrt(mean_c7 / (mean_c7 + 25.0**7)))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 for a, b in ((a1, b1), (a2, b2)))
    is_grey = c1 * c2 == 0
    turn = np.where(is_grey, 0.0, (h2 - h1 + 180) % 360 - 180)
    turn = np.where((turn == -180) & (h2 > h1), 180.0, turn)  # opposite hues: as the paper's implementation does
    delta_h = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    apart = np.abs(h1 - h2) > 180
    total = h1 + h2
    mean_h = np.where(is_grey, total, np.where(apart, np.where(total < 360, total + 360, total - 360), total) / 2)
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * np.cos(np.radians(mean_h - 30))
        + 0.24 * np.cos(np.radians(2 * mean_h))
        + 0.32 * np.cos(np.radians(3 * mean_h + 6))
        - 0.20 * np.cos(np.radians(4 * mean_h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    twist = np.radians(60 * np.exp(-(((mean_h - 275) / 25) ** 2)))
    r_t = -np.sin(twist) * 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    d_l, d_c, d_h = (l2 - l1) / s_l, (c2 - c1) / s_c, delta_h / s_h
    squared = d_l**2 + d_c**2 + d_h**2 + r_t * d_c * d_h
    distance: Floats = np.sqrt(np.maximum(squared, 0)).astype(np.float32)
    return distance


def measure_colourfulness(rgb: Pixels) -> float:
    """Hasler and Suesstrunk's figure (2003): 0 for grey, about 40 for a natural photo, above 80 garish."""
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    first, second = red - green, (red + green) / 2 - blue
    spread = np.hypot(first.std(), second.std())
    return float(spread + 0.3 * np.hypot(first.mean(), second.mean()))


def measure_chroma(lab: Floats) -> float:
    """The mean distance from grey, in Lab units."""
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


def measure_clipped(rgb: Pixels) -> float:
    """The share of pixels whose colour stands at the edge of sRGB: one channel at its end, but neither black nor white.

    A channel at 0 or 255 alone says nothing: shadows and skies of a photo are there without any colour.
    """
    red, green, blue = (rgb[..., channel] for channel in range(3))  # a reduction over a last axis of three is slow
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    return float((((low == 0) | (high == 255)) & (high - low > NEUTRAL_SPREAD)).mean())


def count_hues(lab: Floats) -> npt.NDArray[np.float64]:
    """A histogram of hue, 36 bins of 10 degrees around the circle, each pixel weighing as much as its chroma.

    Adds up to the picture's mean chroma, so that a grey picture has hardly any weight among others.
    """
    a, b = lab[..., 1].ravel(), lab[..., 2].ravel()
    bins = (np.degrees(np.arctan2(b, a)) % 360 / (360 / HUE_BINS)).astype(np.intp) % HUE_BINS
    return np.bincount(bins, weights=np.hypot(a, b), minlength=HUE_BINS) / max(1, a.size)


def measure_hue_distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """How far, in degrees along the circle, the colours of *one* histogram must be turned to make the *other*; 0..180.

    Wasserstein's distance on the circle: the differences of the running sums, less their median (Werman et al., 1986).
    Where one of them has no colour there is no hue to compare, and the distance is 0.
    """
    if one.sum() <= 0 or other.sum() <= 0:
        return 0.0
    running = np.cumsum(one / one.sum() - other / other.sum())
    return float(np.abs(running - np.median(running)).sum() * (360 / len(one)))


def measure_ssim(one: Floats, other: Floats, *, span: float = AB_SPAN) -> float:
    """Mean structural similarity of two planes (Wang et al., 2004), over square windows of 7 px; 1 is the same.

    Args:
        one: A plane, at least 7 px on each side.
        other: A plane of the same shape.
        span: The range of values that the planes could have.
    """
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _average_windows(x), _average_windows(y)
    count = SSIM_WINDOW_PX**2
    unbiased = count / (count - 1)
    var_x = unbiased * (_average_windows(x * x) - mean_x**2)
    var_y = unbiased * (_average_windows(y * y) - mean_y**2)
    both = unbiased * (_average_windows(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    ratio = ((2 * mean_x * mean_y + c1) * (2 * both + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(ratio.mean())


def _average_windows(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of every whole window, from running sums."""
    size = SSIM_WINDOW_PX
    sums = np.pad(plane.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    windows = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    averaged: npt.NDArray[np.float64] = windows / size**2
    return averaged


def measure_residual(lab: Floats) -> float:
    """The chroma that no tint explains: the 95th percentile of what a cubic in L leaves of a and b, in Lab units.

    A sepia or otherwise toned picture is a curve in Lab, so nothing is left of its colour.
    """
    flat = lab.reshape(-1, 3).astype(np.float64)
    x = flat[:, 0] / 50 - 1
    powers = np.stack([np.ones_like(x), x, x**2, x**3], axis=1)
    curve, *_ = np.linalg.lstsq(powers, flat[:, 1:], rcond=None)
    left = flat[:, 1:] - powers @ curve
    return float(np.percentile(np.hypot(left[:, 0], left[:, 1]), 95))
