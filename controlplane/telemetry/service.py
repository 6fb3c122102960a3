"""The gRPC end of Envoy's metrics sink; it only moves bytes.

An Envoy keeps one stream open and sends a message per flush; the first names the Envoy. The service's messages are our
own cut of Envoy's (protos/envoy_metrics.proto), so the method is registered, and described, by its path.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pb2

from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.telemetry.fleet import Line
from controlplane.telemetry.ingest import MAX_NODE_ID_CHARS, TelemetryIngest
from controlplane.tls.identity import IdentityError, check_identity, identities_of

log = structlog.get_logger()

SERVICE: Final = "envoy.service.metrics.v3.MetricsService"


class MetricsService:
    """Takes in what Envoys stream. *verified* says that clients showed certificates, which must name their nodes."""

    def __init__(self, ingest: TelemetryIngest, *, verified: bool = False) -> None:
        self._ingest = ingest
        self._verified = verified

    @property
    def handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """The methods of the service, by name."""
        method = grpc.stream_unary_rpc_method_handler(
            self._stream_metrics,
            request_deserializer=pb.StreamMetricsMessage.FromString,
            response_serializer=pb.StreamMetricsResponse.SerializeToString,
        )
        return {"StreamMetrics": method}

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
                    if self._verified:
                        await _check_identity(node, context)
                    line = self._ingest.open(node)
                    log.info("telemetry.stream_opened", node=node, peer=context.peer())
                self._ingest.take(line, message)
        finally:
            if line is not None:
                self._ingest.close(line)
                log.info("telemetry.stream_ended", node=line.node)
        return pb.StreamMetricsResponse()


async def _check_identity(node: str, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
    try:
        check_identity(node, identities_of(context.auth_context()))
    except IdentityError as exc:
        log.warning("telemetry.stream_refused", node=node, words=str(exc))
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(exc))


def describe_service() -> tuple[descriptor_pb2.FileDescriptorProto, ...]:
    """Return what reflection says of the service: nothing generated declares it under Envoy's name."""
    messages = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(messages)
    package, _, name = SERVICE.rpartition(".")
    declared = descriptor_pb2.FileDescriptorProto(
        name="hueshift/envoy_metrics_service.proto", package=package, dependency=[messages.name], syntax="proto3"
    )
    declared.service.add(name=name).method.add(
        name="StreamMetrics",
        input_type=f".{pb.StreamMetricsMessage.DESCRIPTOR.full_name}",
        output_type=f".{pb.StreamMetricsResponse.DESCRIPTOR.full_name}",
        client_streaming=True,
    )
    return (messages, declared)
