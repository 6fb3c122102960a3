"""What the stores of jobs share: rows read as values, wake-ups of changed jobs, and when pictures go."""

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa

from controlplane.jobs.model import Job, JobId, JobKind, JobState, Picture
from controlplane.jobs.owners import keep_for
from controlplane.store.engine import Tx
from controlplane.store.job_tables import job, job_kind, job_outbox, job_owner
from controlplane.wake import Topic


def kind_of(row: sa.Row[Any]) -> JobKind:
    """Read a kind."""
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
        service=row.service,
        keep=row.keep_us,
        strip_metadata=row.strip_metadata,
        label=row.label,
    )


def job_of(row: sa.Row[Any]) -> Job:
    """Read a job."""
    photo = result = None
    there = row.swept_at is None
    if there and row.photo_key:
        photo = Picture(
            key=row.photo_key, media_type=row.photo_type, size_bytes=row.photo_bytes, sha256=row.photo_sha256
        )
    if there and row.result_key is not None:
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
        first_started_at=row.first_started_at,
        stable_only=row.stable_only,
        expires_at=row.expires_at,
        swept_at=row.swept_at,
        finished_at=row.finished_at,
    )


def wake(tx: Tx, condition: sa.ColumnElement[bool], due: dt.datetime) -> None:
    """Put wake-ups for the jobs of *condition* into the outbox, by the queue that their kind has now."""
    found = (
        sa.select(job.c.id, job_kind.c.queue, job.c.vip, sa.literal(due, job_outbox.c.due_at.type))
        .join(job_kind, job_kind.c.name == job.c.kind)
        .where(condition)
    )
    tx.conn.execute(job_outbox.insert().from_select(["job", "queue", "vip", "due_at"], found))
    tx.announce(Topic.JOBS)


def shortest_keep(kind: sa.ColumnElement[str], owner: sa.ColumnElement[str]) -> sa.ColumnElement[Any]:
    """Say in SQL what `keep_for` says of a job's *kind* and *owner*, in microseconds."""
    of_kind = sa.select(job_kind.c.keep_us).where(job_kind.c.name == kind).scalar_subquery()
    of_owner = sa.select(job_owner.c.keep_us).where(job_owner.c.name == owner).scalar_subquery()
    return sa.case((of_owner < of_kind, of_owner), else_=of_kind)


def date_pictures(tx: Tx, condition: sa.ColumnElement[bool], *, limit: int = 1) -> int:
    """Say when the pictures of jobs of *condition* go that have ended and do not know it yet; return of how many."""
    undated = sa.and_(job.c.finished_at.is_not(None), job.c.expires_at.is_(None), job.c.swept_at.is_(None))
    query = (
        sa.select(job.c.id, job.c.finished_at, job_kind.c.keep_us.label("kind"), job_owner.c.keep_us.label("owner"))
        .join(job_kind, job_kind.c.name == job.c.kind)
        .outerjoin(job_owner, job_owner.c.name == job.c.owner)
        .where(condition, undated)
        .limit(limit)
    )
    ends = [
        {"of": row.id, "at": row.finished_at + keep_for(row.kind, row.owner)} for row in tx.conn.execute(query).all()
    ]
    if ends:
        tx.conn.execute(_DATE, ends)
    return len(ends)


_DATE: Final = (
    job.update()
    .where(job.c.id == sa.bindparam("of"), job.c.finished_at.is_not(None))
    .values(expires_at=sa.bindparam("at", type_=job.c.expires_at.type))
)
