"""The bootstrap: what only it can say, said for clusters that do not exist yet."""

import datetime as dt
import json
import re
from typing import Any

import pytest
import yaml

from controlplane.errors import InvalidInputError
from controlplane.rollout.windows import LATENCY_EDGES_MS
from controlplane.xds.bootstrap import (
    CLUSTER_STATISTICS,
    OTHER_STATISTICS,
    ChannelTls,
    Variant,
    render_bootstrap,
    render_grpc_bootstrap,
    render_secrets,
)


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
        "cluster.v2.grpc.1",
        "cluster.v2.grpc.16",
    ],
)
def test_statistics_of_any_cluster_are_kept(name: str) -> None:
    assert re.fullmatch(CLUSTER_STATISTICS, name)


@pytest.mark.parametrize(
    "name",
    [
        *("cluster.v2.lb_healthy_panic", "cluster.v2.upstream_cx_length_ms", "runtime.load"),
        *("cluster.v2.grpc.0", "cluster.v2.grpc.17", "cluster.v2.grpc.total", "cluster.v2.grpc.echo.Echo.Say.14"),
    ],
)
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


@pytest.mark.parametrize(
    ("variant", "api"), [("sotw-per-type", "GRPC"), ("delta-per-type", "DELTA_GRPC"), ("rest", "REST")]
)
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


# -- mutual TLS --------------------------------------------------------------------------------------------------------


def tls(*, server_name: str = "plane.test", secrets: str = "") -> ChannelTls:
    return ChannelTls(certificate="/tls/own.crt", key="/tls/own.key", ca="/ca/ca.crt", server_name=server_name,
                      secrets=secrets)  # fmt: skip


def contexts(given: ChannelTls) -> list[dict[str, Any]]:
    clusters = render_bootstrap(node_id="e1", tls=given)["static_resources"]["clusters"]
    return [cluster["transport_socket"]["typed_config"] for cluster in clusters]


def test_without_certificates_the_channel_is_plaintext() -> None:
    clusters = render_bootstrap(node_id="e1")["static_resources"]["clusters"]
    assert [cluster.get("transport_socket") for cluster in clusters] == [None, None]


def test_both_channels_prove_who_envoy_is_and_check_the_control_plane() -> None:
    first, second = contexts(tls())
    assert first == second
    assert first["sni"] == "plane.test"
    common = first["common_tls_context"]
    assert common["tls_params"]["tls_maximum_protocol_version"] == "TLSv1_3"
    assert common["tls_certificates"][0]["private_key"] == {"filename": "/tls/own.key"}
    assert common["validation_context"]["match_typed_subject_alt_names"] == [
        {"san_type": "DNS", "matcher": {"exact": "plane.test"}}
    ]


def test_an_address_is_checked_as_one_and_is_no_server_name() -> None:
    context, _ = contexts(tls(server_name="10.0.0.1"))
    assert "sni" not in context
    (name,) = context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert name == {"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.1"}}


def test_files_that_are_followed_are_named_in_files_of_their_own() -> None:
    given = tls(secrets="/etc/secrets/")
    common = contexts(given)[0]["common_tls_context"]
    references = [*common["tls_certificate_sds_secret_configs"], common["validation_context_sds_secret_config"]]
    files = render_secrets(given)
    assert [reference["sds_config"]["path_config_source"]["path"] for reference in references] == [
        f"/etc/secrets/{name}" for name in files
    ]
    assert [secret["resources"][0]["name"] for secret in files.values()] == [each["name"] for each in references]
    own, ca = (secret["resources"][0] for secret in files.values())
    assert own["tls_certificate"]["watched_directory"] == {"path": "/tls"}
    assert ca["validation_context"]["watched_directory"] == {"path": "/ca"}


def test_a_grpc_clients_group_is_in_its_metadata() -> None:
    found = render_grpc_bootstrap(node_id="a", group="apps", xds_address="plane", xds_port=1)
    assert found["node"] == {"id": "a", "cluster": "hueshift", "metadata": {"hueshift_group": "apps"}}
    assert found["xds_servers"][0]["server_uri"] == "plane:1"


def test_a_grpc_client_proves_who_it_is_too_and_dials_the_name_in_the_certificate() -> None:
    (server,) = render_grpc_bootstrap(node_id="a", xds_address="plane.test", tls=tls())["xds_servers"]
    files = {"certificate_file": tls().certificate, "private_key_file": tls().key, "ca_certificate_file": tls().ca}
    assert server["channel_creds"] == [{"type": "tls", "config": files}]
    with pytest.raises(InvalidInputError, match=r"--server-name: 'plane\.test' is not what the client dials"):
        render_grpc_bootstrap(node_id="a", xds_address="10.0.0.1", tls=tls())
