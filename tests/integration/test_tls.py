"""Mutual TLS between real Envoys and the control plane: who is let in, and certificates that change under load."""

import asyncio
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import program
from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.rpc.server import RpcServer
from controlplane.settings import XdsTransport
from controlplane.store.sql import open_store
from controlplane.telemetry.ingest import TelemetryIngest
from controlplane.telemetry.service import SERVICE, MetricsService
from controlplane.tls.channel import ChannelFiles
from controlplane.tls.channel import ChannelTls as Mtls
from controlplane.tls.metrics import TlsMetrics
from controlplane.traffic.model import Endpoint, ServedService, ServiceSpec
from controlplane.wake import WakeBoard
from controlplane.xds.bootstrap import ChannelTls, Variant, render_secrets
from controlplane.xds.envoy_process import EnvoyProcess
from controlplane.xds.streams import Reason
from tests.builders import make_spec, make_split, make_version
from tests.certificates import DAY, Authority, Pair, replace_file, shown_serial
from tests.envoy import (
    CLOCK,
    Plane,
    Traffic,
    bootstrap_for,
    free_port,
    running_envoy,
    running_plane,
    running_worker,
    wait_until,
)

pytestmark = pytest.mark.integration

NODE = "envoy-1"
SPIFFE = "spiffe://colorize/envoy/envoy-1"
SERVER = "xds.test"


@dataclasses.dataclass(slots=True, kw_only=True)
class Site:
    """Authorities for both ends, and where the files of the control plane are."""

    folder: Path
    servers: Authority
    clients: Authority
    files: ChannelFiles

    def renew_server(self) -> Pair:
        pair = self.servers.issue(SERVER)
        pair.write(self.folder / "plane", "xds")
        return pair

    def bootstrap(
        self,
        plane: Plane,
        own: Pair,
        *,
        node_id: str = NODE,
        server_name: str = SERVER,
        variant: Variant = "delta",
        telemetry_port: int | None = None,
    ) -> dict[str, Any]:
        """Write an Envoy's files and return its bootstrap."""
        folder = self.folder / node_id
        certificate, key = own.write(folder, "own")
        tls = ChannelTls(
            certificate=str(certificate),
            key=str(key),
            ca=str(self.servers.write(folder)),
            server_name=server_name,
            secrets=str(folder),
        )
        for name, secret in render_secrets(tls).items():
            (folder / name).write_text(json.dumps(secret))
        return bootstrap_for(
            plane.server.port, node_id=node_id, variant=variant, telemetry_port=telemetry_port, tls=tls
        )


@pytest.fixture(params=list(XdsTransport))
def transport(request: pytest.FixtureRequest) -> XdsTransport:
    return XdsTransport(request.param)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    servers, clients = Authority(), Authority()
    certificate, key = servers.issue(SERVER).write(tmp_path / "plane", "xds")
    files = ChannelFiles(certificate, key, clients.write(tmp_path / "plane"))
    return Site(folder=tmp_path, servers=servers, clients=clients, files=files)


@pytest.fixture
async def spec() -> AsyncIterator[ServiceSpec]:
    """Return a service with a real worker."""
    async with running_worker("v1") as port:
        made = make_spec(versions=["v1"], port=free_port())
        versions = (make_version("v1", endpoints=[Endpoint("127.0.0.1", port)]),)
        yield dataclasses.replace(
            made, versions=versions, routes=tuple(route for route in made.routes if route.version is None)
        )


def serve(spec: ServiceSpec) -> ServedService:
    return ServedService(spec, make_split(v1=10_000))


# -- who is let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [SPIFFE, NODE])
@pytest.mark.parametrize("variant", ["sotw", "delta"])
async def test_an_envoy_with_its_own_certificate_is_served(
    site: Site, spec: ServiceSpec, transport: XdsTransport, identity: str, variant: Variant
) -> None:
    async with running_plane(files=site.files, transport=transport) as plane:
        record = plane.publish(serve(spec))
        config = site.bootstrap(plane, site.clients.issue(identity), variant=variant)
        async with (
            running_envoy(config, site.folder / NODE) as envoy,
            Traffic(spec.listener.port).running() as traffic,
        ):
            await plane.wait_acked(record, NODE)
            await traffic.wait_more(20)
            assert traffic.failures == []
            dump = json.dumps(await envoy.config_dump())
            assert "PRIVATE KEY" not in dump


# -- who is not --------------------------------------------------------------------------------------------------------


def streams_closed(plane: Plane, reason: str) -> float:
    return plane.metric("hueshift_xds_streams_closed_total", reason=reason)


async def wait_refused(envoy: EnvoyProcess) -> str:
    """Wait until Envoy has tried and failed to open its stream; return its log."""
    await wait_until(lambda: "config stream to xds closed" in envoy.log_file.read_text(), "Envoy gives up a stream")
    return envoy.log_file.read_text()


@pytest.mark.parametrize("case", ["wrong authority", "expired", "plaintext", "wrong server"])
async def test_no_stream_is_opened(site: Site, spec: ServiceSpec, transport: XdsTransport, case: str) -> None:
    own = {
        "wrong authority": lambda: Authority().issue(SPIFFE),
        "expired": lambda: site.clients.issue(SPIFFE, starts=-2 * DAY, ends=-DAY),
    }.get(case, lambda: site.clients.issue(SPIFFE))()
    async with running_plane(files=site.files, transport=transport) as plane:
        plane.publish(serve(spec))
        config = (
            bootstrap_for(plane.server.port)
            if case == "plaintext"
            else site.bootstrap(plane, own, server_name="other.test" if case == "wrong server" else SERVER)
        )
        async with running_envoy(config, site.folder / NODE, ready=False) as envoy:
            words = await wait_refused(envoy)
            if case == "wrong server":
                assert "CERTIFICATE_VERIFY_FAILED" in words
            await wait_until(lambda: plane.metric("hueshift_tls_handshakes_total") >= 2, "it tries again")
            assert plane.rows.nodes == {}
            assert plane.server.stream_count == 0
            assert sum(streams_closed(plane, reason.value) for reason in Reason) == 0


@pytest.mark.parametrize("variant", ["delta", "sotw", "delta-per-type", "sotw-per-type"])
async def test_an_envoy_may_not_be_another_node(
    site: Site, spec: ServiceSpec, transport: XdsTransport, variant: Variant
) -> None:
    own = site.clients.issue("spiffe://colorize/envoy/envoy-9", "envoy-9")
    with capture_logs() as logs:
        async with running_plane(files=site.files, transport=transport) as plane:
            plane.publish(serve(spec))
            config = site.bootstrap(plane, own, variant=variant)
            async with running_envoy(config, site.folder / NODE, ready=False) as envoy:
                assert "'envoy-1' is not whom the client certificate names" in await wait_refused(envoy)
                assert plane.rows.nodes == {}
                assert streams_closed(plane, "identity") >= 1
                assert plane.metric("hueshift_xds_pushes_total", type="cds") == 0
    refusals = [line for line in logs if line["event"] == "stream.refused"]
    assert refusals
    assert refusals[0]["reason"] == "identity"
    assert "spiffe://colorize/envoy/envoy-9, envoy-9" in refusals[0]["words"]


async def test_telemetry_is_taken_from_nobody_else_either(site: Site) -> None:
    tls = Mtls(site.files, clock=CLOCK, metrics=TlsMetrics(CollectorRegistry()))
    async with await open_store("sqlite://", board=WakeBoard(), clock=CLOCK) as store:
        ingest = TelemetryIngest(store=store, clock=CLOCK, board=WakeBoard())
        services = {SERVICE: MetricsService(ingest, verified=True).handlers}
        server = RpcServer(services=services, clock=CLOCK, port=0, tls=tls)
        await server.start()
        try:
            own = site.clients.issue(SPIFFE)
            assert await report(server.port, site, own, "envoy-2") is grpc.StatusCode.PERMISSION_DENIED
            assert await report(server.port, site, own, NODE) is grpc.StatusCode.OK
            assert await report(server.port, site, Authority().issue(SPIFFE), NODE) is grpc.StatusCode.UNAVAILABLE
        finally:
            await server.stop()


async def test_the_commands_set_it_all_up(site: Site) -> None:
    """The program as it is installed: `hueshift serve`, and an Envoy with what `hueshift bootstrap` prints."""
    api, xds, telemetry = free_ports(3)
    plane = ServerProcess(
        [program("hueshift"), "serve"],
        log_file=site.folder / "plane.log",
        environment={
            "HUESHIFT_DATA_DIR": str(site.folder),
            "HUESHIFT_API_PORT": str(api),
            "HUESHIFT_XDS_PORT": str(xds),
            "HUESHIFT_TELEMETRY_PORT": str(telemetry),
            "HUESHIFT_TLS_CERT_FILE": str(site.files.certificate),
            "HUESHIFT_TLS_KEY_FILE": str(site.files.key),
            "HUESHIFT_TLS_CLIENT_CA_FILE": str(site.files.client_ca),
        },
    )
    certificate, key = site.clients.issue(SPIFFE).write(site.folder / NODE, "own")
    arguments = {
        "--node-id": NODE,
        "--xds-port": xds,
        "--telemetry-port": telemetry,
        "--admin-port": 0,
        "--tls-cert": certificate,
        "--tls-key": key,
        "--tls-ca": site.servers.write(site.folder / NODE),
        "--server-name": SERVER,
        "--tls-secrets": site.folder / NODE / "secrets",
    }
    printing = await asyncio.create_subprocess_exec(
        *(program("hueshift"), "bootstrap"),
        *(str(word) for pair in arguments.items() for word in pair),
        stdout=asyncio.subprocess.PIPE,
    )
    config = json.loads((await printing.communicate())[0])
    await plane.start()
    try:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{api}", trust_env=False) as client,
            running_envoy(config, site.folder / NODE, ready=False),
        ):

            async def reporting() -> bool:
                try:
                    text = (await client.get("/metrics")).text
                except httpx.TransportError:
                    return False
                return (
                    "hueshift_telemetry_nodes_reporting 1.0" in text
                    and 'hueshift_xds_streams{variant="delta"} 1.0' in text
                )

            await wait_until(reporting, "Envoy's two streams are open")
    finally:
        await plane.stop()


async def report(port: int, site: Site, own: Pair, node_id: str) -> grpc.StatusCode:
    """Report as *node_id* with the certificate *own*; return how that ended."""
    message = pb.StreamMetricsMessage()
    message.identifier.node.id = node_id
    credentials = grpc.ssl_channel_credentials(site.servers.certificate, own.key, own.certificate)
    options = (("grpc.ssl_target_name_override", SERVER),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        method: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{SERVICE}/StreamMetrics")
        return await method(iter([message.SerializeToString()])).code()


# -- certificates of the channel that change ---------------------------------------------------------------------------


async def served_serial(port: int, site: Site) -> int:
    """Return the serial number of the certificate that the control plane shows to a new connection."""
    return await shown_serial(port, site.servers, client=site.clients.issue(SPIFFE), folder=site.folder / "look")


async def wait_serial(fresh: Pair, ask: Callable[[], Awaitable[int]]) -> None:
    async def shown() -> bool:
        return await ask() == fresh.serial

    await wait_until(shown, "new connections are shown the new certificate")


async def test_a_server_certificate_changes_under_load(site: Site, spec: ServiceSpec, transport: XdsTransport) -> None:
    async with running_plane(files=site.files, transport=transport) as plane:
        record = plane.publish(serve(spec))
        async with (
            running_envoy(site.bootstrap(plane, site.clients.issue(SPIFFE)), site.folder / NODE) as envoy,
            Traffic(spec.listener.port).running() as traffic,
        ):
            await plane.wait_acked(record, NODE)
            before = await served_serial(plane.server.port, site)
            for _ in range(3):
                await wait_serial(site.renew_server(), lambda: served_serial(plane.server.port, site))
                await traffic.wait_more(100)
            assert await served_serial(plane.server.port, site) != before
            other = site.bootstrap(plane, site.clients.issue("envoy-2"), node_id="envoy-2")
            newer = plane.publish(serve(dataclasses.replace(spec, domains=("a.test", "*"))))
            await plane.wait_acked(newer, NODE)  # on the stream that it opened under the first certificate
            assert (await envoy.statistics("control_plane."))["control_plane.connected_state"] == 1
            assert sum(streams_closed(plane, reason.value) for reason in Reason) == 0
            async with running_envoy(other, site.folder / "envoy-2", ready=False):
                await plane.wait_acked(newer, "envoy-2", "cds", "rds")
            assert traffic.failures == []


async def test_half_a_new_pair_on_disk_changes_nothing(site: Site, spec: ServiceSpec, transport: XdsTransport) -> None:
    async with running_plane(files=site.files, transport=transport) as plane:
        plane.publish(serve(spec))
        before = await served_serial(plane.server.port, site)
        fresh = site.servers.issue(SERVER)
        replace_file(site.files.certificate, fresh.certificate)
        await wait_until(
            lambda: plane.metric("hueshift_tls_certificate_refused", certificate="channel") == 1, "it is refused"
        )
        assert await served_serial(plane.server.port, site) == before
        async with running_envoy(site.bootstrap(plane, site.clients.issue(SPIFFE)), site.folder / NODE):
            replace_file(site.files.key, fresh.key)
            await wait_serial(fresh, lambda: served_serial(plane.server.port, site))
        assert plane.metric("hueshift_tls_certificate_refused", certificate="channel") == 0


async def test_an_envoy_follows_its_own_certificate_without_a_restart(
    site: Site, spec: ServiceSpec, transport: XdsTransport
) -> None:
    """The authorities of both ends change too: what signed the old pair is trusted by nobody any more."""
    async with running_plane(files=site.files, transport=transport) as plane:
        port = plane.server.port
        record = plane.publish(serve(spec))
        config = site.bootstrap(plane, site.clients.issue(SPIFFE))
        async with (
            running_envoy(config, site.folder / NODE) as envoy,
            Traffic(spec.listener.port).running() as traffic,
        ):
            await plane.wait_acked(record, NODE)
            site.clients, site.servers = Authority(), Authority()
            fresh = site.clients.issue(SPIFFE)
            fresh.write(site.folder / NODE, "own")
            site.servers.write(site.folder / NODE)
            await wait_until(lambda: has_certificate(envoy, fresh), "Envoy takes its new certificate")
            site.clients.write(site.folder / "plane")
            site.renew_server()
            await plane.server.stop()
            async with running_plane(port=port, files=site.files, transport=transport) as successor:
                successor.publish(serve(spec))
                await successor.wait_acked(record, NODE)
            assert traffic.failures == []


async def has_certificate(envoy: EnvoyProcess, pair: Pair) -> bool:
    return f"{pair.serial:x}" in await envoy.admin("/certs")


async def test_serve_refuses_plaintext_beyond_this_machine_in_one_line(tmp_path: Path) -> None:
    api, xds, telemetry = free_ports(3)
    environment = {
        "HUESHIFT_DATA_DIR": str(tmp_path),
        "HUESHIFT_BIND": "0.0.0.0",
        "HUESHIFT_API_PORT": str(api),
        "HUESHIFT_XDS_PORT": str(xds),
        "HUESHIFT_TELEMETRY_PORT": str(telemetry),
    }
    ended = await asyncio.create_subprocess_exec(
        program("hueshift"), "serve", env={**os.environ, **environment}, stderr=asyncio.subprocess.PIPE
    )
    words = (await ended.communicate())[1].decode()
    assert ended.returncode == 2
    (line,) = [line for line in words.splitlines() if "[info" not in line]
    assert "HUESHIFT_TLS_CERT_FILE: is not set, so Envoys would be served in plaintext on 0.0.0.0" in line
