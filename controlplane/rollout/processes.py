"""The evidence processes of a rollout: which there are, in the order of the arrays, and what each bets with."""

import dataclasses
import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from controlplane.rollout import evidence

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ERROR: Final = 0
LATENCY: Final = 1
BUILT_IN: Final = 2
"""Objectives that every rollout has a place for, judged or not; `Policy.shares` come after them."""

SHIFT: Final = slice(8, 10)
"""The candidate's latency against `latency_tolerance` times the baseline's, at its median and 95th percentile."""
NOT_INFERIOR: Final = 10
"""The other way round: that the median is within the tolerance squared. Speaks for 100 %."""
_FIRST: Final = 11
"""Processes of errors and latency; each further objective adds as many as it has rows in `Layout`."""
_PER_SHARE: Final = 5

UNCAPPED: Final = 1e9


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where the processes of so many objectives are among those of a rollout."""

    processes: int
    compared: Ints
    """Objectives whose odds are compared with a multiple of the baseline's: all but latency."""
    absolute: Ints
    """Per objective: the candidate's bad share against the bound."""
    baseline: Ints
    """Per objective: the same for the baseline."""
    relative: Ints
    """Per objective: the candidate's odds of a bad request against the baseline's."""
    floor: Ints
    """Per compared objective: the share against the floor below which a ratio does not matter."""
    worse: Ints
    """Per compared objective: the candidate's odds against the allowed multiple of the baseline's."""
    paired: Bools
    """Processes that compare the versions, over a pair of counts."""
    lone: Bools
    """Processes of the baseline by itself: all that there is before a rollout."""
    bets: Floats
    """Processes x grid. Those of latencies stake by the traffic instead, see `evidence.difference_bets`."""
    prior: Floats
    """Processes x grid."""


@functools.lru_cache(maxsize=16)
def layout(objectives: int) -> Layout:
    """Lay out the processes of *objectives* objectives; those of fewer come first."""
    extra = _FIRST + _PER_SHARE * np.arange(objectives - BUILT_IN)
    processes = _FIRST + _PER_SHARE * extra.size
    baseline = np.concatenate(([2, 3], extra + 1))
    floor, relative, worse = (
        np.concatenate((first, extra + place)) for first, place in (([4], 2), ([5, 6], 3), ([7], 4))
    )
    paired, lone = np.zeros(processes, np.bool_), np.zeros(processes, np.bool_)
    paired[relative] = paired[worse] = paired[SHIFT] = paired[NOT_INFERIOR] = True
    lone[baseline] = True
    bets, prior = np.tile(evidence.RHO_BETS, (processes, 1)), np.tile(evidence.RHO_PRIOR, (processes, 1))
    prior[SHIFT] = evidence.SHIFT_PRIOR
    prior[NOT_INFERIOR] = evidence.DIFFERENCE_PRIOR
    return Layout(
        processes=processes,
        compared=np.array([ERROR, *range(BUILT_IN, objectives)]),
        absolute=np.concatenate(([0, 1], extra)),
        baseline=baseline,
        relative=relative,
        floor=floor,
        worse=worse,
        paired=paired,
        lone=lone,
        bets=bets,
        prior=prior,
    )
