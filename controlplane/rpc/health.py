"""Says whether services can be used (grpc.health.v1), from what is true now and not from what someone set once."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2

SERVICE: Final = "grpc.health.v1.Health"

Conditions: TypeAlias = Mapping[str, Callable[[], bool]]
"""Which services can be asked about ("" is the process), and whether each can be used; must be quick."""

_STATUS = health_pb2.HealthCheckResponse


class Health:
    """The health service. *conditions* are looked at whenever someone asks, and at every `refresh` for who watches."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._servicer = health.aio.HealthServicer()

    @property
    def handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """The methods of the service, by name."""
        reads, writes = health_pb2.HealthCheckRequest.FromString, _STATUS.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._check, request_deserializer=reads, response_serializer=writes
            ),
            "List": grpc.unary_unary_rpc_method_handler(
                self._list,
                request_deserializer=health_pb2.HealthListRequest.FromString,
                response_serializer=health_pb2.HealthListResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._servicer.Watch, request_deserializer=reads, response_serializer=writes
            ),
        }

    async def refresh(self) -> None:
        """Tell whoever watches what has changed."""
        for name, holds in self._conditions.items():
            await self._servicer.set(name, _STATUS.SERVING if holds() else _STATUS.NOT_SERVING)

    async def stop(self) -> None:
        """Say of everything, from now on, that it cannot be used."""
        await self._servicer.enter_graceful_shutdown()

    async def _check(self, request: Any, context: Any) -> Any:
        await self.refresh()
        return await self._servicer.Check(request, context)

    async def _list(self, _request: Any, context: Any) -> Any:
        await self.refresh()
        ask = health_pb2.HealthCheckRequest
        found = {name: await self._servicer.Check(ask(service=name), context) for name in self._conditions}
        return health_pb2.HealthListResponse(statuses=found)
