"""Answers by single status, from a real Envoy to a real SQLite file: each is told by its status, and once."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import httpx
import pytest

from controlplane.clock import SystemClock
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess
from controlplane.rollout.answers import (
    GRPC_BAD_KINDS,
    GRPC_CLIENT_KINDS,
    HTTP_BAD_KINDS,
    HTTP_CLIENT_KINDS,
)
from controlplane.rollout.windows import VersionTick
from controlplane.rpc.server import RpcServer
from controlplane.store.sql import SqlStore, open_store
from controlplane.telemetry.ingest import TelemetryIngest
from controlplane.telemetry.service import SERVICE, MetricsService
from controlplane.traffic.model import (
    Endpoint,
    HeaderMatch,
    HeaderRule,
    Route,
    RouteMatch,
    ServedService,
    ServiceSpec,
)
from controlplane.wake import WakeBoard
from controlplane.xds.envoy_process import EnvoyProcess
from tests.builders import make_spec, make_split, make_version, seconds
from tests.envoy import bootstrap_for, free_port, running_envoy, running_plane, wait_until
from tests.grpc_calls import METHOD, STREAM, echo_server

pytestmark = pytest.mark.integration

CLOCK = SystemClock()


class Counts:
    """What SQL says of one Envoy's clusters."""

    def __init__(self, store: SqlStore, envoy: EnvoyProcess) -> None:
        self.envoy = envoy
        self._store = store

    async def wait_healthy(self, cluster: str) -> None:
        """Wait until Envoy finds the cluster's member healthy: until then it answers itself."""
        name = f"cluster.{cluster}.membership_healthy"

        async def is_healthy() -> bool:
            return (await self.envoy.statistics(name)).get(name) == 1

        await wait_until(is_healthy, f"{cluster} is healthy")

    async def wait_complete(self, cluster: str, count: int) -> VersionTick:
        """Return the sum of the cluster's ticks, once it has *count* requests and two seconds more have passed."""
        await wait_until(lambda: self._has(cluster, count), f"{cluster} has {count} requests")
        await CLOCK.sleep(dt.timedelta(seconds=2))
        return await self._total(cluster)

    async def _has(self, cluster: str, count: int) -> bool:
        return (await self._total(cluster)).completed >= count

    async def _total(self, cluster: str) -> VersionTick:
        ticks = await self._store.load_ticks([cluster], after=0, limit=10_000)
        return sum((tick.counts[cluster] for tick in ticks if cluster in tick.counts), VersionTick.zero())


@contextlib.asynccontextmanager
async def serving(spec: ServiceSpec, folder: Path) -> AsyncIterator[Counts]:
    """Run an Envoy that has *spec* from an xDS server and reports to a metrics service."""
    board = WakeBoard()
    async with await open_store("sqlite://", board=board, clock=CLOCK) as store, running_plane() as plane:
        ingest = TelemetryIngest(store=store, clock=CLOCK, board=board)
        server = RpcServer(services={SERVICE: MetricsService(ingest).handlers}, clock=CLOCK, port=0)
        await server.start()
        record = plane.publish(ServedService(spec, make_split(v1=10_000)))
        config = bootstrap_for(plane.server.port, telemetry_port=server.port)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(ingest.run())
            try:
                async with running_envoy(config, folder) as envoy:
                    await plane.wait_acked(record, "envoy-1", "cds", "lds", "rds")
                    yield Counts(store, envoy)
            finally:
                writing.cancel()
                await server.stop()


async def test_http_answers_are_told_by_their_status(tmp_path: Path) -> None:
    async with UpstreamProcess([ServerSpec("v1", "v1")]) as upstream:
        version = make_version("v1", endpoints=[Endpoint("127.0.0.1", upstream.ports["v1"])])
        spec = dataclasses.replace(make_spec(versions=["v1"], port=free_port()), versions=(version,))
        async with serving(spec, tmp_path) as counts, httpx.AsyncClient(trust_env=False) as client:
            await counts.wait_healthy(version.cluster)
            for status, count in {200: 10, 422: 7, 429: 5, 500: 2, 503: 3}.items():
                share = float(status != 200)
                await upstream.change("v1", Behaviour(error_share=share, error_status=status))
                for _ in range(count):
                    answer = await client.get(f"http://127.0.0.1:{spec.listener.port}/")
                    assert answer.status_code == status
            total = await counts.wait_complete(version.cluster, 27)
    assert (total.completed, total.errors) == (27, 5)
    assert total.codes == (("422", 7), ("429", 5), ("500", 2), ("503", 3))
    assert total.count(HTTP_BAD_KINDS) == 10
    assert total.count(HTTP_CLIENT_KINDS) == 12


def grpc_service(v1: int, v2: int) -> ServiceSpec:
    """Return a gRPC service whose version v2 is asked by a header."""
    ports = {"v1": v1, "v2": v2}
    versions = tuple(make_version(name, endpoints=[Endpoint("127.0.0.1", port)]) for name, port in ports.items())
    to_v2 = RouteMatch("/", (HeaderMatch("x-version", HeaderRule.EXACT, "v2"),))
    return dataclasses.replace(
        make_spec(port=free_port()),
        versions=versions,
        routes=(Route("v2", to_v2, version="v2"), Route("main", RouteMatch("/"), timeout=seconds(1))),
        grpc_target="shop.internal:443",
        domains=("*",),
    )


class Client:
    """Calls the service through Envoy, each call with what it asks the worker for."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._say: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        self._stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(STREAM)

    async def say(self, headers: Mapping[str, str]) -> grpc.StatusCode:
        """Return the status of a call with one answer."""
        try:
            await self._say(b"", metadata=tuple(headers.items()), timeout=10)
        except grpc.aio.AioRpcError as exc:
            return exc.code()
        return grpc.StatusCode.OK

    async def stream(self, headers: Mapping[str, str]) -> grpc.StatusCode:
        """Return the status of a call that has one answer before its end."""
        call = self._stream(b"", metadata=tuple(headers.items()), timeout=10)
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for answer in call:
                assert answer == b"v1"
        code: grpc.StatusCode = await call.code()
        return code


async def test_grpc_answers_are_told_by_their_status_and_envoy_s_own_count_once(tmp_path: Path) -> None:
    code = grpc.StatusCode
    with echo_server("v1") as v1:
        spec = grpc_service(v1, free_port())  # nobody is there for v2
        first, second = (version.cluster for version in spec.versions)
        target = f"127.0.0.1:{spec.listener.port}"
        async with serving(spec, tmp_path) as counts, grpc.aio.insecure_channel(target) as channel:
            await counts.wait_healthy(first)
            client = Client(channel)
            assert {await client.say({}) for _ in range(5)} == {code.OK}
            assert {await client.say({"x-status": "UNAVAILABLE"}) for _ in range(3)} == {code.UNAVAILABLE}
            assert {await client.say({"x-status": "NOT_FOUND"}) for _ in range(4)} == {code.NOT_FOUND}
            assert {await client.stream({"x-status": "INTERNAL"}) for _ in range(2)} == {code.INTERNAL}
            assert {await client.say({"x-status": "hang"}) for _ in range(2)} == {code.UNAVAILABLE}
            assert {await client.say({"x-version": "v2"}) for _ in range(3)} == {code.UNAVAILABLE}
            v1_total = await counts.wait_complete(first, 16)
            v2_total = await counts.wait_complete(second, 3)
    assert (v1_total.completed, v1_total.errors) == (16, 2)
    assert v1_total.codes == (("504", 2), ("grpc-13", 2), ("grpc-14", 5), ("grpc-5", 4))
    assert v1_total.count(GRPC_BAD_KINDS) == 7, "three that said so, two streams, two that Envoy gave up"
    assert v1_total.count(GRPC_CLIENT_KINDS) == 4
    assert (v2_total.completed, v2_total.errors) == (3, 3)
    assert v2_total.codes == (("503", 3), ("grpc-14", 3))
    assert v2_total.count(GRPC_BAD_KINDS) == 3
