"""The history of all services as one log, for those who follow everything."""

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from controlplane.ports import HistoryEntry, LoggedEntry, RolloutId
from controlplane.store import tables
from controlplane.store.queries import Part

_ENDED: Final = ("promoted", "rolled_back")
_LOG: Final = sa.select(
    tables.history,
    tables.rollout.c.baseline,
    tables.rollout.c.candidate,
    sa.case((tables.rollout.c.state_kind.in_(_ENDED), tables.rollout.c.state)).label("end"),
).select_from(tables.history.outerjoin(tables.rollout, tables.history.c.rollout == tables.rollout.c.id))
_AFTER: Final = (
    _LOG.where(tables.history.c.number > sa.bindparam("after", type_=sa.BigInteger))
    .order_by(tables.history.c.number)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_END: Final = _LOG.order_by(tables.history.c.number.desc()).limit(sa.bindparam("limit", type_=sa.Integer))


class SqlEventLog(Part):
    """The port `EventLog` on SQL."""

    __slots__ = ()

    async def load_log(self, *, after: int, limit: int) -> tuple[LoggedEntry, ...]:
        return await self.database.read(
            lambda tx: _entries(tx.conn.execute(_AFTER, {"after": after, "limit": limit}).all())
        )

    async def load_log_end(self, *, limit: int) -> tuple[LoggedEntry, ...]:
        return await self.database.read(lambda tx: _entries(reversed(tx.conn.execute(_END, {"limit": limit}).all())))


def _entries(rows: Iterable[sa.Row[Any]]) -> tuple[LoggedEntry, ...]:
    return tuple(
        LoggedEntry(
            HistoryEntry(
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
            ),
            row.baseline or "",
            row.candidate or "",
            (row.end or {}).get("words", ""),
        )
        for row in rows
    )
