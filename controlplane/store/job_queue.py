"""The queue of jobs on SQL, for those without a broker: a row per wake-up, taken for a while, then gone."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from controlplane.clock import Clock
from controlplane.jobs.model import JobId
from controlplane.jobs.ports import MAX_BATCH, DeadLetter, Delivery, WakeUp
from controlplane.store.engine import Database, Tx
from controlplane.store.job_tables import job_message
from controlplane.wake import Topic

TAKEN_FOR: Final = dt.timedelta(minutes=1)
"""How long a taken wake-up stays hidden: as long as a job waits whose taker died before it began. Where the job has
begun by then, a second look finds nothing to do."""

_LIVE: Final = job_message.c.dead_words.is_(None)
_NOW: Final = sa.bindparam("now", type_=job_message.c.taken_until.type)
_FIRST: Final = (
    sa.select(job_message.c.number)
    .where(
        job_message.c.queue.in_(sa.bindparam("these", expanding=True)),
        _LIVE,
        sa.or_(job_message.c.taken_until.is_(None), job_message.c.taken_until < _NOW),
    )
    .order_by(job_message.c.vip.desc(), job_message.c.number)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
    .cte("first")  # found once: a plain subquery might be asked again, and then take more than the limit
)
_TAKE: Final = (
    job_message.update()
    .where(job_message.c.number.in_(sa.select(_FIRST.c.number)))
    .values(taken_until=sa.bindparam("until", type_=job_message.c.taken_until.type), taken=job_message.c.taken + 1)
    .returning(job_message)
)
_IS: Final = sa.and_(job_message.c.number == sa.bindparam("of"), job_message.c.taken == sa.bindparam("time"))
"""The row of a delivery, unless it was given to somebody else since."""
_REMOVE: Final = job_message.delete().where(_IS)


@dataclasses.dataclass(slots=True, kw_only=True)
class SqlQueue:
    """The port `JobQueue` on the store's database, which stays open when the queue is closed."""

    database: Database
    clock: Clock
    taken_for: dt.timedelta = TAKEN_FOR
    sees_all: bool = True

    async def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        rows = [{"job": each.job, "queue": each.queue, "vip": each.vip, "taken": 0} for each in wake_ups]

        def work(tx: Tx) -> None:
            if rows:
                tx.conn.execute(job_message.insert(), rows)
                tx.announce(Topic.JOBS)

        await self.database.write(work)

    async def take(self, queues: Sequence[str], *, limit: int) -> tuple[Delivery, ...]:
        now = self.clock.now()
        most = min(limit, MAX_BATCH)
        facts = {"these": list(queues), "most": most, "now": now, "until": now + self.taken_for}
        rows = sorted(await self.database.run(_TAKE, facts), key=lambda row: (not row.vip, row.number))
        return tuple(Delivery(WakeUp(JobId(row.job), row.queue, row.vip), (row.number, row.taken)) for row in rows)

    async def acknowledge(self, delivery: Delivery) -> None:
        await self.database.run(_REMOVE, _tag(delivery))

    async def release(self, delivery: Delivery) -> None:
        change = job_message.update().where(_IS).values(taken_until=None)

        def work(tx: Tx) -> None:
            tx.conn.execute(change, _tag(delivery))
            tx.announce(Topic.JOBS)

        await self.database.write(work)

    async def bury(self, delivery: Delivery, *, words: str) -> None:
        change = job_message.update().where(_IS).values(dead_words=words)
        wake_up = delivery.wake_up
        letter = {"job": wake_up.job, "queue": wake_up.queue, "vip": wake_up.vip, "taken": 0, "dead_words": words}

        def work(tx: Tx) -> None:
            # Where the job took longer than its wake-up stayed hidden, a second look has removed that since.
            if not tx.conn.execute(change, _tag(delivery)).rowcount:
                tx.conn.execute(job_message.insert(), letter)

        await self.database.write(work)

    async def dead_letters(self, *, limit: int = MAX_BATCH) -> tuple[DeadLetter, ...]:
        query = sa.select(job_message).where(~_LIVE).order_by(job_message.c.number).limit(limit)
        return await self.database.read(
            lambda tx: tuple(DeadLetter(JobId(row.job), row.dead_words) for row in tx.conn.execute(query))
        )

    async def close(self) -> None:
        """Do nothing: the database is the store's."""


def _tag(delivery: Delivery) -> dict[str, object]:
    """Return what `_IS` asks for."""
    assert isinstance(delivery.tag, tuple)  # noqa: S101 - we made it
    number, taken = delivery.tag
    return {"of": number, "time": taken}
