"""Snapshots: named by their content, readable again, and refused when they would not work."""

import dataclasses
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from google.protobuf import any_pb2

from controlplane.errors import InvalidInputError, InvalidInputsError
from controlplane.ports import NAMED
from controlplane.traffic.model import Endpoint, Listener, ServedService, TrafficPlan
from controlplane.xds.kinds import Kind
from controlplane.xds.snapshot import Snapshot, SnapshotCompiler
from tests.builders import make_spec, make_split, make_version
from tests.xds import make_snapshot

COLORIZE = ServedService(make_spec(), make_split(v1=9_000, v2=1_000))
UPSCALE = ServedService(make_spec("upscale", port=8090), make_split(v1=10_000))


def plan(*services: ServedService, **addresses: tuple[str, ...]) -> TrafficPlan:
    return TrafficPlan(services, addresses)


# -- versions ----------------------------------------------------------------------------------------------------------


def test_equal_plans_have_equal_versions_in_whatever_order() -> None:
    compiler = SnapshotCompiler()
    assert compiler.compile(plan(COLORIZE, UPSCALE)) == compiler.compile(plan(UPSCALE, COLORIZE))


def test_what_was_compiled_last_is_known_and_what_differs_is_not() -> None:
    compiler = SnapshotCompiler()
    first = compiler.compile(plan(COLORIZE, UPSCALE, w=("10.0.0.1",)))
    again = plan(dataclasses.replace(COLORIZE), UPSCALE, w=("10.0.0.1",))
    assert compiler.compile(again) is first
    moved = dataclasses.replace(COLORIZE, split=make_split(v1=8_000, v2=2_000))
    assert compiler.compile(plan(moved, UPSCALE, w=("10.0.0.1",))).version != first.version
    assert compiler.compile(plan(COLORIZE, UPSCALE, w=("10.0.0.1",))) is first


def test_a_weight_changes_routes_and_nothing_else() -> None:
    before = SnapshotCompiler().compile(plan(COLORIZE))
    after = SnapshotCompiler().compile(plan(dataclasses.replace(COLORIZE, split=make_split(v1=0, v2=10_000))))
    assert [kind for kind in before.versions if before.versions[kind] != after.versions[kind]] == ["rds"]
    assert before.version != after.version


def test_a_kind_without_resources_has_no_version() -> None:
    assert set(SnapshotCompiler().compile(plan()).versions.values()) == {""}


def test_what_was_written_is_read_with_the_same_versions() -> None:
    compiled = SnapshotCompiler().compile(plan(COLORIZE, UPSCALE))
    snapshot = Snapshot.from_bytes(compiled.content)
    assert snapshot.version == compiled.version
    assert {kind.value: version for kind, version in snapshot.versions.items()} == compiled.versions
    assert snapshot.to_bytes() == compiled.content


def test_the_order_of_addresses_is_no_change() -> None:
    spec = dataclasses.replace(
        make_spec(), versions=(make_version("v1", endpoints=[Endpoint("w", 1)]), make_version("v2"))
    )
    service = ServedService(spec, make_split(v1=10_000))
    first = SnapshotCompiler().compile(plan(service, w=("10.0.0.1", "10.0.0.2")))
    second = SnapshotCompiler().compile(plan(service, w=("10.0.0.2", "10.0.0.1")))
    assert first.version == second.version


@pytest.mark.parametrize("content", [b"\xff\xff", make_snapshot(cds={"a": 1}).to_bytes()[:-3]])
def test_what_is_not_readable_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match="not readable"):
        Snapshot.from_bytes(content)


# -- names that collide ------------------------------------------------------------------------------------------------


def test_two_services_cannot_have_one_cluster() -> None:
    spec = make_spec("upscale", port=8090)
    taken = dataclasses.replace(make_version("v2"), cluster="colorize_v1")
    other = ServedService(dataclasses.replace(spec, versions=(spec.versions[0], taken)), make_split(v1=10_000))
    with pytest.raises(InvalidInputError, match=r"services\.upscale\.versions\.v2\.cluster: 'colorize_v1' is taken"):
        SnapshotCompiler().compile(plan(COLORIZE, other))


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        (Listener("colorize_listener", "127.0.0.1", 8090), r"services\.upscale\.listener\.name"),
        (Listener("other", "127.0.0.1", 8080), r"listener\.other\.port: 127\.0\.0\.1:8080 is taken"),
    ],
)
def test_two_services_cannot_have_one_listener(listener: Listener, words: str) -> None:
    other = dataclasses.replace(UPSCALE, spec=dataclasses.replace(UPSCALE.spec, listener=listener))
    with pytest.raises(InvalidInputError, match=words):
        SnapshotCompiler().compile(plan(COLORIZE, other))


def test_two_services_cannot_have_one_route_configuration() -> None:
    taken = dataclasses.replace(UPSCALE.spec, route_config=COLORIZE.spec.route_config)
    with pytest.raises(InvalidInputError, match=r"services\.upscale\.route_config"):
        SnapshotCompiler().compile(plan(COLORIZE, dataclasses.replace(UPSCALE, spec=taken)))


def test_two_services_cannot_have_one_name_for_grpc() -> None:
    same = [
        ServedService(dataclasses.replace(service.spec, grpc_target="same"), make_split(v1=10_000))
        for service in (COLORIZE, UPSCALE)
    ]
    with pytest.raises(InvalidInputError, match=r"services\.upscale\.grpc_target: 'same' is taken"):
        SnapshotCompiler().compile(plan(*same))


# -- gRPC clients ------------------------------------------------------------------------------------------------------


def reached_by_grpc(target: str, *domains: str) -> Snapshot:
    spec = dataclasses.replace(COLORIZE.spec, grpc_target=target, domains=domains)
    return Snapshot.from_bytes(SnapshotCompiler().compile(plan(ServedService(spec, COLORIZE.split))).content)


@pytest.mark.parametrize(
    ("domains", "expected"),
    [(("*",), ["*"]), (("A.Example",), ["A.Example"]), (("b.example",), ["b.example", "a.example"])],
)
def test_the_name_that_grpc_clients_dial_is_one_of_the_domains(domains: tuple[str, ...], expected: list[str]) -> None:
    (packed,) = reached_by_grpc("a.example", *domains).resources[Kind.RDS].values()
    routes = route_pb2.RouteConfiguration.FromString(any_pb2.Any.FromString(packed.packed).value)
    assert list(routes.virtual_hosts[0].domains) == expected


def test_a_listener_for_grpc_has_versions_of_its_own() -> None:
    before = reached_by_grpc("a", "*").versions_by_name()
    after = reached_by_grpc("b", "*").versions_by_name()
    assert [key for key in before if before[key] != after[key]] == [f"lds{NAMED}"]
    assert f"lds{NAMED}" not in SnapshotCompiler().compile(plan(COLORIZE)).versions


# -- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"cds": {"a": 1}, "rds": {"r": (["b"], 1)}}, r"route_config\.r\.cluster: 'b' does not exist; use one of a"),
        ({"lds": {"l": ("r", 1)}}, r"listener\.l\.route_config: 'r' does not exist"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(resources: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        make_snapshot(**resources)


def test_a_cluster_without_endpoints_of_its_name_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"cluster\.a\.endpoints"):
        Snapshot.of([(Kind.CDS, "a", cluster_pb2.Cluster(name="a", type=cluster_pb2.Cluster.EDS))])


def test_a_domain_that_is_claimed_twice_is_refused() -> None:
    hosts = [route_components_pb2.VirtualHost(name=name, domains=[domain]) for name, domain in (("a", "X"), ("b", "x"))]
    with pytest.raises(InvalidInputError, match="'x' is claimed 2 times"):
        Snapshot.of([(Kind.RDS, "r", routes(*hosts))])


@pytest.mark.parametrize("weights", [(0, 0), (2**31, 2**31)])
def test_weights_that_envoy_refuses_are_refused(weights: tuple[int, int]) -> None:
    host = route_components_pb2.VirtualHost(name="h", domains=["*"])
    route = host.routes.add(name="split")
    for name, weight in zip("ab", weights, strict=True):
        route.route.weighted_clusters.clusters.add(name=name).weight.value = weight
    clusters = [(Kind.CDS, name, cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC)) for name in "ab"]
    with pytest.raises(InvalidInputError, match=r"route_config\.r\.routes\.split\.weights"):
        Snapshot.of([*clusters, (Kind.RDS, "r", routes(host))])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "one has not exactly one target"),
        ({"name": "a", "cluster_header": "x-cluster"}, "one has not exactly one target"),
        ({"cluster_header": "x-cluster"}, None),
    ],
)
def test_a_weighted_target_is_a_cluster_or_a_header(target: dict[str, str], words: str | None) -> None:
    host = route_components_pb2.VirtualHost(name="h", domains=["*"])
    host.routes.add(name="split").route.weighted_clusters.clusters.add(**target).weight.value = 1
    pieces = [(Kind.CDS, "a", static("a")), (Kind.RDS, "r", routes(host))]
    assert problems(*pieces) == ([] if words is None else [f"route_config.r.routes.split.weights: {words}"])


def test_everything_that_is_wrong_is_said_at_once() -> None:
    hosts = [route_components_pb2.VirtualHost(name="h", domains=[domain]) for domain in ("*.X.com", "*.x.com")]
    hosts[0].routes.add(name="main").route.cluster = "gone"
    hosts[0].routes.add(name="moved").redirect.host_redirect = "elsewhere"
    hosts[0].routes.add(name="fixed").direct_response.status = 200
    hosts[0].routes.add(name="asked").route.cluster_header = "x-cluster"
    mirrored = hosts[0].routes.add(name="mirrored").route
    mirrored.cluster = "a"
    mirrored.request_mirror_policies.add(cluster="shadow")
    unchecked = route_pb2.RouteConfiguration(name="r", virtual_hosts=hosts)
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name="a")
    pieces = [(Kind.CDS, "a", static("a")), (Kind.EDS, "a", assignment), (Kind.RDS, "r", unchecked)]
    assert problems(*pieces, (Kind.CDS, "both", aggregate("both", "a", "lost"))) == [
        "route_config.r.cluster: 'gone' does not exist",
        "route_config.r.cluster: 'shadow' does not exist",
        "cluster.both.clusters: 'lost' does not exist",
        "route_config.r.validate_clusters: is not set",
        "route_config.r.virtual_hosts: 'h' is the name of 2",
        "route_config.r.domains: '*.x.com' is claimed 2 times",
        "endpoints.a: belong to no cluster that asks for them",
    ]


def test_endpoints_are_found_by_the_name_that_the_cluster_gives_them() -> None:
    cluster = cluster_pb2.Cluster(name="a", type=cluster_pb2.Cluster.EDS)
    cluster.eds_cluster_config.service_name = "workers"
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name="workers")
    assert problems((Kind.CDS, "a", cluster), (Kind.EDS, "workers", assignment)) == []


def problems(*pieces: tuple[Kind, str, Any]) -> list[str]:
    """Return what is wrong with the resources, without the fixes."""
    try:
        Snapshot.of(pieces)
    except InvalidInputsError as refusal:
        return [f"{problem.field}: {problem.problem}" for problem in refusal.problems]
    return []


def routes(*hosts: Any) -> Any:
    return route_pb2.RouteConfiguration(name="r", virtual_hosts=hosts, validate_clusters={"value": True})


def static(name: str) -> Any:
    return cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC)


def aggregate(name: str, *members: str) -> Any:
    cluster = cluster_pb2.Cluster(name=name)
    cluster.cluster_type.typed_config.Pack(aggregate_pb2.ClusterConfig(clusters=members))
    return cluster


# -- the past ----------------------------------------------------------------------------------------------------------


def test_an_overlay_has_the_past_below_the_present_and_no_old_listeners() -> None:
    old = make_snapshot(cds={"a": 1, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
    older = make_snapshot(cds={"a": 7, "c": 7}, lds={"m": ("s", 1)}, rds={"s": (["c"], 1)})
    new = make_snapshot(cds={"b": 2}, lds={"n": ("t", 1)}, rds={"t": (["b"], 1)})
    whole = new.overlaid_on((old, older))
    assert {name: timeout(resource.packed) for name, resource in whole.resources[Kind.CDS].items()} == {
        "a": 1,
        "b": 2,
        "c": 7,
    }
    assert list(whole.resources[Kind.EDS]) == ["a", "b", "c"]
    assert list(whole.resources[Kind.RDS]) == ["r", "s", "t"]
    assert list(whole.resources[Kind.LDS]) == ["n"]
    assert whole.versions[Kind.LDS] == new.versions[Kind.LDS]
    assert whole.versions[Kind.CDS] != new.versions[Kind.CDS]


def test_an_overlay_on_nothing_more_is_the_snapshot_itself() -> None:
    new = make_snapshot(cds={"a": 2, "b": 1})
    assert new.overlaid_on((make_snapshot(cds={"a": 1}),)) is new


def timeout(packed: bytes) -> int:
    cluster = cluster_pb2.Cluster.FromString(any_pb2.Any.FromString(packed).value)
    return int(cluster.connect_timeout.seconds)
