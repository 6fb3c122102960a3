"""The gRPC port beside ADS: clients that know nothing learn what it serves, and whether it can be used."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack
from controlplane.rpc.server import RpcServer
from controlplane.telemetry.service import SERVICE, describe_service
from tests.envoy import wait_until

pytestmark = pytest.mark.integration

ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"
STATUS = health_pb2.HealthCheckResponse
V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Switch:
    """Something that becomes usable."""

    on = False

    def __call__(self) -> bool:
        return self.on


@contextlib.asynccontextmanager
async def running_server(ready: Switch) -> AsyncIterator[RpcServer]:
    server = RpcServer(
        services={SERVICE: {}},
        conditions={"": ready, ADS: ready},
        files=describe_service(),
        clock=SystemClock(),
        port=0,
    )
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.run())
        try:
            yield server
        finally:
            serving.cancel()


async def check(channel: grpc.aio.Channel, service: str) -> int:
    found: int = (
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    ).status
    return found


async def test_health_is_what_is_true_when_it_is_asked_for() -> None:
    ready = Switch()
    async with running_server(ready) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert await check(channel, "") == await check(channel, ADS) == STATUS.NOT_SERVING
        assert await check(channel, SERVICE) == STATUS.SERVING
        ready.on = True
        assert await check(channel, "") == await check(channel, ADS) == STATUS.SERVING
        everything = await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
        assert {name: found.status for name, found in everything.statuses.items()} == dict.fromkeys(
            ("", ADS, SERVICE), STATUS.SERVING
        )
        ready.on = False
        assert await check(channel, "") == STATUS.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await check(channel, "nobody.Service")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_the_health_hears_of_its_changes_and_of_the_end() -> None:
    ready = Switch()
    async with asyncio.TaskGroup() as tasks, contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(ready))
        heard: list[int] = []

        async def watch() -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=ADS)):
                        heard.append(answer.status)  # noqa: PERF401 - one after the other is what is looked at

        watching = tasks.create_task(watch())
        await wait_until(lambda: heard == [STATUS.NOT_SERVING], "a first word")
        ready.on = True
        await wait_until(lambda: heard == [STATUS.NOT_SERVING, STATUS.SERVING], "the change")
        await stack.aclose()
        await watching
        assert heard == [STATUS.NOT_SERVING, STATUS.SERVING, STATUS.NOT_SERVING]


async def test_the_whole_control_plane_is_healthy_once_it_serves_a_snapshot(tmp_path: pathlib.Path) -> None:
    listener, worker = free_ports(2)
    async with (
        Stack(directory=tmp_path, clock=SystemClock(), envoys=0) as stack,
        grpc.aio.insecure_channel(f"127.0.0.1:{stack.ports.telemetry}") as channel,
    ):
        assert await check(channel, "") == await check(channel, ADS) == STATUS.NOT_SERVING
        assert await check(channel, SERVICE) == STATUS.SERVING
        await stack.api.apply(service_document("shop", port=listener, endpoints={"v1": worker, "v2": worker}))

        async def is_healthy() -> bool:
            return [await check(channel, name) for name in ("", ADS)] == [STATUS.SERVING] * 2

        await wait_until(is_healthy, "the health of what serves a snapshot")


# -- reflection --------------------------------------------------------------------------------------------------------


async def test_reflection_lists_the_services_and_describes_their_messages() -> None:
    def learn(port: int) -> tuple[set[str], list[str]]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = set(database.get_services())
            pool = DescriptorPool(database)
            methods = [method for service in services for method in pool.FindServiceByName(service).methods]
            return services, sorted(method.name for method in methods)

    async with running_server(Switch()) as server:
        services, methods = await asyncio.to_thread(learn, server.port)
    assert services == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert methods == ["Check", "List", "ServerReflectionInfo", "StreamMetrics", "Watch"]


async def test_reflection_answers_newer_clients_under_its_newer_name() -> None:
    def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="nobody.Service")

    async with running_server(Switch()) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.stream_stream(
            V1,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        listed, unknown = [answer async for answer in ask(questions())]
    assert SERVICE in {service.name for service in listed.list_services_response.service}
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
