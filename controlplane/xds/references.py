"""Which resource leads to which: checked before publishing, and what the order of sending follows."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from controlplane.errors import InvalidInputError, InvalidInputsError
from controlplane.xds.kinds import Kind

MAX_WEIGHT_SUM = 2**32 - 1
"""Envoy's own limit."""

_AGGREGATE = aggregate_pb2.ClusterConfig.DESCRIPTOR

Messages = Mapping[Kind, Mapping[str, Any]]
"""The messages of xds-protos, which has no types, by name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Links:
    """The references of a snapshot: listener -> route configurations -> clusters -> endpoints, and listener -> secrets.

    *warm_after* says of a cluster for how long Envoy keeps it aside, in seconds from when it has the endpoints: until
    the first round of health checks is over.
    """

    routes_of: Mapping[str, frozenset[str]]
    clusters_of: Mapping[str, frozenset[str]]
    endpoints_of: Mapping[str, str]
    warm_after: Mapping[str, float] = dataclasses.field(default_factory=dict)
    secrets_of: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def clusters(self, kind: Kind, name: str) -> Iterator[str]:
        """Return the clusters that a listener's or a route configuration's requests may go to."""
        for routes in self.routes_of[name] if kind is Kind.LDS else (name,):
            yield from self.clusters_of.get(routes, ())

    def over(self, older: "Links") -> "Links":
        """Return these references and those that only *older* has."""
        return Links(
            {**older.routes_of, **self.routes_of},
            {**older.clusters_of, **self.clusters_of},
            {**older.endpoints_of, **self.endpoints_of},
            {**older.warm_after, **self.warm_after},
            {**older.secrets_of, **self.secrets_of},
        )


def is_api_listener(listener: Any) -> bool:
    """Whether a listener is for clients that route by themselves (gRPC); Envoy takes none from its control plane."""
    return bool(listener.HasField("api_listener"))


def read_links(messages: Messages) -> Links:
    """Read the references that the messages hold."""
    return Links(
        routes_of={name: frozenset(_routes_of(listener)) for name, listener in messages[Kind.LDS].items()},
        clusters_of={name: frozenset(_clusters_of(routes)) for name, routes in messages[Kind.RDS].items()},
        endpoints_of={
            name: cluster.eds_cluster_config.service_name or name
            for name, cluster in messages[Kind.CDS].items()
            if cluster.type == cluster_pb2.Cluster.EDS
        },
        warm_after={name: _warm_after(cluster) for name, cluster in messages[Kind.CDS].items()},
        secrets_of={name: frozenset(secrets_of(listener)) for name, listener in messages[Kind.LDS].items()},
    )


def _warm_after(cluster: Any) -> float:
    return max((check.timeout.ToTimedelta().total_seconds() for check in cluster.health_checks), default=0.0)


def check_references(messages: Messages, links: Links) -> None:
    """Refuse what Envoy would refuse, or accept and answer with 503.

    Raises:
        InvalidInputsError: References lead nowhere, a domain or an address is claimed twice, or weights sum to 0.
    """
    problems = list(reference_problems(messages, links))
    if problems:
        raise InvalidInputsError(problems)


def reference_problems(messages: Messages, links: Links) -> Iterator[InvalidInputError]:
    """Yield everything that `check_references` refuses."""
    for listener, wanted in links.routes_of.items():
        yield from _unknown(f"listener.{listener}.route_config", wanted, messages[Kind.RDS])
    for name, wanted in links.clusters_of.items():
        yield from _unknown(f"route_config.{name}.cluster", wanted, messages[Kind.CDS])
    for name, wanted_name in links.endpoints_of.items():
        yield from _unknown(f"cluster.{name}.endpoints", (wanted_name,), messages[Kind.EDS])
    for name, cluster in messages[Kind.CDS].items():
        yield from _unknown(f"cluster.{name}.clusters", _members_of(cluster), messages[Kind.CDS])
    for name, routes in messages[Kind.RDS].items():
        yield from _unchecked_clusters(name, routes)
        yield from _claimed_hosts(name, routes)
        yield from _claimed_domains(name, routes)
        yield from _wrong_weights(name, routes)
    yield from _unused_endpoints(messages, links)
    yield from _claimed_addresses(messages[Kind.LDS])


def _unknown(field: str, wanted: Iterable[str], known: Mapping[str, Any]) -> Iterator[InvalidInputError]:
    for name in sorted(wanted):
        if name not in known:
            yield InvalidInputError(field, f"{name!r} does not exist", f"use one of {', '.join(known) or 'none yet'}")


def _unchecked_clusters(name: str, routes: Any) -> Iterator[InvalidInputError]:
    # Without it Envoy acknowledges a route to a cluster that it does not know, and answers 503 for it.
    if not routes.validate_clusters.value:
        yield InvalidInputError(f"route_config.{name}.validate_clusters", "is not set", "set it to true")


def _claimed_hosts(name: str, routes: Any) -> Iterator[InvalidInputError]:
    """Yield names of virtual hosts that stand for two: Envoy takes them, and adds up their statistics."""
    for host, count in Counter(host.name for host in routes.virtual_hosts).items():
        if count > 1:
            field = f"route_config.{name}.virtual_hosts"
            yield InvalidInputError(field, f"{host!r} is the name of {count}", "give each its own name")


def _claimed_domains(name: str, routes: Any) -> Iterator[InvalidInputError]:
    domains = Counter(domain.lower() for host in routes.virtual_hosts for domain in host.domains)
    for domain, count in domains.items():
        if count > 1:
            yield InvalidInputError(
                f"route_config.{name}.domains", f"{domain!r} is claimed {count} times", "name each domain once"
            )


def _wrong_weights(name: str, routes: Any) -> Iterator[InvalidInputError]:
    for host in routes.virtual_hosts:
        for route in host.routes:
            if route.route.WhichOneof("cluster_specifier") != "weighted_clusters":
                continue
            field = f"route_config.{name}.routes.{route.name}.weights"
            clusters = route.route.weighted_clusters.clusters
            total = sum(cluster.weight.value for cluster in clusters)
            if not 0 < total <= MAX_WEIGHT_SUM:
                yield InvalidInputError(field, f"they sum to {total}", f"make them sum to 1 to {MAX_WEIGHT_SUM}")
            if any(bool(cluster.name) == bool(cluster.cluster_header) for cluster in clusters):
                yield InvalidInputError(field, "one has not exactly one target", "give each a cluster's name")


def _unused_endpoints(messages: Messages, links: Links) -> Iterator[InvalidInputError]:
    """Yield endpoints that no cluster asks for: their cluster is gone, or has its own."""
    for name in sorted(messages[Kind.EDS].keys() - set(links.endpoints_of.values())):
        yield InvalidInputError(f"endpoints.{name}", "belong to no cluster that asks for them", "leave them out")


def _claimed_addresses(listeners: Mapping[str, Any]) -> Iterator[InvalidInputError]:
    """Yield addresses that two listeners have.

    Envoy refuses equal ones only. 0.0.0.0 beside an address of the same port it binds both (SO_REUSEPORT), and the
    kernel prefers the address; that two services do not share a port in this way is the catalogue's rule.
    """
    claimed: dict[tuple[str, int], str] = {}
    for name, listener in listeners.items():
        if is_api_listener(listener):
            continue  # nothing binds it
        bound = (listener.address.socket_address.address, listener.address.socket_address.port_value)
        if bound in claimed:
            yield InvalidInputError(
                f"listener.{name}.port", f"{bound[0]}:{bound[1]} is taken by {claimed[bound]!r}", "choose another port"
            )
        claimed[bound] = name


def _routes_of(listener: Any) -> Iterable[str]:
    configs = [each.typed_config for chain in listener.filter_chains for each in chain.filters]
    if is_api_listener(listener):
        configs.append(listener.api_listener.api_listener)
    for config in configs:
        if config.Is(hcm_pb2.HttpConnectionManager.DESCRIPTOR):
            manager = hcm_pb2.HttpConnectionManager.FromString(config.value)
            if manager.HasField("rds"):
                yield manager.rds.route_config_name


def secrets_of(listener: Any) -> Iterable[str]:
    """Yield the names of the secrets that a listener refers to."""
    for chain in listener.filter_chains:
        config = chain.transport_socket.typed_config
        if config.Is(tls_pb2.DownstreamTlsContext.DESCRIPTOR):
            context = tls_pb2.DownstreamTlsContext.FromString(config.value).common_tls_context
            for reference in context.tls_certificate_sds_secret_configs:
                yield reference.name


def _clusters_of(routes: Any) -> Iterable[str]:
    for host in routes.virtual_hosts:
        for route in host.routes:
            action = route.route
            if action.cluster:
                yield action.cluster
            for cluster in action.weighted_clusters.clusters:
                if cluster.name:  # else a request's header names it
                    yield cluster.name
            for mirror in action.request_mirror_policies:
                if mirror.cluster:
                    yield mirror.cluster


def _members_of(cluster: Any) -> Iterable[str]:
    """Return the clusters of which an aggregate one takes its hosts. Envoy accepts unknown ones, as empty."""
    config = cluster.cluster_type.typed_config
    return aggregate_pb2.ClusterConfig.FromString(config.value).clusters if config.Is(_AGGREGATE) else ()
