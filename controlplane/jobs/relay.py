"""The outbox's other end, and what nobody else would notice: wake-ups into the queue, lost jobs back into the outbox.

A job and its wake-up are one transaction; the queue is asked afterwards, again and again. A wake-up is dropped once the
queue has it, so that a crash in between repeats it, which is harmless.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.leftovers import LeftoverScan
from controlplane.jobs.ports import MAX_BATCH, JobQueue, JobStore
from controlplane.wake import Topic, Wake, WakeBoard

log = structlog.get_logger()

BACK_OFF: Final = dt.timedelta(seconds=1)
LOST_AFTER: Final = dt.timedelta(minutes=15)
"""How long a job waits before somebody is told of it again, in case the queue has lost the first message."""
DRY_FOR: Final = dt.timedelta(seconds=15)
"""How long a job waits beside a queue that is empty all the while, before it is taken for lost.

RabbitMQ loses what it has confirmed when it is killed within a second of a quorum queue's making: it comes back with
the queue, as a new one.
"""


@dataclasses.dataclass(slots=True, kw_only=True)
class OutboxRelay:
    """Moves due wake-ups from the outbox into the queue. Several may run at once."""

    store: JobStore
    queue: JobQueue
    clock: Clock
    board: WakeBoard
    wake: Wake
    interval: dt.timedelta

    async def run(self) -> None:
        """Move, wait for more, for ever."""
        while True:
            try:
                moved = await self.move()
            except ControlPlaneError as exc:
                log.warning("jobs.outbox_waits", error=str(exc))
                await self.clock.sleep(BACK_OFF)
                continue
            if moved < MAX_BATCH:
                await self.wake.wait(self.interval)

    async def move(self) -> int:
        """Move one batch; return how many wake-ups that were.

        Raises:
            UnavailableError: The queue or the database does not answer; what was not moved stays.
        """
        entries = await self.store.load_outbox(now=self.clock.now())
        if entries:
            await self.queue.publish([entry.wake_up for entry in entries])
            await self.store.drop_outbox([entry.number for entry in entries])
            self.board.announce(Topic.JOBS)
        return len(entries)


@dataclasses.dataclass(slots=True, kw_only=True)
class JobKeeper:
    """Looks after jobs that were left: by a process that died, a queue that lost them, a blob store that slept."""

    store: JobStore
    desk: JobDesk
    scan: LeftoverScan
    clock: Clock
    rows_keep: dt.timedelta
    """How long rows of jobs that have ended stay, and so their keys and task_ids are known."""
    dry_since: Callable[[], float | None] = lambda: None
    """Says since when the queue is empty, by the steady clock; None while it is not, or nobody here looks."""
    interval: dt.timedelta = dt.timedelta(seconds=5)

    async def run(self) -> None:
        """Look, wait, for ever."""
        while True:
            try:
                await self.look()
            except ControlPlaneError as exc:
                log.warning("jobs.not_looked_after", error=str(exc))
            await self.clock.sleep(self.interval)

    async def look(self) -> None:
        """Wake jobs that nobody will, or that a version failed which was taken back; remove what is not to stay.

        Raises:
            UnavailableError: The database or the blobs do not answer.
        """
        now = self.clock.now()
        revived = await self.store.revive_jobs(lost_before=now - self._patience(), now=now)
        if revived:
            log.info("jobs.revived", jobs=revived)
        rerouted = await self.store.reroute_jobs(now=now)
        if rerouted:
            log.info("jobs.rerouted", jobs=rerouted)
        pruned = await self.store.prune_jobs(before=now - self.rows_keep)
        if pruned:
            log.info("jobs.pruned", jobs=pruned)
        await self.desk.sweep()
        await self.scan.look()

    def _patience(self) -> dt.timedelta:
        since = self.dry_since()
        is_dry = since is not None and self.clock.steady() - since >= DRY_FOR.total_seconds()
        return DRY_FOR if is_dry else LOST_AFTER
