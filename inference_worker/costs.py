"""Pure: what a run of a network costs in time and memory, as straight lines over pixels.

Both lines are measured at start, on this device with this model, and corrected while it works: seconds by a factor that
follows what runs really take, memory by halving what a run may hold whenever the device says that it has no more.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

FOLLOW: Final = 0.2
"""Weight of the newest measurement; averaged as logarithms, so that one stalled run does not spoil the estimate."""
DOUBT: Final = 0.97
"""What is left of an estimate each time it alone refuses a request on an idle device: a wrong one heals by itself."""
GOOD_RUNS: Final = 64
GROWTH_PARTS: Final = 8


def fit_line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Base and slope of the least-squares line through (pixels, value); neither is below zero.

    Points of one size tell no base: their line starts at zero, which makes many pictures look dear rather than cheap.
    """
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return 0.0, mean_y / mean_x
    slope = max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)
    base = mean_y - slope * mean_x
    return (base, slope) if base >= 0 else (0.0, mean_y / mean_x)


def follow(estimate: float, measured: float) -> float:
    """The next estimate after one more measurement, both positive; the first measurement is taken as it is."""
    if estimate <= 0:
        return measured
    return math.exp((1 - FOLLOW) * math.log(estimate) + FOLLOW * math.log(max(measured, 1e-9)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of one run by its pixels; before anything was measured, zero: nothing is refused on a guess."""

    base_s: float = 0.0
    per_pixel_s: float = 0.0
    factor: float = 1.0

    def estimate_s(self, pixels: int) -> float:
        """How long a run over *pixels* takes."""
        return (self.base_s + self.per_pixel_s * pixels) * self.factor

    def observe(self, pixels: int, seconds: float) -> "Costs":
        """After a run of *seconds*."""
        expected = self.base_s + self.per_pixel_s * pixels
        if expected <= 0:
            return Costs(per_pixel_s=seconds / pixels)
        return dataclasses.replace(self, factor=follow(self.factor, seconds / expected))

    def doubt(self) -> "Costs":
        """After the estimate refused a request and nothing was running that could have corrected it."""
        return dataclasses.replace(self, factor=self.factor * DOUBT)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Most pixels in one run; one picture alone may always try, since refusing it would be for ever."""

    limit_px: int
    ceiling_px: int
    good_runs: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing has shrunk it."""
        return self.limit_px >= self.ceiling_px

    def shrink(self, failed_px: int) -> "Budget":
        """After a run over *failed_px* found no memory: half of it."""
        return dataclasses.replace(self, limit_px=max(1, min(self.limit_px, failed_px) // 2), good_runs=0)

    def prosper(self, pixels: int) -> "Budget":
        """After a run went well; enough that used most of a shrunk budget make it grow by an eighth of the whole."""
        if self.is_whole or 2 * pixels < self.limit_px:
            return self
        if self.good_runs + 1 < GOOD_RUNS:
            return dataclasses.replace(self, good_runs=self.good_runs + 1)
        grown = min(self.ceiling_px, self.limit_px + max(1, self.ceiling_px // GROWTH_PARTS))
        return dataclasses.replace(self, limit_px=grown, good_runs=0)


def size_budget(peaks: Sequence[tuple[int, float]], *, limit_bytes: int, unbounded_px: int) -> Budget:
    """The budget that keeps a run's memory below *limit_bytes*.

    Args:
        peaks: Pixels of a run, and the most memory that was held while it ran, bytes.
        limit_bytes: What the device or the process may hold.
        unbounded_px: What to allow when memory does not visibly grow with pixels.
    """
    base, per_pixel = fit_line(peaks)
    affordable = unbounded_px if per_pixel <= 0 else int((limit_bytes - base) / per_pixel)
    pixels = max(1, min(unbounded_px, affordable))
    return Budget(limit_px=pixels, ceiling_px=pixels)
