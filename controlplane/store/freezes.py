"""Freeze windows."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from controlplane.errors import ConflictError
from controlplane.ports import Change
from controlplane.rollout.freezing import EVERY_SERVICE, Freeze, freeze_of, freeze_words
from controlplane.store import tables
from controlplane.store.audit import append_change
from controlplane.store.engine import Tx
from controlplane.store.queries import IS_ALIVE, append_history, audit, lock_service, with_why
from controlplane.store.steering_tables import freeze_window as table
from controlplane.wake import Topic

_SINCE: Final = sa.select(table).where(table.c.until > sa.bindparam("since", type_=table.c.until.type))


def load_freezes(conn: sa.Connection, *, since: dt.datetime) -> tuple[Freeze, ...]:
    """Return the freezes that were not over at *since*."""
    found = (_freeze_of(row) for row in conn.execute(_SINCE.order_by(table.c.number), {"since": since}))
    return tuple(freeze for freeze in found if freeze.end > since)


def refuse_frozen(conn: sa.Connection, service: str, *, now: dt.datetime) -> None:
    """Refuse a start while *service* is frozen.

    Raises:
        ConflictError: It is; the text says until when, by whom and why.
    """
    freeze = freeze_of(load_freezes(conn, since=now), service, now=now)
    if freeze is not None:
        scope = freeze.service or "--all"
        raise ConflictError(
            f"{freeze_words(freeze)}; let it wait (--queue), or end the freeze: hueshift unfreeze {scope}"
        )


def insert_freeze(tx: Tx, service: str, *, until: dt.datetime, by: str, why: str, now: dt.datetime) -> Freeze:
    """Do what `SteeringStore.freeze` does."""
    _lock(tx, service)
    _end(tx.conn, service, by=by, why="another one took its place", now=now)
    values = {"service": service, "until": until, "by": by, "why": why, "at": now}
    number: int = tx.conn.execute(table.insert().returning(table.c.number), values).scalar_one()
    freeze = Freeze(number, service, until, by, why, now)
    what = service or "everything"
    _tell(tx.conn, service, "freeze", f"{what} is frozen until {until:%F %R} UTC", Change(by, why, now))
    tx.announce(Topic.COMMANDS)
    return freeze


def end_freeze(tx: Tx, service: str, *, by: str, why: str, now: dt.datetime) -> Freeze:
    """Do what `SteeringStore.unfreeze` does."""
    _lock(tx, service)
    freezes = load_freezes(tx.conn, since=now)
    mine = [freeze for freeze in freezes if freeze.service == service]
    if not mine:
        other = freeze_of(freezes, service, now=now)
        if other is None:
            raise ConflictError(f"{service or 'everything'} is not frozen")
        raise ConflictError(
            f"{service} has no freeze of its own: {freeze_words(other)}; end it: hueshift unfreeze --all"
        )
    _end(tx.conn, service, by=by, why=why, now=now)
    what = service or "everything"
    _tell(tx.conn, service, "unfreeze", f"the freeze of {what} was ended", Change(by, why, now))
    tx.announce(Topic.COMMANDS)
    return mine[-1]


def _lock(tx: Tx, service: str) -> None:
    if service == EVERY_SERVICE:
        tx.lock("freeze")
    else:
        lock_service(tx, service)


def _end(conn: sa.Connection, service: str, *, by: str, why: str, now: dt.datetime) -> None:
    conn.execute(
        table.update()
        .where(table.c.service == service, table.c.ended_at.is_(None), table.c.until > now)
        .values(ended_at=now, ended_by=by, ended_why=why)
    )


def _tell(conn: sa.Connection, service: str, what: str, words: str, change: Change) -> None:
    """Write it into the history of every service that it concerns: each is read by itself."""
    living = sa.select(tables.service.c.name).where(IS_ALIVE).order_by(tables.service.c.name)
    names = [service] if service else conn.scalars(living)
    told = with_why(words, change.why)
    append_history(conn, [audit(name, what, by=change.by, words=told, at=change.at) for name in names])
    if service == EVERY_SERVICE:
        append_change(conn, what, words, change)


def _freeze_of(row: sa.Row[tuple[object, ...]]) -> Freeze:
    return Freeze(
        number=row.number,
        service=row.service,
        until=row.until,
        by=row.by,
        why=row.why,
        at=row.at,
        ended_at=row.ended_at,
    )
