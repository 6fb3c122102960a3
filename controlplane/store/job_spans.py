"""Waits and runs in SQL, to the microsecond, which both databases lack a common word for; percentiles of them."""

import datetime as dt
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from controlplane.store.job_tables import job, job_attempt

MICROS_PER_S: Final = 1_000_000


class MicrosBetween(FunctionElement[int]):
    """Whole microseconds from the first to the second moment, exactly."""

    name = "micros_between"
    type = sa.BigInteger()
    inherit_cache = True


@compiles(MicrosBetween, "postgresql")
def _on_postgres(element: MicrosBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(each, **options) for each in element.clauses)
    return f"CAST(EXTRACT(EPOCH FROM ({end} - {start})) * {MICROS_PER_S} AS BIGINT)"


@compiles(MicrosBetween, "sqlite")
def _on_sqlite(element: MicrosBetween, compiler: SQLCompiler, **options: Any) -> str:
    # Moments are text there, 2026-11-27 10:00:00.000123: floating days would lose what is after the milliseconds.
    start, end = (compiler.process(each, **options) for each in element.clauses)
    seconds = f"(strftime('%s', {end}) - strftime('%s', {start}))"
    return f"({seconds} * {MICROS_PER_S} + substr({end}, 21) - substr({start}, 21))"


WAIT: Final = MicrosBetween(job.c.submitted_at, job.c.first_started_at)
RUN: Final = MicrosBetween(job_attempt.c.started_at, job_attempt.c.ended_at)


def between(column: sa.ColumnElement[Any], since: dt.datetime, until: dt.datetime | None) -> sa.ColumnElement[bool]:
    """Return whether a moment is at *since* or later, and before *until*, if there is one."""
    return column >= since if until is None else sa.and_(column >= since, column < until)


def computed_once(rows: sa.Select[Any]) -> sa.CTE:
    """Return *rows* so that neither database computes a column again for each time that it is named."""
    return rows.cte().prefix_with("MATERIALIZED")


def percentiles(spans: sa.Select[Any], *keys: str) -> sa.Select[Any]:
    """Return a query of ``spans``' *keys*, ``total``, ``p50`` and ``p95`` of its column ``span``, by nearest rank."""
    rows = computed_once(spans)
    by = [rows.c[key] for key in keys]
    totals = sa.select(*by, sa.func.count().label("total")).group_by(*by).subquery()
    place = sa.func.row_number().over(partition_by=by, order_by=rows.c.span).label("place")
    ranked = sa.select(*by, rows.c.span, place).subquery()

    def at(percent: int) -> sa.ColumnElement[int]:
        rank = (totals.c.total * percent + 99) // 100
        return sa.func.max(sa.case((ranked.c.place == rank, ranked.c.span))).label(f"p{percent}")

    keyed = [totals.c[key] for key in keys]
    same = sa.and_(*(totals.c[key] == ranked.c[key] for key in keys))
    found = sa.select(*keyed, totals.c.total, at(50), at(95)).select_from(totals.join(ranked, same))
    return found.group_by(*keyed, totals.c.total)
