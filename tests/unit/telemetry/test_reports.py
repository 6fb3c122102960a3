"""Reading a flush."""

import pytest

from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.rollout.windows import BUCKETS, LATENCY_EDGES_MS, edge_index
from controlplane.telemetry.reports import parse
from tests.unit.telemetry.envoys import FakeEnvoy, ManualClock


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "names"])
def test_both_forms_of_tags_are_read(*, labels: bool) -> None:
    envoy = FakeEnvoy(ManualClock(), labels=labels)
    envoy.serve("v1", 3)
    envoy.serve("v1", 2, status=503)
    envoy.serve("v2", status=404)
    envoy.serve("v2", 2, grpc=0)
    envoy.serve("v2", 3, grpc=14)
    envoy.begin("v2", 4)
    envoy.members["v2"] = (1, 2)
    report = envoy.report()
    assert report.counters == {
        "v1/upstream_rq_total": 5,
        "v1/upstream_rq_2xx": 3,
        "v1/upstream_rq_5xx": 2,
        "v2/upstream_rq_total": 10,
        "v2/upstream_rq_2xx": 5,
        "v2/upstream_rq_4xx": 1,
    }
    assert report.codes == {"v1/503": 2, "v2/404": 1, "v2/grpc-14": 3}
    assert report.active["v2"] == 4
    assert report.members == {"v2": (1, 2)}
    assert sum(report.latency["v1"]) == 5


def test_parts_of_the_same_requests_are_not_counted_again() -> None:
    message = pb.StreamMetricsMessage()
    cluster = pb.LabelPair(name="envoy.cluster_name", value="v1")
    five = pb.LabelPair(name="envoy.response_code_class", value="5")
    status = pb.LabelPair(name="envoy.response_code", value="503")
    for part in ("external", "internal", "retry", "canary"):
        for name, label in ((f"cluster.{part}.upstream_rq_xx", five), (f"cluster.{part}.upstream_rq", status)):
            metric = pb.Metric(label=[cluster, label], counter=pb.Counter(value=7))
            message.envoy_metrics.append(pb.MetricFamily(name=name, metric=[metric]))
        for name in (f"cluster.v1.{part}.upstream_rq_5xx", f"cluster.v1.{part}.upstream_rq_503"):
            message.envoy_metrics.append(pb.MetricFamily(name=name, metric=[pb.Metric(counter=pb.Counter(value=7))]))
    report = parse(message)
    assert (report.counters, report.codes) == ({}, {})


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "names"])
def test_what_is_no_failed_status_is_no_code(*, labels: bool) -> None:
    """An upstream may make up any gRPC status, and Envoy counts it by that name."""
    envoy = FakeEnvoy(ManualClock(), labels=labels)
    for status in (200, 204, 301, 302):
        envoy.serve("v1", status=status)
    envoy.serve("xds", status=503, grpc=14)
    for name in ("0", "17", "99", "014", "x", "16.x", "total", "success", "failure", "request_message_count"):
        envoy.counters["v1", f"grpc.{name}"] += 1
    for name in ("timeout", "600", "0", "4xx0", "5030"):
        envoy.counters["v1", f"upstream_rq_{name}"] += 1
    report = envoy.report()
    assert report.codes == {}
    assert report.counters == {"v1/upstream_rq_total": 4, "v1/upstream_rq_2xx": 2, "v1/upstream_rq_3xx": 2}


def test_interim_answers_and_own_clusters_are_left_out() -> None:
    envoy = FakeEnvoy(ManualClock())
    envoy.serve("v1", status=100)
    envoy.serve("xds")
    envoy.serve("hueshift_telemetry")
    report = envoy.report()
    assert report.counters == {"v1/upstream_rq_total": 1}
    assert set(report.latency) == {"v1"}


def test_buckets_become_counts_of_their_own() -> None:
    envoy = FakeEnvoy(ManualClock())
    for ms in (0.4, 1.0, 1.05, 400.0, 400.1, 300_000.0, 300_001.0, 900_000.0):
        envoy.serve("v1", ms=ms)
    counts = envoy.report().latency["v1"]
    assert len(counts) == BUCKETS
    at_400 = edge_index(400)
    assert counts[0] == 2
    assert counts[1] == 1
    assert counts[at_400] == 1
    assert counts[at_400 + 1] == 1
    assert counts[-2] == 1
    assert counts[-1] == 2
    assert sum(counts) == 8


def test_histograms_of_other_buckets_are_refused_and_the_rest_is_read() -> None:
    envoy = FakeEnvoy(ManualClock(), edges=LATENCY_EDGES_MS[:-1])
    envoy.serve("v1", 3)
    report = envoy.report()
    assert report.foreign_edges
    assert report.latency == {}
    assert report.counters["v1/upstream_rq_2xx"] == 3


def test_an_uptime_without_a_moment_is_none() -> None:
    message = pb.StreamMetricsMessage(
        envoy_metrics=[pb.MetricFamily(name="server.uptime", metric=[pb.Metric(gauge=pb.Gauge(value=7))])]
    )
    assert parse(message).uptime_s is None


def test_two_reports_follow_as_one() -> None:
    envoy = FakeEnvoy(ManualClock())
    envoy.serve("v1", 3)
    first = envoy.report()
    envoy.clock.advance(2)
    envoy.serve("v1", 2)
    envoy.serve("v1", status=422)
    both = first.followed_by(envoy.report())
    assert both.counters["v1/upstream_rq_2xx"] == 5
    assert both.codes == {"v1/422": 1}
    assert sum(both.latency["v1"]) == 6
    assert both.uptime_s == 2


def test_names_do_not_clash_with_those_of_xds_protos() -> None:
    pytest.importorskip("envoy.config.core.v3.base_pb2")
    pytest.importorskip("envoy.service.discovery.v3.ads_pb2")
    node = pb.Node(id="envoy-1", cluster="edge")
    from envoy.config.core.v3 import base_pb2  # noqa: PLC0415 - after the skip

    theirs = base_pb2.Node.FromString(node.SerializeToString())
    assert (theirs.id, theirs.cluster) == ("envoy-1", "edge")
    theirs.metadata["rollout_group"] = "a"
    assert pb.Node.FromString(theirs.SerializeToString()).id == "envoy-1"
