"""Small reads and writes that several parts of the store share."""

import dataclasses
import datetime as dt
import functools
from collections.abc import Collection, Iterable
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import NotFoundError
from controlplane.ports import HistoryEntry, Rollout, RolloutId
from controlplane.rollout.quality import QualityVerdict
from controlplane.store import tables
from controlplane.store.codec import plan_from_json, slo_from_json, state_from_json
from controlplane.store.engine import Database, Tx
from controlplane.store.specs import SpecCache
from controlplane.store.steering_tables import waiting_start
from controlplane.traffic.model import Share, Split


@dataclasses.dataclass(slots=True, kw_only=True)
class Part:
    """One port's share of the store; all shares use one database."""

    database: Database
    specs: SpecCache


# -- services ----------------------------------------------------------------------------------------------------------


def of_the_living(revision: sa.FromClause) -> sa.ColumnElement[bool]:
    """Tell the revisions of services from those of services that were deleted."""
    gone = sa.select(tables.service.c.gone_through).where(tables.service.c.name == revision.c.service)
    return revision.c.number > gone.scalar_subquery()


IS_ALIVE: Final = sa.exists().where(
    tables.service_revision.c.service == tables.service.c.name,
    tables.service_revision.c.number > tables.service.c.gone_through,
)


def lock_service(tx: Tx, name: str) -> None:
    """Let no one else change the service's split or start a rollout of it until the transaction ends.

    Raises:
        NotFoundError: There is no such service.
    """
    query = sa.select(tables.service.c.name).where(tables.service.c.name == name, IS_ALIVE)
    if tx.conn.scalar(query.with_for_update(key_share=True)) is None:
        raise no_service(tx.conn, name)


def no_service(conn: sa.Connection, name: str) -> NotFoundError:
    """Make the error that names the services there are."""
    known = conn.scalars(sa.select(tables.service.c.name).where(IS_ALIVE).order_by(tables.service.c.name))
    return NotFoundError("service", name, tuple(known))


def _last_revisions(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    table = tables.service_revision
    last = sa.select(table.c.service, sa.func.max(table.c.number).label("number"))
    found = last.where(condition, of_the_living(table)).group_by(table.c.service).subquery()
    return sa.select(table).join(found, sa.and_(table.c.service == found.c.service, table.c.number == found.c.number))


_OF_SERVICE: Final = sa.bindparam("service", type_=sa.Text)
_UNREJECTED: Final = tables.service_revision.c.status != "rejected"
_IS_MINE: Final = tables.service_revision.c.service == _OF_SERVICE
_NEWEST: Final = _last_revisions(sa.true()), _last_revisions(_IS_MINE)
_NEWEST_UNREJECTED: Final = _last_revisions(_UNREJECTED), _last_revisions(sa.and_(_UNREJECTED, _IS_MINE))
_PROVEN: Final = sa.or_(tables.service_revision.c.status == "good", tables.service_revision.c.tried_at.is_not(None))
_IS_NAMED: Final = tables.service_revision.c.service.in_(sa.bindparam("services", expanding=True))
_NAMED: Final = _last_revisions(_IS_NAMED), _last_revisions(sa.and_(_UNREJECTED, _IS_NAMED))
_NEWEST_PROVEN: Final = _last_revisions(sa.and_(_UNREJECTED, _PROVEN, _IS_MINE))
_SHARES: Final = sa.select(tables.split_share).order_by(tables.split_share.c.service, tables.split_share.c.position)
_SPLITS: Final = _SHARES, _SHARES.where(tables.split_share.c.service == _OF_SERVICE)


_NAMED_SPLITS: Final = _SHARES.where(tables.split_share.c.service.in_(sa.bindparam("services", expanding=True)))


def _select(
    conn: sa.Connection, queries: tuple[sa.Select[Any], sa.Select[Any]], service: str | None
) -> sa.CursorResult[Any]:
    """Run the query for all services, or the one for a single service."""
    return conn.execute(queries[0]) if service is None else conn.execute(queries[1], {"service": service})


def newest_revisions(conn: sa.Connection, service: str | None = None) -> dict[str, sa.Row[Any]]:
    """Return the rows of the services' newest revisions."""
    return {row.service: row for row in _select(conn, _NEWEST, service)}


def unrejected_revisions(conn: sa.Connection, service: str | None = None) -> dict[str, sa.Row[Any]]:
    """Return the rows of the newest revisions that were not rejected; a service without one is absent."""
    return {row.service: row for row in _select(conn, _NEWEST_UNREJECTED, service)}


def proven_revision(conn: sa.Connection, service: str) -> sa.Row[Any] | None:
    """Return the row of the newest revision that needs no configuration canary any more."""
    return conn.execute(_NEWEST_PROVEN, {"service": service}).first()


def load_splits(conn: sa.Connection, service: str | None = None) -> dict[str, Split]:
    """Return the live splits."""
    return _splits_of(_select(conn, _SPLITS, service))


def _splits_of(rows: sa.CursorResult[Any]) -> dict[str, Split]:
    shares: dict[str, list[Share]] = {}
    for row in rows:
        shares.setdefault(row.service, []).append(Share(version=row.version, weight_bp=row.weight_bp))
    return {name: tuple(listed) for name, listed in shares.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceRows:
    """What is stored of some services, by name: newest revisions, newest unrejected ones, and live splits.

    The order is that of *newest*.
    """

    newest: dict[str, sa.Row[Any]]
    unrejected: dict[str, sa.Row[Any]]
    splits: dict[str, Split]


def services_after(conn: sa.Connection, after: str, limit: int | None, only: Collection[str] | None) -> ServiceRows:
    """Return the rows of the *limit* services whose names come next after *after*; four statements, however many.

    *only* names those that are wanted, None wants all.
    """
    table = tables.service
    query = sa.select(table.c.name).where(table.c.name > after, IS_ALIVE).order_by(table.c.name).limit(limit)
    if only is not None:
        query = query.where(table.c.name.in_(only))
    names = list(conn.scalars(query))
    named = {"services": names}
    newest, unrejected = ({row.service: row for row in conn.execute(each, named)} for each in _NAMED)
    in_order = {name: newest[name] for name in names}  # the database's, by which the next page goes on
    return ServiceRows(in_order, unrejected, _splits_of(conn.execute(_NAMED_SPLITS, named)))


def replace_split(conn: sa.Connection, service: str, split: Split) -> None:
    """Make *split* the live one."""
    conn.execute(tables.split_share.delete().where(tables.split_share.c.service == service))
    conn.execute(
        tables.split_share.insert(),
        [
            {"service": service, "position": place, "version": share.version, "weight_bp": share.weight_bp}
            for place, share in enumerate(split)
        ],
    )


# -- rollouts ----------------------------------------------------------------------------------------------------------


def rollout_of(row: sa.Row[Any]) -> Rollout:
    """Return the rollout that a row of ``rollout`` holds."""
    return Rollout(
        id=RolloutId(row.id),
        service=row.service,
        baseline=row.baseline,
        candidate=row.candidate,
        plan=plan_from_json(row.plan),
        slos=tuple(slo_from_json(slo) for slo in row.slos),
        state=state_from_json(row.state_kind, row.state),
        version=row.version,
        started_at=row.started_at,
        deadline_at=row.deadline_at,
        by=row.by,
        why=row.why,
        judge=row.judge,
        evidence=row.evidence,
        judged_tick=row.judged_tick,
        asked=QualityVerdict(row.asked) if row.asked else None,
    )


_RUNNING: Final = (
    sa.select(tables.rollout).where(tables.rollout.c.ended_at.is_(None)).order_by(tables.rollout.c.service)
)
_ACTIVE: Final = _RUNNING, _RUNNING.where(tables.rollout.c.service == _OF_SERVICE)


def active_rollouts(conn: sa.Connection, service: str | None = None) -> dict[str, sa.Row[Any]]:
    """Return the row of each service's rollout that has not ended."""
    return {row.service: row for row in _select(conn, _ACTIVE, service)}


def next_number(conn: sa.Connection, service: str) -> int:
    """Return the number of a service's next rollout; those that wait have theirs already."""
    numbers = (
        sa.select(sa.func.max(table.c[column])).where(table.c.service == service)
        for table, column in ((tables.rollout, "number"), (waiting_start, "rollout_number"))
    )
    return 1 + max(conn.scalar(query) or 0 for query in numbers)


# -- history -----------------------------------------------------------------------------------------------------------


_APPEND: Final = tables.history.insert()
_IN_TURN: Final = sa.text("SELECT pg_advisory_xact_lock(hashtext('hueshift.history'))")


def take_turn(conn: sa.Connection) -> None:
    """Wait until nobody else has taken numbers of the log that are not committed yet; see `append_history`."""
    if conn.dialect.name == "postgresql":
        conn.execute(_IN_TURN)


def append_history(conn: sa.Connection, entries: Iterable[HistoryEntry]) -> None:
    """Append to the history; the database numbers the entries anew.

    PostgreSQL gives numbers when rows are written and shows rows when they are committed, so of two transactions the
    later number could be seen first, and whoever goes on from there would never see the other. So one waits for the
    other's end before it takes its numbers. On SQLite there is one writer at a time anyway.
    """
    rows = [
        {
            "at": entry.at,
            "kind": entry.kind,
            "service": entry.service,
            "rollout": entry.rollout,
            "what": entry.what,
            "by": entry.by,
            "words": entry.words,
            "before": entry.before,
            "after": entry.after,
            "weights": None if entry.weights is None else dict(entry.weights),
        }
        for entry in entries
    ]
    if rows:
        take_turn(conn)
        conn.execute(_APPEND, rows)


def audit(
    service: str, what: str, *, by: str, words: str, at: dt.datetime, rollout: RolloutId | None = None
) -> HistoryEntry:
    """Make the entry for something that a person did."""
    return HistoryEntry(number=0, at=at, kind="audit", service=service, rollout=rollout, what=what, by=by, words=words)


def weights_of(split: Split) -> dict[str, int]:
    """Write a split as an entry of the history tells it."""
    return {share.version: share.weight_bp for share in split}


def with_why(words: str, why: str) -> str:
    """Add the reason, where one was given."""
    return f"{words}: {why}" if why else words


# -- upserts -----------------------------------------------------------------------------------------------------------


def insert_or(table: sa.Table, on_conflict: str) -> sa.TextClause:
    """Return an INSERT of all columns with an ON CONFLICT clause, which both databases spell the same.

    It is text because SQLAlchemy caches no compiled ON CONFLICT, and compiling one costs more than running it.
    """
    names = [column.name for column in table.c]
    text = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES (:{', :'.join(names)}) ON CONFLICT {on_conflict}"  # noqa: S608 - our own names
    return sa.text(text).bindparams(*(sa.bindparam(column.name, type_=column.type) for column in table.c))


@functools.cache
def insert_or_replace(table: sa.Table) -> sa.TextClause:
    """Return an INSERT that replaces the row with the same primary key."""
    key = ", ".join(column.name for column in table.primary_key)
    changed = ", ".join(f"{column.name} = excluded.{column.name}" for column in table.c if not column.primary_key)
    return insert_or(table, f"({key}) DO UPDATE SET {changed}")


def upsert(conn: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert *rows*, or replace those with the same primary key."""
    if rows:
        conn.execute(insert_or_replace(table), rows)
