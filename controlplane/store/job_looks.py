"""Jobs as those see them who look on while they move: one short read for all of them together."""

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Final

import sqlalchemy as sa

from controlplane.jobs.model import Job, JobId
from controlplane.jobs.ports import MAX_OPEN, MAX_PLACES, JobsLook
from controlplane.store.engine import Tx
from controlplane.store.job_rows import job_of
from controlplane.store.job_tables import job, job_kind
from controlplane.store.queries import Part

_OPEN: Final = job.c.state.in_(("waiting", "running"))
_UNDELETED: Final = job.c.deleted_at.is_(None)


class SqlJobLooks(Part):
    """The port `JobLooks`."""

    __slots__ = ()

    async def look_at_jobs(self, owners: Collection[str], *, known: Collection[JobId], after: int | None) -> JobsLook:
        return await self.database.read(lambda tx: _look(tx, owners, known, after))

    async def load_ended(self, owner: str, *, since: dt.datetime, limit: int) -> tuple[Job, ...]:
        query = (
            sa.select(job)
            .where(job.c.owner == owner, job.c.finished_at >= since, _UNDELETED)
            .order_by(job.c.finished_at.desc())
            .limit(limit)
        )
        return await self.database.read(lambda tx: tuple(job_of(row) for row in tx.conn.execute(query)))


def _look(tx: Tx, owners: Collection[str], known: Collection[JobId], after: int | None) -> JobsLook:
    queries = [sa.select(job).where(job.c.id.in_(known), _UNDELETED)] if known else []
    if owners:
        queries.append(_next_ones(owners))
    if owners and after is not None:
        ended = sa.and_(job.c.number > after, ~_OPEN)
        queries.append(sa.select(job).where(job.c.owner.in_(owners), ended, _UNDELETED))
    rows = {row.number: row for query in queries for row in tx.conn.execute(query)}
    newest = tx.conn.scalar(sa.select(sa.func.max(job.c.number))) or 0
    return JobsLook(jobs=tuple(job_of(rows[number]) for number in sorted(rows)), places=_places(tx), newest=newest)


def _next_ones(owners: Collection[str]) -> sa.Select[tuple[object, ...]]:
    """Find the open jobs of each owner that come first."""
    order = (job.c.state, job.c.vip.desc(), job.c.number)  # "running" is before "waiting"
    turn = sa.func.row_number().over(partition_by=job.c.owner, order_by=order).label("turn")
    ranked = sa.select(job.c.number, turn).where(_OPEN, job.c.owner.in_(owners), _UNDELETED).subquery()
    return sa.select(job).join(ranked, ranked.c.number == job.c.number).where(ranked.c.turn <= MAX_OPEN)


def _places(tx: Tx) -> Mapping[JobId, int]:
    """Count who is before whom among the next jobs of all: those of VIPs first, as queues are drained."""
    query = (
        sa.select(job.c.id, job.c.vip, job_kind.c.queue)
        .join(job_kind, job_kind.c.name == job.c.kind)
        .where(job.c.state == "waiting", _UNDELETED)
        .order_by(job.c.due_at, job.c.number)
        .limit(MAX_PLACES)
    )
    rows = tx.conn.execute(query).all()
    places: dict[JobId, int] = {}
    seen: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: not row.vip):  # keeps the order otherwise
        seen[row.queue] = places[JobId(row.id)] = seen.get(row.queue, 0) + 1
    return places
