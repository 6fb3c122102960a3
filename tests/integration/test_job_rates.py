"""What a queue costs: CPU per job, jobs a second, how soon a VIP's job starts behind a crowd; workers cost nothing."""

import asyncio
import contextlib
import datetime as dt
import pathlib
import time
from collections.abc import AsyncIterator

import pytest

from controlplane.blobs.directory import DirectoryBlobs
from controlplane.broker.rabbitmq import RabbitQueue
from controlplane.clock import SystemClock
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.dispatcher import Dispatcher
from controlplane.jobs.model import Job, JobId, JobKind, Order
from controlplane.jobs.ports import JobQueue
from controlplane.jobs.relay import OutboxRelay
from controlplane.store import SqlStore, open_store
from controlplane.store.job_queue import SqlQueue
from controlplane.wake import Topic, Wake, WakeBoard
from tests.job_builders import COLOURED, PHOTO, WORKFLOW, FakePhotos, Outcome, make_kind
from tests.rabbitmq import running_rabbitmq

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CLOCK = SystemClock()
CROWD = 1_000
MAX_CPU_S = 0.005
MIN_RATE = 100
MAX_VIP_WAIT_S = 2.0
SECOND = dt.timedelta(seconds=1)


class TrivialWorkers:
    """Workers that answer at once, and remember when."""

    def __init__(self, expected: int) -> None:
        self.started_at: dict[JobId, float] = {}
        self.all_asked = asyncio.Event()
        self._expected = expected

    async def colour(self, job: Job, kind: JobKind, photo: bytes) -> Outcome:
        del kind, photo
        self.started_at[job.id] = CLOCK.steady()
        if len(self.started_at) == self._expected:
            self.all_asked.set()
        return COLOURED


@contextlib.asynccontextmanager
async def open_queue(carrier: str, store: SqlStore) -> AsyncIterator[JobQueue]:
    if carrier == "sql":
        yield SqlQueue(database=store.database, clock=CLOCK)
        return
    async with running_rabbitmq() as server:
        queue = RabbitQueue(await server.make_vhost())
        yield queue
        await queue.close()


@pytest.mark.parametrize("carrier", ["sql", "rabbitmq"])
async def test_a_job_costs_little_and_a_vip_waits_for_no_crowd(tmp_path: pathlib.Path, carrier: str) -> None:
    board = WakeBoard()

    def listening() -> Wake:
        wake = Wake()
        board.listen(wake, Topic.JOBS)
        return wake

    async with (
        await open_store("sqlite://", board=board, clock=CLOCK) as store,
        open_queue(carrier, store) as queue,
    ):
        await store.apply_kind(make_kind(), now=CLOCK.now())
        blobs = DirectoryBlobs(tmp_path)
        desk = JobDesk(store=store, blobs=blobs, source=FakePhotos(), clock=CLOCK)
        workers = TrivialWorkers(CROWD + 1)
        relay = OutboxRelay(store=store, queue=queue, clock=CLOCK, board=board, wake=listening(), interval=SECOND)
        dispatcher = Dispatcher(
            store=store,
            queue=queue,
            blobs=blobs,
            source=desk.source,
            workers=workers,
            clock=CLOCK,
            wake=listening(),
            holder="main",
            slots=8,
            interval=SECOND,
        )

        async def submit(*, vip: bool = False) -> JobId:
            return (await desk.submit(Order(workflow=WORKFLOW, vip=vip), PHOTO, owner="ada", key=None)).id

        for _ in range(CROWD):
            await submit()
        begun, cpu = CLOCK.steady(), time.process_time()
        while await relay.move():
            pass
        vip = await submit(vip=True)
        submitted = CLOCK.steady()
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(relay.run()), tasks.create_task(dispatcher.run())]
            await workers.all_asked.wait()
            took, cpu = CLOCK.steady() - begun, time.process_time() - cpu
            for loop in loops:
                loop.cancel()
        waited = workers.started_at[vip] - submitted
    figures = f"{carrier}: {CROWD / took:.0f} jobs/s, {1000 * cpu / CROWD:.1f} ms of CPU each, VIP after {waited:.3f} s"
    assert cpu / CROWD <= MAX_CPU_S, figures
    assert CROWD / took >= MIN_RATE, figures
    assert waited <= MAX_VIP_WAIT_S, figures
