"""Totals of all attempts and waits that there ever were, kept up to date for whoever reads metrics.

Context: attempts end in any process, some of which serve no metrics; any process may die between a commit and a count
in its memory; and old rows are removed. Choice: nobody counts what happens, rows are counted. What is older than
`SETTLED` is added to a row of totals, once, by whichever process comes first; what is younger is counted anew at each
look. Consequences: totals are the same on every replica, never lose or repeat an attempt, and go on where they were
after a restart; they are up to `EVERY` old, and replicas must not be added up.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.jobs.model import AttemptOutcome
from controlplane.jobs.operations import OperatorStore, Standing

log = structlog.get_logger()

K = TypeVar("K")

EVERY: Final = dt.timedelta(seconds=10)
"""Pause between two looks: two reads of the database each, and every other minute a write."""
SETTLED: Final = dt.timedelta(minutes=2)
"""Rows this old are all committed: a transaction takes 15 s at most, the rest is for clocks that differ."""
AT_ONCE: Final = dt.timedelta(days=1)
"""What is settled in one transaction: rows that were there before totals were may be many."""
MAX_VERSIONS: Final = 100
"""Pairs of kind and version that are kept, those with the newest attempts: workers choose their versions' names."""

WAIT_EDGES_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
RUN_EDGES_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: how many spans are at most so long, for each edge and for all; *sum_s* in seconds."""

    counts: tuple[int, ...]
    sum_s: float

    def __add__(self, other: "Buckets") -> "Buckets":
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Buckets(counts, self.sum_s + other.sum_s)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What was counted. *runs* are of attempts that are done, by kind and version; *waits* by kind.

    *seen* is when the newest attempt of a kind and a version ended.
    """

    attempts: Mapping[tuple[str, str, AttemptOutcome], int] = dataclasses.field(default_factory=dict)
    runs: Mapping[tuple[str, str], Buckets] = dataclasses.field(default_factory=dict)
    waits: Mapping[str, Buckets] = dataclasses.field(default_factory=dict)
    seen: Mapping[tuple[str, str], dt.datetime] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            attempts={
                key: self.attempts.get(key, 0) + other.attempts.get(key, 0) for key in (*self.attempts, *other.attempts)
            },
            runs=_add(self.runs, other.runs),
            waits=_add(self.waits, other.waits),
            seen={**self.seen, **other.seen},
        )

    def newest(self, limit: int = MAX_VERSIONS) -> "Totals":
        """Leave out the versions whose last attempt is longest ago, so that *limit* are left."""
        kept = frozenset(sorted(self.seen, key=lambda key: self.seen[key], reverse=True)[:limit])
        return Totals(
            attempts={key: count for key, count in self.attempts.items() if key[:2] in kept},
            runs={key: buckets for key, buckets in self.runs.items() if key in kept},
            waits=self.waits,
            seen={key: at for key, at in self.seen.items() if key in kept},
        )


class TotalStore(OperatorStore, Protocol):
    """The store's part for totals."""

    async def settle_totals(self, *, until: dt.datetime) -> bool:
        """Count for good what ended before *until*, `AT_ONCE` at most; return whether all of it is counted now."""

    async def load_totals(self) -> Totals:
        """Return all that there ever was."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look found, and when it was."""

    at: dt.datetime
    standing: Standing
    totals: Totals


@dataclasses.dataclass(slots=True, kw_only=True)
class JobMeter:
    """Looks every *interval*; `latest` is what it saw last, None before it did."""

    store: TotalStore
    clock: Clock
    interval: dt.timedelta = EVERY
    latest: Reading | None = None
    _settled: dt.datetime | None = None

    async def run(self) -> None:
        """Look, wait, for ever."""
        while True:
            try:
                await self.look()
            except ControlPlaneError as exc:
                log.warning("jobs.not_measured", error=str(exc))
            await self.clock.sleep(self.interval)

    async def look(self) -> None:
        """Read everything anew.

        Raises:
            UnavailableError: The database does not answer; `latest` stays as it was.
        """
        now = self.clock.now()
        if self._settled is None or now - self._settled >= SETTLED:
            while not await self.store.settle_totals(until=now - SETTLED):
                pass  # a day at a time
            self._settled = now
        totals = await self.store.load_totals()
        self.latest = Reading(at=now, standing=await self.store.load_standing(now=now), totals=totals.newest())


def _add(mine: Mapping[K, Buckets], theirs: Mapping[K, Buckets]) -> dict[K, Buckets]:
    found = dict(mine)
    for key, buckets in theirs.items():
        found[key] = found[key] + buckets if key in found else buckets
    return found
