"""The ledger's I/O: into a real SQLite store, which fails when a test says so."""

import asyncio
import dataclasses
import datetime as dt
import itertools
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from controlplane.errors import UnavailableError
from controlplane.ports import CounterBase, TelemetryBatch, TickRead
from controlplane.rollout.windows import VersionTick
from controlplane.store.sql import SqlStore, open_store
from controlplane.telemetry.fleet import Line
from controlplane.telemetry.ingest import TelemetryIngest
from controlplane.telemetry.metrics import TelemetryMetrics
from controlplane.telemetry.reports import parse
from controlplane.wake import Topic, Wake, WakeBoard
from tests.unit.telemetry.envoys import FakeEnvoy, ManualClock

PATIENCE = dt.timedelta(seconds=10)


@dataclasses.dataclass(kw_only=True)
class Flaky(SqlStore):
    """A store that can be out of reach before or after its commit."""

    fail: str = ""
    writes: int = 0

    async def record(self, batch: TelemetryBatch) -> None:
        self.writes += 1
        if self.fail == "before":
            raise UnavailableError("no database")
        await SqlStore.record(self, batch)
        if self.fail == "after":
            raise UnavailableError("connection lost in commit")

    async def load_bases(self) -> tuple[CounterBase, ...]:
        if self.fail:
            raise UnavailableError("no database")
        return await SqlStore.load_bases(self)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def board() -> WakeBoard:
    return WakeBoard()


@pytest.fixture
async def store(clock: ManualClock, board: WakeBoard) -> AsyncIterator[SqlStore]:
    async with await open_store("sqlite://", board=board, clock=clock) as store:
        yield store


@pytest.fixture
def flaky(store: SqlStore) -> Flaky:
    return Flaky(database=store.database, specs=store.specs, clock=store.clock)


def make_ingest(
    store: SqlStore, clock: ManualClock, board: WakeBoard, metrics: TelemetryMetrics | None = None
) -> TelemetryIngest:
    return TelemetryIngest(store=store, clock=clock, board=board, metrics=metrics)


def hear(ingest: TelemetryIngest, envoy: FakeEnvoy, line: Line | None = None) -> Line:
    line = line or ingest.open(envoy.node)
    ingest.take(line, envoy.flush())
    return line


async def read(store: SqlStore) -> tuple[TickRead, ...]:
    return await store.load_ticks(["v1", "v2"], after=0, limit=10_000)


async def total(store: SqlStore, cluster: str = "v1") -> VersionTick:
    ticks = await read(store)
    return sum((tick.counts[cluster] for tick in ticks if cluster in tick.counts), VersionTick.zero())


async def test_counts_reach_sql_while_the_tick_runs_and_when_it_is_over(
    store: SqlStore, clock: ManualClock, board: WakeBoard
) -> None:
    ingest, envoy = make_ingest(store, clock, board), FakeEnvoy(clock)
    envoy.serve("v1", 3)
    line = hear(ingest, envoy)
    assert await ingest.write()
    (tick,) = await read(store)
    assert (tick.counts["v1"].completed, tick.closed, tick.reporting) == (3, False, 1)
    envoy.serve("v1", 2, status=503)
    hear(ingest, envoy, line)
    clock.advance(1)
    assert await ingest.write()
    tick, current = await read(store)
    assert (tick.counts["v1"].completed, tick.counts["v1"].errors, tick.closed) == (5, 2, True)
    assert not current.closed


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_unreachable_database_loses_and_doubles_nothing(
    flaky: Flaky, clock: ManualClock, board: WakeBoard, moment: str
) -> None:
    registry = CollectorRegistry()
    ingest = make_ingest(flaky, clock, board, metrics=TelemetryMetrics(registry))
    envoy = FakeEnvoy(clock)
    line = hear(ingest, envoy)
    await ingest.write()
    for failing in itertools.islice(itertools.cycle([True, True, False]), 30):
        flaky.fail = moment if failing else ""
        envoy.serve("v1", 3)
        hear(ingest, envoy, line)
        await ingest.write()
        clock.advance(0.3)
    flaky.fail = ""
    while not await ingest.write():
        pass
    counts = await total(flaky)
    assert (counts.completed, counts.started, sum(counts.latency)) == (90, 90, 90)
    assert registry.get_sample_value("hueshift_telemetry_write_failures_total") == 20


async def test_a_start_without_a_database_waits_for_it(flaky: Flaky, clock: ManualClock, board: WakeBoard) -> None:
    ingest, envoy = make_ingest(flaky, clock, board), FakeEnvoy(clock)
    flaky.fail = "before"
    envoy.serve("v1", 3)
    line = hear(ingest, envoy)
    assert not await ingest.write()
    envoy.serve("v1", 4)
    hear(ingest, envoy, line)
    flaky.fail = ""
    assert await ingest.write()
    assert (await total(flaky)).completed == 7


async def test_the_next_process_goes_on_where_sql_ends(store: SqlStore, clock: ManualClock, board: WakeBoard) -> None:
    envoy = FakeEnvoy(clock)
    for _ in range(5):  # five processes, each killed with something unwritten
        ingest = make_ingest(store, clock, board)
        await ingest.write()
        line = hear(ingest, envoy)
        envoy.serve("v1", 10)
        hear(ingest, envoy, line)
        await ingest.write()
        envoy.serve("v1", 1)
        hear(ingest, envoy, line)
        clock.advance(0.2)
    last = make_ingest(store, clock, board)
    hear(last, envoy)
    await last.write()
    assert (await total(store)).completed == 55


async def test_the_loop_writes_when_woken_at_most_every_interval(
    flaky: Flaky, clock: ManualClock, board: WakeBoard
) -> None:
    ingest, envoy = make_ingest(flaky, clock, board), FakeEnvoy(clock)
    written = Wake()
    board.listen(written, Topic.TELEMETRY)
    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(ingest.run())
        envoy.serve("v1", 3)
        line = hear(ingest, envoy)
        assert await written.wait(PATIENCE)
        for _ in range(20):
            envoy.serve("v1")
            hear(ingest, envoy, line)  # all before the loop has its turn
        assert await written.wait(PATIENCE)
        assert flaky.writes == 2
        loop.cancel()
    (tick,) = await read(flaky)
    assert tick.closed, "the end of the process closes its tick"
    assert tick.counts["v1"].completed == 23


async def test_a_change_of_health_is_announced(store: SqlStore, clock: ManualClock, board: WakeBoard) -> None:
    fleet = Wake()
    board.listen(fleet, Topic.FLEET)
    ingest, envoy = make_ingest(store, clock, board), FakeEnvoy(clock)
    envoy.members["v1"] = (1, 2)
    line = hear(ingest, envoy)
    await ingest.write()
    assert await fleet.wait(PATIENCE)
    assert [(row.healthy, row.total) for row in await store.load_health()] == [(1, 2)]
    ingest.close(line)
    for _ in range(12):
        clock.advance(1)
        await ingest.write()
    assert await store.load_health() == ()


async def test_what_is_refused_is_counted(store: SqlStore, clock: ManualClock, board: WakeBoard) -> None:
    registry = CollectorRegistry()
    ingest = make_ingest(store, clock, board, metrics=TelemetryMetrics(registry))
    envoy = FakeEnvoy(clock, edges=(1, 2, 3))
    envoy.serve("v1")
    hear(ingest, envoy)
    await ingest.write()
    labels = {"event": "telemetry.histograms_refused"}
    assert registry.get_sample_value("hueshift_telemetry_refused_total", labels) == 1
    assert registry.get_sample_value("hueshift_telemetry_reports_total") == 1
    assert registry.get_sample_value("hueshift_telemetry_nodes_reporting") == 1


def test_a_flush_of_five_clusters_is_read_within_two_milliseconds(clock: ManualClock) -> None:
    envoy = FakeEnvoy(clock)
    for number in range(5):
        for status in (200, 401, 404, 422, 429, 500, 503, 504):
            envoy.serve(f"v{number}", 20, status=status, ms=10.0 * status, grpc=status % 17)
        envoy.members[f"v{number}"] = (2, 2)
    message = envoy.flush()
    data = message.SerializeToString()
    spans = []
    for _ in range(50):
        began = time.thread_time()
        parse(type(message).FromString(data))
        spans.append(time.thread_time() - began)
    assert min(spans) < 0.002  # the least, and of this thread alone: others use the machine too
