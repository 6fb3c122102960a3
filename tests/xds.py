"""Both ends of an xDS stream without a network: small snapshots, and clients that talk to a session."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.ports import SnapshotRecord, SnapshotStatus
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.channel import Nacked, Outgoing, Reaction
from controlplane.xds.delta import DeltaSession
from controlplane.xds.kinds import Kind, find_kind
from controlplane.xds.responses import Served
from controlplane.xds.session import GROUP_KEY, Session
from controlplane.xds.snapshot import Resource, Snapshot
from controlplane.xds.sotw import SotwSession
from controlplane.xds.translate import pack
from tests.builders import NOW
from tests.fakes import ManualClock

RUNTIME_TYPE = "type.googleapis.com/envoy.service.runtime.v3.Runtime"


# -- snapshots ---------------------------------------------------------------------------------------------------------


def make_snapshot(
    *,
    cds: Mapping[str, int] | None = None,
    eds: Mapping[str, int] | None = None,
    lds: Mapping[str, tuple[str, int]] | None = None,
    rds: Mapping[str, tuple[Sequence[str], int]] | None = None,
    api: Mapping[str, tuple[str, int]] | None = None,
    tls: Mapping[str, str] | None = None,
) -> Snapshot:
    """Return a snapshot; a number is the resource's revision, a name what it refers to.

    Clusters have endpoints of their own revision 1 unless *eds* says otherwise; *api* are listeners for gRPC clients;
    *tls* has secrets that listeners refer to.
    """
    clusters = cds or {}
    endpoints = dict.fromkeys(clusters, 1) | dict(eds or {})
    pieces: list[tuple[Kind, str, Any]] = []
    for name, revision in clusters.items():
        cluster = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
        cluster.connect_timeout.seconds = revision
        pieces.append((Kind.CDS, name, cluster))
    for name, revision in endpoints.items():
        assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
        assignment.policy.overprovisioning_factor.value = 100 + revision
        pieces.append((Kind.EDS, name, assignment))
    for port, (name, (routes, revision)) in enumerate((lds or {}).items(), start=10_000):
        manager = hcm_pb2.HttpConnectionManager(stat_prefix=f"r{revision}", rds=hcm_pb2.Rds(route_config_name=routes))
        chain = listener_components_pb2.FilterChain(
            filters=[listener_components_pb2.Filter(name="hcm", typed_config=pack(manager))]
        )
        if tls and name in tls:
            context = tls_pb2.DownstreamTlsContext()
            context.common_tls_context.tls_certificate_sds_secret_configs.add(name=tls[name])
            chain.transport_socket.typed_config.CopyFrom(pack(context))
        listener = listener_pb2.Listener(name=name, filter_chains=[chain])
        listener.address.socket_address.address = "127.0.0.1"
        listener.address.socket_address.port_value = port
        pieces.append((Kind.LDS, name, listener))
    for name, (routes, revision) in (api or {}).items():
        manager = hcm_pb2.HttpConnectionManager(stat_prefix=f"r{revision}", rds=hcm_pb2.Rds(route_config_name=routes))
        listener = listener_pb2.Listener(name=name)
        listener.api_listener.api_listener.CopyFrom(pack(manager))
        pieces.append((Kind.LDS, name, listener))
    for name, (targets, revision) in (rds or {}).items():
        host = route_components_pb2.VirtualHost(name="h", domains=["*"])
        for target in targets:
            host.routes.add(name=f"r{revision}").route.cluster = target
        routes = route_pb2.RouteConfiguration(name=name, virtual_hosts=[host], validate_clusters={"value": True})
        pieces.append((Kind.RDS, name, routes))
    return Snapshot.of(pieces)


def make_secret(name: str, revision: int) -> Resource:
    """Return a secret of that name; the certificate is none."""
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_string = f"revision {revision}"
    return Resource.of(name, pack(secret), by_name=True)


def record(snapshot: Snapshot, *, group: str = "", status: SnapshotStatus = SnapshotStatus.PROPOSED) -> SnapshotRecord:
    """Return *snapshot* as the projector hands it over."""
    return SnapshotRecord(
        version=snapshot.version,
        versions={kind.value: version for kind, version in snapshot.versions.items()},
        revisions={},
        content=snapshot.to_bytes(),
        status=status,
        words="",
        at=NOW,
        group=group,
    )


def make_cache(clock: ManualClock | None = None) -> SnapshotCache:
    """Return a cache that serves nothing yet."""
    return SnapshotCache(clock=clock or ManualClock(), identifier="here")


# -- clients -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Got:
    """A response as a client sees it: *names* maps to the resources' own versions."""

    kind: Kind
    version: str
    nonce: str
    names: tuple[str, ...]
    removed: tuple[str, ...]
    versions: Mapping[str, str]
    size: int
    data: bytes


class Client:
    """A client of a session, hand-driven: nothing is acknowledged unless the test says so."""

    def __init__(
        self, session: Session[Any], cache: SnapshotCache, *, node: str, agent: str = "", group: str = ""
    ) -> None:
        self.session = session
        self.clock = ManualClock()
        self._cache = cache
        self._node = base_pb2.Node(id=node, user_agent_name=agent)
        if group:
            self._node.metadata[GROUP_KEY] = group
        self._said_node = False
        self.last: dict[Kind, Got] = {}
        self.reaction: Reaction | None = None

    @property
    def settled(self) -> bool:
        return self.session.settled

    def offer(self, served: Served) -> None:
        self.session.update(served)

    def leave(self) -> None:
        self._cache.unregister(self)

    def take(self) -> list[Got]:
        """Read everything that is due."""
        found = []
        while (outgoing := self.session.take(now=self.clock.steady())) is not None:
            got = self._decode(outgoing)
            self.last[got.kind] = got
            found.append(got)
        return found

    def ack_all(self, limit: int = 50) -> list[Got]:
        """Read and acknowledge until nothing is due."""
        found: list[Got] = []
        for _ in range(limit):
            got = self.take()
            if not got:
                return found
            for one in got:
                self.ack(one)
            found += got
        raise AssertionError("it never ends")

    def ack(self, got: Got) -> None:
        raise NotImplementedError

    def _decode(self, outgoing: Outgoing) -> Got:
        raise NotImplementedError

    def _send(self, request: Any) -> Reaction:
        first = not self._said_node
        if first:
            request.node.CopyFrom(self._node)
            self._said_node = True
        data = request.SerializeToString()
        self.reaction = self.session.receive(type(request).FromString(data), now=self.clock.steady())
        if first and self.session.node is not None:
            self._cache.register(self, self.session.node)
        if isinstance(self.reaction, Nacked):
            self._cache.refused(self, self.reaction)
        return self.reaction


class SotwClient(Client):
    """Speaks the state-of-the-world variant."""

    def __init__(
        self,
        cache: SnapshotCache,
        *,
        node: str = "n1",
        agent: str = "",
        group: str = "",
        session: SotwSession | None = None,
    ) -> None:
        super().__init__(session or SotwSession(), cache, node=node, agent=agent, group=group)
        self.names: dict[Kind, list[str]] = {}
        self.answered: dict[Kind, str] = {}

    def ask(self, kind: Kind, *names: str, version: str = "", nonce: str | None = None) -> list[Got]:
        """Subscribe to exactly these names, under the last nonce that was answered, and read what is due."""
        self.names[kind] = list(names)
        if nonce is None:
            nonce = self.answered.get(kind, "")
        self._send(
            discovery_pb2.DiscoveryRequest(
                type_url=kind.type_url, resource_names=names, version_info=version, response_nonce=nonce
            )
        )
        return self.take()

    def ack(self, got: Got) -> None:
        self._answer(got, got.version)

    def nack(self, got: Got, words: str = "bad") -> None:
        self._answer(got, "", words)

    def _answer(self, got: Got, version: str, words: str | None = None) -> None:
        self.answered[got.kind] = got.nonce
        request = discovery_pb2.DiscoveryRequest(
            type_url=got.kind.type_url,
            resource_names=self.names.get(got.kind, ()),
            version_info=version,
            response_nonce=got.nonce,
        )
        if words is not None:
            request.error_detail.code = 13
            request.error_detail.message = words
        self._send(request)

    def raw(self, type_url: str) -> Reaction:
        return self._send(discovery_pb2.DiscoveryRequest(type_url=type_url))

    def _decode(self, outgoing: Outgoing) -> Got:
        response = discovery_pb2.DiscoveryResponse.FromString(outgoing.data)
        kind = find_kind(response.type_url)
        assert kind is outgoing.kind
        assert response.control_plane.identifier == "here"
        packed = {_name(kind, resource): _version(resource) for resource in response.resources}
        assert len(packed) == len(response.resources), "a name came twice"
        return Got(
            kind=kind,
            version=response.version_info,
            nonce=response.nonce,
            names=tuple(packed),
            removed=(),
            versions=packed,
            size=len(outgoing.data),
            data=outgoing.data,
        )


class DeltaClient(Client):
    """Speaks the incremental variant."""

    def __init__(
        self,
        cache: SnapshotCache,
        *,
        node: str = "n1",
        agent: str = "",
        group: str = "",
        session: DeltaSession | None = None,
    ) -> None:
        super().__init__(session or DeltaSession(), cache, node=node, agent=agent, group=group)

    def ask(
        self,
        kind: Kind,
        *names: str,
        drop: Sequence[str] = (),
        has: Mapping[str, str] | None = None,
        nonce: str = "",
    ) -> list[Got]:
        """Subscribe and unsubscribe, and read what is due."""
        self._send(
            discovery_pb2.DeltaDiscoveryRequest(
                type_url=kind.type_url,
                resource_names_subscribe=names,
                resource_names_unsubscribe=drop,
                initial_resource_versions=has or {},
                response_nonce=nonce,
            )
        )
        return self.take()

    def ack(self, got: Got) -> None:
        self._send(discovery_pb2.DeltaDiscoveryRequest(type_url=got.kind.type_url, response_nonce=got.nonce))

    def nack(self, got: Got, words: str = "bad") -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=got.kind.type_url, response_nonce=got.nonce)
        request.error_detail.code = 13
        request.error_detail.message = words
        self._send(request)

    def raw(self, type_url: str) -> Reaction:
        return self._send(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url))

    def _decode(self, outgoing: Outgoing) -> Got:
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(outgoing.data)
        kind = find_kind(response.type_url)
        assert kind is outgoing.kind
        assert response.control_plane.identifier == "here"
        versions = {resource.name: resource.version for resource in response.resources}
        assert len(versions) == len(response.resources), "a name came twice"
        assert not versions.keys() & set(response.removed_resources), "sent and removed at once"
        return Got(
            kind=kind,
            version=response.system_version_info,
            nonce=response.nonce,
            names=tuple(versions),
            removed=tuple(response.removed_resources),
            versions=versions,
            size=len(outgoing.data),
            data=outgoing.data,
        )


_MESSAGES = {
    Kind.CDS: cluster_pb2.Cluster,
    Kind.LDS: listener_pb2.Listener,
    Kind.RDS: route_pb2.RouteConfiguration,
    Kind.SDS: secret_pb2.Secret,
}


def _name(kind: Kind, packed: Any) -> str:
    if kind is Kind.EDS:
        return str(endpoint_pb2.ClusterLoadAssignment.FromString(packed.value).cluster_name)
    return str(_MESSAGES[kind].FromString(packed.value).name)


def _version(packed: Any) -> str:
    return hashlib.sha256(packed.SerializeToString(deterministic=True)).hexdigest()[:16]


def names_of(got: Sequence[Got]) -> list[tuple[Kind, tuple[str, ...]]]:
    """Return kinds and names, for comparing a whole conversation."""
    return [(one.kind, one.names) for one in got]
