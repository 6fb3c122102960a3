"""Every transport with real gRPC streams: many, slow, broken and hostile clients."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.settings import XdsTransport
from controlplane.tls.channel import ChannelFiles
from controlplane.xds import server as xds_server
from controlplane.xds import streams as xds_streams
from controlplane.xds.kinds import Kind
from tests.certificates import Authority
from tests.envoy import Plane, running_plane, wait_until
from tests.xds import RUNTIME_TYPE, make_snapshot, record

pytestmark = pytest.mark.integration

METHOD = f"/{xds_streams.ADS}/StreamAggregatedResources"
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),  # or a client that reads nothing may all the same take megabytes
]


class GrpcClient:
    """A state-of-the-world client on a channel."""

    def __init__(self, channel: grpc.aio.Channel, node: str) -> None:
        self.call: Any = channel.stream_stream(METHOD)()
        self.node = node
        self._first = True

    async def send(self, kind: Kind | None, *names: str, nonce: str = "", version: str = "", url: str = "") -> None:
        request = discovery_pb2.DiscoveryRequest(
            type_url=kind.type_url if kind else url, resource_names=names, response_nonce=nonce, version_info=version
        )
        if self._first:
            request.node.id = self.node
            self._first = False
        await self.call.write(request.SerializeToString())

    async def read(self) -> Any:
        async with asyncio.timeout(30):
            data = await self.call.read()
        assert isinstance(data, bytes), "the stream ended"
        return discovery_pb2.DiscoveryResponse.FromString(data)

    async def end(self) -> grpc.StatusCode:
        """Wait until the server ends the stream; return how."""
        async with asyncio.timeout(30):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while isinstance(await self.call.read(), bytes):
                    pass
            code: grpc.StatusCode = await self.call.code()
            return code


@contextlib.asynccontextmanager
async def connected(plane: Plane) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.server.port}", options=OPTIONS) as channel:
        yield channel


def with_routes(revision: int) -> Any:
    return record(make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], revision)}))


@pytest.fixture(params=list(XdsTransport))
async def plane(request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    async with running_plane(transport=request.param) as running:
        running.cache.publish(with_routes(1))
        yield running


@pytest.mark.xds_row("streams-per-connection")
async def test_two_hundred_streams_share_one_connection(plane: Plane) -> None:
    async with connected(plane) as channel:
        clients = [GrpcClient(channel, f"n{number}") for number in range(200)]
        for client in clients:
            await client.send(Kind.RDS, "r")
        versions = {(await client.read()).version_info for client in clients}
        assert len(versions) == 1
        assert plane.server.stream_count == 200
        assert plane.metric("hueshift_xds_streams", variant="sotw") == 200
        for client in clients:
            client.call.cancel()
        await wait_until(lambda: plane.server.stream_count == 0, "all streams end")
    await wait_until(
        lambda: all(row.disconnected_at for row in plane.rows.nodes.values()) and len(plane.rows.nodes) == 200,
        "rows of nodes that left",
    )


@pytest.mark.xds_row("stream-end")
async def test_a_thousand_streams_that_come_and_go_leave_nothing_behind(plane: Plane) -> None:
    for _ in range(20):
        async with connected(plane) as channel:
            for number in range(50):
                client = GrpcClient(channel, f"n{number % 3}")
                await client.send(Kind.RDS, "r")
                await client.read()
                if number == 49:
                    break  # the connection closes under it
                if number % 2:
                    await client.call.done_writing()
                    assert await client.end() is grpc.StatusCode.OK
                else:
                    client.call.cancel()
    await wait_until(lambda: plane.server.stream_count == 0, "all streams end")
    assert plane.cache._place == {}
    assert all(not group.listeners for group in plane.cache._groups.values())
    assert plane.fleet._links == {}
    assert plane.metric("hueshift_xds_streams", variant="sotw") == 0
    assert plane.metric("hueshift_xds_streams_closed_total", reason="client") == 1_000


@pytest.mark.xds_row("keepalive")
async def test_every_ping_is_answered_and_none_is_too_many(plane: Plane) -> None:
    """Over plain HTTP/2: a gRPC server says GOAWAY to pings that come faster than it was told to bear."""
    ping = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0))
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.server.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    for number in range(100):
        writer.write(ping + number.to_bytes(8))
    answered: set[int] = set()
    async with asyncio.timeout(30):
        while len(answered) < 100:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3]))
            assert head[3] != 7, f"GOAWAY: {payload!r}"
            if head[3] == 6 and head[4] & 1:
                answered.add(int.from_bytes(payload))
    writer.close()


@pytest.mark.parametrize("transport", list(XdsTransport))
async def test_who_connects_to_mutual_tls_and_says_nothing_harms_nobody(
    transport: XdsTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xds_server, "STALL_CHECK", xds_server.DUE_CHECK)
    servers, clients = Authority(), Authority()
    files = ChannelFiles(*servers.issue("xds.test").write(tmp_path, "xds"), clients.write(tmp_path))
    own = clients.issue("n")
    async with running_plane(files=files, transport=transport) as plane:
        plane.cache.publish(with_routes(1))
        silent = [await asyncio.open_connection("127.0.0.1", plane.server.port) for _ in range(3)]
        credentials = grpc.ssl_channel_credentials(servers.certificate, own.key, own.certificate)
        options = [*OPTIONS, ("grpc.ssl_target_name_override", "xds.test")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{plane.server.port}", credentials, options=options) as channel:
            client = GrpcClient(channel, "n")
            await client.send(Kind.RDS, "r")
            first = await client.read()
            if transport is XdsTransport.LEAN:
                assert await silent[0][0].read() == b"", "it is given up"
            await client.send(Kind.RDS, "r", nonce=first.nonce, version=first.version_info)
            plane.cache.publish(with_routes(2))
            assert (await client.read()).version_info == with_routes(2).versions["rds"]
            late = await asyncio.open_connection("127.0.0.1", plane.server.port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(plane.server.stop())
                assert await client.end() is grpc.StatusCode.UNAVAILABLE
            for _, writer in (*silent, late):
                writer.close()
    assert plane.metric("hueshift_xds_streams_closed_total", reason="bug") == 0


async def test_a_client_that_has_said_all_still_gets_what_is_under_way(plane: Plane) -> None:
    async with connected(plane) as channel:
        client = GrpcClient(channel, "n")
        await client.send(Kind.RDS, "r")
        await client.call.done_writing()
        assert await client.end() is grpc.StatusCode.OK


@pytest.mark.xds_row("message-size")
async def test_five_megabytes_arrive(plane: Plane) -> None:
    many = {"r": ([f"{number:04}-{'x' * 200}" for number in range(25_000)], 1)}
    clusters = dict.fromkeys(many["r"][0], 1) | {"a": 1}
    plane.cache.publish(record(make_snapshot(cds=clusters, lds={"l": ("r", 1)}, rds=many)))
    async with connected(plane) as channel:
        client = GrpcClient(channel, "n")
        await client.send(Kind.RDS, "r")
        response = await client.read()
        assert response.ByteSize() > 5 * 1024 * 1024


@pytest.mark.xds_row("slow-client")
async def test_clients_that_do_not_read_delay_nobody(plane: Plane) -> None:
    async with connected(plane) as channel, connected(plane) as slow_channel:
        fast = [GrpcClient(channel, f"fast{number}") for number in range(10)]
        slow = [GrpcClient(slow_channel, f"slow{number}") for number in range(10)]
        for client in (*fast, *slow):
            await client.send(Kind.RDS, "r")
        for client in fast:
            first = await client.read()
            await client.send(Kind.RDS, "r", nonce=first.nonce, version=first.version_info)
        for revision in range(2, 52):
            plane.cache.publish(with_routes(revision))
            for client in fast:
                response = await client.read()
                await client.send(Kind.RDS, "r", nonce=response.nonce, version=response.version_info)
        for client in slow:
            first = await client.read()
            await client.send(Kind.RDS, "r", nonce=first.nonce, version=first.version_info)
            last = await client.read()
            assert last.version_info == with_routes(51).versions["rds"]
        pushes = plane.metric("hueshift_xds_pushes_total", type="rds")
        assert pushes == 10 * 51 + 10 * 2


@pytest.mark.xds_row("slow-client")
async def test_a_client_that_does_not_answer_is_dropped_and_counted(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xds_streams, "STALL_LIMIT", dt.timedelta(0))
    async with connected(plane) as channel:
        client = GrpcClient(channel, "n")
        await client.send(Kind.RDS, "r")
        await client.read()
        plane.server.streams.drop_stalled()
        assert await client.end() is grpc.StatusCode.UNAVAILABLE
    await wait_until(lambda: plane.server.stream_count == 0, "the stream ends")
    assert plane.metric("hueshift_xds_streams_closed_total", reason="stalled") == 1


async def test_a_client_that_does_not_read_is_dropped_in_mid_write(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ([f"{number:04}-{'x' * 200}" for number in range(25_000)], 1)
    clusters = dict.fromkeys(many[0], 1)
    plane.cache.publish(record(make_snapshot(cds=clusters, lds={"l": ("r", 1)}, rds={"r": many})))
    async with connected(plane) as channel:
        client = GrpcClient(channel, "n")
        await client.send(Kind.RDS, "r")
        stream = None

        def is_writing() -> bool:
            nonlocal stream
            stream = next(iter(plane.server.streams._open), None)
            return stream is not None and stream.writing_since is not None

        await wait_until(is_writing, "the server is in a write")
        monkeypatch.setattr(xds_streams, "STALL_LIMIT", dt.timedelta(0))
        plane.server.streams.drop_stalled()
        await wait_until(lambda: plane.server.stream_count == 0, "the stream ends")
    assert plane.metric("hueshift_xds_streams_closed_total", reason="stalled") == 1


async def test_what_breaks_the_protocol_ends_one_stream_with_words(plane: Plane) -> None:
    async with connected(plane) as channel:
        for case in ("no type", "no node", "no message"):
            client = GrpcClient(channel, "" if case == "no node" else "n")
            if case == "no message":
                await client.call.write(b"\xff\xff\xff")
            else:
                await client.send(None if case == "no type" else Kind.CDS)
            assert await client.end() is grpc.StatusCode.INVALID_ARGUMENT
            assert await client.call.details()
        bystander = GrpcClient(channel, "bystander")
        await bystander.send(Kind.RDS, "r")
        await bystander.read()
    assert plane.metric("hueshift_xds_streams_closed_total", reason="protocol") == 3
    assert plane.metric("hueshift_xds_streams_closed_total", reason="bug") == 0


@pytest.mark.xds_row("unknown-type")
async def test_an_unknown_type_is_logged_once_and_ignored(plane: Plane, capsys: pytest.CaptureFixture[str]) -> None:
    async with connected(plane) as channel:
        for node in ("a", "b"):
            client = GrpcClient(channel, node)
            await client.send(None, url=RUNTIME_TYPE)
            await client.send(Kind.RDS, "r")
            await client.read()
    assert capsys.readouterr().out.count("type.unknown") == 1


@pytest.mark.xds_row("shutdown")
async def test_a_stop_ends_streams_so_that_clients_look_elsewhere(plane: Plane) -> None:
    async with connected(plane) as channel:
        client = GrpcClient(channel, "n")
        await client.send(Kind.RDS, "r")
        await client.read()
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(plane.server.stop())
            assert await client.end() is grpc.StatusCode.UNAVAILABLE
        assert stopping.done()
    assert plane.metric("hueshift_xds_streams_closed_total", reason="stopping") == 1


@pytest.mark.xds_row("reconnect-storm")
async def test_a_thousand_streams_return_at_once(plane: Plane) -> None:
    async with connected(plane) as first, connected(plane) as second, connected(plane) as third:
        channels = (first, second, third)

        async def one(number: int) -> str:
            client = GrpcClient(channels[number % 3], f"n{number}")
            await client.send(Kind.RDS, "r")
            response = await client.read()
            client.call.cancel()
            return str(response.version_info)

        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(one(number)) for number in range(1000)]
        assert {answer.result() for answer in answers} == {with_routes(1).versions["rds"]}
    await wait_until(lambda: plane.server.stream_count == 0, "all streams end")
    assert plane.metric("hueshift_xds_streams_closed_total", reason="bug") == 0
