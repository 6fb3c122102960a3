"""The bench of jobs on a small crowd: all pass, and a VIP's goes first. `make bench-jobs` is the long version."""

import asyncio
import contextlib
import datetime as dt
import pathlib
from collections.abc import AsyncIterator

import pytest

from controlplane.blobs.directory import DirectoryBlobs
from controlplane.broker.rabbitmq import RabbitQueue
from controlplane.clock import SystemClock
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.dispatcher import Dispatcher
from controlplane.jobs.model import Job, Order
from controlplane.jobs.ports import JobQueue
from controlplane.jobs.relay import OutboxRelay
from controlplane.lab.bench_jobs import run_bench
from controlplane.store import SqlStore, open_store
from controlplane.store.job_queue import SqlQueue
from controlplane.wake import Topic, Wake, WakeBoard
from tests.builders import make_change
from tests.job_builders import COLOURED, PHOTO, WORKFLOW, FakePhotos, FakeWorkers, Outcome, make_kind
from tests.rabbitmq import require_rabbitmq, running_rabbitmq

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CLOCK = SystemClock()
SECOND = dt.timedelta(seconds=1)
CROWD = 60
SLOTS = 4
PATIENCE_S = 120


async def test_every_figure_is_measured_on_every_carrier(tmp_path: pathlib.Path) -> None:
    require_rabbitmq()
    figures = await run_bench(jobs=50, directory=tmp_path, clock=CLOCK)
    assert [(figure.carrier, figure.unit) for figure in figures] == [
        (carrier, unit) for carrier in ("rabbitmq", "sqlite") for unit in ("ms", "jobs/s", "s")
    ]
    # The bounds are the bench's: a machine that others share may be slower, but not by so much.
    for figure in figures:
        assert figure.value >= 0
        assert figure.value > figure.bound / 50 if figure.at_least else figure.value < figure.bound * 50, figure.line()


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
async def test_a_vip_behind_a_crowd_starts_before_the_crowd_is_through(tmp_path: pathlib.Path, carrier: str) -> None:
    board = WakeBoard()

    def listening() -> Wake:
        wake = Wake()
        board.listen(wake, Topic.JOBS)
        return wake

    async with (
        await open_store("sqlite://", board=board, clock=CLOCK) as store,
        open_queue(carrier, store) as queue,
    ):
        await store.apply_kind(make_kind(), make_change(at=CLOCK.now()))
        blobs = DirectoryBlobs(tmp_path)
        desk = JobDesk(store=store, blobs=blobs, source=FakePhotos(), clock=CLOCK)
        relay = OutboxRelay(store=store, queue=queue, clock=CLOCK, board=board, wake=listening(), interval=SECOND)
        workers, are_through = FakeWorkers(), asyncio.Event()

        def answer(_: Job) -> Outcome:
            if len(workers.asked) > CROWD:
                are_through.set()
            return COLOURED

        workers.answer = answer
        for _ in range(CROWD):
            await desk.submit(Order(workflow=WORKFLOW), PHOTO, owner="ada", key=None)
        while await relay.move():
            pass
        vip = await desk.submit(Order(workflow=WORKFLOW, vip=True), PHOTO, owner="ada", key=None)
        await relay.move()
        dispatcher = Dispatcher(
            store=store,
            queue=queue,
            blobs=blobs,
            source=desk.source,
            workers=workers,
            clock=CLOCK,
            wake=listening(),
            holder="main",
            slots=SLOTS,
            interval=SECOND,
        )
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(PATIENCE_S):
            running = tasks.create_task(dispatcher.run())
            await are_through.wait()
            running.cancel()
    order = [job.id for job in workers.asked]
    assert order.index(vip.id) < SLOTS
    assert len(set(order)) == CROWD + 1
