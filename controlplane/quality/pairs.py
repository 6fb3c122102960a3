"""How two versions' pictures of one photo differ, in figures that can be averaged over photos."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from controlplane.quality import colour
from controlplane.quality.features import Meter
from controlplane.quality.sanity import View

MIX_UPS: Final[dict[str, npt.NDArray[np.float64]]] = {
    "a and b are swapped": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "colours are inverted": np.array([[-1.0, 0.0], [0.0, -1.0]]),
    "a is inverted": np.array([[-1.0, 0.0], [0.0, 1.0]]),
    "b is inverted": np.array([[1.0, 0.0], [0.0, -1.0]]),
    "a and b are swapped and inverted": np.array([[0.0, -1.0], [-1.0, 0.0]]),
    "hues are turned by 90 degrees": np.array([[0.0, -1.0], [1.0, 0.0]]),
    "hues are turned by 270 degrees": np.array([[0.0, 1.0], [-1.0, 0.0]]),
}
"""What a bug in the handling of the two colour planes does to (a, b); each is undone by its transpose."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """What differs between the old and the new version's picture of one photo."""

    delta_e: float
    """Mean CIEDE2000 at 128 px."""
    delta_e_p95: float
    hue_deg: float
    """Distance of the hue histograms on the circle, 0..180 degrees."""
    ssim_ab: float
    """Mean SSIM of the a and b planes at 128 px."""
    old_chroma: float
    new_chroma: float
    old_colourfulness: float
    new_colourfulness: float
    lightness: float
    """How much the new picture changes L of the photo, as `View.lightness`."""
    mix_ups: tuple[float, ...]
    """For each of `MIX_UPS`: by how much better the colours agree when it is undone; -2..2, above 0 is suspicious."""
    offset: tuple[float, float]
    """How far right and down the new colours lie of the old ones, as shares of the longer side."""
    distances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What networks say of the two, by the names of their figures."""


def compare(old: View, new: View, meters: Sequence[Meter] = ()) -> Pair:
    """Measure the difference of two pictures of the same size, by *meters* too."""
    delta_e = colour.compute_delta_e(old.lab, new.lab)
    return Pair(
        delta_e=float(delta_e.mean()),
        delta_e_p95=float(np.percentile(delta_e, 95)),
        hue_deg=colour.measure_hue_distance(colour.count_hues(old.lab), colour.count_hues(new.lab)),
        ssim_ab=float(np.mean([colour.measure_ssim(old.lab[..., plane], new.lab[..., plane]) for plane in (1, 2)])),
        old_chroma=old.chroma,
        new_chroma=new.chroma,
        old_colourfulness=old.colourfulness,
        new_colourfulness=new.colourfulness,
        lightness=new.lightness,
        mix_ups=_weigh_mix_ups(old, new),
        offset=_measure_offset(old, new),
        distances={
            meter.name: meter.measure(old.small, new.small)
            for meter in meters
            if old.small is not None and new.small is not None
        },
    )


def _weigh_mix_ups(old: View, new: View) -> tuple[float, ...]:
    x, y = (view.lab[..., 1:].reshape(-1, 2).astype(np.float64) for view in (old, new))
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    if scale == 0:
        return (0.0,) * len(MIX_UPS)
    together = x.T @ y / scale
    return tuple(float(np.trace(together @ undone) - np.trace(together)) for undone in MIX_UPS.values())


def _measure_offset(old: View, new: View) -> tuple[float, float]:
    """Lucas and Kanade's step: fit the new colours by the old ones and their slopes, all pixels at once."""
    x, y = old.lab[..., 1:].astype(np.float64), new.lab[..., 1:].astype(np.float64)
    down, right = np.gradient(x, axis=(0, 1))
    parts = np.stack([x.ravel(), right.ravel(), down.ravel()], axis=1)
    (gain, by_right, by_down), *_ = np.linalg.lstsq(parts, y.ravel(), rcond=None)
    if gain < 0.1:  # the colours have nothing to do with each other
        return 0.0, 0.0
    side = max(x.shape[:2])
    return float(-by_right / gain / side), float(-by_down / gain / side)
