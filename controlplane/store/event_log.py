"""The history of all services and the answers of Envoys as one log, for those who follow everything.

Context: a reader that comes back says how far it has come, to any replica, and may miss nothing and get nothing twice.
Choice: both tables take their numbers from one row of numbers, the history's, and on PostgreSQL one transaction at a
time (`queries.take_turn`), so that what can be seen has no gap that is filled later. Consequence: one number is a place
in everything that happened.
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.ports import NAMED, EnvoyAnswer, HistoryEntry, Logged, LoggedAnswer, LoggedEntry, RolloutId
from controlplane.store import tables
from controlplane.store.queries import Part, take_turn

_ENDED: Final = ("promoted", "rolled_back")
_LIMIT: Final = sa.bindparam("limit", type_=sa.Integer)
_IS_AFTER: Final = sa.bindparam("after", type_=sa.BigInteger)
_ENTRIES: Final = sa.select(
    tables.history,
    tables.rollout.c.baseline,
    tables.rollout.c.candidate,
    sa.case((tables.rollout.c.state_kind.in_(_ENDED), tables.rollout.c.state)).label("end"),
).select_from(tables.history.outerjoin(tables.rollout, tables.history.c.rollout == tables.rollout.c.id))
_ANSWERS: Final = sa.select(tables.envoy_answer)
_AFTER: Final = tuple(
    query.where(number > _IS_AFTER).order_by(number).limit(_LIMIT)
    for query, number in ((_ENTRIES, tables.history.c.number), (_ANSWERS, tables.envoy_answer.c.number))
)
_END: Final = tuple(
    query.order_by(number.desc()).limit(_LIMIT)
    for query, number in ((_ENTRIES, tables.history.c.number), (_ANSWERS, tables.envoy_answer.c.number))
)
_PUBLISHED: Final = sa.select(tables.snapshot.c.versions, tables.snapshot.c.revisions)


class SqlEventLog(Part):
    """The port `EventLog` on SQL."""

    __slots__ = ()

    async def load_log(self, *, after: int, limit: int) -> tuple[Logged, ...]:
        def work(conn: sa.Connection) -> tuple[Logged, ...]:
            entries, answers = (conn.execute(query, {"after": after, "limit": limit}).all() for query in _AFTER)
            return _merged(conn, entries, answers)[:limit]

        return await self.database.read(lambda tx: work(tx.conn))

    async def load_log_end(self, *, limit: int) -> tuple[Logged, ...]:
        def work(conn: sa.Connection) -> tuple[Logged, ...]:
            entries, answers = (conn.execute(query, {"limit": limit}).all() for query in _END)
            return _merged(conn, entries, answers)[-limit:]

        return await self.database.read(lambda tx: work(tx.conn))


def entries_after(conn: sa.Connection, *, after: int, limit: int) -> tuple[LoggedEntry, ...]:
    """Return the first *limit* entries of the history later than *after*, oldest first."""
    return tuple(_entry(row) for row in conn.execute(_AFTER[0], {"after": after, "limit": limit}))


def number_of(logged: Logged) -> int:
    """Return the place of something in the log."""
    return logged.number if isinstance(logged, LoggedAnswer) else logged.entry.number


def append_answers(conn: sa.Connection, answers: Sequence[EnvoyAnswer]) -> None:
    """Add to the log what Envoys said."""
    if not answers:
        return
    take_turn(conn)
    numbers = _take_numbers(conn, len(answers))
    conn.execute(
        tables.envoy_answer.insert(),
        [
            {
                "number": number,
                "at": answer.at,
                "kind": answer.kind,
                "version": answer.version,
                "acked": answer.acked,
                "nodes": list(answer.nodes),
                "count": answer.count,
                "words": answer.words,
            }
            for number, answer in zip(numbers, answers, strict=True)
        ],
    )


# The sequence of PostgreSQL and SQLite's own table of the numbers that were given (AUTOINCREMENT) are what the history
# takes its numbers from; a number that is taken here is none of the history's any more.
_TAKE_POSTGRES: Final = sa.text(
    "SELECT nextval(pg_get_serial_sequence('history', 'number')) FROM generate_series(1, :count)"
)
_TAKE_SQLITE: Final = sa.text("UPDATE sqlite_sequence SET seq = seq + :count WHERE name = 'history' RETURNING seq")
_BEGIN_SQLITE: Final = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('history', :count)")


def _take_numbers(conn: sa.Connection, count: int) -> Sequence[int]:
    """Take *count* numbers; the caller has its turn."""
    if conn.dialect.name == "postgresql":
        return sorted(conn.scalars(_TAKE_POSTGRES, {"count": count}))
    last = conn.execute(_TAKE_SQLITE, {"count": count}).scalar()
    if last is None:
        conn.execute(_BEGIN_SQLITE, {"count": count})
        last = count
    return range(last - count + 1, last + 1)


def _merged(conn: sa.Connection, entries: Sequence[sa.Row[Any]], answers: Sequence[sa.Row[Any]]) -> tuple[Logged, ...]:
    services = _services(conn) if answers else {}
    found: list[Logged] = [_entry(row) for row in entries]
    found += [_answer(row, services) for row in answers]
    return tuple(sorted(found, key=number_of))


def _services(conn: sa.Connection) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the services in what was published, by resource type and version, as far as it is kept."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in conn.execute(_PUBLISHED):
        for key, version in row.versions.items():
            found[key.removesuffix(NAMED), version] = tuple(sorted(row.revisions))
    return found


def _answer(row: sa.Row[Any], services: dict[tuple[str, str], tuple[str, ...]]) -> LoggedAnswer:
    answer = EnvoyAnswer(
        kind=row.kind,
        version=row.version,
        acked=row.acked,
        nodes=tuple(row.nodes),
        count=row._mapping["count"],  # noqa: SLF001 - a row is a tuple too, and its own `count` is a tuple's
        at=row.at,
        words=row.words,
    )
    return LoggedAnswer(row.number, answer, services.get((row.kind, row.version)))


def _entry(row: sa.Row[Any]) -> LoggedEntry:
    entry = HistoryEntry(
        number=row.number,
        at=row.at,
        kind=row.kind,
        service=row.service,
        rollout=RolloutId(row.rollout) if row.rollout else None,
        what=row.what,
        by=row.by,
        words=row.words,
        before=row.before,
        after=row.after,
        weights=row.weights,
    )
    return LoggedEntry(entry, row.baseline or "", row.candidate or "", (row.end or {}).get("words", ""))
