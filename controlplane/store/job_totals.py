"""Totals of attempts and waits: a row that what is old was added to, and what is younger, counted anew."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.jobs.meter import AT_ONCE, RUN_EDGES_S, WAIT_EDGES_S, Buckets, Totals
from controlplane.jobs.model import AttemptOutcome
from controlplane.store.engine import Tx
from controlplane.store.job_spans import MICROS_PER_S, RUN, WAIT, between, computed_once
from controlplane.store.job_tables import job, job_attempt, job_total
from controlplane.store.queries import Part

_ID: Final = 1
_LONG_AGO: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class SqlJobTotals(Part):
    """The port `TotalStore`'s own part."""

    __slots__ = ()

    async def settle_totals(self, *, until: dt.datetime) -> bool:
        return await self.database.write(lambda tx: _settle(tx, until))

    async def load_totals(self) -> Totals:
        def work(tx: Tx) -> Totals:
            row = tx.conn.execute(sa.select(job_total)).first()
            if row is None:
                return _count(tx, _LONG_AGO, None)
            return _read(row.content) + _count(tx, row.until, None)

        return await self.database.read(work)


def _settle(tx: Tx, until: dt.datetime) -> bool:
    tx.lock("job_total")
    row = tx.conn.execute(sa.select(job_total)).first()
    totals = Totals() if row is None else _read(row.content)
    since = _first(tx, _LONG_AGO if row is None else row.until) or until
    reached = min(since + AT_ONCE, until)
    if row is not None and reached <= row.until:
        return True  # another process was here
    if since < until:
        totals += _count(tx, since if row is None else row.until, reached)
    values = {"until": reached, "content": _write(totals.newest())}
    change = job_total.insert().values(id=_ID, **values) if row is None else job_total.update().values(values)
    tx.conn.execute(change)
    return reached >= until


def _first(tx: Tx, since: dt.datetime) -> dt.datetime | None:
    """Return when something was first counted at *since* or later."""
    columns = (job_attempt.c.ended_at, job.c.first_started_at)
    moments = [tx.conn.scalar(sa.select(sa.func.min(column)).where(column >= since)) for column in columns]
    return min((moment for moment in moments if moment is not None), default=None)


# -- counting ----------------------------------------------------------------------------------------------------------


def _count(tx: Tx, since: dt.datetime, until: dt.datetime | None) -> Totals:
    ended = between(job_attempt.c.ended_at, since, until)
    by = (job_attempt.c.kind, job_attempt.c.version)
    attempts = (
        sa.select(*by, job_attempt.c.outcome, sa.func.count(), sa.func.max(job_attempt.c.ended_at))
        .where(ended)
        .group_by(*by, job_attempt.c.outcome)
    )
    done = job_attempt.c.outcome == AttemptOutcome.DONE.value
    runs = _histogram(sa.select(*by, RUN.label("span")).where(ended, done), RUN_EDGES_S, "kind", "version")
    started = between(job.c.first_started_at, since, until)
    waits = _histogram(sa.select(job.c.kind, WAIT.label("span")).where(started), WAIT_EDGES_S, "kind")
    counts: dict[tuple[str, str, AttemptOutcome], int] = {}
    seen: dict[tuple[str, str], dt.datetime] = {}
    for kind, version, outcome, count, at in tx.conn.execute(attempts).tuples():
        counts[kind, version, AttemptOutcome(outcome)] = count
        seen[kind, version] = max(at, seen.get((kind, version), at))
    return Totals(
        attempts=counts,
        runs={(row.kind, row.version): _buckets(row, RUN_EDGES_S) for row in tx.conn.execute(runs)},
        waits={row.kind: _buckets(row, WAIT_EDGES_S) for row in tx.conn.execute(waits)},
        seen=seen,
    )


def _histogram(spans: sa.Select[Any], edges_s: Sequence[float], *keys: str) -> sa.Select[Any]:
    rows = computed_once(spans)
    by = [rows.c[key] for key in keys]
    below = [
        sa.func.sum(sa.case((rows.c.span <= round(edge * MICROS_PER_S), 1), else_=0)).label(f"below{place}")
        for place, edge in enumerate(edges_s)
    ]
    everything = sa.func.count().label("everything"), sa.func.sum(rows.c.span).label("micros")
    return sa.select(*by, *below, *everything).group_by(*by)


def _buckets(row: sa.Row[Any], edges_s: Sequence[float]) -> Buckets:
    below = [int(row._mapping[f"below{place}"]) for place in range(len(edges_s))]  # noqa: SLF001 - SQLAlchemy's public name
    return Buckets((*below, row.everything), int(row.micros) / MICROS_PER_S)


# -- as JSON -----------------------------------------------------------------------------------------------------------


def _write(totals: Totals) -> dict[str, Any]:
    return {
        "attempts": [[*key, count] for key, count in totals.attempts.items()],
        "runs": [[*key, buckets.counts, buckets.sum_s] for key, buckets in totals.runs.items()],
        "waits": [[kind, buckets.counts, buckets.sum_s] for kind, buckets in totals.waits.items()],
        "seen": [[*key, at.isoformat()] for key, at in totals.seen.items()],
    }


def _read(content: dict[str, Any]) -> Totals:
    return Totals(
        attempts={
            (kind, version, AttemptOutcome(outcome)): count for kind, version, outcome, count in content["attempts"]
        },
        runs={(kind, version): Buckets(tuple(counts), sum_s) for kind, version, counts, sum_s in content["runs"]},
        waits={kind: Buckets(tuple(counts), sum_s) for kind, counts, sum_s in content["waits"]},
        seen={(kind, version): dt.datetime.fromisoformat(at) for kind, version, at in content["seen"]},
    )
