"""Ways to be wrong that our own checks let pass and the real Envoy refuses, and a control plane that serves them.

A document cannot say most of them, so a revision asks for one by name: with an SLO called ``damage-NAME``, which never
reaches Envoy. `python -m tests.damages` is `hueshift serve` with a compiler that obeys; everything else is the
product's. A damage is a pure function of what was compiled, so that the same rows give the same version.
"""

import asyncio
import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2

from controlplane import running
from controlplane.ports import CompiledConfig
from controlplane.settings import read_settings
from controlplane.traffic.model import ServiceSpec, TrafficPlan
from controlplane.xds.kinds import Kind
from controlplane.xds.snapshot import Snapshot, SnapshotCompiler
from controlplane.xds.translate import HTTP_OPTIONS, pack, translate

MARK: Final = "damage-"
MAX_UINT32: Final = 2**32 - 1
UNKNOWN: Final = any_pb2.Any(type_url="type.googleapis.com/nobody.knows.It")
CERTIFICATES: Final = {
    "tls_certificates": [
        {"certificate_chain": {"inline_string": "no certificate"}, "private_key": {"inline_string": "no key"}}
    ]
}


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """What was compiled for one service, still to be changed. Its versions are v1, which stays sound, and v2."""

    spec: ServiceSpec
    messages: Mapping[Kind, dict[str, Any]]

    @property
    def sound(self) -> Any:
        """The cluster of v1."""
        return self.messages[Kind.CDS][self.spec.version("v1").cluster]

    @property
    def cluster(self) -> Any:
        """The cluster of v2."""
        return self.messages[Kind.CDS][self.spec.version("v2").cluster]

    def endpoints(self, version: str = "v2") -> Any:
        """The endpoints of a version: one locality with one member."""
        return self.messages[Kind.EDS][self.spec.version(version).cluster]

    @property
    def endpoint(self) -> Any:
        """The one member of v2."""
        return self.endpoints().endpoints[0].lb_endpoints[0].endpoint

    @property
    def listener(self) -> Any:
        return self.messages[Kind.LDS][self.spec.listener.name]

    @property
    def routes(self) -> Any:
        """The route configuration."""
        return self.messages[Kind.RDS][self.spec.route_config]

    @property
    def route(self) -> Any:
        """The one route, which follows the weights."""
        return self.routes.virtual_hosts[0].routes[0]

    def change_manager(self, change: Callable[[Any], None], listener: Any = None) -> None:
        """Have *change* do something to the HTTP connection manager of *listener*, or of the service's."""
        config = (self.listener if listener is None else listener).filter_chains[0].filters[0].typed_config
        manager = hcm_pb2.HttpConnectionManager.FromString(config.value)
        change(manager)
        config.CopyFrom(pack(manager))

    def change_options(self, change: Callable[[Any], None]) -> None:
        """Have *change* do something to v2's HTTP options."""
        config = self.cluster.typed_extension_protocol_options[HTTP_OPTIONS]
        options = http_protocol_options_pb2.HttpProtocolOptions.FromString(config.value)
        change(options)
        config.CopyFrom(pack(options))

    def add_cluster(self) -> None:
        """Add a cluster that is as good as v1's, endpoints and all."""
        for kind, message in ((Kind.CDS, self.sound), (Kind.EDS, self.endpoints("v1"))):
            added = copy.deepcopy(message)
            name = f"{self.spec.name}-added"
            setattr(added, "name" if kind is Kind.CDS else "cluster_name", name)
            self.messages[kind][name] = added

    def add_listener(self, address: str) -> Any:
        """Add a listener on the same port of another loopback *address*, as good as the service's; return it."""
        added = copy.deepcopy(self.listener)
        added.name = f"{self.spec.name}-added-{len(self.messages[Kind.LDS])}"
        added.address.socket_address.address = address
        self.messages[Kind.LDS][added.name] = added
        return added

    def add_inline_routes(self, change: Callable[[Any], None]) -> None:
        """Add a listener with routes of its own, which our checks of references do not look into."""

        def use_inline(manager: Any) -> None:
            manager.route_config.CopyFrom(self.routes)
            change(manager.route_config)

        self.change_manager(use_inline, self.add_listener("127.0.0.2"))


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """One way to be wrong: which type Envoy refuses for it, in which words, and what it does to what was compiled."""

    kind: Kind
    words: str
    apply: Callable[[Draft], None]


DAMAGES: Final[dict[str, Damage]] = {}


def refused(kind: Kind, words: str) -> Callable[[Callable[[Draft], None]], Callable[[Draft], None]]:
    """Add the function below to `DAMAGES`, under its own name."""

    def register(damage: Callable[[Draft], None]) -> Callable[[Draft], None]:
        DAMAGES[damage.__name__] = Damage(kind, words, damage)
        return damage

    return register


# -- clusters ----------------------------------------------------------------------------------------------------------


@refused(Kind.CDS, "Failed to load certificate chain from <inline>")
def half_applied_clusters(draft: Draft) -> None:
    """One cluster is bad; a new one and a change of an old one, which are good, Envoy takes all the same."""
    draft.add_cluster()
    draft.sound.connect_timeout.seconds = 7
    draft.cluster.transport_socket.name = "tls"
    draft.cluster.transport_socket.typed_config.CopyFrom(
        pack(tls_pb2.UpstreamTlsContext(common_tls_context=CERTIFICATES))
    )


@refused(Kind.CDS, "Expected positive duration")
def negative_timeout(draft: Draft) -> None:
    draft.cluster.connect_timeout.seconds = -5


@refused(Kind.CDS, "inconsistent HTTP/2 custom SETTINGS parameter(s) detected")
def contradicting_settings(draft: Draft) -> None:
    def change(options: Any) -> None:
        http2 = options.explicit_http_config.http2_protocol_options
        for value in (1, 2):
            http2.custom_settings_parameters.add(identifier={"value": 99}, value={"value": value})

    draft.change_options(change)


@refused(Kind.CDS, "Didn't find a registered network or http filter or protocol options implementation")
def unknown_options(draft: Draft) -> None:
    draft.cluster.typed_extension_protocol_options["nobody.knows"].CopyFrom(UNKNOWN)


@refused(Kind.CDS, "cluster must support HTTP/2 for gRPC healthchecking")
def grpc_health_check(draft: Draft) -> None:
    check = draft.cluster.health_checks[0]
    check.ClearField("http_health_check")
    check.grpc_health_check.SetInParent()


@refused(Kind.CDS, "minimum_ring_size (100) > maximum_ring_size (10)")
def impossible_ring(draft: Draft) -> None:
    draft.cluster.lb_policy = cluster_pb2.Cluster.RING_HASH
    draft.cluster.ring_hash_lb_config.minimum_ring_size.value = 100
    draft.cluster.ring_hash_lb_config.maximum_ring_size.value = 10


@refused(Kind.CDS, "fallback_keys_subset must be a subset of selector keys")
def foreign_subset(draft: Draft) -> None:
    keys_subset = cluster_pb2.Cluster.LbSubsetConfig.LbSubsetSelector.KEYS_SUBSET
    draft.cluster.lb_subset_config.subset_selectors.add(
        keys=["a"], fallback_policy=keys_subset, fallback_keys_subset=["b"]
    )


@refused(Kind.CDS, "max_ejection_time cannot be smaller than base_ejection_time")
def short_ejection(draft: Draft) -> None:
    draft.cluster.outlier_detection.base_ejection_time.seconds = 100
    draft.cluster.outlier_detection.max_ejection_time.seconds = 1


# -- endpoints ---------------------------------------------------------------------------------------------------------


@refused(Kind.EDS, "malformed IP address: not-an-address")
def half_applied_endpoints(draft: Draft) -> None:
    """The endpoints of v2 are bad; those of v1, in the same response, change in a way that is good."""
    draft.endpoints("v1").endpoints[0].lb_endpoints[0].load_balancing_weight.value = 3
    draft.endpoint.address.socket_address.address = "not-an-address"


@refused(Kind.EDS, "SocketAddressValidationError.PortValue: value must be less than or equal to 65535")
def impossible_port(draft: Draft) -> None:
    draft.endpoint.address.socket_address.port_value = 70_000


@refused(Kind.EDS, "LocalityLbEndpointsValidationError.Priority: value must be less than or equal to 128")
def impossible_priority(draft: Draft) -> None:
    draft.endpoints().endpoints[0].priority = 200


@refused(Kind.EDS, "Cluster drop_overloads config has 2 categories")
def two_overloads(draft: Draft) -> None:
    for category in ("one", "two"):
        draft.endpoints().policy.drop_overloads.add(category=category, drop_percentage={"numerator": 5})


# -- listeners ---------------------------------------------------------------------------------------------------------


@refused(Kind.LDS, "Didn't find a registered implementation for 'nobody'")
def half_applied_listeners(draft: Draft) -> None:
    """The service's listener has an unknown filter; a new one beside it is good."""
    draft.add_listener("127.0.0.3")
    draft.change_manager(
        lambda manager: manager.http_filters.insert(0, hcm_pb2.HttpFilter(name="nobody", typed_config=UNKNOWN))
    )


@refused(Kind.LDS, "is the last filter in a http filter chain")
def missing_router(draft: Draft) -> None:
    def change(manager: Any) -> None:
        del manager.http_filters[:]
        buffer = buffer_pb2.Buffer(max_request_bytes={"value": 5})
        manager.http_filters.add(name="envoy.filters.http.buffer", typed_config=pack(buffer))

    draft.change_manager(change)


@refused(Kind.LDS, "as existing listener")
def taken_address(draft: Draft) -> None:
    draft.add_listener("127.0.0.2").additional_addresses.add().address.CopyFrom(draft.listener.address)


@refused(Kind.LDS, "Failed to load certificate chain from <inline>")
def bad_certificate(draft: Draft) -> None:
    socket = draft.listener.filter_chains[0].transport_socket
    socket.name = "tls"
    socket.typed_config.CopyFrom(pack(tls_pb2.DownstreamTlsContext(common_tls_context=CERTIFICATES)))


@refused(Kind.LDS, "The sum of weights of all weighted clusters of route all exceeds 4294967295")
def heavy_weights(draft: Draft) -> None:
    def change(routes: Any) -> None:
        for cluster in routes.virtual_hosts[0].routes[0].route.weighted_clusters.clusters:
            cluster.weight.value = MAX_UINT32

    draft.add_inline_routes(change)


@refused(Kind.LDS, "Only a single wildcard domain is permitted in route")
def two_wildcards(draft: Draft) -> None:
    draft.add_inline_routes(lambda routes: routes.virtual_hosts.add(name="second", domains=["*"]))


@refused(Kind.LDS, "route: unknown cluster 'nobody'")
def unknown_cluster(draft: Draft) -> None:
    def change(routes: Any) -> None:
        routes.virtual_hosts[0].routes[0].route.cluster = "nobody"

    draft.add_inline_routes(change)


# -- routes ------------------------------------------------------------------------------------------------------------


@refused(Kind.RDS, "invalid perl operator: (?=")
def bad_regex(draft: Draft) -> None:
    draft.route.match.headers.add(name="x-odd", string_match={"safe_regex": {"regex": "(?=a)b"}})


@refused(Kind.RDS, ":-prefixed or host headers may not be modified")
def bad_header_name(draft: Draft) -> None:
    draft.route.request_headers_to_add.add(header={"key": ":path", "value": "/"})


@refused(Kind.RDS, "retry_policy.max_interval must greater than or equal to the base_interval")
def shrinking_back_off(draft: Draft) -> None:
    policy = draft.route.route.retry_policy
    policy.retry_back_off.base_interval.seconds = 5
    policy.retry_back_off.max_interval.seconds = 1


@refused(Kind.RDS, "Didn't find a registered implementation for 'nobody'")
def unknown_filter_settings(draft: Draft) -> None:
    draft.routes.virtual_hosts[0].typed_per_filter_config["nobody"].CopyFrom(UNKNOWN)


@refused(Kind.RDS, "Didn't find a registered implementation for 'limiter'")
def unknown_rate_limit(draft: Draft) -> None:
    extension = extension_pb2.TypedExtensionConfig(name="limiter", typed_config=UNKNOWN)
    draft.route.route.rate_limits.add().actions.add(extension=extension)


# -- the control plane -------------------------------------------------------------------------------------------------


class DamagingCompiler:
    """The product's compiler, but for services whose revision asks for a damage."""

    def __init__(self) -> None:
        self._sound = SnapshotCompiler()

    def compile(self, plan: TrafficPlan) -> CompiledConfig:
        """Return the resources of *plan*, damaged as it asks."""
        wanted = {service.spec.name: name for service in plan.services if (name := wanted_damage(service.spec))}
        if not wanted:
            return self._sound.compile(plan)
        messages: dict[Kind, dict[str, Any]] = {kind: {} for kind in Kind}
        for piece in translate(plan):
            messages[piece.kind][piece.name] = piece.message
        for service in plan.services:
            if service.spec.name in wanted:
                DAMAGES[wanted[service.spec.name]].apply(Draft(service.spec, messages))
        snapshot = Snapshot.of((kind, name, message) for kind in Kind for name, message in messages[kind].items())
        return CompiledConfig(
            version=snapshot.version,
            versions={kind.value: version for kind, version in snapshot.versions.items()},
            content=snapshot.to_bytes(),
        )


def wanted_damage(spec: ServiceSpec) -> str:
    """Return the name of the damage that a revision asks for, or ""."""
    return next((slo.name.removeprefix(MARK) for slo in spec.slos if slo.name.startswith(MARK)), "")


def main() -> None:
    """Serve, damaged."""
    settings = read_settings()
    asyncio.run(running.serve(settings, compiler=DamagingCompiler()))


if __name__ == "__main__":
    main()
