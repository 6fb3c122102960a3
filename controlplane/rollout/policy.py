"""What the judge holds a candidate to: bounds, tolerances and how much doubt is allowed."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from controlplane.rollout import evidence
from controlplane.rollout.windows import LATENCY_EDGES_MS, edge_index

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ERROR: Final = 0
LATENCY: Final = 1
OBJECTIVES: Final = 2

START_CELLS: Final = 64
"""Bound on the cells that remember recent request starts, whatever the latency threshold."""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """The objectives of a service and the judge's tolerances. Ratios are fractions of 1, not percent."""

    error_max: float | None = 0.01
    """Highest error ratio the SLO allows; None: errors are not judged, only a fully failing version is."""
    latency_threshold_ms: float | None = 400
    """A slower request is bad; rounded down to a histogram edge. None: latency is not judged."""
    latency_quantile: float = 0.95
    """Share of the requests that must be within the threshold."""
    latency_tolerance: float = 1.10
    """The candidate's median and 95th percentile may be this many times the baseline's."""
    error_odds_ratio: float = 2.0
    """The candidate's odds of an error may be this many times the baseline's (from a quarter of `error_max` on)."""
    alpha: float = 0.01
    """Chance that a healthy candidate is ever rolled back, over the whole rollout and all objectives."""
    alpha_advance: float = 0.05
    """Doubt that is left when a bound counts as kept; smaller asks for more requests before each step."""
    hard_stop_alpha: float = 1e-4
    """Chance that the hard stop takes a version that serves half of its requests for a dead one."""
    error_budget: float = 10.0
    """Bad requests beyond the SLO that the next step may cost before its own evidence is in."""
    attribution_s: float = 60.0
    """A breach that lasts this long while the baseline is fine is the candidate's."""
    quiet_s: float = 30.0
    """Seconds without a breach that come before every step up (less where the plan holds a step for less)."""
    on_shared_incident: Literal["hold", "rollback"] = "hold"
    """What a breach means that the baseline shares: wait until it is over, or retreat all the same."""

    def __post_init__(self) -> None:
        if self.error_max is None and self.latency_threshold_ms is None:
            raise ValueError("error_max and latency_threshold_ms are both None; give at least one objective")
        if self.error_max is not None:
            _check("error_max", self.error_max, above=0.0, below=0.5)
        if self.latency_threshold_ms is not None:
            edge_index(self.latency_threshold_ms)
        if not 0.5 <= self.latency_quantile < 1:
            raise ValueError(f"latency_quantile is {self.latency_quantile:g}; give 0.5 to below 1")
        if not 1 <= self.latency_tolerance <= 10:
            raise ValueError(f"latency_tolerance is {self.latency_tolerance:g}; give 1 to 10")
        if not 1 <= self.error_odds_ratio <= 100:
            raise ValueError(f"error_odds_ratio is {self.error_odds_ratio:g}; give 1 to 100")
        for name in ("alpha", "alpha_advance", "hard_stop_alpha"):
            _check(name, getattr(self, name), above=0.0, below=0.5)
        for name in ("error_budget", "attribution_s", "quiet_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value:g}; give 0 or more")
        if self.on_shared_incident not in {"hold", "rollback"}:
            raise ValueError(f"on_shared_incident is {self.on_shared_incident!r}; give 'hold' or 'rollback'")

    @property
    def alarms(self) -> int:
        """Ways to be rolled back that share alpha: absolute and relative, per objective."""
        return 2 * sum(bound is not None for bound in (self.error_max, self.latency_threshold_ms))


def _check(name: str, value: float, *, above: float, below: float) -> None:
    if not above < value < below:
        raise ValueError(f"{name} is {value:g}; give more than {above:g} and less than {below:g}")


def _remembered_s(policy: Policy) -> int:
    # A tick that a flush cut short is still three quarters of a second long.
    return int((policy.latency_threshold_ms or 0) / 1000 + 0.25) + 1


def start_cell_s(policy: Policy) -> int:
    """Say how many seconds one cell of remembered request starts covers."""
    return max(1, -(-(_remembered_s(policy) - 1) // (START_CELLS - 1)))


def start_cells(policy: Policy) -> int:
    """Count the cells that cover the latency threshold of *policy*."""
    return -(-(_remembered_s(policy) - 1) // start_cell_s(policy)) + 1


# -- the processes of one rollout, in the order of the arrays -------------------------------------------------------

ABSOLUTE: Final = slice(0, 2)
"""The candidate's bad share against the bound, per objective."""
BASELINE_ABSOLUTE: Final = slice(2, 4)
"""The same for the baseline."""
FLOOR: Final = 4
"""The candidate's errors against a quarter of the bound: below that a ratio does not matter."""
RELATIVE: Final = slice(5, 7)
"""The candidate's odds of a bad request against the baseline's, per objective."""
WORSE_ERRORS: Final = 7
"""The candidate's odds of an error against `error_odds_ratio` times the baseline's."""
SHIFT: Final = slice(8, 10)
"""The candidate's latency against `latency_tolerance` times the baseline's, at its median and 95th percentile."""
NOT_INFERIOR: Final = 10
"""The other way round: that the median is within the tolerance squared. Speaks for 100 %."""
PROCESSES: Final = 11

UNCAPPED: Final = 1e9

BETS: Final = np.stack([evidence.RHO_BETS] * 8 + [evidence.LAM_BETS] * 3)
"""`NOT_INFERIOR` stakes by the traffic instead, see `evidence.difference_bets`."""
PRIOR: Final = np.stack([evidence.RHO_PRIOR] * 8 + [evidence.LAM_PRIOR] * 2 + [evidence.DIFFERENCE_PRIOR])

SLACK: Final = 0.005
"""A tolerance may miss a histogram edge by this share and still mean that edge."""

_EDGES: Final = np.array(LATENCY_EDGES_MS)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The policies of many rollouts as arrays; the first axis counts rollouts."""

    active: Bools
    """Rollouts x objectives."""
    bound: Floats
    """Rollouts x objectives: highest allowed share of bad requests."""
    slow_edge: Ints
    """Index of the latency threshold among the edges."""
    shifted_edge: Ints
    """Rollouts x edges: first edge at or above tolerance times the edge."""
    inferior_edge: Ints
    """Rollouts x edges: last edge at or below tolerance squared times the edge."""
    odds_ratio: Floats
    threshold: Floats
    """Evidence that raises an alarm: 1/alpha_i."""
    probe_threshold: Floats
    """Evidence during a probe, whose breach is beyond doubt, that it is the candidate's."""
    hard_threshold: Floats
    log_advance: Floats
    """Log of the evidence that a bound is kept."""
    budget: Floats
    attribution_s: Floats
    quiet_s: Floats
    retreat_when_shared: Bools
    cells: Ints
    cell_s: Ints
    share: Floats
    """Rollouts x processes: pi of the processes against a fixed bound, 0 elsewhere."""
    enabled: Bools
    """Rollouts x processes."""
    cap: Floats
    """Rollouts x processes: evidence is not counted beyond this."""

    @classmethod
    def of(cls, policies: Sequence[Policy]) -> "BatchPolicy":
        """Lay *policies* side by side."""
        return _lay_out(tuple(policies))

    def take(self, rows: Ints | Bools) -> Self:
        """Keep the rollouts at *rows*."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


@functools.lru_cache(maxsize=64)
def _lay_out(policies: tuple[Policy, ...]) -> BatchPolicy:
    def column(name: str) -> Floats:
        return np.array([getattr(policy, name) for policy in policies], dtype=np.float64)

    active = np.array([(policy.error_max is not None, policy.latency_threshold_ms is not None) for policy in policies])
    # An objective that is not judged keeps a bound that is legal in every formula; `active` masks what comes out.
    bound = np.array(
        [(0.5 if policy.error_max is None else policy.error_max, 1 - policy.latency_quantile) for policy in policies]
    )
    threshold = np.array([policy.alarms / policy.alpha for policy in policies])
    tolerance = column("latency_tolerance")[:, None]
    share = np.zeros((len(policies), PROCESSES))
    share[:, ABSOLUTE] = share[:, BASELINE_ABSOLUTE] = bound
    share[:, FLOOR] = bound[:, ERROR] / 4
    enabled = np.empty((len(policies), PROCESSES), dtype=np.bool_)
    enabled[:, ABSOLUTE] = enabled[:, BASELINE_ABSOLUTE] = enabled[:, RELATIVE] = active
    enabled[:, FLOOR] = enabled[:, WORSE_ERRORS] = active[:, ERROR]
    enabled[:, SHIFT] = enabled[:, NOT_INFERIOR, None] = active[:, LATENCY, None]
    cap = np.full((len(policies), PROCESSES), UNCAPPED)
    # Capped, they recover soon after an incident, however long it lasted.
    cap[:, [0, 1, 2, 3, FLOOR]] = 2 * threshold[:, None]
    return BatchPolicy(
        active=active,
        bound=bound,
        slow_edge=np.array([edge_index(policy.latency_threshold_ms or 1) for policy in policies]),
        shifted_edge=np.searchsorted(_EDGES, _EDGES * tolerance * (1 - SLACK)),
        inferior_edge=np.searchsorted(_EDGES, _EDGES * tolerance**2 * (1 + SLACK), side="right") - 1,
        odds_ratio=column("error_odds_ratio"),
        threshold=threshold,
        probe_threshold=threshold / 2,
        hard_threshold=1 / column("hard_stop_alpha"),
        log_advance=-np.log(column("alpha_advance")),
        budget=column("error_budget"),
        attribution_s=column("attribution_s"),
        quiet_s=column("quiet_s"),
        retreat_when_shared=np.array([policy.on_shared_incident == "rollback" for policy in policies]),
        cells=np.array([start_cells(policy) for policy in policies]),
        cell_s=np.array([start_cell_s(policy) for policy in policies]),
        share=share,
        enabled=enabled,
        cap=cap,
    )
