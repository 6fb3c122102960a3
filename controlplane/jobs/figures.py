"""Pure: how jobs did over a while, per kind and per version, out of counts that the store takes from the rows.

All counts and percentiles are exact: they are taken from every row of the while, not from samples or buckets. A while
is ``since <= moment < until``. What counts for which version:

- An attempt is the version's that answered it; "" where nobody answered.
- A job that is done is the version's whose result counts, whoever failed before.
- A job that is dead is the version's that answered its last attempt.
- Cancelled jobs, and those that have not ended, are nobody's.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Final, Protocol, TypeVar

from controlplane.jobs.model import AttemptOutcome, JobState
from controlplane.jobs.operations import Backlog, Standing

K = TypeVar("K")

MAX_SINCE: Final = dt.timedelta(days=31)
JUDGED: Final = (AttemptOutcome.DONE, AttemptOutcome.FAILED, AttemptOutcome.REFUSED, AttemptOutcome.LOST)
"""Outcomes that say something about whoever ran the attempt: no room (away) and no more interest (thrown) do not."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Percentiles by nearest rank: the least span that so many of *count* do not exceed; None where there are none."""

    count: int = 0
    p50: dt.timedelta | None = None
    p95: dt.timedelta | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the store counts. Keys are a kind and a version; the version is None where all of the kind's are meant.

    Args:
        enqueued: Jobs submitted in the while, by kind; those deleted since, too.
        ended: Jobs that ended in the while and have not been run again since, by the state that they are in.
        attempts: Attempts that ended in the while, by outcome.
        waits: From submission to first start, of jobs first started in the while; the version is the job's, so far.
        runs: From start to end, of attempts that ended in the while and are done.
    """

    enqueued: Mapping[str, int]
    ended: Mapping[tuple[str, str], Mapping[JobState, int]]
    attempts: Mapping[tuple[str, str], Mapping[AttemptOutcome, int]]
    waits: Mapping[tuple[str, str | None], Spans]
    runs: Mapping[tuple[str, str | None], Spans]
    standing: Standing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The figures of a kind, or of one version of it.

    *job_share* is done / (done + dead), *attempt_share* done / (done + failed + refused + lost): None of none.
    """

    done: int
    dead: int
    attempts: Mapping[AttemptOutcome, int]
    waits: Spans
    runs: Spans

    @property
    def job_share(self) -> float | None:
        """The share of ended jobs that are done; cancelled ones are no failure of ours."""
        return _share(self.done, self.done + self.dead)

    @property
    def attempt_share(self) -> float | None:
        """The share of attempts that are done, of those that say something."""
        return _share(self.attempts.get(AttemptOutcome.DONE, 0), sum(self.attempts.get(each, 0) for each in JUDGED))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """A kind's figures, where its jobs stand now, and the figures of each version that had a part in it."""

    kind: str
    enqueued: int
    cancelled: int
    whole: Line
    versions: Mapping[str, Line]
    now: Backlog


class FigureStore(Protocol):
    """The store's part for figures."""

    async def load_sums(self, kind: str | None, *, since: dt.datetime, until: dt.datetime) -> Sums:
        """Count what happened from *since* until just before *until*, of one kind or of all."""


def figures_of(sums: Sums) -> tuple[KindFigures, ...]:
    """Return the figures of each kind in ``sums.standing``, in its order."""
    return tuple(_figures(backlog, sums) for backlog in sums.standing.backlogs)


def _figures(now: Backlog, sums: Sums) -> KindFigures:
    versions = sorted(
        {version for kind, version in (*sums.attempts, *sums.ended) if kind == now.kind},
        key=lambda version: (version == "", version),
    )
    lines = {version: _line(now.kind, version, sums) for version in versions}
    ended = _total(counts for (kind, _), counts in sums.ended.items() if kind == now.kind)
    return KindFigures(
        kind=now.kind,
        enqueued=sums.enqueued.get(now.kind, 0),
        cancelled=ended.get(JobState.CANCELLED, 0),
        whole=Line(
            done=ended.get(JobState.DONE, 0),
            dead=ended.get(JobState.DEAD, 0),
            attempts=_total(counts for (kind, _), counts in sums.attempts.items() if kind == now.kind),
            waits=sums.waits.get((now.kind, None), Spans()),
            runs=sums.runs.get((now.kind, None), Spans()),
        ),
        versions={version: line for version, line in lines.items() if line.done or line.dead or line.attempts},
        now=now,
    )


def _line(kind: str, version: str, sums: Sums) -> Line:
    ended = sums.ended.get((kind, version), {})
    return Line(
        done=ended.get(JobState.DONE, 0),
        dead=ended.get(JobState.DEAD, 0),
        attempts=dict(sums.attempts.get((kind, version), {})),
        waits=sums.waits.get((kind, version), Spans()),
        runs=sums.runs.get((kind, version), Spans()),
    )


def _total(parts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    found: dict[K, int] = {}
    for part in parts:
        for key, count in part.items():
            found[key] = found.get(key, 0) + count
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
