"""Which resource leads to which: checked before publishing, and what the order of sending follows."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from controlplane.errors import InvalidInputError
from controlplane.xds.kinds import Kind

MAX_WEIGHT_SUM = 2**32 - 1
"""Envoy's own limit."""

Messages = Mapping[Kind, Mapping[str, Any]]
"""The messages of xds-protos, which has no types, by name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Links:
    """The references of a snapshot: listener -> route configurations -> clusters -> endpoints."""

    routes_of: Mapping[str, frozenset[str]]
    clusters_of: Mapping[str, frozenset[str]]
    endpoints_of: Mapping[str, str]

    def over(self, older: "Links") -> "Links":
        """Return these references and those that only *older* has."""
        return Links(
            {**older.routes_of, **self.routes_of},
            {**older.clusters_of, **self.clusters_of},
            {**older.endpoints_of, **self.endpoints_of},
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
    )


def check_references(messages: Messages, links: Links) -> None:
    """Refuse what Envoy would refuse, or accept and answer with 503.

    Raises:
        InvalidInputError: A reference leads nowhere, a domain or an address is claimed twice, or weights sum to 0.
    """
    for listener, wanted in links.routes_of.items():
        _check_known(f"listener.{listener}.route_config", wanted, messages[Kind.RDS])
    for name, wanted in links.clusters_of.items():
        _check_known(f"route_config.{name}.cluster", wanted, messages[Kind.CDS])
    for name, wanted_name in links.endpoints_of.items():
        _check_known(f"cluster.{name}.endpoints", (wanted_name,), messages[Kind.EDS])
    for name, routes in messages[Kind.RDS].items():
        _check_domains(name, routes)
        _check_weights(name, routes)
    _check_addresses(messages[Kind.LDS])


def _check_known(field: str, wanted: Iterable[str], known: Mapping[str, Any]) -> None:
    for name in sorted(wanted):
        if name not in known:
            raise InvalidInputError(field, f"{name!r} does not exist", f"use one of {', '.join(known) or 'none yet'}")


def _check_domains(name: str, routes: Any) -> None:
    domains = Counter(domain.lower() for host in routes.virtual_hosts for domain in host.domains)
    for domain, count in domains.items():
        if count > 1:
            raise InvalidInputError(
                f"route_config.{name}.domains", f"{domain!r} is claimed {count} times", "name each domain once"
            )


def _check_weights(name: str, routes: Any) -> None:
    for host in routes.virtual_hosts:
        for route in host.routes:
            if route.route.WhichOneof("cluster_specifier") != "weighted_clusters":
                continue
            total = sum(cluster.weight.value for cluster in route.route.weighted_clusters.clusters)
            if not 0 < total <= MAX_WEIGHT_SUM:
                field = f"route_config.{name}.routes.{route.name}.weights"
                raise InvalidInputError(field, f"they sum to {total}", "make them sum to more than 0")


def _check_addresses(listeners: Mapping[str, Any]) -> None:
    claimed: dict[tuple[str, int], str] = {}
    for name, listener in listeners.items():
        if is_api_listener(listener):
            continue  # nothing binds it
        bound = (listener.address.socket_address.address, listener.address.socket_address.port_value)
        if bound in claimed:
            raise InvalidInputError(
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


def _clusters_of(routes: Any) -> Iterable[str]:
    for host in routes.virtual_hosts:
        for route in host.routes:
            action = route.route
            if action.cluster:
                yield action.cluster
            for cluster in action.weighted_clusters.clusters:
                yield cluster.name
            for mirror in action.request_mirror_policies:
                yield mirror.cluster
