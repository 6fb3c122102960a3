"""Reads published snapshots for people and for clients of the status service: names, versions, contents as JSON.

Unlike `Snapshot.from_bytes` it checks nothing, and is not put off by what another release has written.
"""

import base64
from collections.abc import Mapping
from typing import Any

# The types that resources contain must be known, or their content could not be written as JSON.
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import DecodeError

from controlplane.errors import InvalidInputError
from controlplane.ports import ConfigResource
from controlplane.xds.kinds import Kind, find_kind
from controlplane.xds.references import is_api_listener, secrets_of

KNOWN = (
    cluster_pb2,
    endpoint_pb2,
    listener_pb2,
    route_pb2,
    grpc_stats_pb2,
    router_pb2,
    http_connection_manager_pb2,
    tls_pb2,
    http_protocol_options_pb2,
)

PRIVATE = f"type.googleapis.com/{secret_pb2.Secret.DESCRIPTOR.full_name}"
"""Private keys are in there: such resources are shown by name and version only."""


class SnapshotReader:
    """The port `ConfigReader` on Envoy's protos."""

    def read(self, content: bytes) -> Mapping[str, Mapping[str, ConfigResource]]:
        """Return the resources of *content*, as `Snapshot.to_bytes` wrote it; without types that this release lacks.

        Raises:
            InvalidInputError: It cannot be read.
        """
        found: dict[str, dict[str, ConfigResource]] = {}
        try:
            rows = discovery_pb2.DeltaDiscoveryResponse.FromString(content).resources
        except DecodeError as exc:
            raise InvalidInputError("snapshot", "is not readable", "publish it anew") from exc
        for row in rows:
            kind = find_kind(row.resource.type_url)
            if kind is not None:
                is_private = row.resource.type_url == PRIVATE
                listener = listener_pb2.Listener.FromString(row.resource.value) if kind is Kind.LDS else None
                found.setdefault(kind.value, {})[row.name] = ConfigResource(
                    name=row.name,
                    version=row.version,
                    packed=None if is_private else row.resource.SerializeToString(deterministic=True),
                    by_name=listener is not None and is_api_listener(listener),
                    secrets=() if listener is None else tuple(secrets_of(listener)),
                )
        return found

    def document(self, resource: ConfigResource) -> Mapping[str, Any]:
        """Return *resource* as JSON, in the words of Envoy's own config_dump; a private one without its content."""
        if resource.packed is None:
            return {"@type": PRIVATE, "name": resource.name, "version": resource.version, "private": True}
        packed = PackedAny.FromString(resource.packed)
        try:
            found: dict[str, Any] = json_format.MessageToDict(packed, preserving_proto_field_name=True)
        except TypeError:  # an extension that another release has put in
            return {"@type": packed.type_url, "value": base64.b64encode(packed.value).decode()}
        return found
