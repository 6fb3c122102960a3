"""What the judge sees: counts and latency histograms per version and tick of one second.

Every Envoy is started with the same histogram edges, so histograms of all Envoys and ticks can be added up.
"""

import bisect
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np
import numpy.typing as npt

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

GRPC_STATUSES: Final[Mapping[str, int]] = {
    "cancelled": 1,
    "unknown": 2,
    "invalid-argument": 3,
    "deadline-exceeded": 4,
    "not-found": 5,
    "already-exists": 6,
    "permission-denied": 7,
    "resource-exhausted": 8,
    "failed-precondition": 9,
    "aborted": 10,
    "out-of-range": 11,
    "unimplemented": 12,
    "internal": 13,
    "unavailable": 14,
    "data-loss": 15,
    "unauthenticated": 16,
}
"""gRPC's statuses but OK, as `VersionTick.count` spells them after ``grpc-``."""

HTTP_BAD_KINDS: Final = ("5xx", "429")
"""What an HTTP service is blamed for by default: its own failures, with the resets and time-outs that Envoy answers for
it (503, 504), and turning work away, which a version that is too slow does before it fails."""

GRPC_BAD_KINDS: Final = (
    "5xx",
    *("grpc-unknown", "grpc-deadline-exceeded", "grpc-resource-exhausted", "grpc-unimplemented"),
    *("grpc-internal", "grpc-unavailable", "grpc-data-loss"),
)
"""The same for a gRPC service: the statuses that servers answer for their own faults. UNKNOWN is what most libraries
make of an exception, UNIMPLEMENTED what a version without a method answers. 5xx stays in: what answered without a gRPC
status is in no other, and an Envoy whose bootstrap is older than these statistics reports nothing else."""

HTTP_CLIENT_KINDS: Final = tuple(str(status) for status in range(400, 500) if status != 429)
"""Answers that blame the caller. A version may still cause them: its share of them is compared with the baseline's,
since both get the same callers. 429 is in `HTTP_BAD_KINDS`, and no answer is to count in both."""

GRPC_CLIENT_KINDS: Final = (
    *("grpc-invalid-argument", "grpc-not-found", "grpc-already-exists", "grpc-permission-denied"),
    *("grpc-failed-precondition", "grpc-aborted", "grpc-out-of-range", "grpc-unauthenticated"),
)
"""The same for a gRPC service. CANCELLED is in neither list: the caller no longer wanted the answer. HTTP's 4xx are not
here, since servers that answer one add a gRPC status of no fixed number, and the call would count twice."""

_GRPC_OF_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_GRPC_OF_OTHERS: Final = 2


def grpc_status_of(status: int) -> int:
    """Return the gRPC status that Envoy, and gRPC's own specification, give to an HTTP status that is no success."""
    return _GRPC_OF_HTTP.get(status, _GRPC_OF_OTHERS)


@dataclasses.dataclass(frozen=True, slots=True)
class _Kinds:
    """Kinds, read: whole classes, and single statuses as `VersionTick.codes` spells them."""

    classes: frozenset[str]
    codes: frozenset[str]

    def has(self, code: str) -> bool:
        return code in self.codes or (f"{code[0]}xx" in self.classes and code.isdecimal())


@functools.lru_cache(maxsize=1_024)
def _read_kinds(kinds: tuple[str, ...]) -> _Kinds:
    classes, codes = set(), set()
    for kind in kinds:
        if kind in {"4xx", "5xx"}:
            classes.add(kind)
        elif kind.isascii() and kind.isdecimal() and len(kind) == 3 and kind[0] in "45":
            codes.add(kind)
        elif (status := GRPC_STATUSES.get(kind.removeprefix("grpc-"))) is not None and kind.startswith("grpc-"):
            codes.add(f"grpc-{status}")
        elif kind in _GRPC_NUMBERS:
            codes.add(kind)
        else:
            raise ValueError(
                f"{kind!r} is no kind of answer; give 4xx, 5xx, a status such as 429, or a gRPC status such as "
                "grpc-unavailable or grpc-14"
            )
    return _Kinds(frozenset(classes), frozenset(codes))


_GRPC_NUMBERS: Final = frozenset(f"grpc-{status}" for status in GRPC_STATUSES.values())


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse what `VersionTick.count` would.

    Raises:
        ValueError: A kind is spelled in no known way.
    """
    _read_kinds(tuple(kinds))


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
    codes: tuple[tuple[str, int], ...] = ()
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
            codes=_add_codes(self.codes, other.codes),
        )

    def count(self, kinds: Sequence[str]) -> int:
        """Count completed requests that ended as one of *kinds* says, each once, whichever kinds it fits.

        Where a gRPC call failed in Envoy, this counts on what was measured of Envoy 1.40. An upstream that cannot be
        reached, that resets before it answers or is over its limits, none that is healthy: the cluster counts HTTP 503
        *and* gRPC status 14. The route's time-out: 504 and 14 (not 4). An answer of the upstream with a gRPC status
        is 200 and that status, wherever the status stands, deadlines that the server enforced (4) included. One with
        HTTP 503 or 429 and no gRPC status is that alone. A call that is reset or times out after the headers is 200
        and has no gRPC status at all: nothing here can tell it from a success.

        So one call may be an HTTP status and the gRPC status that Envoy makes of it (`grpc_status_of`), and nothing
        says of how many calls that is true. It is taken to be true of as many as can be: of 503s and status 14, the
        larger number counts. Where proxies behind Envoy answer 503 without a gRPC status while servers answer 14, that
        is too few; never too many, but for servers that send both an HTTP status and another gRPC status than its own.

        Args:
            kinds: ``5xx`` (answered by *errors*, so for ticks without codes too), ``4xx``, a status such as ``429``, or
                one of `GRPC_STATUSES` by its name or number: ``grpc-unavailable``, ``grpc-14``.

        Raises:
            ValueError: A kind is spelled in no known way.
        """
        wanted = _read_kinds(tuple(kinds))
        whole = "5xx" in wanted.classes
        if not self.codes:
            return self.errors if whole else 0
        http: dict[int, int] = {}
        grpc: dict[int, int] = {}
        for code, count in self.codes:
            if not wanted.has(code):
                continue
            if code.isdecimal():
                status = grpc_status_of(int(code))
                http[status] = http.get(status, 0) + count
            else:
                grpc[int(code.removeprefix("grpc-"))] = count
        total = sum(max(http.get(status, 0), grpc.get(status, 0)) for status in http.keys() | grpc.keys())
        if whole:
            total += self.errors - sum(count for code, count in self.codes if code[0] == "5" and code.isdecimal())
        return min(total, self.completed)

    def slow(self, threshold_ms: float) -> int:
        """Count completed requests above *threshold_ms*, rounded down to an edge."""
        return sum(self.latency[edge_index(threshold_ms) + 1 :])


def _add_codes(mine: tuple[tuple[str, int], ...], theirs: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    if not (mine and theirs):
        return mine or theirs
    total = dict(mine)
    for code, count in theirs:
        total[code] = total.get(code, 0) + count
    return tuple(sorted(total.items()))


@dataclasses.dataclass(frozen=True, slots=True)
class TickWindow:
    """One tick of one rollout: both versions over the same second."""

    tick: int
    """The second's number since 1970; grows strictly from window to window."""
    baseline: VersionTick
    candidate: VersionTick
    gap: bool = False
    """Telemetry of at least one connected Envoy was missing, so the counts are not all there."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchTicks:
    """One tick of many rollouts; the first axis counts rollouts, the second versions (v1, v2)."""

    tick: Ints
    gap: Bools
    completed: Ints
    errors: Ints
    started: Ints
    active: Ints
    latency: Ints
    """Rollouts x versions x buckets."""

    @classmethod
    def of(cls, windows: Sequence[TickWindow]) -> Self:
        """Lay *windows* side by side."""
        pairs = [(window.baseline, window.candidate) for window in windows]
        counts = np.array(
            [[(v.completed, v.errors, v.started, v.active) for v in pair] for pair in pairs], dtype=np.int64
        ).reshape(len(pairs), 2, 4)
        return cls(
            tick=np.array([window.tick for window in windows], dtype=np.int64),
            gap=np.array([window.gap for window in windows], dtype=np.bool_),
            completed=counts[:, :, 0],
            errors=counts[:, :, 1],
            started=counts[:, :, 2],
            active=counts[:, :, 3],
            latency=np.array([[v.latency for v in pair] for pair in pairs], dtype=np.int64).reshape(
                len(pairs), 2, BUCKETS
            ),
        )
