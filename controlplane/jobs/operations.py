"""What whoever runs the jobs looks at and does: where a job's attempts went, what waits where, and drains."""

import dataclasses
import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from controlplane.jobs.model import AttemptOutcome, Job, JobId, JobState
from controlplane.jobs.ports import MAX_BATCH

ALL_KINDS: Final = ""
"""The kind of a drain that is every kind's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that has ended; *version* is the one that answered, "" where nobody did."""

    attempt: int
    version: str
    outcome: AttemptOutcome
    words: str
    started_at: dt.datetime
    ended_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """A time in which no job of *kind* (`ALL_KINDS`: of any) is started; it holds while *ended_at* is None."""

    kind: str
    began_at: dt.datetime
    began_by: str
    began_why: str
    ended_at: dt.datetime | None = None
    ended_by: str = ""
    ended_why: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many jobs of a kind wait, run and are dead now; *oldest* is when the one that waits longest came in."""

    kind: str
    queue: str
    waiting: int = 0
    running: int = 0
    dead: int = 0
    oldest: dt.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where all jobs stand: a `Backlog` per kind, by name, and wake-ups that are due and not in the queue yet."""

    backlogs: tuple[Backlog, ...]
    outbox: int


class OperatorStore(Protocol):
    """The store's part for whoever runs the jobs."""

    async def load_attempts(self, job: JobId) -> tuple[Attempt, ...]:
        """Return the attempts of a job that have ended, in their order."""

    async def retry_dead(self, job: JobId, *, owner: str, refetch: bool, now: dt.datetime) -> Job:
        """Let a dead or cancelled job wait again, as if it had never failed; one that waits or runs stays so.

        Args:
            job: Which.
            owner: Whose it is.
            refetch: Whether its photo is to be fetched again.
            now: When it is due.

        Raises:
            NotFoundError: There is no such job of this owner.
            ConflictError: It is done.
        """

    async def load_standing(self, *, now: dt.datetime) -> Standing:
        """Return where all jobs stand."""

    async def load_states(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """Return the states of those jobs that are there."""

    async def begin_drain(self, kind: str, *, by: str, why: str, now: dt.datetime) -> bool:
        """Start no more jobs of *kind*; what runs goes on. Return whether that changed anything.

        Raises:
            NotFoundError: There is no such kind.
        """

    async def end_drain(self, kind: str, *, by: str, why: str, now: dt.datetime) -> bool:
        """Start jobs of *kind* again, and wake those that wait; `ALL_KINDS` ends every drain. Return as `begin_drain`.

        Raises:
            NotFoundError: There is no such kind.
            ConflictError: All kinds are drained, which one kind cannot end.
        """

    async def load_drains(self, *, limit: int = MAX_BATCH) -> tuple[Drain, ...]:
        """Return drains, those that hold first, then the newest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeadTask:
    """A foreign producer's message that became no job: how it begins, and why."""

    body: str
    words: str


class DeadTasks(Protocol):
    """Where foreign producers' messages lie that became no jobs. Raises UnavailableError as `JobQueue`."""

    async def dead_tasks(self, *, limit: int = MAX_BATCH) -> tuple[DeadTask, ...]:
        """Return them, and leave them there."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """What lies among the dead letters: reasons and how many have each, the most frequent first.

    *more*: there are more than were looked at.
    """

    reasons: tuple[tuple[str, int], ...] = ()
    more: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """Where all jobs stand, drains that hold, and dead letters; *trouble* says why those could not be looked at."""

    standing: Standing
    drains: tuple[Drain, ...]
    letters: Letters
    tasks: Letters
    trouble: str = ""


def count_reasons(words: Sequence[str], *, more: bool = False) -> Letters:
    """Group dead letters by their reason."""
    counted: dict[str, int] = {}
    for each in words:
        counted[each] = counted.get(each, 0) + 1
    return Letters(reasons=tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0]))), more=more)


def is_drained(kind: str, drains: Collection[Drain]) -> bool:
    """Whether one of *drains* holds for *kind*."""
    return any(drain.ended_at is None and drain.kind in {ALL_KINDS, kind} for drain in drains)
