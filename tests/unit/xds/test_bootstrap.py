"""The bootstrap: what only it can say, said for clusters that do not exist yet."""

import datetime as dt
import json
import re

import pytest
import yaml

from controlplane.rollout.windows import LATENCY_EDGES_MS
from controlplane.xds.bootstrap import CLUSTER_STATISTICS, OTHER_STATISTICS, Variant, render_bootstrap


@pytest.mark.parametrize(
    "name",
    [
        "cluster.ddcolor_v1.upstream_rq_total",
        "cluster.colorize-v42.upstream_rq_503",
        "cluster.v2.upstream_rq_5xx",
        "cluster.v2.upstream_rq_time",
        "cluster.v2.upstream_rq_active",
        "cluster.v2.upstream_rq_completed",
        "cluster.v2.external.upstream_rq_5xx",
        "cluster.v2.internal.upstream_rq_time",
        "cluster.v2.retry.upstream_rq_5xx",
        "cluster.v2.membership_healthy",
        "cluster.v2.membership_total",
        "cluster.v2.upstream_cx_connect_fail",
        "cluster.v2.outlier_detection.ejections_active",
    ],
)
def test_statistics_of_any_cluster_are_kept(name: str) -> None:
    assert re.fullmatch(CLUSTER_STATISTICS, name)


@pytest.mark.parametrize("name", ["cluster.v2.lb_healthy_panic", "cluster.v2.upstream_cx_length_ms", "runtime.load"])
def test_statistics_that_nobody_reads_are_not(name: str) -> None:
    assert not re.fullmatch(CLUSTER_STATISTICS, name)
    assert not name.startswith(OTHER_STATISTICS)


def test_buckets_are_those_that_the_judge_counts_in() -> None:
    settings = render_bootstrap(node_id="e1")["stats_config"]["histogram_bucket_settings"]
    assert settings == [{"match": {"suffix": "upstream_rq_time"}, "buckets": list(LATENCY_EDGES_MS)}]


def test_it_prints_as_json_and_as_yaml() -> None:
    bootstrap = render_bootstrap(node_id="e1", flush=dt.timedelta(milliseconds=500))
    assert json.loads(json.dumps(bootstrap)) == yaml.safe_load(yaml.safe_dump(bootstrap)) == bootstrap
    assert bootstrap["stats_flush_interval"] == "0.5s"


def test_the_variant_is_how_envoy_asks() -> None:
    kinds = {
        variant: render_bootstrap(node_id="e1", variant=variant)["dynamic_resources"]["ads_config"]["api_type"]
        for variant in ("sotw", "delta")
    }
    assert kinds == {"sotw": "GRPC", "delta": "DELTA_GRPC"}


@pytest.mark.parametrize(("variant", "api"), [("sotw-per-type", "GRPC"), ("delta-per-type", "DELTA_GRPC")])
def test_without_ads_each_type_is_asked_for_by_itself(variant: Variant, api: str) -> None:
    resources = render_bootstrap(node_id="e1", variant=variant)["dynamic_resources"]
    assert resources.keys() == {"cds_config", "lds_config"}
    assert {source["api_config_source"]["api_type"] for source in resources.values()} == {api}


@pytest.mark.parametrize(
    ("address", "discovery"), [("127.0.0.1", "STATIC"), ("::1", "STATIC"), ("plane", "STRICT_DNS")]
)
def test_a_control_plane_is_found_by_address_or_by_name(address: str, discovery: str) -> None:
    bootstrap = render_bootstrap(node_id="e1", xds_address=address, xds_port=1, telemetry_port=2)
    clusters = bootstrap["static_resources"]["clusters"]
    assert [cluster["type"] for cluster in clusters] == [discovery] * 2
    ports = [
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
        for cluster in clusters
    ]
    assert ports == [{"address": address, "port_value": port} for port in (1, 2)]
