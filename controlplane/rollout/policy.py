"""What the judge holds a candidate to: bounds, tolerances and how much doubt is allowed."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from controlplane.rollout.answers import HTTP_BAD_KINDS
from controlplane.rollout.processes import BUILT_IN, ERROR, LATENCY, NOT_INFERIOR, SHIFT, UNCAPPED, Layout, layout
from controlplane.rollout.windows import LATENCY_EDGES_MS, edge_index

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

START_CELLS: Final = 64
"""Bound on the cells that remember recent request starts, whatever the latency threshold."""


@dataclasses.dataclass(frozen=True, slots=True)
class Handling:
    """How one objective is treated, whatever it measures."""

    muted: bool = False
    """It is judged and shown, and decides nothing."""
    asks: bool = False
    """A breach asks a person instead of rolling back, once."""
    alpha: float | None = None
    """Its own chance of rolling a healthy candidate back; None: an even part, by alarm, of what the others leave."""
    budget: float = 10.0
    """Bad requests beyond the bound that the next step may cost before its own evidence is in."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """Requests, and of these the ones that ended as *bad* says and not as *but* says (see `VersionTick.count`)."""

    bad: tuple[str, ...]
    but: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Slower:
    """Answered requests, and of these the ones that took longer; the threshold is rounded down to an edge."""

    threshold_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Sampled:
    """What a query tells: the window's sample of the objective's name.

    *every_s* is how many seconds lie between two things, where each asking is one; None where it counts things.
    """

    every_s: float | None = None

    @property
    def things(self) -> str:
        """What there may be too few of, in words."""
        return "of what it counts" if self.every_s is None else "answers"


@dataclasses.dataclass(frozen=True, slots=True)
class ShareObjective:
    """A share of bad things, whatever they are, judged as errors are. Ratios are fractions of 1."""

    name: str
    what: str
    """What is bad, for sentences: ``answered 4xx``."""
    measure: Answers | Slower | Sampled
    max_share: float | None = None
    """Highest share allowed; None: only the comparison with the baseline counts."""
    odds_ratio: float = 2.0
    """The candidate's odds of a bad one may be this many times the baseline's."""
    floor: float | None = None
    """Share from which on the comparison matters; None: a quarter of `max_share`."""
    handling: Handling = Handling()

    def __post_init__(self) -> None:
        if self.max_share is None and self.floor is None:
            raise ValueError(f"{self.name}: max_share and floor are both None; give at least one")
        for name in ("max_share", "floor"):
            value = getattr(self, name)
            if value is not None:
                _check(f"{self.name}.{name}", value, above=0.0, below=0.5)
        if not 1 <= self.odds_ratio <= 100:
            raise ValueError(f"{self.name}.odds_ratio is {self.odds_ratio:g}; give 1 to 100")

    @property
    def least(self) -> float:
        """The share from which on the comparison matters."""
        return (self.max_share or 0) / 4 if self.floor is None else self.floor


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """The objectives of a service and the judge's tolerances. Ratios are fractions of 1, not percent."""

    error_max: float | None = 0.01
    """Highest error ratio the SLO allows; None: errors are not judged, only a fully failing version is."""
    error_bad: tuple[str, ...] = HTTP_BAD_KINDS
    """The answers that are errors (see `VersionTick.count`)."""
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
    attribution_s: float = 60.0
    """A breach that lasts this long while the baseline is fine is the candidate's."""
    quiet_s: float = 30.0
    """Seconds without a breach that come before every step up (less where the plan holds a step for less)."""
    on_shared_incident: Literal["hold", "rollback"] = "hold"
    """What a breach means that the baseline shares: wait until it is over, or retreat all the same."""
    error: Handling = Handling()
    latency: Handling = Handling()
    shares: tuple[ShareObjective, ...] = ()
    """Objectives beyond the two."""

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
        for name in ("attribution_s", "quiet_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value:g}; give 0 or more")
        if self.on_shared_incident not in {"hold", "rollback"}:
            raise ValueError(f"on_shared_incident is {self.on_shared_incident!r}; give 'hold' or 'rollback'")

        for place, handling in enumerate(self.handlings):
            if handling.alpha is not None:
                _check(f"{self.names[place]}.alpha", handling.alpha, above=0.0, below=0.5)
            if not 0 <= handling.budget < float("inf"):
                raise ValueError(f"{self.names[place]}.budget is {handling.budget:g}; give 0 or more")
        if not self.alpha > sum(handling.alpha or 0 for handling in self.handlings) and self._alarms_left():
            raise ValueError("the objectives' own alphas leave nothing of alpha for the others; lower them")

    @property
    def objectives(self) -> int:
        """Places for objectives: errors, latency and `shares`."""
        return BUILT_IN + len(self.shares)

    @property
    def handlings(self) -> tuple[Handling, ...]:
        """How each objective is treated."""
        return (self.error, self.latency, *(share.handling for share in self.shares))

    @property
    def names(self) -> tuple[str, ...]:
        """What each objective is called."""
        return ("error", "latency", *(share.name for share in self.shares))

    @property
    def alarms(self) -> tuple[int, ...]:
        """Ways in which each objective can roll a candidate back: against its bound, and against the baseline."""
        return (
            2 if self.error_max is not None else 0,
            2 if self.latency_threshold_ms is not None else 0,
            *(1 if share.max_share is None else 2 for share in self.shares),
        )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The evidence of each objective that raises an alarm: healthy rollouts of which one shows as much."""
        left = self.alpha - sum(handling.alpha or 0 for handling in self.handlings)
        each = left / max(1, self._alarms_left())
        return tuple(
            (1 / each) if handling.alpha is None else max(1, alarms) / handling.alpha
            for handling, alarms in zip(self.handlings, self.alarms, strict=True)
        )

    def _alarms_left(self) -> int:
        return sum(
            alarms for alarms, handling in zip(self.alarms, self.handlings, strict=True) if handling.alpha is None
        )


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


# -- as arrays ---------------------------------------------------------------------------------------------------------

SLACK: Final = 0.005
"""A tolerance may miss a histogram edge by this share and still mean that edge."""

_EDGES: Final = np.array(LATENCY_EDGES_MS)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The policies of many rollouts as arrays; the first axis counts rollouts, the second mostly objectives."""

    active: Bools
    """Objectives that there are; the other places are empty."""
    absolute: Bools
    """Of these, those with a bound of their own."""
    deciding: Bools
    """Of those that there are, the ones that are not muted."""
    present: Bools
    """Objectives that there are, and errors: these are always counted."""
    stops: Bools
    """Objectives by which a version that does nothing right is stopped, errors always among them unless muted."""
    asks: Bools
    bound: Floats
    """Highest allowed share of bad requests."""
    threshold: Floats
    """Evidence that raises an alarm: 1/alpha_i."""
    budget: Floats
    odds_ratio: Floats
    slow_edge: Ints
    """Per rollout: index of the latency threshold among the edges."""
    shifted_edge: Ints
    """Rollouts x edges: first edge at or above tolerance times the edge."""
    inferior_edge: Ints
    """Rollouts x edges: last edge at or below tolerance squared times the edge."""
    hard_threshold: Floats
    """Per rollout, as everything that follows but the last three."""
    log_advance: Floats
    """Log of the evidence that a bound is kept."""
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
    def of(cls, policies: Sequence[Policy], *, objectives: int = 0) -> "BatchPolicy":
        """Lay *policies* side by side, with places for at least so many *objectives*."""
        return _lay_out(tuple(policies), max(objectives, *(policy.objectives for policy in policies), BUILT_IN))

    @property
    def objectives(self) -> int:
        """Places for objectives."""
        return int(self.bound.shape[1])

    def take(self, rows: Ints | Bools) -> Self:
        """Keep the rollouts at *rows*."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


@functools.lru_cache(maxsize=64)
def _lay_out(policies: tuple[Policy, ...], objectives: int) -> BatchPolicy:
    def column(name: str) -> Floats:
        return np.array([getattr(policy, name) for policy in policies], dtype=np.float64)

    def places(values: Callable[[Policy], Sequence[Any]], empty: Any) -> Any:
        """Lay one value per objective side by side; *empty* stands in places without an objective."""
        return np.array([(*(row := values(policy)), *[empty] * (objectives - len(row))) for policy in policies])

    active = places(_active, empty=False)
    absolute = places(
        lambda policy: [*_active(policy)[:BUILT_IN], *(s.max_share is not None for s in policy.shares)], False
    )
    muted = places(lambda policy: [each.muted for each in policy.handlings], empty=False)
    stops = active.copy()
    stops[:, ERROR] = True  # a version that only fails is stopped even where errors have no objective
    tolerance = column("latency_tolerance")[:, None]
    bound = places(_bounds, empty=0.5)
    threshold = places(lambda policy: policy.thresholds, empty=1 / 0.01)
    share, enabled, cap = _of_processes(
        layout(objectives), active, absolute, bound, places(_floors, empty=0.1), threshold
    )
    return BatchPolicy(
        active=active,
        absolute=absolute,
        deciding=active & ~muted,
        present=stops,
        stops=stops & ~muted,
        asks=places(lambda policy: [each.asks for each in policy.handlings], empty=False),
        bound=bound,
        threshold=threshold,
        budget=places(lambda policy: [each.budget for each in policy.handlings], empty=0.0),
        odds_ratio=places(
            lambda policy: [policy.error_odds_ratio, 1.0, *(s.odds_ratio for s in policy.shares)], empty=1.0
        ),
        slow_edge=np.array([edge_index(policy.latency_threshold_ms or 1) for policy in policies]),
        shifted_edge=np.searchsorted(_EDGES, _EDGES * tolerance * (1 - SLACK)),
        inferior_edge=np.searchsorted(_EDGES, _EDGES * tolerance**2 * (1 + SLACK), side="right") - 1,
        hard_threshold=1 / column("hard_stop_alpha"),
        log_advance=-np.log(column("alpha_advance")),
        attribution_s=column("attribution_s"),
        quiet_s=column("quiet_s"),
        retreat_when_shared=np.array([policy.on_shared_incident == "rollback" for policy in policies]),
        cells=np.array([start_cells(policy) for policy in policies]),
        cell_s=np.array([start_cell_s(policy) for policy in policies]),
        share=share,
        enabled=enabled,
        cap=cap,
    )


def _active(policy: Policy) -> list[bool]:
    return [policy.error_max is not None, policy.latency_threshold_ms is not None, *[True] * len(policy.shares)]


def _bounds(policy: Policy) -> list[float]:
    # An objective without a bound gets one that is legal in every formula; `absolute` masks what comes out.
    errors = 0.5 if policy.error_max is None else policy.error_max
    return [errors, 1 - policy.latency_quantile, *(share.max_share or 0.5 for share in policy.shares)]


def _floors(policy: Policy) -> list[float]:
    """Return the floors of all objectives; latency's is not used."""
    return [(0.5 if policy.error_max is None else policy.error_max) / 4, 0.1, *(share.least for share in policy.shares)]


def _of_processes(
    places: Layout, active: Bools, absolute: Bools, bound: Floats, floors: Floats, threshold: Floats
) -> tuple[Floats, Bools, Floats]:
    """Return what each process expects, whether it runs, and where its evidence ends."""
    rollouts = active.shape[0]
    share = np.zeros((rollouts, places.processes))
    share[:, places.absolute] = share[:, places.baseline] = bound
    share[:, places.floor] = floors[:, places.compared]
    enabled = np.zeros((rollouts, places.processes), dtype=np.bool_)
    enabled[:, places.absolute] = enabled[:, places.baseline] = absolute
    enabled[:, places.relative] = absolute
    enabled[:, places.floor] = enabled[:, places.worse] = active[:, places.compared]
    enabled[:, SHIFT] = enabled[:, NOT_INFERIOR, None] = active[:, LATENCY, None]
    cap = np.full((rollouts, places.processes), UNCAPPED)
    # Capped, they recover soon after an incident, however long it lasted.
    cap[:, places.absolute] = cap[:, places.baseline] = 2 * threshold
    cap[:, places.floor] = 2 * threshold[:, places.compared]
    return share, enabled, cap
