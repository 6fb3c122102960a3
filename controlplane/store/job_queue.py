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


@dataclasses.dataclass(slots=True, kw_only=True)
class SqlQueue:
    """The port `JobQueue` on the store's database, which stays open when the queue is closed."""

    database: Database
    clock: Clock
    taken_for: dt.timedelta = TAKEN_FOR

    async def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        rows = [{"job": each.job, "queue": each.queue, "vip": each.vip, "taken": 0} for each in wake_ups]

        def work(tx: Tx) -> None:
            if rows:
                tx.conn.execute(job_message.insert(), rows)
                tx.announce(Topic.JOBS)

        await self.database.write(work)

    async def take(self, queues: Sequence[str], *, limit: int) -> tuple[Delivery, ...]:
        now = self.clock.now()
        table = job_message
        visible = sa.or_(table.c.taken_until.is_(None), table.c.taken_until < now)
        first = (
            sa.select(table.c.number)
            .where(table.c.queue.in_(queues), _LIVE, visible)
            .order_by(table.c.vip.desc(), table.c.number)
            .limit(min(limit, MAX_BATCH))
            .with_for_update(skip_locked=True)
            .cte("first")  # found once: a plain subquery might be asked again, and then take more than the limit
        )
        taken = {"taken_until": now + self.taken_for, "taken": table.c.taken + 1}
        change = table.update().where(table.c.number.in_(sa.select(first.c.number))).values(taken).returning(table)
        rows = sorted(await self.database.run(change), key=lambda row: (not row.vip, row.number))
        return tuple(Delivery(WakeUp(JobId(row.job), row.queue, row.vip), (row.number, row.taken)) for row in rows)

    async def acknowledge(self, delivery: Delivery) -> None:
        await self.database.run(job_message.delete().where(_is(delivery)))

    async def release(self, delivery: Delivery) -> None:
        change = job_message.update().where(_is(delivery)).values(taken_until=None)

        def work(tx: Tx) -> None:
            tx.conn.execute(change)
            tx.announce(Topic.JOBS)

        await self.database.write(work)

    async def bury(self, delivery: Delivery, *, words: str) -> None:
        change = job_message.update().where(_is(delivery)).values(dead_words=words)
        wake_up = delivery.wake_up
        letter = {"job": wake_up.job, "queue": wake_up.queue, "vip": wake_up.vip, "taken": 0, "dead_words": words}

        def work(tx: Tx) -> None:
            # Where the job took longer than its wake-up stayed hidden, a second look has removed that since.
            if not tx.conn.execute(change).rowcount:
                tx.conn.execute(job_message.insert(), letter)

        await self.database.write(work)

    async def dead_letters(self, *, limit: int = MAX_BATCH) -> tuple[DeadLetter, ...]:
        query = sa.select(job_message).where(~_LIVE).order_by(job_message.c.number).limit(limit)
        return await self.database.read(
            lambda tx: tuple(DeadLetter(JobId(row.job), row.dead_words) for row in tx.conn.execute(query))
        )

    async def close(self) -> None:
        """Do nothing: the database is the store's."""


def _is(delivery: Delivery) -> sa.ColumnElement[bool]:
    """Find the row of *delivery*, unless it was given to somebody else since."""
    assert isinstance(delivery.tag, tuple)  # noqa: S101 - we made it
    number, taken = delivery.tag
    return sa.and_(job_message.c.number == number, job_message.c.taken == taken)
