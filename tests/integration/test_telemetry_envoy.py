"""A real Envoy's metrics sink, our server, a real SQLite file: every request is counted once, whoever dies."""

import asyncio
import contextlib
import copy
import datetime as dt
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest

from controlplane.clock import SystemClock
from controlplane.errors import UnavailableError
from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.ports import TickRead
from controlplane.rollout.windows import VersionTick
from controlplane.rpc.server import RpcServer
from controlplane.store.sql import SqlStore, open_store
from controlplane.telemetry.ingest import TelemetryIngest
from controlplane.telemetry.service import SERVICE, MetricsService
from controlplane.wake import Topic, Wake, WakeBoard
from controlplane.xds.bootstrap import TELEMETRY_CLUSTER, render_bootstrap
from controlplane.xds.envoy_process import EnvoyProcess

pytestmark = pytest.mark.integration

PATIENCE_S = 60.0
METHOD = "/envoy.service.metrics.v3.MetricsService/StreamMetrics"
Check = Callable[[], Awaitable[bool]]


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def board() -> WakeBoard:
    return WakeBoard()


@pytest.fixture
async def store(board: WakeBoard) -> AsyncIterator[SqlStore]:
    async with await open_store("sqlite://", board=board, clock=SystemClock()) as store:
        yield store


@pytest.fixture
async def upstream() -> AsyncIterator[int]:
    """Answers with the status that ends the path; ``/hang`` is never answered."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                if path.endswith(b"/hang"):
                    await reader.read()  # until Envoy gives up
                    break
                writer.write(b"HTTP/1.1 %s -\r\ncontent-length: 2\r\n\r\nok" % path[-3:])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def make_server(ingest: TelemetryIngest, port: int) -> RpcServer:
    return RpcServer(services={SERVICE: MetricsService(ingest).handlers}, clock=SystemClock(), port=port)


class Plane:
    """The control plane's telemetry: a server on the same port every time, and a loop."""

    def __init__(self, store: SqlStore, board: WakeBoard) -> None:
        self.store = store
        self.board = board
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self, *, killed: bool = False) -> AsyncIterator[None]:
        """Run until the block ends: politely, or (*killed*) without another word to SQL."""
        ingest = TelemetryIngest(store=self.store, clock=SystemClock(), board=self.board)
        server = make_server(ingest, self.port)
        await server.start()
        self.port = server.port
        async with asyncio.TaskGroup() as tasks:
            loop = tasks.create_task(_write_forever(ingest) if killed else ingest.run())
            try:
                yield
            finally:
                loop.cancel()
                await server.stop()

    async def ticks(self) -> tuple[TickRead, ...]:
        return await self.store.load_ticks(["v1", "v2"], after=0, limit=10_000)

    async def total(self, cluster: str) -> VersionTick:
        ticks = await self.ticks()
        return sum((tick.counts[cluster] for tick in ticks if cluster in tick.counts), VersionTick.zero())

    async def until(self, check: Check) -> None:
        """Wait until *check* holds; it is asked whenever counts were written."""
        wake = Wake()
        self.board.listen(wake, Topic.TELEMETRY)
        async with asyncio.timeout(PATIENCE_S):
            while not await check():
                await wake.wait(dt.timedelta(seconds=1))

    async def completes(self, cluster: str, count: int) -> VersionTick:
        """Wait until *cluster* has completed *count* requests, and two seconds more have passed over them."""
        await self.until(lambda: self._has(cluster, count))
        newest = (await self.ticks())[-1].tick
        await self.until(lambda: self._closed(newest + 1))
        return await self.total(cluster)

    async def hears(self) -> None:
        """Wait until a first report is written.

        What ends while Envoy puts that one together is among its counters, its latency in the next report only: the
        ledger would take it for lost.
        """

        async def has_health() -> bool:
            return len(await self.store.load_health()) > 0

        await self.until(has_health)

    async def _has(self, cluster: str, count: int) -> bool:
        return (await self.total(cluster)).completed >= count

    async def _closed(self, tick: int) -> bool:
        return any(read.tick == tick and read.closed for read in await self.ticks())


async def _write_forever(ingest: TelemetryIngest) -> None:
    while True:
        await ingest.write()
        await SystemClock().sleep(dt.timedelta(seconds=0.1))


@pytest.fixture
def plane(store: SqlStore, board: WakeBoard) -> Plane:
    return Plane(store, board)


class Edge:
    """An Envoy with clusters v1 and v2 in its own bootstrap, and a client in front of it."""

    def __init__(self, process: EnvoyProcess, client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client

    async def send(self, cluster: str, count: int, status: int = 200) -> None:
        for _ in range(count):
            assert (await self.client.get(f"/{cluster}/{status}")).status_code == status

    async def flushes(self, count: int) -> None:
        """Wait until Envoy has tried to open a stream *count* more times: it does so at each flush."""
        name = f"cluster.{TELEMETRY_CLUSTER}.upstream_cx_connect_fail"
        before = (await self.process.statistics(name)).get(name, 0)
        async with asyncio.timeout(PATIENCE_S):
            while (await self.process.statistics(name)).get(name, 0) < before + count:
                await SystemClock().sleep(dt.timedelta(milliseconds=50))


@contextlib.asynccontextmanager
async def running_edge(plane: Plane, upstream: int, folder: Path, *, node: str = "envoy-1") -> AsyncIterator[Edge]:
    bootstrap = _static(render_bootstrap(node_id=node, telemetry_port=plane.port, admin_port=0), upstream)
    process = EnvoyProcess(bootstrap, folder=folder, clock=SystemClock(), arguments=["--concurrency", "1"])
    async with process:
        await process.wait_ready()
        listeners = json.loads(await process.admin("/listeners?format=json"))
        port = listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield Edge(process, client)


def _static(bootstrap: Mapping[str, Any], upstream: int) -> dict[str, Any]:
    """The product's bootstrap with the configuration inside, so that no xDS server is needed."""
    changed = copy.deepcopy(dict(bootstrap))
    del changed["dynamic_resources"]
    for name in ("v1", "v2"):
        endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}
        changed["static_resources"]["clusters"].append(
            {
                "name": name,
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
                },
            }
        )
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": f"/{name}/"}, "route": {"cluster": name, "timeout": "300s"}}
                        for name in ("v1", "v2")
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    changed["static_resources"]["listeners"] = [
        {
            "name": "edge",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }
    ]
    return changed


# -- what must hold ----------------------------------------------------------------------------------------------------


async def test_every_request_is_counted_by_status_and_latency(plane: Plane, upstream: int, tmp_path: Path) -> None:
    async with plane.running(), running_edge(plane, upstream, tmp_path) as edge:
        await plane.hears()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(edge.send("v1", 60))
            tasks.create_task(edge.send("v2", 40))
            tasks.create_task(edge.send("v2", 11, 503))
            tasks.create_task(edge.send("v2", 7, 404))
        v1, v2 = await plane.completes("v1", 60), await plane.completes("v2", 58)
        assert (v1.completed, v1.errors, v1.started, sum(v1.latency)) == (60, 0, 60, 60)
        assert (v2.completed, v2.errors, v2.started, sum(v2.latency)) == (58, 11, 58, 58)
        last = (await plane.ticks())[-1]
        assert (last.reporting, last.silent) == (1, 0)
        assert await plane.store.load_gaps(since=dt.datetime.min.replace(tzinfo=dt.UTC)) == ()
        health = {(row.cluster, row.healthy, row.total) for row in await plane.store.load_health()}
        assert health == {("v1", 1, 1), ("v2", 1, 1)}


async def test_a_killed_control_plane_loses_no_count_and_doubles_none(
    plane: Plane, upstream: int, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with plane.running(killed=True):
            edge = await stack.enter_async_context(running_edge(plane, upstream, tmp_path))
            await edge.send("v2", 30)
            await plane.completes("v2", 30)
            await edge.send("v2", 5)  # written or not: it dies now
        await edge.send("v2", 20)
        await edge.send("v2", 3, 503)
        await edge.flushes(3)
        async with plane.running():
            await edge.send("v2", 10)
            total = await plane.completes("v2", 68)
            assert (total.completed, total.errors, total.started) == (68, 3, 68)
            # One for our absence; a busy machine may add others, where a flush came so late that it lost a histogram.
            gaps = await plane.store.load_gaps(since=dt.datetime.min.replace(tzinfo=dt.UTC))
            assert {gap.node for gap in gaps} == {"envoy-1"}
            assert all(gap.since < gap.until for gap in gaps)
            assert sum(total.latency) <= 45


async def test_a_killed_envoy_takes_at_most_its_last_flush_with_it(plane: Plane, upstream: int, tmp_path: Path) -> None:
    async with plane.running():
        async with running_edge(plane, upstream, tmp_path / "first") as edge:
            await edge.send("v2", 50)
            await plane.completes("v2", 50)
            await edge.send("v2", 20)
            await edge.process.kill()
        async with running_edge(plane, upstream, tmp_path / "second") as edge:
            await edge.send("v1", 10)
            v1 = await plane.completes("v1", 10)
            v2 = await plane.total("v2")
    assert v1.completed == 10
    assert 50 <= v2.completed <= 70


async def test_requests_that_hang_show_in_flight_until_they_end(plane: Plane, upstream: int, tmp_path: Path) -> None:
    async def active(count: int) -> bool:
        closed = [tick for tick in await plane.ticks() if tick.closed]
        return bool(closed) and closed[-1].counts.get("v2", VersionTick.zero()).active == count

    async with plane.running(), running_edge(plane, upstream, tmp_path) as edge:
        async with asyncio.TaskGroup() as tasks:
            hung = [tasks.create_task(_hang(edge)) for _ in range(3)]
            await plane.until(lambda: active(3))
            total = await plane.total("v2")
            assert (total.completed, total.started) == (0, 3)
            for task in hung:
                task.cancel()
        await plane.until(lambda: active(0))


async def _hang(edge: Edge) -> None:
    async with httpx.AsyncClient(base_url=edge.client.base_url, trust_env=False, timeout=PATIENCE_S) as client:
        await client.get("/v2/hang")


async def test_an_envoy_that_is_gone_is_silent_and_then_forgotten(plane: Plane, upstream: int, tmp_path: Path) -> None:
    async def seen(reporting: int, silent: int) -> bool:
        ticks = await plane.ticks()
        return bool(ticks) and (ticks[-1].reporting, ticks[-1].silent) == (reporting, silent)

    async def forgotten() -> bool:
        return await plane.store.load_health() == ()

    async with plane.running():
        async with running_edge(plane, upstream, tmp_path):
            await plane.until(lambda: seen(1, 0))
        await plane.until(lambda: seen(0, 1))
        await plane.until(lambda: seen(0, 0))
        await plane.until(forgotten)


async def test_a_port_in_use_is_named_with_its_setting(plane: Plane) -> None:
    async with plane.running():
        ingest = TelemetryIngest(store=plane.store, clock=SystemClock(), board=plane.board)
        second = make_server(ingest, plane.port)
        with pytest.raises(UnavailableError, match=f"HUESHIFT_TELEMETRY_PORT.*{plane.port}.*set another"):
            await second.start()


async def test_a_stream_of_nobody_is_refused(plane: Plane) -> None:
    async with plane.running(), grpc.aio.insecure_channel(f"127.0.0.1:{plane.port}") as channel:
        call = channel.stream_unary(
            METHOD,
            request_serializer=pb.StreamMetricsMessage.SerializeToString,
            response_deserializer=pb.StreamMetricsResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(iter([pb.StreamMetricsMessage()]))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "node.id" in str(refused.value.details())
