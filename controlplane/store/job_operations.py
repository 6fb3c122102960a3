"""What whoever runs the jobs reads and writes: attempts, dead jobs that wait again, where all stand, and drains."""

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.model import AttemptOutcome, Job, JobId, JobState
from controlplane.jobs.operations import ALL_KINDS, Attempt, Backlog, Drain, Standing
from controlplane.jobs.ports import MAX_BATCH
from controlplane.ports import Change
from controlplane.store.audit import append_change
from controlplane.store.engine import Tx
from controlplane.store.job_drains import DRAINED
from controlplane.store.job_rows import job_of, wake
from controlplane.store.job_tables import job, job_attempt, job_drain, job_kind, job_message, job_outbox
from controlplane.store.queries import Part
from controlplane.wake import Topic

_UNDELETED: Final = job.c.deleted_at.is_(None)
_LIVE: Final = job_drain.c.ended_at.is_(None)
_COUNTED: Final = (JobState.WAITING, JobState.RUNNING, JobState.DEAD)
_GOES_ON: Final = frozenset({JobState.WAITING.value, JobState.RUNNING.value})


class SqlJobOperations(Part):
    """The port `OperatorStore`."""

    __slots__ = ()

    async def load_attempts(self, job: JobId) -> tuple[Attempt, ...]:
        table = job_attempt
        query = sa.select(table).where(table.c.job == job).order_by(table.c.attempt)
        return await self.database.read(lambda tx: tuple(_attempt(row) for row in tx.conn.execute(query)))

    async def retry_dead(self, job: JobId, *, owner: str, refetch: bool, now: dt.datetime) -> Job:
        return await self.database.write(lambda tx: _retry(tx, job, owner, refetch, now))

    async def load_standing(self, *, now: dt.datetime) -> Standing:
        return await self.database.read(lambda tx: standing(tx, now))

    async def load_states(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        query = sa.select(job.c.id, job.c.state).where(job.c.id.in_(jobs))
        return await self.database.read(
            lambda tx: {JobId(row.id): JobState(row.state) for row in tx.conn.execute(query)}
        )

    async def begin_drain(self, kind: str, *, by: str, why: str, now: dt.datetime) -> bool:
        return await self.database.write(lambda tx: _begin_drain(tx, kind, by, why, now))

    async def end_drain(self, kind: str, *, by: str, why: str, now: dt.datetime) -> bool:
        return await self.database.write(lambda tx: _end_drain(tx, kind, by, why, now))

    async def load_drains(self, *, limit: int = MAX_BATCH) -> tuple[Drain, ...]:
        query = sa.select(job_drain).order_by(~_LIVE, job_drain.c.number.desc()).limit(limit)
        return await self.database.read(lambda tx: tuple(_drain(row) for row in tx.conn.execute(query)))


# -- jobs --------------------------------------------------------------------------------------------------------------


def _attempt(row: sa.Row[Any]) -> Attempt:
    return Attempt(
        attempt=row.attempt,
        version=row.version,
        outcome=AttemptOutcome(row.outcome),
        words=row.words,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _retry(tx: Tx, of: JobId, owner: str, refetch: bool, now: dt.datetime) -> Job:  # noqa: FBT001 - the port names it
    query = sa.select(job).where(job.c.id == of, job.c.owner == owner, _UNDELETED).with_for_update()
    row = tx.conn.execute(query).first()
    if row is None:
        raise NotFoundError("job", of)
    if row.state in _GOES_ON:
        return job_of(row)
    if row.state == JobState.DONE.value:
        raise ConflictError(f"job {of} is done; only one that is dead or cancelled can be run again")
    again: dict[str, Any] = {
        "state": JobState.WAITING.value,
        "failures": 0,
        "words": "",
        "finished_at": None,
        "expires_at": None,
        "due_at": now,
    }
    if refetch:
        again |= {"photo_key": "", "swept_at": None}
    made = tx.conn.execute(job.update().where(job.c.id == of).values(again).returning(job)).one()
    tx.conn.execute(job_message.delete().where(job_message.c.job == of, job_message.c.dead_words.is_not(None)))
    wake(tx, job.c.id == of, now)
    return job_of(made)


def standing(tx: Tx, now: dt.datetime, kind: str | None = None) -> Standing:
    """Return where all jobs stand, or those of one kind."""
    counts = (
        sa.select(
            job.c.kind, job.c.state, sa.func.count().label("jobs"), sa.func.min(job.c.submitted_at).label("oldest")
        )
        .where(job.c.state.in_([state.value for state in _COUNTED]), _UNDELETED)
        .group_by(job.c.kind, job.c.state)
    )
    kinds = sa.select(job_kind.c.name, job_kind.c.queue).order_by(job_kind.c.name)
    if kind is not None:
        counts, kinds = counts.where(job.c.kind == kind), kinds.where(job_kind.c.name == kind)
    found = {(row.kind, row.state): row for row in tx.conn.execute(counts)}

    def jobs(name: str, state: JobState) -> int:
        row = found.get((name, state.value))
        return 0 if row is None else row.jobs

    backlogs = []
    for row in tx.conn.execute(kinds):
        waits = found.get((row.name, JobState.WAITING.value))
        backlogs.append(
            Backlog(
                kind=row.name,
                queue=row.queue,
                waiting=jobs(row.name, JobState.WAITING),
                running=jobs(row.name, JobState.RUNNING),
                dead=jobs(row.name, JobState.DEAD),
                oldest=None if waits is None else waits.oldest,
            )
        )
    due = sa.select(sa.func.count()).select_from(job_outbox).where(job_outbox.c.due_at <= now)
    return Standing(backlogs=tuple(backlogs), outbox=tx.conn.scalar(due) or 0)


# -- drains ------------------------------------------------------------------------------------------------------------


def _drain(row: sa.Row[Any]) -> Drain:
    return Drain(
        kind=row.kind,
        began_at=row.began_at,
        began_by=row.began_by,
        began_why=row.began_why,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
        ended_why=row.ended_why,
    )


def _check_kind(tx: Tx, kind: str) -> None:
    known = list(tx.conn.scalars(sa.select(job_kind.c.name).order_by(job_kind.c.name)))
    if kind != ALL_KINDS and kind not in known:
        raise NotFoundError("kind", kind, tuple(known))


def _begin_drain(tx: Tx, kind: str, by: str, why: str, now: dt.datetime) -> bool:
    tx.lock("job_drain")
    _check_kind(tx, kind)
    if tx.conn.scalar(sa.select(job_drain.c.number).where(_LIVE, job_drain.c.kind == kind)) is not None:
        return False
    tx.conn.execute(job_drain.insert(), {"kind": kind, "began_at": now, "began_by": by, "began_why": why})
    append_change(tx.conn, "job-drain", f"no jobs of {kind or 'any kind'} are started now", Change(by, why, now))
    tx.announce(Topic.JOBS)
    return True


def _end_drain(tx: Tx, kind: str, by: str, why: str, now: dt.datetime) -> bool:
    tx.lock("job_drain")
    _check_kind(tx, kind)
    live = frozenset(tx.conn.scalars(sa.select(job_drain.c.kind).where(_LIVE)))
    if kind != ALL_KINDS and ALL_KINDS in live:
        raise ConflictError(
            "all kinds are drained, which one of them cannot end; end that first: hueshift jobs drain --off"
        )
    ending = live if kind == ALL_KINDS else live & {kind}
    if not ending:
        return False
    ended = {"ended_at": now, "ended_by": by, "ended_why": why}
    tx.conn.execute(job_drain.update().where(_LIVE, job_drain.c.kind.in_(ending)).values(ended))
    append_change(tx.conn, "job-drain-end", f"jobs of {kind or 'any kind'} are started", Change(by, why, now))
    # Wake-ups that came meanwhile were taken, found nothing that may start, and are gone.
    mine = sa.true() if ALL_KINDS in ending else job.c.kind.in_(ending)
    told = sa.exists().where(job_outbox.c.job == job.c.id)
    wake(tx, sa.and_(job.c.state == "waiting", job.c.due_at <= now, mine, _UNDELETED, ~DRAINED, ~told), now)
    return True
