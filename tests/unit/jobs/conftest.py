"""Jobs on a real store in a file of its own, a queue in it, a folder of blobs; workers say what a test wants."""

import dataclasses
import datetime as dt
import pathlib
from collections.abc import AsyncIterator, Sequence

import pytest

from controlplane.blobs.directory import DirectoryBlobs
from controlplane.errors import UnavailableError
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.dispatcher import Dispatcher
from controlplane.jobs.leftovers import LeftoverScan
from controlplane.jobs.model import Job, JobId, Order
from controlplane.jobs.ports import Delivery, WakeUp
from controlplane.jobs.relay import JobKeeper, OutboxRelay
from controlplane.store import SqlStore, open_store
from controlplane.store.job_queue import SqlQueue
from controlplane.wake import Topic, Wake, WakeBoard
from tests.builders import make_change
from tests.fakes import ManualClock
from tests.job_builders import PHOTO, WORKFLOW, FakePhotos, FakeWorkers, make_kind


class BreakableQueue(SqlQueue):
    """A queue that a test can take away."""

    away = False

    async def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        self._refuse()
        await super().publish(wake_ups)

    async def acknowledge(self, delivery: Delivery) -> None:
        self._refuse()
        await super().acknowledge(delivery)

    async def bury(self, delivery: Delivery, *, words: str) -> None:
        self._refuse()
        await super().bury(delivery, words=words)

    def _refuse(self) -> None:
        if self.away:
            raise UnavailableError("HUESHIFT_QUEUE_URL: the broker is away")


class BreakableBlobs(DirectoryBlobs):
    """Blobs that a test can take away."""

    away: bool = False

    async def put_blob(self, key: str, content: bytes) -> None:
        if type(self).away:
            raise UnavailableError("HUESHIFT_BLOBS: the bucket is away")
        await super().put_blob(key, content)


@dataclasses.dataclass
class Works:
    """All parts of jobs, and the clock that they share."""

    store: SqlStore
    queue: BreakableQueue
    blobs: DirectoryBlobs
    clock: ManualClock
    photos: FakePhotos
    workers: FakeWorkers
    desk: JobDesk
    relay: OutboxRelay
    keeper: JobKeeper
    board: WakeBoard

    def dispatcher(self, *, holder: str = "main", slots: int = 4) -> Dispatcher:
        wake = Wake()
        self.board.listen(wake, Topic.JOBS)
        return Dispatcher(
            store=self.store,
            queue=self.queue,
            blobs=self.blobs,
            source=self.photos,
            workers=self.workers,
            clock=self.clock,
            wake=wake,
            holder=holder,
            slots=slots,
            interval=dt.timedelta(seconds=1),
            luck=lambda: 0.5,
        )

    async def submit(self, *, vip: bool = False, task_id: str | None = None, image_url: str | None = None) -> Job:
        order = Order(workflow=WORKFLOW, vip=vip, task_id=task_id, image_url=image_url)
        return await self.desk.submit(order, None if image_url else PHOTO, owner="ada", key=None)

    async def take(self) -> Delivery:
        """Move what is due into the queue, and take one."""
        await self.relay.move()
        (delivery,) = await self.queue.take(["photos"], limit=1)
        return delivery

    async def load(self, job: JobId) -> Job:
        return await self.store.load_job(job)

    async def waiting(self) -> int:
        """Return how many wake-ups can be taken now."""
        await self.relay.move()
        taken = await self.queue.take(["photos"], limit=100)
        for delivery in taken:
            await self.queue.release(delivery)
        return len(taken)


@pytest.fixture
async def works(tmp_path: pathlib.Path) -> AsyncIterator[Works]:
    board, clock = WakeBoard(), ManualClock()
    async with await open_store("sqlite://", board=board, clock=clock) as store:
        await store.apply_kind(make_kind(), make_change())
        queue = BreakableQueue(database=store.database, clock=clock)
        blobs = BreakableBlobs(tmp_path / "blobs")
        photos = FakePhotos()
        desk = JobDesk(store=store, blobs=blobs, source=photos, clock=clock)
        wake = Wake()
        board.listen(wake, Topic.JOBS)
        relay = OutboxRelay(
            store=store, queue=queue, clock=clock, board=board, wake=wake, interval=dt.timedelta(seconds=1)
        )
        scan = LeftoverScan(store=store, blobs=blobs, clock=clock)
        keeper = JobKeeper(store=store, desk=desk, scan=scan, clock=clock, rows_keep=dt.timedelta(days=90))
        yield Works(store, queue, blobs, clock, photos, FakeWorkers(), desk, relay, keeper, board)
