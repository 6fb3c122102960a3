"""What was agreed with owners of jobs, and what they have now: counted from the rows, in the submitting transaction."""

import datetime as dt
from typing import Any

import sqlalchemy as sa

from controlplane.errors import NotFoundError
from controlplane.jobs.expected import Expected, check_expected
from controlplane.jobs.owners import DAY, JobOwner, JobUsage, Quotas, check_quotas, check_vip
from controlplane.jobs.ports import NewJob
from controlplane.ports import Change
from controlplane.store.audit import append_change
from controlplane.store.engine import Tx
from controlplane.store.job_tables import job, job_owner
from controlplane.store.queries import Part


class SqlOwners(Part):
    """The port `OwnerStore`."""

    __slots__ = ()

    async def apply_owner(self, owner: JobOwner, change: Change, *, expected: Expected[JobOwner] | None = None) -> bool:
        def work(tx: Tx) -> bool:
            is_changed = _apply(tx, owner, change.at, expected)
            if is_changed:
                append_change(tx.conn, "job-owner-apply", f"something else was agreed with {owner.name}", change)
            return is_changed

        return await self.database.write(work)

    async def list_owners(self, *, after: str = "", limit: int | None = None) -> tuple[JobOwner, ...]:
        query = sa.select(job_owner).where(job_owner.c.name > after).order_by(job_owner.c.name).limit(limit)
        return await self.database.read(lambda tx: tuple(_owner_of(row) for row in tx.conn.execute(query)))

    async def find_owner(self, name: str) -> JobOwner | None:
        return await self.database.read(lambda tx: _find(tx.conn, name))

    async def delete_owner(self, name: str, change: Change) -> None:
        def work(tx: Tx) -> None:
            if tx.conn.execute(job_owner.delete().where(job_owner.c.name == name)).rowcount == 0:
                known = tuple(tx.conn.scalars(sa.select(job_owner.c.name).order_by(job_owner.c.name)))
                raise NotFoundError("job owner", name, known)
            append_change(tx.conn, "job-owner-delete", f"what was agreed with {name} holds no more", change)

        await self.database.write(work)

    async def load_usage(self, name: str, *, quotas: Quotas, now: dt.datetime) -> JobUsage:
        return await self.database.read(lambda tx: _usage(tx.conn, name, quotas, now))


def check_owner(conn: sa.Connection, new: NewJob, default: Quotas, now: dt.datetime) -> None:
    """Refuse a job that is more than was agreed with its owner, whose lock the transaction holds.

    Raises:
        OverQuotaError: A quota is used up.
        InvalidInputError: Its owner may not ask for its priority.
    """
    owner = _find(conn, new.owner)
    check_vip(owner, vip=new.vip)
    quotas = default if owner is None else owner.quotas(default)
    usage = _usage(conn, new.owner, quotas, now)
    check_quotas(new.owner, quotas, usage, photo_bytes=new.photo.size_bytes if new.photo else 0, now=now)


def _apply(tx: Tx, owner: JobOwner, now: dt.datetime, expected: Expected[JobOwner] | None) -> bool:
    tx.lock("job_owner")
    before = _find(tx.conn, owner.name)
    check_expected(expected, before, what=f"what is agreed with {owner.name!r}")
    if before == owner:
        return False
    row = {
        "name": owner.name,
        "keep_us": owner.keep,
        "max_waiting": owner.max_waiting,
        "max_daily": owner.max_daily,
        "max_bytes": owner.max_bytes,
        "vip": owner.vip,
        "applied_at": now,
    }
    if before is None:
        tx.conn.execute(job_owner.insert(), row)
    else:
        tx.conn.execute(job_owner.update().where(job_owner.c.name == owner.name), row)
    return True


def _find(conn: sa.Connection, name: str) -> JobOwner | None:
    row = conn.execute(sa.select(job_owner).where(job_owner.c.name == name)).first()
    return None if row is None else _owner_of(row)


def _owner_of(row: sa.Row[Any]) -> JobOwner:
    return JobOwner(
        name=row.name,
        keep=row.keep_us,
        max_waiting=row.max_waiting,
        max_daily=row.max_daily,
        max_bytes=row.max_bytes,
        vip=row.vip,
    )


def _usage(conn: sa.Connection, name: str, quotas: Quotas, now: dt.datetime) -> JobUsage:
    mine = job.c.owner == name
    today = sa.and_(mine, job.c.submitted_at > now - DAY)
    stored = sa.func.coalesce(sa.func.sum(job.c.photo_bytes + sa.func.coalesce(job.c.result_bytes, 0)), 0)
    waiting = conn.scalar(sa.select(sa.func.count()).where(mine, job.c.finished_at.is_(None))) or 0
    daily = conn.scalar(sa.select(sa.func.count()).where(today)) or 0
    in_bytes = conn.scalar(sa.select(stored).where(mine, job.c.swept_at.is_(None))) or 0
    free_at = None
    if 0 < quotas.max_daily <= daily:
        newest = sa.select(job.c.submitted_at).where(today).order_by(job.c.submitted_at.desc())
        last = conn.scalar(newest.offset(quotas.max_daily - 1).limit(1))
        free_at = None if last is None else last + DAY
    return JobUsage(waiting=waiting, daily=daily, bytes=int(in_bytes), daily_free_at=free_at)
