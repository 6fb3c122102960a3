"""The gRPC end of Envoy's metrics sink; it only moves bytes.

An Envoy keeps one stream open and sends a message per flush; the first names the Envoy. The service's messages are our
own cut of Envoy's (protos/envoy_metrics.proto), so the method is registered by its path.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from controlplane.errors import UnavailableError
from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.telemetry.fleet import Line
from controlplane.telemetry.ingest import MAX_NODE_ID_CHARS, TelemetryIngest

log = structlog.get_logger()

DEFAULT_PORT: Final = 18001
SETTING: Final = "HUESHIFT_TELEMETRY_PORT"

_SERVICE: Final = "envoy.service.metrics.v3.MetricsService"

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else a second server on the port starts, and each hears half of the Envoys
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),  # a flush grows with the clusters: 3.4 kB for five
    ("grpc.keepalive_time_ms", 10_000),  # a vanished Envoy's stream ends, and what it had in flight is forgotten
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # the one that counts for a peer that hangs; a minute by default
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # below Envoy's keepalive, else GOAWAY "too many pings"
    ("grpc.http2.max_ping_strikes", 0),
)


class TelemetryServer:
    """Serves the metrics service on one port."""

    def __init__(
        self,
        *,
        ingest: TelemetryIngest,
        address: str = "0.0.0.0",
        port: int = DEFAULT_PORT,
        setting: str = SETTING,
        grace: dt.timedelta = dt.timedelta(0),
    ) -> None:
        """Make a server that does not listen yet; port 0 lets the system choose one.

        *setting* is what an engineer changes when the port is taken; *grace* is how long streams may go on when it
        stops.
        """
        self._ingest = ingest
        self._address = address
        self._wanted_port = port
        self._setting = setting
        self._grace = grace
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen; `port` then tells where.

        Raises:
            UnavailableError: The address cannot be bound.
        """
        server = grpc.aio.server(options=_OPTIONS)
        method = grpc.stream_unary_rpc_method_handler(
            self._stream_metrics,
            request_deserializer=pb.StreamMetricsMessage.FromString,
            response_serializer=pb.StreamMetricsResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"StreamMetrics": method}),))
        try:
            self.port = server.add_insecure_port(_target(self._address, self._wanted_port))
        except RuntimeError as exc:
            raise UnavailableError(
                f"{self._setting}: cannot listen for telemetry on {self._address}:{self._wanted_port}; "
                "stop what uses the port, or set another"
            ) from exc
        await server.start()
        self._server = server
        log.info("telemetry.listening", address=self._address, port=self.port)

    async def stop(self) -> None:
        """End all streams and close the port; Envoys count on, and tell when a server is back."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(self._grace.total_seconds())

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._server is None:
            await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self.stop()

    async def _stream_metrics(
        self, messages: AsyncIterator[pb.StreamMetricsMessage], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.StreamMetricsResponse:
        line: Line | None = None
        try:
            async for message in messages:
                if line is None:
                    node = message.identifier.node.id
                    if not node or len(node) > MAX_NODE_ID_CHARS:
                        await context.abort(
                            grpc.StatusCode.INVALID_ARGUMENT,
                            f"node.id: needs 1 to {MAX_NODE_ID_CHARS} characters; set it in Envoy's bootstrap",
                        )
                    line = self._ingest.open(node)
                    log.info("telemetry.stream_opened", node=node, peer=context.peer())
                self._ingest.take(line, message)
        finally:
            if line is not None:
                self._ingest.close(line)
                log.info("telemetry.stream_ended", node=line.node)
        return pb.StreamMetricsResponse()


def _target(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
