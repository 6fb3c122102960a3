"""What a conversation serves: small configurations that change as those of services do, and what leads where."""

import dataclasses
import datetime as dt
import functools
import random
from collections.abc import Mapping
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import any_pb2

from controlplane.ports import SnapshotRecord, SnapshotStatus
from controlplane.xds.kinds import Kind
from controlplane.xds.snapshot import Snapshot
from controlplane.xds.translate import pack

CLUSTERS: Final = ("a", "b", "c", "d", "e")
ROUTES: Final = ("r", "s", "t")
LISTENERS: Final = ("l", "m", "n")

ENDPOINTS: Final[Mapping[str, str]] = {"a": "a", "b": "b", "c": "c", "d": "d-hosts"}
"""The endpoints of each cluster: one names them otherwise than itself, and "e" has none."""

REVISIONS: Final = 3
"""Few, so that content comes back."""

LAST_REVISION: Final = 9
"""One that comes at the end only: content that no client has refused."""

NAMES: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.CDS: CLUSTERS,
    Kind.EDS: tuple(ENDPOINTS.values()),
    Kind.LDS: LISTENERS,
    Kind.RDS: ROUTES,
}

_EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@dataclasses.dataclass(slots=True)
class Config:
    """A configuration: the revision of each resource, and what routes and listeners lead to."""

    clusters: dict[str, int]
    endpoints: dict[str, int]
    routes: dict[str, tuple[tuple[str, ...], int]]
    listeners: dict[str, tuple[str, int]]

    @classmethod
    def drawn(cls, rng: random.Random) -> "Config":
        """Return a first configuration."""
        config = cls({"a": 1}, {}, {"r": (("a",), 1)}, {"l": ("r", 1)})
        for _ in range(rng.randrange(6)):
            config = config.changed(rng)
        return config

    def changed(self, rng: random.Random) -> "Config":
        """Return the configuration after one change, or several at once."""
        after = Config(dict(self.clusters), dict(self.endpoints), dict(self.routes), dict(self.listeners))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            rng.choice(_CHANGES)(after, rng)
        return after

    def renewed(self) -> "Config":
        """Return the configuration with a new revision of everything, some endpoints among it.

        There being none is the same at every revision: who has refused to hear that is not told again.
        """
        clusters = {*self.clusters} if self.clusters.keys() & ENDPOINTS.keys() else {*self.clusters, min(ENDPOINTS)}
        return Config(
            dict.fromkeys(sorted(clusters), LAST_REVISION),
            dict.fromkeys(ENDPOINTS.values(), LAST_REVISION),
            {name: (targets, LAST_REVISION) for name, (targets, _) in self.routes.items()},
            {name: (routes, LAST_REVISION) for name, (routes, _) in self.listeners.items()},
        )

    def key(self) -> tuple[Any, ...]:
        """Return what two equal configurations share."""
        parts = (self.clusters, self.endpoints, self.routes, self.listeners)
        return tuple(tuple(sorted(part.items())) for part in parts)

    def __str__(self) -> str:
        routes = ", ".join(f"{name}{rev}->{'+'.join(to)}" for name, (to, rev) in sorted(self.routes.items()))
        listeners = ", ".join(f"{name}{rev}->{to}" for name, (to, rev) in sorted(self.listeners.items()))
        clusters = ", ".join(f"{name}{revision}" for name, revision in sorted(self.clusters.items()))
        endpoints = ", ".join(f"{name}{revision}" for name, revision in sorted(self.endpoints.items()))
        return f"clusters {clusters}; endpoints {endpoints or '-'}; routes {routes}; listeners {listeners}"


def _one_of(rng: random.Random, names: Mapping[str, Any]) -> str:
    return rng.choice(sorted(names))


def _change_cluster(config: Config, rng: random.Random) -> None:
    config.clusters[_one_of(rng, config.clusters)] = rng.randint(1, REVISIONS)


def _change_endpoints(config: Config, rng: random.Random) -> None:
    config.endpoints[rng.choice(NAMES[Kind.EDS])] = rng.randint(1, REVISIONS)


def _change_routes(config: Config, rng: random.Random) -> None:
    targets = rng.sample(sorted(config.clusters), rng.randint(1, min(2, len(config.clusters))))
    config.routes[_one_of(rng, config.routes)] = (tuple(targets), rng.randint(1, REVISIONS))


def _change_listener(config: Config, rng: random.Random) -> None:
    name = _one_of(rng, config.listeners)
    config.listeners[name] = (config.listeners[name][0], rng.randint(1, REVISIONS))


def _add_cluster(config: Config, rng: random.Random) -> None:
    name = rng.choice(CLUSTERS)
    config.clusters[name] = rng.randint(1, REVISIONS)
    if rng.random() < 0.7:
        config.routes[_one_of(rng, config.routes)] = ((name,), rng.randint(1, REVISIONS))


def _remove_cluster(config: Config, rng: random.Random) -> None:
    if len(config.clusters) == 1:
        return
    gone = _one_of(rng, config.clusters)
    del config.clusters[gone]
    for name, (targets, revision) in tuple(config.routes.items()):
        if gone in targets:
            kept = tuple(target for target in targets if target != gone) or (_one_of(rng, config.clusters),)
            config.routes[name] = (kept, revision)


def _replace_cluster(config: Config, rng: random.Random) -> None:
    _add_cluster(config, rng)
    _remove_cluster(config, rng)


def _add_routes(config: Config, rng: random.Random) -> None:
    name = rng.choice(ROUTES)
    config.routes[name] = ((_one_of(rng, config.clusters),), rng.randint(1, REVISIONS))
    config.listeners[rng.choice(LISTENERS)] = (name, rng.randint(1, REVISIONS))


def _rename_routes(config: Config, rng: random.Random) -> None:
    before, after = _one_of(rng, config.routes), rng.choice(ROUTES)
    config.routes[after] = config.routes.pop(before)
    for name, (routes, revision) in tuple(config.listeners.items()):
        if routes == before:
            config.listeners[name] = (after, revision)


def _remove_listener(config: Config, rng: random.Random) -> None:
    if len(config.listeners) > 1:
        del config.listeners[_one_of(rng, config.listeners)]


def _redirect_listener(config: Config, rng: random.Random) -> None:
    name = rng.choice(LISTENERS)
    config.listeners[name] = (_one_of(rng, config.routes), rng.randint(1, REVISIONS))


def _forget_routes(config: Config, rng: random.Random) -> None:
    unused = sorted(config.routes.keys() - {routes for routes, _ in config.listeners.values()})
    if unused:
        del config.routes[rng.choice(unused)]


_CHANGES = (
    *(_change_cluster, _change_endpoints, _change_routes, _change_routes, _change_listener),
    *(_add_cluster, _add_cluster, _remove_cluster, _remove_cluster, _replace_cluster),
    *(_add_routes, _rename_routes, _remove_listener, _redirect_listener, _forget_routes),
)


# -- resources ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A resource that was published at some time. *leads_to* are the names of the next kind that it refers to."""

    kind: Kind
    name: str
    version: str
    leads_to: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A configuration as the control plane publishes it. *wanted* has the version of every resource."""

    record: SnapshotRecord
    versions: Mapping[Kind, str]
    wanted: Mapping[Kind, Mapping[str, str]]
    words: str


class World:
    """Makes configurations into records, and knows every resource that it ever made by its bytes."""

    MEMORY: Final = 5_000

    def __init__(self) -> None:
        self._by_bytes: dict[bytes, Known] = {}
        self._by_version: dict[tuple[Kind, str], Known] = {}
        self._published: dict[tuple[Any, ...], Published] = {}

    def by_bytes(self, value: bytes) -> Known | None:
        """Return the resource whose message is *value*."""
        return self._by_bytes.get(value)

    def leads_to(self, kind: Kind, version: str) -> frozenset[str]:
        """Return what a resource refers to: a cluster to endpoints, a listener to routes, routes to clusters."""
        return self._by_version[kind, version].leads_to

    def published(self, config: Config) -> Published:
        """Return *config* as a record."""
        key = config.key()
        found = self._published.get(key)
        if found is None:
            if len(self._published) >= self.MEMORY:
                self._published.clear()
            found = self._published[key] = self._build(config)
        return found

    def _build(self, config: Config) -> Published:
        pieces: list[tuple[Kind, str, Any]] = []
        for name, revision in config.clusters.items():
            pieces.append((Kind.CDS, name, _cluster(name, revision)))
            hosts = ENDPOINTS.get(name)
            if hosts:
                pieces.append((Kind.EDS, hosts, _endpoints(hosts, config.endpoints.get(hosts, 1))))
        pieces += [(Kind.RDS, name, _routes(name, targets, rev)) for name, (targets, rev) in config.routes.items()]
        pieces += [(Kind.LDS, name, _listener(name, routes, rev)) for name, (routes, rev) in config.listeners.items()]
        snapshot = Snapshot.of(pieces)
        for kind, resources in snapshot.resources.items():
            for name, resource in resources.items():
                value = bytes(any_pb2.Any.FromString(resource.packed).value)
                if value not in self._by_bytes or (kind, resource.version) not in self._by_version:
                    known = Known(kind, name, resource.version, _leads_to(kind, name, config))
                    self._by_bytes[value] = self._by_version[kind, resource.version] = known
        return Published(
            record=SnapshotRecord(
                version=snapshot.version,
                versions={kind.value: version for kind, version in snapshot.versions.items()},
                revisions={},
                content=snapshot.to_bytes(),
                status=SnapshotStatus.PROPOSED,
                words="",
                at=_EPOCH,
            ),
            versions=snapshot.versions,
            wanted={
                kind: {name: resource.version for name, resource in resources.items()}
                for kind, resources in snapshot.resources.items()
            },
            words=str(config),
        )


def _leads_to(kind: Kind, name: str, config: Config) -> frozenset[str]:
    match kind:
        case Kind.CDS:
            return frozenset((ENDPOINTS[name],) if name in ENDPOINTS else ())
        case Kind.LDS:
            return frozenset((config.listeners[name][0],))
        case Kind.RDS:
            return frozenset(config.routes[name][0])
        case _:
            return frozenset()


@functools.cache
def _cluster(name: str, revision: int) -> Any:
    cluster = cluster_pb2.Cluster(name=name)
    cluster.connect_timeout.seconds = revision
    if name in ENDPOINTS:
        cluster.type = cluster_pb2.Cluster.EDS
        cluster.eds_cluster_config.service_name = "" if ENDPOINTS[name] == name else ENDPOINTS[name]
    return cluster


@functools.cache
def _endpoints(name: str, revision: int) -> Any:
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    assignment.policy.overprovisioning_factor.value = 100 + revision
    return assignment


@functools.cache
def _routes(name: str, targets: tuple[str, ...], revision: int) -> Any:
    host = route_components_pb2.VirtualHost(name="h", domains=["*"])
    for target in targets:
        host.routes.add(name=f"r{revision}").route.cluster = target
    routes = route_pb2.RouteConfiguration(name=name, virtual_hosts=[host])
    routes.validate_clusters.value = True
    return routes


@functools.cache
def _listener(name: str, routes: str, revision: int) -> Any:
    manager = hcm_pb2.HttpConnectionManager(stat_prefix=f"r{revision}", rds=hcm_pb2.Rds(route_config_name=routes))
    chain = listener_components_pb2.FilterChain(
        filters=[listener_components_pb2.Filter(name="hcm", typed_config=pack(manager))]
    )
    listener = listener_pb2.Listener(name=name, filter_chains=[chain])
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = 10_000 + LISTENERS.index(name)
    return listener
