"""Jobs, their kinds and the outbox. Every change of a job is one guarded UPDATE: who lost the claim changes none."""

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.model import Claim, Job, JobId, JobKind, JobState, Picture
from controlplane.jobs.ports import MAX_BATCH, NewJob, OutboxEntry, WakeUp
from controlplane.store.engine import Tx
from controlplane.store.job_tables import job, job_kind, job_outbox
from controlplane.store.queries import Part
from controlplane.wake import Topic

_UNDELETED: Final = job.c.deleted_at.is_(None)
_IS: Final = job.c.id == sa.bindparam("of")
_CLAIMED: Final = sa.and_(_IS, job.c.state == "running", job.c.attempts == sa.bindparam("attempt"))
_IDLE: Final = {"lease_until": None, "holder": ""}


class SqlJobs(Part):
    """The port `JobStore` on SQL."""

    __slots__ = ()

    # -- kinds ---------------------------------------------------------------------------------------------------------

    async def apply_kind(self, kind: JobKind, *, now: dt.datetime) -> bool:
        return await self.database.write(lambda tx: _apply_kind(tx, kind, now))

    async def list_kinds(self) -> tuple[JobKind, ...]:
        query = sa.select(job_kind).order_by(job_kind.c.name)
        return await self.database.read(lambda tx: tuple(_kind_of(row) for row in tx.conn.execute(query)))

    # -- owners --------------------------------------------------------------------------------------------------------

    async def submit(self, new: NewJob, *, key: str | None, now: dt.datetime) -> Job:
        return await self.database.write(lambda tx: _submit(tx, new, key, now))

    async def load_job(self, job: JobId, *, owner: str | None = None) -> Job:
        return await self.database.read(lambda tx: _job_of(_load(tx.conn, job, owner)))

    async def list_jobs(
        self, owner: str, *, state: JobState | None = None, before: JobId | None = None, limit: int = 50
    ) -> tuple[Job, ...]:
        query = sa.select(job).where(job.c.owner == owner, _UNDELETED).order_by(job.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(job.c.state == state.value)

        def work(tx: Tx) -> tuple[Job, ...]:
            asked = query if before is None else query.where(job.c.number < _load(tx.conn, before, owner).number)
            return tuple(_job_of(row) for row in tx.conn.execute(asked))

        return await self.database.read(work)

    async def cancel_job(self, job: JobId, *, owner: str, now: dt.datetime) -> Job:
        return await self.database.write(lambda tx: _cancel(tx, job, owner, now))

    async def delete_job(self, job: JobId, *, owner: str, now: dt.datetime) -> None:
        await self.database.write(lambda tx: _delete(tx, job, owner, now))

    async def load_deleted(self, *, limit: int = MAX_BATCH) -> Mapping[JobId, int]:
        gone = sa.and_(job.c.deleted_at.is_not(None), job.c.swept_at.is_(None))
        query = sa.select(job.c.id, job.c.attempts).where(gone).limit(limit)
        return await self.database.read(lambda tx: {JobId(row.id): row.attempts for row in tx.conn.execute(query)})

    async def forget_pictures(self, jobs: Collection[JobId], *, now: dt.datetime) -> None:
        change = job.update().where(job.c.id.in_(jobs), job.c.deleted_at.is_not(None)).values(swept_at=now)
        await self.database.write(lambda tx: tx.conn.execute(change).rowcount)

    # -- outbox --------------------------------------------------------------------------------------------------------

    async def load_outbox(self, *, now: dt.datetime, limit: int = MAX_BATCH) -> tuple[OutboxEntry, ...]:
        query = sa.select(job_outbox).where(job_outbox.c.due_at <= now).order_by(job_outbox.c.due_at).limit(limit)
        return await self.database.read(
            lambda tx: tuple(
                OutboxEntry(row.number, WakeUp(JobId(row.job), row.queue, row.vip)) for row in tx.conn.execute(query)
            )
        )

    async def drop_outbox(self, numbers: Collection[int]) -> None:
        removal = job_outbox.delete().where(job_outbox.c.number.in_(numbers))
        await self.database.write(lambda tx: tx.conn.execute(removal).rowcount)

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def claim_job(self, job: JobId, *, holder: str, until: dt.datetime, now: dt.datetime) -> Job | None:
        facts = {"of": job, "by": holder, "until": until, "now": now}

        def work(tx: Tx) -> Job | None:
            row = tx.conn.execute(_CLAIM, facts).first()
            return None if row is None else _job_of(row)

        return await self.database.write(work)

    async def renew_jobs(self, claims: Collection[Claim], *, until: dt.datetime) -> frozenset[Claim]:
        def work(tx: Tx) -> frozenset[Claim]:
            return frozenset(claim for claim in claims if _change(tx, _RENEW, claim, until=until))

        return await self.database.write(work)

    async def attach_photo(self, claim: Claim, photo: Picture) -> bool:
        facts = {"key": photo.key, "media_type": photo.media_type, "length": photo.size_bytes, "digest": photo.sha256}
        return await self.database.write(lambda tx: _change(tx, _ATTACH, claim, **facts))

    async def finish_job(self, claim: Claim, result: Picture, *, version: str, now: dt.datetime) -> bool:
        facts = {
            "key": result.key,
            "media_type": result.media_type,
            "length": result.size_bytes,
            "digest": result.sha256,
            "by_version": version,
            "now": now,
        }
        return await self.database.write(lambda tx: _change(tx, _FINISH, claim, **facts))

    async def retry_job(self, claim: Claim, *, words: str, counts: bool, due: dt.datetime) -> bool:
        def work(tx: Tx) -> bool:
            if not _change(tx, _RETRY, claim, why=words, more=int(counts), due=due):
                return False
            _wake(tx, job.c.id == claim.job, due)
            return True

        return await self.database.write(work)

    async def bury_job(self, claim: Claim, *, words: str, now: dt.datetime) -> bool:
        return await self.database.write(lambda tx: _change(tx, _BURY, claim, why=words, now=now))

    async def revive_jobs(self, *, lost_before: dt.datetime, now: dt.datetime) -> int:
        return await self.database.write(lambda tx: _revive(tx, lost_before, now))


# -- kinds -------------------------------------------------------------------------------------------------------------


def _apply_kind(tx: Tx, kind: JobKind, now: dt.datetime) -> bool:
    tx.lock("job_kind")
    rival = tx.conn.scalar(
        sa.select(job_kind.c.name).where(job_kind.c.workflow == kind.workflow, job_kind.c.name != kind.name)
    )
    if rival is not None:
        raise ConflictError(f"workflow {kind.workflow!r} is kind {rival!r}'s; apply that one, or name another workflow")
    before = tx.conn.execute(sa.select(job_kind).where(job_kind.c.name == kind.name)).first()
    if before is not None and _kind_of(before) == kind:
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
        "applied_at": now,
    }
    if before is None:
        tx.conn.execute(job_kind.insert(), row)
    else:
        tx.conn.execute(job_kind.update().where(job_kind.c.name == kind.name), row)
    return True


def _kind_of(row: sa.Row[Any]) -> JobKind:
    return JobKind(
        name=row.name,
        workflow=row.workflow,
        models=tuple(row.models),
        min_px=row.min_px,
        max_px=row.max_px,
        default_px=row.default_px,
        queue=row.queue,
        path=row.path,
        headers=dict(row.headers),
        timeout=row.timeout_us,
        attempts=row.attempts,
    )


# -- owners ------------------------------------------------------------------------------------------------------------


def _submit(tx: Tx, new: NewJob, key: str | None, now: dt.datetime) -> Job:
    tx.lock(f"job.{new.owner}")  # or two copies of one request would meet in the unique constraints
    first = _first_copy(tx.conn, new, key)
    if first is not None:
        return _job_of(first)
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
    _wake(tx, job.c.id == new.id, now)
    return _job_of(made)


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
        return _job_of(row)
    if row.state not in {JobState.WAITING.value, JobState.RUNNING.value}:
        raise ConflictError(f"job {of} is {row.state}; only one that waits or runs can be cancelled")
    ended = {"state": JobState.CANCELLED.value, "finished_at": now, "words": "cancelled by its owner", **_IDLE}
    return _job_of(tx.conn.execute(job.update().where(job.c.id == of).values(ended).returning(job)).one())


def _delete(tx: Tx, of: JobId, owner: str, now: dt.datetime) -> None:
    row = _load(tx.conn, of, owner, lock=True)
    gone: dict[str, Any] = {"deleted_at": now, "image_url": "", **_IDLE}
    if row.finished_at is None:
        gone |= {"state": JobState.CANCELLED.value, "finished_at": now, "words": "deleted by its owner"}
    tx.conn.execute(job.update().where(job.c.id == of).values(gone))
    tx.announce(Topic.JOBS)


def _job_of(row: sa.Row[Any]) -> Job:
    photo = result = None
    if row.photo_key:
        photo = Picture(
            key=row.photo_key, media_type=row.photo_type, size_bytes=row.photo_bytes, sha256=row.photo_sha256
        )
    if row.result_key is not None:
        result = Picture(
            key=row.result_key,
            media_type=row.result_type,
            size_bytes=row.result_bytes,
            sha256=row.result_sha256,
        )
    return Job(
        number=row.number,
        id=JobId(row.id),
        owner=row.owner,
        task_id=row.task_id,
        kind=row.kind,
        workflow=row.workflow,
        model=row.model,
        size=row.size,
        vip=row.vip,
        state=JobState(row.state),
        attempts=row.attempts,
        failures=row.failures,
        words=row.words,
        version=row.version,
        image_url=row.image_url,
        photo=photo,
        result=result,
        submitted_at=row.submitted_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


# -- attempts ----------------------------------------------------------------------------------------------------------


def _moment(name: str) -> sa.BindParameter[dt.datetime]:
    return sa.bindparam(name, type_=job.c.due_at.type)


_CLAIM: Final = (
    job.update()
    .where(_IS, job.c.state == "waiting", _UNDELETED)
    .values(
        state="running",
        attempts=job.c.attempts + 1,
        holder=sa.bindparam("by"),
        lease_until=_moment("until"),
        started_at=_moment("now"),
    )
    .returning(job)
)
_RENEW: Final = job.update().where(_CLAIMED).values(lease_until=_moment("until"))
_ATTACH: Final = (
    job.update()
    .where(_CLAIMED)
    .values(
        photo_key=sa.bindparam("key"),
        photo_type=sa.bindparam("media_type"),
        photo_bytes=sa.bindparam("length"),
        photo_sha256=sa.bindparam("digest"),
    )
)
_FINISH: Final = (
    job.update()
    .where(_CLAIMED)
    .values(
        state="done",
        result_key=sa.bindparam("key"),
        result_type=sa.bindparam("media_type"),
        result_bytes=sa.bindparam("length"),
        result_sha256=sa.bindparam("digest"),
        version=sa.bindparam("by_version"),
        finished_at=_moment("now"),
        words="",
        **_IDLE,
    )
)
_RETRY: Final = (
    job.update()
    .where(_CLAIMED)
    .values(
        state="waiting",
        words=sa.bindparam("why"),
        failures=job.c.failures + sa.bindparam("more"),
        due_at=_moment("due"),
        **_IDLE,
    )
)
_BURY: Final = (
    job.update()
    .where(_CLAIMED)
    .values(state="dead", words=sa.bindparam("why"), failures=job.c.failures + 1, finished_at=_moment("now"), **_IDLE)
)


def _change(tx: Tx, statement: sa.Update, claim: Claim, **facts: object) -> bool:
    """Change the job of a claim that is still good; return whether it was."""
    return tx.conn.execute(statement, {"of": claim.job, "attempt": claim.attempt, **facts}).rowcount == 1


def _wake(tx: Tx, condition: sa.ColumnElement[bool], due: dt.datetime) -> None:
    """Put wake-ups for the jobs of *condition* into the outbox, by the queue that their kind has now."""
    found = (
        sa.select(job.c.id, job_kind.c.queue, job.c.vip, sa.literal(due, job_outbox.c.due_at.type))
        .join(job_kind, job_kind.c.name == job.c.kind)
        .where(condition)
    )
    tx.conn.execute(job_outbox.insert().from_select(["job", "queue", "vip", "due_at"], found))
    tx.announce(Topic.JOBS)


def _revive(tx: Tx, lost_before: dt.datetime, now: dt.datetime) -> int:
    over = sa.and_(job.c.state == "running", job.c.lease_until < now)
    freed = {
        "state": JobState.WAITING.value,
        "words": "whoever ran it went away; it runs again",
        "due_at": now,
        **_IDLE,
    }
    ids = list(tx.conn.scalars(job.update().where(over).values(freed).returning(job.c.id)))
    told = sa.exists().where(job_outbox.c.job == job.c.id)
    lost = sa.and_(job.c.state == "waiting", job.c.due_at < lost_before, _UNDELETED, ~told)
    ids += tx.conn.scalars(job.update().where(lost).values(due_at=now).returning(job.c.id))
    if ids:
        _wake(tx, job.c.id.in_(ids), now)
    return len(ids)
