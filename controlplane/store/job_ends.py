"""What is left of jobs that have ended: pictures until their time is over, rows until theirs is."""

import datetime as dt
from collections.abc import Collection, Mapping

import sqlalchemy as sa

from controlplane.jobs.model import Job, JobId
from controlplane.jobs.ports import MAX_BATCH
from controlplane.store.engine import Tx
from controlplane.store.job_rows import date_pictures, job_of
from controlplane.store.job_tables import job
from controlplane.store.queries import Part

_THERE = job.c.swept_at.is_(None)
_ENDED = job.c.finished_at.is_not(None)


class SqlEnds(Part):
    """The port `EndStore`."""

    __slots__ = ()

    async def load_removable(self, *, now: dt.datetime, limit: int = MAX_BATCH) -> tuple[JobId, ...]:
        deleted = sa.select(job.c.id).where(job.c.deleted_at.is_not(None), _THERE)
        over = sa.select(job.c.id).where(job.c.expires_at <= now, job.c.deleted_at.is_(None), _THERE, _ENDED)

        def work(tx: Tx) -> tuple[JobId, ...]:
            found = list(tx.conn.scalars(deleted.limit(limit)))
            found += tx.conn.scalars(over.order_by(job.c.expires_at).limit(limit - len(found)))
            return tuple(map(JobId, found))

        return await self.database.read(work)

    async def forget_pictures(self, jobs: Collection[JobId], *, now: dt.datetime) -> None:
        gone = sa.or_(job.c.deleted_at.is_not(None), job.c.expires_at <= now)
        change = job.update().where(job.c.id.in_(jobs), gone, _THERE, _ENDED)
        values = {"swept_at": now, "expires_at": None, "image_url": ""}
        await self.database.write(lambda tx: tx.conn.execute(change.values(values)).rowcount)

    async def load_pictured(self, jobs: Collection[JobId]) -> Mapping[JobId, Job]:
        query = sa.select(job).where(job.c.id.in_(jobs), _THERE)
        return await self.database.read(lambda tx: {JobId(row.id): job_of(row) for row in tx.conn.execute(query)})

    async def date_pictures(self, *, limit: int = MAX_BATCH) -> int:
        return await self.database.write(lambda tx: date_pictures(tx, job.c.deleted_at.is_(None), limit=limit))

    async def prune_jobs(self, *, before: dt.datetime, limit: int = MAX_BATCH) -> int:
        query = sa.select(job.c.id).where(job.c.finished_at < before, ~_THERE).order_by(job.c.finished_at).limit(limit)

        def work(tx: Tx) -> int:
            old = list(tx.conn.scalars(query))
            if old:
                for table in job.metadata.tables.values():
                    if "job" in table.c:  # what belongs to a job names it so
                        tx.conn.execute(table.delete().where(table.c.job.in_(old)))
                tx.conn.execute(job.delete().where(job.c.id.in_(old)))
            return len(old)

        return await self.database.write(work)
