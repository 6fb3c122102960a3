"""From the traffic plan to Envoy's resources: pure, and the only place that knows how Envoy is told what."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, health_check_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import api_listener_pb2, listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from controlplane.traffic.model import (
    SHADOW_SUFFIX,
    HeaderMatch,
    HeaderRule,
    Listener,
    Mirror,
    Route,
    RouteMatch,
    ServedService,
    ServiceSpec,
    TrafficPlan,
    Version,
)
from controlplane.xds.kinds import Kind

MAX_IN_FLIGHT = 8192
"""Requests and connections that one Envoy holds towards one cluster. Envoy's default of 1,024 is reached at 3.4
requests/s when a call may take 300 s; beyond this one it answers 503 at once instead of collecting sockets."""

UPSTREAM_IDLE = dt.timedelta(seconds=4)
"""Envoy closes an idle connection to a worker after this: before the worker does (uvicorn: 5 s). Otherwise a request
that crosses the worker's close on the wire fails with 503, and there are no retries that would hide it."""

STREAM_IDLE_MARGIN = dt.timedelta(seconds=30)
"""How much later than the route's timeout a silent request is dropped as idle. Envoy's idle default (5 min) equals the
300 s of a slow call and would win the race: a 408 that no cluster is blamed for, so a hung version would not show."""

MAX_SHADOWS_IN_FLIGHT = 64
"""The same for copies of requests: a version that hangs must not collect bodies that nobody waits for."""

TLS_SOCKET = "envoy.transport_sockets.tls"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A resource before it is packed: its kind and name, the message, and which field of the service declared it."""

    kind: Kind
    name: str
    message: Message
    field: str


def translate(plan: TrafficPlan) -> tuple[Piece, ...]:
    """Return the Envoy resources of *plan*, every version's cluster included, whatever its weight."""
    return tuple(piece for service in plan.services for piece in _service(service, plan.addresses))


def pack(message: Message) -> Any:
    """Return *message* in an `Any`, serialised the same way every time."""
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed


def _service(service: ServedService, addresses: Mapping[str, tuple[str, ...]]) -> Iterable[Piece]:
    spec = service.spec
    field = f"services.{spec.name}"
    yield Piece(Kind.LDS, spec.listener.name, _listener(spec), f"{field}.listener.name")
    if spec.grpc_target:
        yield Piece(Kind.LDS, spec.grpc_target, _api_listener(spec), f"{field}.grpc_target")
    yield Piece(Kind.RDS, spec.route_config, _route_configuration(service), f"{field}.route_config")
    for version in spec.versions:
        where = f"{field}.versions.{version.name}.cluster"
        yield Piece(Kind.CDS, version.cluster, _cluster(spec, version), where)
        yield Piece(Kind.EDS, version.cluster, _load_assignment(spec, version, addresses), where)
    if spec.mirror is not None:
        # Always there, or a rollback from 100 % would wait for this cluster's first health check: of a bad version.
        version = spec.version(spec.mirror.to, field="mirror.to")
        shadow = dataclasses.replace(version, cluster=version.cluster + SHADOW_SUFFIX)
        yield Piece(Kind.CDS, shadow.cluster, _cluster(spec, shadow, MAX_SHADOWS_IN_FLIGHT), f"{field}.mirror.to")
        yield Piece(Kind.EDS, shadow.cluster, _load_assignment(spec, shadow, addresses), f"{field}.mirror.to")


def _active_mirror(service: ServedService) -> Mirror | None:
    """The service's mirror, unless that version has all traffic: then it would do everything twice."""
    mirror = service.spec.mirror
    if mirror is None or all(share.version == mirror.to for share in service.split if share.weight_bp):
        return None
    return mirror


def _span(span: dt.timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(span)
    return duration


def _over_ads() -> config_source_pb2.ConfigSource:
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )


def _address(host: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


# -- listeners ---------------------------------------------------------------------------------------------------------


def _listener(spec: ServiceSpec) -> listener_pb2.Listener:
    listener: Listener = spec.listener
    network_filter = listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager",
        typed_config=pack(_connection_manager(spec, filters=_statistics(spec))),
    )
    chain = listener_components_pb2.FilterChain(filters=[network_filter])
    if listener.certificate:
        chain.transport_socket.CopyFrom(_tls(listener.certificate))
    return listener_pb2.Listener(
        name=listener.name, address=_address(listener.address, listener.port), filter_chains=[chain]
    )


def _api_listener(spec: ServiceSpec) -> listener_pb2.Listener:
    """Return what a gRPC client that dials the service over xDS asks for: its way to the routes that Envoys follow."""
    return listener_pb2.Listener(
        name=spec.grpc_target,
        api_listener=api_listener_pb2.ApiListener(api_listener=pack(_connection_manager(spec, filters=()))),
    )


def _statistics(spec: ServiceSpec) -> tuple[hcm_pb2.HttpFilter, ...]:
    """Return what counts the statuses of calls where they are not HTTP's.

    Only Envoy has it: gRPC refuses a listener with a filter that it does not know, and reports nothing anyway.
    """
    if not spec.grpc_target:
        return ()
    # By cluster and status only: a client may call methods of any name, and each would be statistics of its own.
    counted = grpc_stats_pb2.FilterConfig(stats_for_all_methods={"value": False})
    return (hcm_pb2.HttpFilter(name="envoy.filters.http.grpc_stats", typed_config=pack(counted)),)


def _connection_manager(spec: ServiceSpec, *, filters: Iterable[hcm_pb2.HttpFilter]) -> hcm_pb2.HttpConnectionManager:
    router = hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_pb2.Router()))
    return hcm_pb2.HttpConnectionManager(
        codec_type=hcm_pb2.HttpConnectionManager.AUTO,
        stat_prefix=spec.listener.stat_prefix,
        rds=hcm_pb2.Rds(config_source=_over_ads(), route_config_name=spec.route_config),
        http_filters=[*filters, router],
    )


def _tls(certificate: str) -> base_pb2.TransportSocket:
    source = _over_ads()
    # 0 is for ever: after Envoy's default of 15 s a listener without its certificate would take the place of the one
    # that runs, and cut off every client.
    source.initial_fetch_timeout.SetInParent()
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            alpn_protocols=["h2", "http/1.1"],
            tls_certificate_sds_secret_configs=[secret_pb2.SdsSecretConfig(name=certificate, sds_config=source)],
        )
    )
    return base_pb2.TransportSocket(name=TLS_SOCKET, typed_config=pack(context))


# -- routes ------------------------------------------------------------------------------------------------------------


def _route_configuration(service: ServedService) -> route_pb2.RouteConfiguration:
    spec = service.spec
    host = route_components_pb2.VirtualHost(
        name=spec.virtual_host,
        domains=_domains(spec),
        routes=[_route(route, service) for route in spec.routes],
    )
    # Without validate_clusters Envoy acknowledges a route to a cluster it does not know, and answers 503 for it.
    return route_pb2.RouteConfiguration(name=spec.route_config, virtual_hosts=[host], validate_clusters={"value": True})


def _domains(spec: ServiceSpec) -> tuple[str, ...]:
    """Return the names that clients may ask by; a gRPC client asks by the one that it dials."""
    if not spec.grpc_target or "*" in spec.domains or spec.grpc_target in (each.lower() for each in spec.domains):
        return spec.domains
    return (*spec.domains, spec.grpc_target)


def _route(route: Route, service: ServedService) -> route_components_pb2.Route:
    action = route_components_pb2.RouteAction(
        timeout=_span(route.timeout), idle_timeout=_span(route.timeout + STREAM_IDLE_MARGIN)
    )
    if route.version is not None:
        action.cluster = service.spec.version(route.version).cluster
    else:
        weighted = action.weighted_clusters
        if service.spec.draw_header:
            weighted.header_name = service.spec.draw_header
        for share in service.split:  # order and total are kept, or a sticky split would move users who need not move
            cluster = weighted.clusters.add(name=service.spec.version(share.version, field="split").cluster)
            cluster.weight.value = share.weight_bp
        if (mirror := _active_mirror(service)) is not None:
            shadow = service.spec.version(mirror.to, field="mirror.to").cluster + SHADOW_SUFFIX
            copies = action.request_mirror_policies.add(cluster=shadow)
            copies.runtime_fraction.default_value.numerator = mirror.share_bp
            copies.runtime_fraction.default_value.denominator = percent_pb2.FractionalPercent.TEN_THOUSAND
    found = route_components_pb2.Route(name=route.name, match=_match(route.match), route=action)
    if service.spec.draw_header:
        found.request_headers_to_remove.append(service.spec.draw_header)
    return found


def _match(match: RouteMatch) -> route_components_pb2.RouteMatch:
    return route_components_pb2.RouteMatch(
        prefix=match.prefix, headers=[_header_matcher(header) for header in match.headers]
    )


def _header_matcher(header: HeaderMatch) -> route_components_pb2.HeaderMatcher:
    matcher = route_components_pb2.HeaderMatcher(name=header.name)
    match header.rule:
        case HeaderRule.EXACT:
            matcher.string_match.exact = header.value
        case HeaderRule.REGEX:
            matcher.string_match.safe_regex.regex = header.value
        case HeaderRule.PRESENT:
            matcher.present_match = True
    return matcher


# -- clusters and endpoints --------------------------------------------------------------------------------------------


def _cluster(spec: ServiceSpec, version: Version, max_in_flight: int = MAX_IN_FLIGHT) -> cluster_pb2.Cluster:
    cluster = cluster_pb2.Cluster(
        name=version.cluster,
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(eds_config=_over_ads()),
        connect_timeout=_span(version.connect_timeout),
        lb_policy=cluster_pb2.Cluster.ROUND_ROBIN,
        health_checks=[_health_check(spec, version)],
        # A host that is taken out of the endpoints stops getting traffic at once, although it still answers checks.
        ignore_health_on_host_removal=True,
    )
    # 0 switches panic mode off: with it Envoy would go on sending to workers that it knows are down.
    cluster.common_lb_config.healthy_panic_threshold.value = 0
    limits = cluster.circuit_breakers.thresholds.add()
    for limit in (limits.max_connections, limits.max_pending_requests, limits.max_requests):
        limit.value = max_in_flight
    options = http_protocol_options_pb2.HttpProtocolOptions(
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=_span(UPSTREAM_IDLE))
    )
    if spec.grpc_target:  # gRPC clients dial these workers themselves, so they speak HTTP/2 and nothing else
        options.explicit_http_config.http2_protocol_options.SetInParent()
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(pack(options))
    return cluster


def _health_check(spec: ServiceSpec, version: Version) -> health_check_pb2.HealthCheck:
    check = version.health_check
    found = health_check_pb2.HealthCheck(
        timeout=_span(check.timeout),
        interval=_span(check.interval),
        # Envoy's default for a cluster without traffic is 60 s: a candidate would be found healthy a minute late.
        no_traffic_interval=_span(check.interval),
        unhealthy_threshold={"value": check.unhealthy_threshold},
        healthy_threshold={"value": check.healthy_threshold},
    )
    if spec.grpc_target:
        found.grpc_health_check.SetInParent()
    else:
        found.http_health_check.path = check.path
    return found


def _load_assignment(
    spec: ServiceSpec, version: Version, addresses: Mapping[str, tuple[str, ...]]
) -> endpoint_pb2.ClusterLoadAssignment:
    found: dict[tuple[str, int], None] = {}
    for endpoint in version.endpoints:
        hosts = (endpoint.host,) if endpoint.is_address else addresses.get(endpoint.host, ())
        # DNS turns its answers round; the order must not make a new version of the same endpoints.
        for host in sorted(hosts):
            found[host, endpoint.port] = None
    members = [
        endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=_address(host, port)))
        for host, port in found
    ]
    groups = [endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=members)] if members else []
    for group in groups if spec.grpc_target else ():
        # gRPC refuses members without a locality and skips a locality without weight. To Envoy the empty locality is
        # the one it assumes anyway, and it reads weights only where locality-weighted balancing is switched on.
        group.locality.SetInParent()
        group.load_balancing_weight.value = 1
    return endpoint_pb2.ClusterLoadAssignment(cluster_name=version.cluster, endpoints=groups)
