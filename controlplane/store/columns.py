"""Column types: aware moments, spans, JSON and serial numbers, alike on both databases."""

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """An aware moment in UTC; SQLite, which knows no zones, keeps it without one."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError(f"{value!r} has no time zone; moments are aware")
        utc = value.astimezone(dt.UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if dialect.name == "sqlite" else value.astimezone(dt.UTC)


class Span(sa.types.TypeDecorator[dt.timedelta]):
    """A span in whole microseconds, so that what is read equals what was written."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: dt.timedelta | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else value // dt.timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> dt.timedelta | None:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else dt.timedelta(microseconds=value)


class later(sa.sql.functions.FunctionElement[dt.datetime]):  # noqa: N801 - it is called as SQL's functions are
    """The moment a span after another, in SQL: ``later(moment, span)``; on SQLite by whole seconds."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(later, "postgresql")
def _later_on_postgresql(element: later, compiler: sa.sql.compiler.SQLCompiler, **options: Any) -> str:
    moment, span = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({moment} + ({span}) * interval '1 microsecond')"


@compiles(later, "sqlite")
def _later_on_sqlite(element: later, compiler: sa.sql.compiler.SQLCompiler, **options: Any) -> str:
    moment, span = (compiler.process(clause, **options) for clause in element.clauses)
    seconds = f"(({span}) / 1000000) || ' seconds'"
    # Of the moment's text the part below a second stays as it is: SQLite's own arithmetic keeps milliseconds.
    return f"(strftime('%Y-%m-%d %H:%M:%S', substr({moment}, 1, 19), {seconds}) || substr({moment}, 20))"


Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER numbers itself in SQLite
