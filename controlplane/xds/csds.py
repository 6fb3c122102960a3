"""Envoy's client status discovery service: what each client of the fleet runs, for any tool that speaks it.

The answer is made of rows, so every replica gives it for all clients, and not of what this process happens to hold.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.status.v3 import csds_pb2
from google.protobuf.any_pb2 import Any as PackedAny

from controlplane.controller.inspection import HeldResource, Inspector, NodeConfig, Sync, TypeConfig
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.ports import ConfigResource
from controlplane.xds.kinds import Kind
from controlplane.xds.matchers import read_matchers

SERVICE: Final = "envoy.service.status.v3.ClientStatusDiscoveryService"

_CONFIG_STATUS: Final = {
    Sync.SYNCED: csds_pb2.SYNCED,
    Sync.STALE: csds_pb2.STALE,
    Sync.NACKED: csds_pb2.ERROR,
    Sync.NOT_SENT: csds_pb2.NOT_SENT,
}
_KINDS: Final = {kind.value: kind for kind in Kind}


class StatusService:
    """Answers for every client that has a row. One that is not connected has the config status UNKNOWN.

    Resources with private content are named, with their versions, and never shown.
    """

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    @property
    def handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """The methods of the service, by name."""
        reads, writes = csds_pb2.ClientStatusRequest.FromString, csds_pb2.ClientStatusResponse.SerializeToString
        return {
            "StreamClientStatus": grpc.stream_stream_rpc_method_handler(
                self._stream, request_deserializer=reads, response_serializer=writes
            ),
            "FetchClientStatus": grpc.unary_unary_rpc_method_handler(
                self._fetch, request_deserializer=reads, response_serializer=writes
            ),
        }

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self._fetch(request, context)

    async def _fetch(self, request: Any, context: Any) -> Any:
        try:
            return await self._answer(request)
        except InvalidInputError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        except UnavailableError as exc:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(exc))

    async def _answer(self, request: Any) -> Any:
        matches = read_matchers(request.node_matchers)
        nodes = [node for node in await self._inspector.store.load_nodes() if matches(node.node)]
        response = csds_pb2.ClientStatusResponse()
        for config in await self._inspector.inspect(nodes):
            response.config.append(client_config(config, contents=not request.exclude_resource_contents))
        return response


def client_config(config: NodeConfig, *, contents: bool) -> Any:
    """Return the message about one client; without *contents*, resources are named only."""
    node = config.node
    program, _, release = node.user_agent.partition(" ")
    found = csds_pb2.ClientConfig(
        node=base_pb2.Node(id=node.node, cluster=node.cluster, user_agent_name=program, user_agent_version=release)
    )
    for each in config.types:
        if each.kind in _KINDS:
            found.generic_xds_configs.extend(_resources(config, each, contents=contents))
    return found


def _resources(config: NodeConfig, each: TypeConfig, *, contents: bool) -> Iterator[Any]:
    type_url = _KINDS[each.kind].type_url
    connected = config.node.disconnected_at is None
    if each.lost:
        # What the version stands for is not known any more: say which one it is.
        lost = csds_pb2.ClientConfig.GenericXdsConfig(
            type_url=type_url, version_info=each.status.acked, client_status=config_dump_shared_pb2.ACKED
        )
        lost.config_status = _CONFIG_STATUS[each.sync] if connected else csds_pb2.UNKNOWN
        _stamp(lost.last_updated, each.status.acked_at)
        yield lost
    for held in each.resources:
        found = csds_pb2.ClientConfig.GenericXdsConfig(type_url=type_url, name=held.name)
        found.config_status = _CONFIG_STATUS[held.sync] if connected else csds_pb2.UNKNOWN
        found.client_status = _client_status(held)
        if held.runs is not None:
            status = each.status
            found.version_info = _version(config, status.nacked if held.taken else status.acked, held.runs)
            _stamp(found.last_updated, status.nacked_at if held.taken else status.acked_at)
            if contents and held.runs.packed is not None:
                found.xds_config.MergeFromString(held.runs.packed)
        if held.refused is not None:
            found.error_state.details = each.status.words
            found.error_state.version_info = _version(config, each.status.nacked, held.refused)
            _stamp(found.error_state.last_update_attempt, each.status.nacked_at)
            if contents and held.refused.packed is not None:
                found.error_state.failed_configuration.CopyFrom(PackedAny.FromString(held.refused.packed))
        yield found


def _client_status(held: HeldResource) -> int:
    if held.refused is not None:
        return int(config_dump_shared_pb2.NACKED)
    return int(config_dump_shared_pb2.REQUESTED if held.runs is None else config_dump_shared_pb2.ACKED)


def _version(config: NodeConfig, of_type: str, resource: ConfigResource) -> str:
    """Return a resource's version as the client was told it: in the state-of-the-world variant it is the response's."""
    return of_type if config.node.variant.startswith("sotw") else resource.version


def _stamp(field: Any, moment: Any) -> None:
    if moment is not None:
        field.FromDatetime(moment)
