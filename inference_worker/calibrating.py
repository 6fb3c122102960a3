"""Measures, once and before the first request, what a run of a model costs on this device."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Final

from inference_worker.clock import Clock
from inference_worker.costs import Budget, Costs, fit_line, size_budget
from inference_worker.crafts import Craft
from inference_worker.errors import ModelError
from inference_worker.failures import is_out_of_memory
from inference_worker.imaging import Floats
from inference_worker.memory import MemoryMeter

log = logging.getLogger(__name__)

PATIENCE_S: Final = 2.0
"""A first run that takes longer is not repeated: what set-up adds to it matters little."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A model to be measured, and what with."""

    craft: Craft
    predict: Callable[[Floats], Floats]
    meter: MemoryMeter
    clock: Clock

    @property
    def usual_px(self) -> int:
        """Pixels of the largest trial."""
        return self.craft.list_trial_sizes()[-1] ** 2

    def time_run(self, side_px: int) -> float:
        """Seconds that one picture takes, without what the first run sets up."""
        picture = self.craft.make_trial(side_px)
        taken: list[float] = []
        while len(taken) < 2 and sum(taken) < PATIENCE_S:
            started_s = self.clock.read_s()
            self.predict(picture)
            taken.append(max(1e-6, self.clock.read_s() - started_s))
        return min(taken)


def measure(trial: Trial, *, max_batch: int) -> tuple[Costs, Budget]:
    """Run the trials; where the usual one finds no memory, the budget is what the smaller one took.

    Raises:
        ModelError: The model does not run at all.
    """
    unbounded_px = max_batch * trial.craft.largest_px
    times: list[tuple[int, float]] = []
    peaks: list[tuple[int, float]] = []
    for side in trial.craft.list_trial_sizes():
        trial.meter.reset_peak()
        try:
            times.append((side * side, trial.time_run(side)))
        except ModelError as exc:
            if not is_out_of_memory(exc) or not times:
                raise
            log.warning("memory.ran_out", extra={"fields": {"pictures": 1, "pixels": side * side}})
            costs = Costs(per_pixel_s=times[0][1] / times[0][0])
            return costs, Budget(limit_px=times[0][0], ceiling_px=unbounded_px)
        peaks.append((side * side, float(trial.meter.read_peak_bytes())))
    base_s, per_pixel_s = fit_line(times)
    budget = size_budget(peaks, limit_bytes=trial.meter.read_limit_bytes(), unbounded_px=unbounded_px)
    return Costs(base_s=base_s, per_pixel_s=per_pixel_s), budget
