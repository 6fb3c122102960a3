"""Who may move rollouts: one row, taken and renewed in one statement."""

import datetime as dt
import functools
from typing import Final

import sqlalchemy as sa

from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.queries import Part, insert_into
from controlplane.store.tables import UtcDateTime

CONTROLLER: Final = "controller"


class SqlLease(Part):
    """The port `LeaseStore` on SQL."""

    __slots__ = ()

    async def acquire_lease(self, holder: str, *, ttl: dt.timedelta, now: dt.datetime) -> int | None:
        row = {"name": CONTROLLER, "holder": holder, "epoch": 1, "expires_at": now + ttl, "now": now}

        def work(tx: Tx) -> int | None:
            epoch: int | None = tx.conn.execute(_acquire(tx.conn.dialect.name), row).scalar_one_or_none()
            return epoch

        return await self.database.write(work)


@functools.cache
def _acquire(dialect: str) -> sa.Executable:
    table = tables.lease
    statement = insert_into(dialect, table)
    new = statement.excluded
    mine = table.c.holder == new.holder
    return statement.on_conflict_do_update(
        index_elements=[table.c.name],
        set_={
            "holder": new.holder,
            "epoch": sa.case((mine, table.c.epoch), else_=table.c.epoch + 1),
            "expires_at": new.expires_at,
        },
        where=sa.or_(mine, table.c.expires_at <= sa.bindparam("now", type_=UtcDateTime)),
    ).returning(table.c.epoch)
