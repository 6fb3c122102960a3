"""An Envoy as the metrics service sees it: counters that grow, gauges, histograms of one flush; and a clock by hand."""

import bisect
import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence

from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.rollout.windows import LATENCY_EDGES_MS
from controlplane.telemetry.fleet import Moment
from controlplane.telemetry.reports import Report, parse

EPOCH = dt.datetime(2026, 11, 22, 12, 0, 0, tzinfo=dt.UTC)


class ManualClock:
    """Time that passes when a test says so."""

    def __init__(self, now: dt.datetime = EPOCH) -> None:
        self._now = now
        self._steady = 1000.0

    def now(self) -> dt.datetime:
        return self._now

    def steady(self) -> float:
        return self._steady

    async def sleep(self, delay: dt.timedelta) -> None:
        self.advance(delay.total_seconds())

    def advance(self, seconds: float) -> None:
        self._now += dt.timedelta(seconds=seconds)
        self._steady += seconds

    def set_back(self, seconds: float) -> None:
        self._now -= dt.timedelta(seconds=seconds)

    def moment(self) -> Moment:
        return Moment(now=self._now, steady=self._steady)


@dataclasses.dataclass
class FakeEnvoy:
    """One process. *labels* False puts the tags into the names, as a sink without emit_tags_as_labels does."""

    clock: ManualClock
    node: str = "envoy-1"
    labels: bool = True
    edges: Sequence[float] = LATENCY_EDGES_MS
    counters: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    active: Counter[str] = dataclasses.field(default_factory=Counter)
    members: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    latencies: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    started: dt.datetime = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock.now().replace(microsecond=0)

    def begin(self, cluster: str, count: int = 1) -> None:
        self.counters[cluster, "upstream_rq_total"] += count
        self.active[cluster] += count

    def end(
        self, cluster: str, status: int = 200, ms: float = 20.0, count: int = 1, *, grpc: int | None = None
    ) -> None:
        self.active[cluster] -= count
        self.counters[cluster, f"upstream_rq_{status // 100}xx"] += count
        self.counters[cluster, f"upstream_rq_{status}"] += count
        if grpc is not None:
            self.say_status(cluster, grpc, count)
        self.latencies.setdefault(cluster, []).extend([ms] * count)

    def say_status(self, cluster: str, grpc: int, count: int = 1) -> None:
        """End calls with a status in their trailers; their headers are `end`."""
        self.counters[cluster, f"grpc.{grpc}"] += count

    def serve(
        self, cluster: str, count: int = 1, *, status: int = 200, ms: float = 20.0, grpc: int | None = None
    ) -> None:
        self.begin(cluster, count)
        self.end(cluster, status, ms, count, grpc=grpc)

    def remove_cluster(self, cluster: str) -> None:
        self.counters = Counter({key: value for key, value in self.counters.items() if key[0] != cluster})
        del self.active[cluster]
        self.members.pop(cluster, None)

    def flush(self, *, uptime: bool = True) -> pb.StreamMetricsMessage:
        """Say what a flush says; the histograms' interval begins anew, whether anybody listens or not."""
        message = pb.StreamMetricsMessage()
        for (cluster, statistic), value in self.counters.items():
            self._add(message, cluster, statistic, pb.Metric(counter=pb.Counter(value=value)))
        gauges = [(cluster, "upstream_rq_active", value) for cluster, value in self.active.items()]
        for cluster, (healthy, total) in self.members.items():
            gauges += [(cluster, "membership_healthy", healthy), (cluster, "membership_total", total)]
        for cluster, statistic, value in gauges:
            self._add(message, cluster, statistic, pb.Metric(gauge=pb.Gauge(value=value)))
        for cluster, values in self.latencies.items():
            self._add(message, cluster, "upstream_rq_time", pb.Metric(histogram=self._histogram(values)))
            values.clear()
        if uptime:
            value = int((self.clock.now() - self.started).total_seconds())
            message.envoy_metrics.append(
                pb.MetricFamily(name="server.uptime", type=pb.GAUGE, metric=[pb.Metric(gauge=pb.Gauge(value=value))])
            )
        flushed_ms = int(self.clock.now().timestamp() * 1000)
        for family in message.envoy_metrics:
            family.metric[0].timestamp_ms = flushed_ms
        return message

    def report(self) -> Report:
        return parse(self.flush())

    def _histogram(self, values: Iterable[float]) -> pb.Histogram:
        ordered = sorted(values)
        return pb.Histogram(
            sample_count=len(ordered),
            bucket=[
                pb.Bucket(upper_bound=edge, cumulative_count=bisect.bisect_right(ordered, edge)) for edge in self.edges
            ],
        )

    def _add(self, message: pb.StreamMetricsMessage, cluster: str, statistic: str, metric: pb.Metric) -> None:
        kind = pb.COUNTER if metric.HasField("counter") else pb.GAUGE if metric.HasField("gauge") else pb.HISTOGRAM
        name = f"cluster.{cluster}.{statistic}"
        if self.labels:
            metric.label.append(pb.LabelPair(name="envoy.cluster_name", value=cluster))
            name = f"cluster.{statistic}"
            if statistic.endswith("xx"):
                name = "cluster.upstream_rq_xx"
                metric.label.append(pb.LabelPair(name="envoy.response_code_class", value=statistic[-3]))
            elif statistic[-3:].isdecimal() and statistic.startswith("upstream_rq_"):
                name = "cluster.upstream_rq"
                metric.label.append(pb.LabelPair(name="envoy.response_code", value=statistic[-3:]))
        message.envoy_metrics.append(pb.MetricFamily(name=name, type=kind, metric=[metric]))
