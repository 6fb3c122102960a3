"""Jobs as their owners see them, and the kinds there are."""

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.expected import Expected, check_expected
from controlplane.jobs.model import AttemptOutcome, Job, JobId, JobKind, JobState
from controlplane.jobs.owners import DEFAULT_QUOTAS, Quotas
from controlplane.jobs.ports import EndedAttempt, NewJob
from controlplane.ports import Change
from controlplane.store.audit import append_change
from controlplane.store.engine import Tx
from controlplane.store.job_attempts import IDLE, record_attempts
from controlplane.store.job_callbacks import forget_notices, record_end
from controlplane.store.job_owners import check_owner
from controlplane.store.job_rows import date_pictures, job_of, kind_of, wake
from controlplane.store.job_tables import job, job_kind
from controlplane.store.queries import Part
from controlplane.wake import Topic

_UNDELETED: Final = job.c.deleted_at.is_(None)


class SqlJobs(Part):
    """The port `JobStore`'s part for owners."""

    __slots__ = ()

    # -- kinds ---------------------------------------------------------------------------------------------------------

    async def apply_kind(self, kind: JobKind, change: Change, *, expected: Expected[JobKind] | None = None) -> bool:
        def work(tx: Tx) -> bool:
            is_changed = _apply_kind(tx, kind, change.at, expected)
            if is_changed:
                append_change(tx.conn, "job-kind-apply", f"the kind {kind.name} was declared", change)
            return is_changed

        return await self.database.write(work)

    async def list_kinds(self) -> tuple[JobKind, ...]:
        query = sa.select(job_kind).order_by(job_kind.c.name)
        return await self.database.read(lambda tx: tuple(kind_of(row) for row in tx.conn.execute(query)))

    # -- owners --------------------------------------------------------------------------------------------------------

    async def submit(self, new: NewJob, *, key: str | None, now: dt.datetime, quotas: Quotas = DEFAULT_QUOTAS) -> Job:
        return await self.database.write(lambda tx: _submit(tx, new, key, now, quotas))

    async def admit(
        self, new: NewJob, *, key: str | None, now: dt.datetime, quotas: Quotas = DEFAULT_QUOTAS
    ) -> Job | None:
        def work(tx: Tx) -> Job | None:
            first = _first_copy(tx.conn, new, key)
            if first is not None:
                return job_of(first)
            check_owner(tx.conn, new, quotas, now)
            return None

        return await self.database.read(work)

    async def load_job(self, job: JobId, *, owner: str | None = None) -> Job:
        return await self.database.read(lambda tx: job_of(_load(tx.conn, job, owner)))

    async def list_jobs(
        self, owner: str, *, state: JobState | None = None, before: JobId | None = None, limit: int = 50
    ) -> tuple[Job, ...]:
        query = sa.select(job).where(job.c.owner == owner, _UNDELETED).order_by(job.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(job.c.state == state.value)
        if before is not None:
            # Also one that was deleted since: whoever pages must not stumble over that.
            theirs = sa.select(job.c.number).where(job.c.id == before, job.c.owner == owner)
            query = query.where(job.c.number < theirs.scalar_subquery())

        def work(tx: Tx) -> tuple[Job, ...]:
            return tuple(job_of(row) for row in tx.conn.execute(query))

        return await self.database.read(work)

    async def cancel_job(self, job: JobId, *, owner: str, now: dt.datetime) -> Job:
        return await self.database.write(lambda tx: _cancel(tx, job, owner, now))

    async def delete_job(self, job: JobId, *, owner: str, now: dt.datetime) -> None:
        await self.database.write(lambda tx: _delete(tx, job, owner, now))


# -- kinds -------------------------------------------------------------------------------------------------------------


def _apply_kind(tx: Tx, kind: JobKind, now: dt.datetime, expected: Expected[JobKind] | None) -> bool:
    tx.lock("job_kind")
    before = tx.conn.execute(sa.select(job_kind).where(job_kind.c.name == kind.name)).first()
    check_expected(expected, None if before is None else kind_of(before), what=f"kind {kind.name!r}")
    rival = tx.conn.scalar(
        sa.select(job_kind.c.name).where(job_kind.c.workflow == kind.workflow, job_kind.c.name != kind.name)
    )
    if rival is not None:
        raise ConflictError(f"workflow {kind.workflow!r} is kind {rival!r}'s; apply that one, or name another workflow")
    if before is not None and kind_of(before) == kind:
        return False
    row = {
        "name": kind.name,
        "workflow": kind.workflow,
        "models": list(kind.models),
        "min_px": kind.min_px,
        "max_px": kind.max_px,
        "default_px": kind.default_px,
        "queue": kind.queue,
        "path": kind.path,
        "headers": dict(kind.headers),
        "timeout_us": kind.timeout,
        "attempts": kind.attempts,
        "service": kind.service,
        "keep_us": kind.keep,
        "strip_metadata": kind.strip_metadata,
        "label": kind.label,
        "applied_at": now,
    }
    if before is None:
        tx.conn.execute(job_kind.insert(), row)
    else:
        tx.conn.execute(job_kind.update().where(job_kind.c.name == kind.name), row)
    return True


# -- owners ------------------------------------------------------------------------------------------------------------


def _submit(tx: Tx, new: NewJob, key: str | None, now: dt.datetime, quotas: Quotas) -> Job:
    # Or two copies of one request would meet in the unique constraints, and two requests both have the last place.
    tx.lock(f"job.{new.owner}")
    first = _first_copy(tx.conn, new, key)
    if first is not None:
        return job_of(first)
    check_owner(tx.conn, new, quotas, now)
    row = {
        "id": new.id,
        "owner": new.owner,
        "task_id": new.task_id,
        "kind": new.kind,
        "workflow": new.workflow,
        "model": new.model,
        "size": new.size,
        "vip": new.vip,
        "state": JobState.WAITING.value,
        "attempts": 0,
        "failures": 0,
        "words": "",
        "version": "",
        "image_url": new.image_url,
        "callback_url": new.callback_url,
        "photo_key": new.photo.key if new.photo else "",
        "photo_type": new.photo.media_type if new.photo else "",
        "photo_bytes": new.photo.size_bytes if new.photo else 0,
        "photo_sha256": new.photo.sha256 if new.photo else "",
        "holder": "",
        "due_at": now,
        "submitted_at": now,
        "request": new.request,
        "idempotency_key": key,
    }
    made = tx.conn.execute(job.insert().returning(job), row).one()
    wake(tx, job.c.id == new.id, now)
    return job_of(made)


def _first_copy(conn: sa.Connection, new: NewJob, key: str | None) -> sa.Row[Any] | None:
    """Return the job that this very request has made before, if it has."""
    names = [("task_id", new.task_id, sa.and_(job.c.owner == new.owner, job.c.task_id == new.task_id))]
    if key is not None:
        names.insert(0, ("idempotency key", key, job.c.idempotency_key == key))
    for what, name, condition in names:
        row = conn.execute(sa.select(job).where(condition)).first()
        if row is None:
            continue
        if row.request != new.request:
            raise ConflictError(f"{what} {name!r} was used for another job; send a new one with each job")
        if row.deleted_at is not None:
            raise ConflictError(f"{what} {name!r} was used for a job that was deleted; send a new one with each job")
        return row
    return None


def _load(conn: sa.Connection, of: JobId, owner: str | None, *, lock: bool = False) -> sa.Row[Any]:
    query = sa.select(job).where(job.c.id == of, _UNDELETED)
    if owner is not None:
        query = query.where(job.c.owner == owner)
    row = conn.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFoundError("job", of)
    return row


def _cancel(tx: Tx, of: JobId, owner: str, now: dt.datetime) -> Job:
    row = _load(tx.conn, of, owner, lock=True)
    if row.state == JobState.CANCELLED.value:
        return job_of(row)
    if row.state not in {JobState.WAITING.value, JobState.RUNNING.value}:
        raise ConflictError(f"job {of} is {row.state}; only one that waits or runs can be cancelled")
    running = row.state == JobState.RUNNING.value
    ended = {"state": JobState.CANCELLED.value, "finished_at": now, "words": "cancelled by its owner", **IDLE}
    cancelled = tx.conn.execute(job.update().where(job.c.id == of).values(ended).returning(job)).one()
    tx.announce(Topic.JOB_STATES)
    date_pictures(tx, job.c.id == of)
    record_end(tx, cancelled)
    if running:
        record_attempts(tx, [of], EndedAttempt(AttemptOutcome.THROWN, "its job was cancelled"), now)
    return job_of(_load(tx.conn, of, owner))


def _delete(tx: Tx, of: JobId, owner: str, now: dt.datetime) -> None:
    row = _load(tx.conn, of, owner, lock=True)
    gone: dict[str, Any] = {"deleted_at": now, "image_url": "", "callback_url": "", **IDLE}
    if row.finished_at is None:
        gone |= {"state": JobState.CANCELLED.value, "finished_at": now, "words": "deleted by its owner"}
    tx.conn.execute(job.update().where(job.c.id == of).values(gone))
    forget_notices(tx, of)
    if row.state == JobState.RUNNING.value:
        record_attempts(tx, [of], EndedAttempt(AttemptOutcome.THROWN, "its job was deleted"), now)
    tx.announce(Topic.JOBS)
