"""The audit: what people did, as services' histories have it, together with what no history tells."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.auth.ports import AuditEntry, AuditFilter, Denial, Outcome
from controlplane.ports import Change
from controlplane.store import tables
from controlplane.store.access_tables import audit_event
from controlplane.store.engine import Tx
from controlplane.store.queries import Part, with_why

HISTORY: Final = "h"
"""Begins the place of an entry of a service's history; it comes after events of the same moment."""
EVENT: Final = "e"
DIGITS: Final = 19
_TOLD: Final = tables.history.c.kind.in_(("audit", "refused"))


def append_change(conn: sa.Connection, what: str, words: str, change: Change, *, service: str = "") -> None:
    """Add what somebody did to the transaction that does it."""
    row = {
        "at": change.at,
        "last_at": change.at,
        "by": change.by,
        "what": what,
        "service": service,
        "outcome": Outcome.DONE.value,
        "words": with_why(words, change.why),
        "count": 1,
    }
    conn.execute(audit_event.insert(), row)


class SqlAudit(Part):
    """The port `AuditStore` on SQL."""

    __slots__ = ()

    async def add_denial(self, denial: Denial, *, keep: dt.timedelta) -> None:
        def work(tx: Tx) -> None:
            table = audit_event
            tx.lock("audit_event")
            counted = tx.conn.execute(
                table.update()
                .where(table.c.bucket == denial.bucket)
                .values(count=table.c.count + denial.count, last_at=denial.at)
            )
            if counted.rowcount:
                return
            tx.conn.execute(
                table.insert(),
                {
                    "at": denial.at,
                    "last_at": denial.at,
                    "by": denial.by,
                    "what": denial.what,
                    "service": denial.service,
                    "outcome": Outcome.DENIED.value,
                    "words": denial.words,
                    "count": denial.count,
                    "bucket": denial.bucket,
                },
            )
            tx.conn.execute(table.delete().where(table.c.bucket.is_not(None), table.c.at < denial.at - keep))

        await self.database.write(work)

    async def page_audit(
        self, wanted: AuditFilter, *, before: tuple[dt.datetime, str] | None, limit: int
    ) -> Sequence[AuditEntry]:
        def work(tx: Tx) -> list[AuditEntry]:
            found = [_told(row) for row in tx.conn.execute(_history_query(wanted, before, limit))]
            if wanted.whole:
                found += [_event(row) for row in tx.conn.execute(_event_query(wanted, before, limit))]
            return sorted(found, key=lambda entry: (entry.at, entry.place), reverse=True)[:limit]

        return await self.database.read(work)


def _history_query(wanted: AuditFilter, before: tuple[dt.datetime, str] | None, limit: int) -> sa.Select[Any]:
    table = tables.history
    query = sa.select(table).where(_TOLD).order_by(table.c.at.desc(), table.c.number.desc()).limit(limit)
    if wanted.outcome is not None:
        kinds = {Outcome.DONE: "audit", Outcome.REFUSED: "refused"}
        query = query.where(table.c.kind == kinds.get(wanted.outcome, ""))
    return query.where(*_filters(table, HISTORY, wanted, before))


def _event_query(wanted: AuditFilter, before: tuple[dt.datetime, str] | None, limit: int) -> sa.Select[Any]:
    table = audit_event
    query = sa.select(table).order_by(table.c.at.desc(), table.c.number.desc()).limit(limit)
    if wanted.outcome is not None:
        query = query.where(table.c.outcome == wanted.outcome.value)
    return query.where(*_filters(table, EVENT, wanted, before))


def _filters(
    table: sa.Table, source: str, wanted: AuditFilter, before: tuple[dt.datetime, str] | None
) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.by is not None:
        found.append(table.c.by == wanted.by)
    if wanted.service is not None:
        found.append(table.c.service == wanted.service)
    if wanted.services is not None:
        found.append(table.c.service.in_(tuple(wanted.services)))
    if before is not None:
        at, place = before
        if source == place[:1]:
            earlier: sa.ColumnElement[bool] = table.c.number < int(place[1:])
        else:
            earlier = sa.true() if source < place[:1] else sa.false()
        found.append(sa.or_(table.c.at < at, sa.and_(table.c.at == at, earlier)))
    return found


def _told(row: sa.Row[Any]) -> AuditEntry:
    return AuditEntry(
        place=f"{HISTORY}{row.number:0{DIGITS}d}",
        at=row.at,
        last_at=row.at,
        by=row.by,
        what=row.what,
        service=row.service,
        rollout=row.rollout,
        outcome=Outcome.DONE if row.kind == "audit" else Outcome.REFUSED,
        words=row.words,
    )


def _event(row: sa.Row[Any]) -> AuditEntry:
    return AuditEntry(
        place=f"{EVENT}{row.number:0{DIGITS}d}",
        at=row.at,
        last_at=row.last_at,
        by=row.by,
        what=row.what,
        service=row.service,
        rollout=None,
        outcome=Outcome(row.outcome),
        words=row.words,
        count=row._mapping["count"],  # noqa: SLF001 - a row has a method of that name
    )
