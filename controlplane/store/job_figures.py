"""Figures of jobs, counted in SQL from every row of a while, which an index finds."""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from controlplane.jobs.figures import Spans, Sums
from controlplane.jobs.model import AttemptOutcome, JobState
from controlplane.store.engine import Tx
from controlplane.store.job_operations import standing
from controlplane.store.job_spans import RUN, WAIT, between, percentiles
from controlplane.store.job_tables import job, job_attempt
from controlplane.store.queries import Part


class SqlJobFigures(Part):
    """The port `FigureStore`."""

    __slots__ = ()

    async def load_sums(self, kind: str | None, *, since: dt.datetime, until: dt.datetime) -> Sums:
        return await self.database.read(lambda tx: _load_sums(tx, kind, since, until))


def _load_sums(tx: Tx, kind: str | None, since: dt.datetime, until: dt.datetime) -> Sums:
    def asked(column: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        return sa.true() if kind is None else column == kind

    enqueued = (
        sa.select(job.c.kind, sa.func.count())
        .where(between(job.c.submitted_at, since, until), asked(job.c.kind))
        .group_by(job.c.kind)
    )
    attempts = (
        sa.select(job_attempt.c.kind, job_attempt.c.version, job_attempt.c.outcome, sa.func.count())
        .where(between(job_attempt.c.ended_at, since, until), asked(job_attempt.c.kind))
        .group_by(job_attempt.c.kind, job_attempt.c.version, job_attempt.c.outcome)
    )
    waits = sa.select(job.c.kind, job.c.version, WAIT.label("span")).where(
        between(job.c.first_started_at, since, until), asked(job.c.kind)
    )
    runs = sa.select(job_attempt.c.kind, job_attempt.c.version, RUN.label("span")).where(
        between(job_attempt.c.ended_at, since, until),
        job_attempt.c.outcome == AttemptOutcome.DONE.value,
        asked(job_attempt.c.kind),
    )
    counted = ((k, v, AttemptOutcome(o), n) for k, v, o, n in tx.conn.execute(attempts).tuples())
    return Sums(
        enqueued=dict(tx.conn.execute(enqueued).tuples().all()),
        ended=_nested(_ended(tx, asked(job.c.kind), since, until)),
        attempts=_nested(counted),
        waits=_spans(tx, waits),
        runs=_spans(tx, runs),
        standing=standing(tx, until, kind),
    )


def _ended(
    tx: Tx, asked: sa.ColumnElement[bool], since: dt.datetime, until: dt.datetime
) -> Iterable[tuple[str, str, JobState, int]]:
    """Count ended jobs; the version of one that is not done is that of its last attempt.

    Only those that have ended have a *finished_at*; to name their states, too, would send SQLite to another index.
    """
    last = sa.and_(job_attempt.c.job == job.c.id, job_attempt.c.attempt == job.c.attempts)
    version = sa.case((job.c.state == JobState.DONE.value, job.c.version), else_=job_attempt.c.version)
    named = sa.func.coalesce(sa.case((job.c.state != JobState.CANCELLED.value, version)), "").label("named")
    query = (
        sa.select(job.c.kind, named, job.c.state, sa.func.count())
        .select_from(job.outerjoin(job_attempt, last))
        .where(between(job.c.finished_at, since, until), asked)
        .group_by(job.c.kind, named, job.c.state)
    )
    return ((kind, by, JobState(state), count) for kind, by, state, count in tx.conn.execute(query).tuples())


def _nested(counted: Iterable[tuple[str, str, Any, int]]) -> Mapping[tuple[str, str], Mapping[Any, int]]:
    found: dict[tuple[str, str], dict[Any, int]] = {}
    for kind, version, what, count in counted:
        found.setdefault((kind, version), {})[what] = count
    return found


def _spans(tx: Tx, rows: sa.Select[Any]) -> Mapping[tuple[str, str | None], Spans]:
    found: dict[tuple[str, str | None], Spans] = {}
    for row in tx.conn.execute(percentiles(rows, "kind")):
        found[row.kind, None] = _of(row)
    for row in tx.conn.execute(percentiles(rows, "kind", "version")):
        found[row.kind, row.version] = _of(row)
    return found


def _of(row: sa.Row[Any]) -> Spans:
    return Spans(count=row.total, p50=dt.timedelta(microseconds=row.p50), p95=dt.timedelta(microseconds=row.p95))
