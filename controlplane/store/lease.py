"""Who may move rollouts: one row, taken and renewed in one statement."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.queries import Part, insert_into

CONTROLLER: Final = "controller"


class SqlLease(Part):
    """The port `LeaseStore` on SQL."""

    __slots__ = ()

    async def acquire_lease(self, holder: str, *, ttl: dt.timedelta, now: dt.datetime) -> int | None:
        return await self.database.write(lambda tx: _acquire(tx, holder, expires_at=now + ttl, now=now))


def _acquire(tx: Tx, holder: str, *, expires_at: dt.datetime, now: dt.datetime) -> int | None:
    table = tables.lease
    mine = table.c.holder == holder
    statement = (
        insert_into(tx.conn, table)
        .values(name=CONTROLLER, holder=holder, epoch=1, expires_at=expires_at)
        .on_conflict_do_update(
            index_elements=[table.c.name],
            set_={
                "holder": holder,
                "epoch": sa.case((mine, table.c.epoch), else_=table.c.epoch + 1),
                "expires_at": expires_at,
            },
            where=sa.or_(mine, table.c.expires_at <= now),
        )
        .returning(table.c.epoch)
    )
    epoch: int | None = tx.conn.execute(statement).scalar_one_or_none()
    return epoch
