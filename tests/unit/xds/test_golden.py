"""From an engineer's YAML to Envoy's JSON: what is printed in tests/golden/xds is what the fleet gets.

HUESHIFT_UPDATE_GOLDEN=1 writes the expected files anew; the review is the diff.
"""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import betterproto2
import pytest
import yaml
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as PackedAny

from controlplane.api.reading import parse_service
from controlplane.traffic.model import ServedService, Share, TrafficPlan
from controlplane.xds.kinds import SNAPSHOT_KINDS, Kind
from controlplane.xds.snapshot import Snapshot, SnapshotCompiler

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the generated code uses what pydantic has given up
    from envoy_data_plane.envoy.config.cluster.v3 import Cluster
    from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
    from envoy_data_plane.envoy.config.listener.v3 import Listener
    from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
    from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryResponse

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "golden" / "xds"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


def plan_of(case: str) -> TrafficPlan:
    given = yaml.safe_load((GOLDEN / f"{case}.yaml").read_text())
    services = []
    for document in given["services"]:
        spec = parse_service(yaml.safe_dump(document, sort_keys=False))
        weights = given.get("splits", {}).get(spec.name)
        split = spec.initial_split if weights is None else tuple(Share(*pair) for pair in weights.items())
        services.append(ServedService(spec, split))
    return TrafficPlan(tuple(services), {host: tuple(found) for host, found in given.get("addresses", {}).items()})


def compiled(case: str) -> Snapshot:
    return Snapshot.from_bytes(SnapshotCompiler().compile(plan_of(case)).content)


def as_json(packed: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(PackedAny.FromString(packed), preserving_proto_field_name=True)
    return found


def rendered(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    return {
        kind.value: {name: as_json(resource.packed) for name, resource in snapshot.resources[kind].items()}
        for kind in SNAPSHOT_KINDS
    }


@pytest.mark.parametrize("case", CASES)
def test_envoy_gets_the_golden_configuration(case: str) -> None:
    found = rendered(compiled(case))
    expected = GOLDEN / f"{case}.json"
    if os.environ.get("HUESHIFT_UPDATE_GOLDEN") == "1":
        expected.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(expected.read_text())


@pytest.mark.parametrize("case", CASES)
def test_another_protobuf_library_reads_the_same(case: str) -> None:
    """Bytes of ours, decoded and encoded again by envoy-data-plane, which shares no code with xds-protos."""
    messages: dict[Kind, Any] = {
        Kind.CDS: Cluster,
        Kind.EDS: ClusterLoadAssignment,
        Kind.LDS: Listener,
        Kind.RDS: RouteConfiguration,
    }
    by_url = {kind.type_url: message for kind, message in messages.items()}
    snapshot = compiled(case)
    foreign = DeltaDiscoveryResponse.parse(snapshot.to_bytes())
    assert len(foreign.resources) == sum(len(snapshot.resources[kind]) for kind in Kind)
    for resource in foreign.resources:
        assert resource.resource is not None
        message = by_url[resource.resource.type_url].parse(resource.resource.value)
        assert isinstance(message, betterproto2.Message)
        assert not message._unknown_fields
        ours = next(kind for kind in Kind if kind.type_url == resource.resource.type_url)
        again = PackedAny(type_url=resource.resource.type_url, value=bytes(message))
        assert as_json(again.SerializeToString()) == as_json(snapshot.resources[ours][resource.name].packed)


# -- article 1 ---------------------------------------------------------------------------------------------------------


def test_article_1_is_served_with_its_names_matches_weights_and_timeouts() -> None:
    """The article's own file, in the words of today's Envoy, is what our configuration says of the same fields."""
    article = yaml.safe_load((ROOT / "data" / "article1-envoy.yaml").read_text())["static_resources"]
    (listener,) = article["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    ours = rendered(compiled("article1"))

    assert ours["lds"].keys() == {listener["name"]}
    mine = ours["lds"][listener["name"]]
    assert mine["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 8080}
    my_manager = mine["filter_chains"][0]["filters"][0]["typed_config"]
    assert my_manager["stat_prefix"] == manager["stat_prefix"]
    assert my_manager["rds"]["route_config_name"] == manager["route_config"]["name"]
    assert [each["name"] for each in my_manager["http_filters"]] == [each["name"] for each in manager["http_filters"]]

    routes = ours["rds"][manager["route_config"]["name"]]
    (host,), (my_host,) = manager["route_config"]["virtual_hosts"], routes["virtual_hosts"]
    assert (my_host["name"], my_host["domains"]) == (host["name"], host["domains"])
    assert len(my_host["routes"]) == len(host["routes"])
    for my_route, route in zip(my_host["routes"], host["routes"], strict=True):
        assert my_route["match"] == modern(route["match"])
        assert my_route["route"]["timeout"] == "300s"
        assert my_route["route"].get("cluster") == route["route"].get("cluster")
        assert shares(my_route) == shares(route)

    for cluster in article["clusters"]:
        mine = ours["cds"][cluster["name"]]
        assert mine["connect_timeout"] == cluster["connect_timeout"] == "10s"
        assert mine["type"] == "EDS"
        assert mine["health_checks"]
    assert ours["cds"].keys() == {cluster["name"] for cluster in article["clusters"]}


def modern(match: dict[str, Any]) -> dict[str, Any]:
    headers = [
        {"name": header["name"], "string_match": {"exact": header["exact_match"]}}
        for header in match.get("headers", [])
    ]
    return {"prefix": match["prefix"], **({"headers": headers} if headers else {})}


def shares(route: dict[str, Any]) -> list[tuple[str, float]]:
    clusters = route["route"].get("weighted_clusters", {}).get("clusters", [])
    total = sum(cluster.get("weight", 0) for cluster in clusters)
    return [(cluster["name"], cluster.get("weight", 0) / total) for cluster in clusters]
