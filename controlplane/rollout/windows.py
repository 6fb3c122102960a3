"""What the judge sees: counts and latency histograms per version and tick of one second.

Every Envoy is started with the same histogram edges, so histograms of all Envoys and ticks can be added up.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from controlplane.rollout.answers import Codes, add_codes, count_answers

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Two or three significant digits, because Envoy's own histogram has its bin borders at two; no step grows by
# more than 10 %; and the numbers people write into SLOs (250, 400, 500, 750 ms) are edges themselves.
_DECADE: Final = (
    *(100, 110, 120, 130, 140, 150, 160, 175, 190),
    *(200, 220, 240, 250, 275, 300, 325, 350, 375),
    *(400, 440, 480, 500, 550, 600, 650, 700, 750, 800, 880, 950),
)
LATENCY_EDGES_MS: Final[tuple[float, ...]] = tuple(
    mantissa * 10.0**exponent / 100
    for exponent in range(6)
    for mantissa in _DECADE
    if mantissa * 10.0**exponent / 100 <= 300_000
)
"""Upper edges of the latency buckets in milliseconds; Envoy's bootstrap carries the same list."""

BUCKETS: Final = len(LATENCY_EDGES_MS) + 1
"""Buckets of a latency histogram: one per edge and one for everything above the last."""

_NO_LATENCY: Final = (0,) * BUCKETS

BASELINE: Final = 0
CANDIDATE: Final = 1


def edge_index(threshold_ms: float) -> int:
    """Find the last edge at or below *threshold_ms*.

    Raises:
        ValueError: The threshold lies outside the edges.
    """
    if not LATENCY_EDGES_MS[0] <= threshold_ms <= LATENCY_EDGES_MS[-1]:
        raise ValueError(
            f"latency_threshold_ms is {threshold_ms:g}; give a value from {LATENCY_EDGES_MS[0]:g} "
            f"to {LATENCY_EDGES_MS[-1]:g}"
        )
    return bisect.bisect_right(LATENCY_EDGES_MS, threshold_ms) - 1


def snap_threshold(threshold_ms: float) -> float:
    """Round *threshold_ms* down to an edge: what the histogram can count exactly.

    Raises:
        ValueError: The threshold lies outside the edges.
    """
    return LATENCY_EDGES_MS[edge_index(threshold_ms)]


@dataclasses.dataclass(frozen=True, slots=True)
class VersionTick:
    """What one version did in one tick, summed over all Envoys."""

    completed: int
    """Requests that got a final status."""
    errors: int
    """Of these, the class 5xx: resets and time-outs, which Envoy answers for the version, included."""
    started: int
    """Requests sent to the version's endpoints in this tick."""
    active: int
    """Requests in flight when the tick ended."""
    latency: tuple[int, ...] = _NO_LATENCY
    """Requests per bucket: bucket i counts values above edge i-1, up to and including edge i."""
    codes: Codes = ()
    """Requests per status that is no success, in order of the names: "422", "503", and for gRPC services "grpc-14".

    A gRPC call is *completed* by its headers, and its status may follow in a later tick; it counts there, or in the
    next that has calls to spare. Ticks of releases that did not read single statuses have none.
    """

    def __post_init__(self) -> None:
        if len(self.latency) != BUCKETS:
            raise ValueError(f"latency has {len(self.latency)} buckets; give {BUCKETS}")
        if min(self.completed, self.errors, self.started, self.active, *self.latency) < 0:
            raise ValueError("counts of a tick are negative; give differences of growing counters")
        if self.codes:
            names = [code for code, _ in self.codes]
            if names != sorted(set(names)):
                raise ValueError(f"codes has {', '.join(names)}; give each once, in order")
            if min(count for _, count in self.codes) < 0:
                raise ValueError("counts of a code are negative; give differences of growing counters")
        if self.errors > self.completed:
            raise ValueError(f"errors is {self.errors}, more than the {self.completed} completed requests")

    @classmethod
    def zero(cls) -> Self:
        """Give the tick of a version without traffic."""
        return cls(completed=0, errors=0, started=0, active=0)

    def __add__(self, other: Self) -> Self:
        """Add up two Envoys' share of the same tick."""
        return type(self)(
            completed=self.completed + other.completed,
            errors=self.errors + other.errors,
            started=self.started + other.started,
            active=self.active + other.active,
            latency=tuple(mine + theirs for mine, theirs in zip(self.latency, other.latency, strict=True)),
            codes=add_codes(self.codes, other.codes),
        )

    def count(self, kinds: Sequence[str]) -> int:
        """Count completed requests that ended as one of *kinds* says (see `answers`), each once.

        Raises:
            ValueError: A kind is spelled in no known way.
        """
        return count_answers(self.codes, kinds, server_errors=self.errors, completed=self.completed)

    def slow(self, threshold_ms: float) -> int:
        """Count completed requests above *threshold_ms*, rounded down to an edge."""
        return sum(self.latency[edge_index(threshold_ms) + 1 :])


Counted: TypeAlias = tuple[int, int]
"""Things that happened, and the bad ones among them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What a query told of one objective in one tick. *missing* says why nothing is known; "" where all is well.

    A query is asked now and then: in the ticks between, both counts are zero and nothing is missing.
    """

    name: str
    baseline: Counted = (0, 0)
    candidate: Counted = (0, 0)
    missing: str = ""

    def __post_init__(self) -> None:
        for total, bad in (self.baseline, self.candidate):
            if not 0 <= bad <= total:
                raise ValueError(f"{self.name}: {bad} of {total} are bad; give 0 to the total")


@dataclasses.dataclass(frozen=True, slots=True)
class TickWindow:
    """One tick of one rollout: both versions over the same second."""

    tick: int
    """The second's number since 1970; grows strictly from window to window."""
    baseline: VersionTick
    candidate: VersionTick
    gap: bool = False
    """Telemetry of at least one connected Envoy was missing, so the counts are not all there."""
    samples: tuple[Sample, ...] = ()
    """Of objectives that Envoy's telemetry does not tell."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchTicks:
    """One tick of many rollouts, good and bad told apart; axes are rollouts and then versions (v1, v2)."""

    tick: Ints
    gap: Bools
    completed: Ints
    errors: Ints
    started: Ints
    active: Ints
    latency: Ints
    """Rollouts x versions x buckets."""
    shares: Ints
    """Rollouts x further objectives x versions x (things, bad ones)."""
    unknown: Bools
    """Something that decides is not known in this tick."""
