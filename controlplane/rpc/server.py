"""Owns the gRPC server of one port. What it serves are values: names of services, and a handler for each method.

So the packages that bring services (Envoy's metrics, the status of clients) need not know of each other, nor of this.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pb2

from controlplane.clock import Clock
from controlplane.errors import UnavailableError
from controlplane.rpc import health, reflection
from controlplane.rpc.health import Conditions, Health
from controlplane.tls.channel import ChannelTls

log = structlog.get_logger()

DEFAULT_PORT: Final = 18001
SETTING: Final = "HUESHIFT_TELEMETRY_PORT"

HEALTH_EVERY: Final = dt.timedelta(seconds=0.5)
"""How late those who watch the health hear of a change. Whoever asks gets what is true now."""

GRACE: Final = dt.timedelta(seconds=0.25)
"""How long streams may go on when the server stops: those who watch the health hear of it; none of them ends itself."""

Services: TypeAlias = Mapping[str, Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]]
"""Handlers by the name of their method, by the full name of their service."""

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else a second server on the port starts, and each hears half of the Envoys
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),  # a flush grows with the clusters: 3.4 kB for five
    ("grpc.max_send_message_length", -1),  # the status of a fleet cannot be split
    ("grpc.keepalive_time_ms", 10_000),  # a vanished Envoy's stream ends, and what it had in flight is forgotten
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the one that counts for a peer that hangs; a minute by default
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # below Envoy's keepalive, else GOAWAY "too many pings"
    ("grpc.http2.max_ping_strikes", 0),
)


class RpcServer:
    """Serves gRPC services on one port, and with them health and reflection.

    Args:
        services: What it serves.
        clock: For the pause between looks at the health.
        conditions: What the health service answers beside these services: names, and whether each can be used.
        files: See `reflection_handlers`.
        address: The address to bind.
        port: The port to bind; 0 lets the kernel choose, see `port` after `start`.
        setting: What an engineer changes when the port is taken.
        tls: Mutual TLS; without it all is plaintext, and whoever reaches the port may call everything.
    """

    def __init__(
        self,
        *,
        services: Services,
        clock: Clock,
        conditions: Conditions | None = None,
        files: Iterable[descriptor_pb2.FileDescriptorProto] = (),
        address: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        setting: str = SETTING,
        tls: ChannelTls | None = None,
    ) -> None:
        """Make a server that does not listen yet."""
        self._health = Health({**dict.fromkeys(services, _always), **(conditions or {})})
        named = {**services, health.SERVICE: self._health.handlers}
        self._services = {**named, **dict.fromkeys(reflection.SERVICES, reflection.reflection_handlers(named, files))}
        self._clock = clock
        self._address = address
        self._wanted_port = port
        self._setting = setting
        self._tls = tls
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen; `port` then tells where.

        Raises:
            UnavailableError: The address cannot be bound.
        """
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, dict(methods)) for name, methods in self._services.items())
        )
        try:
            target = _target(self._address, self._wanted_port)
            if self._tls is None:
                self.port = server.add_insecure_port(target)
            else:
                self.port = server.add_secure_port(target, self._tls.credentials())
        except RuntimeError as exc:
            raise UnavailableError(
                f"{self._setting}: cannot listen for gRPC on {self._address}:{self._wanted_port}; "
                "stop what uses the port, or set another"
            ) from exc
        await self._health.refresh()
        await server.start()
        self._server = server
        log.info("rpc.listening", address=self._address, port=self.port, mtls=self._tls is not None)

    async def stop(self) -> None:
        """Say so to those who watch the health, end all streams and close the port; Envoys count on meanwhile."""
        if self._server is not None:
            server, self._server = self._server, None
            await self._health.stop()
            await server.stop(GRACE.total_seconds())

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._server is None:
            await self.start()
        try:
            while True:
                await self._clock.sleep(HEALTH_EVERY)
                await self._health.refresh()
        finally:
            await self.stop()


def _always() -> bool:
    return True


def _target(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
