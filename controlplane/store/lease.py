"""Who may move rollouts: one row, taken and renewed in one statement."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from controlplane.store import tables
from controlplane.store.columns import UtcDateTime
from controlplane.store.engine import Tx
from controlplane.store.queries import Part, insert_or

CONTROLLER: Final = "controller"


class SqlLease(Part):
    """The port `LeaseStore` on SQL."""

    __slots__ = ()

    async def acquire_lease(self, holder: str, *, ttl: dt.timedelta, now: dt.datetime) -> int | None:
        row = {"name": CONTROLLER, "holder": holder, "epoch": 1, "expires_at": now + ttl, "now": now}

        def work(tx: Tx) -> int | None:
            epoch: int | None = tx.conn.execute(_ACQUIRE, row).scalar_one_or_none()
            return epoch

        return await self.database.write(work)


_ACQUIRE: Final = insert_or(
    tables.lease,
    """(name) DO UPDATE SET
        holder = excluded.holder,
        epoch = CASE WHEN lease.holder = excluded.holder THEN lease.epoch ELSE lease.epoch + 1 END,
        expires_at = excluded.expires_at
    WHERE lease.holder = excluded.holder OR lease.expires_at <= :now
    RETURNING epoch""",
).bindparams(sa.bindparam("now", type_=UtcDateTime))
