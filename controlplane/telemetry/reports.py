"""One flush of one Envoy, read off the wire: the only place that knows how Envoy names its statistics.

Envoy sends each statistic as a family of its own, with its tags as labels (``cluster.upstream_rq_xx`` with
``envoy.cluster_name``) or, where the bootstrap does not ask for labels, inside the name
(``cluster.v2.upstream_rq_5xx``). Only the plain statistics of a cluster are read: they hold all of its requests, while
``external.``, ``internal.``, ``retry.`` and ``canary.`` repeat parts of them.

Single HTTP statuses are ``cluster.upstream_rq`` with ``envoy.response_code`` (or ``cluster.v2.upstream_rq_503``), and
add up to the counter of their class. gRPC statuses, which the grpc_stats filter counts, are families of their own:
``cluster.grpc.14`` with ``envoy.cluster_name`` (or ``cluster.v2.grpc.14``). What an upstream makes up as a status is a
name there too ("99", "abc", "16.x"), so the bootstrap lets only those through that exist, and only they are read.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.rollout.answers import GRPC_STATUSES
from controlplane.rollout.windows import LATENCY_EDGES_MS

OWN_CLUSTERS: Final = frozenset({"xds", "hueshift_telemetry"})
"""The bootstrap's own clusters: they carry configuration and telemetry, never requests."""

UPTIME: Final = "server.uptime"
STARTED: Final = "upstream_rq_total"
ACTIVE: Final = "upstream_rq_active"
HEALTHY: Final = "membership_healthy"
TOTAL: Final = "membership_total"
LATENCY: Final = "upstream_rq_time"

COMPLETED: Final[Mapping[str, str]] = {digit: f"upstream_rq_{digit}xx" for digit in "2345"}
"""Final answers by class. A 1xx is none: the answer still follows, or the connection became a tunnel."""
FAILED: Final = COMPLETED["5"]

_PLAIN: Final = frozenset({STARTED, ACTIVE, HEALTHY, TOTAL, LATENCY})
_NAMED: Final = _PLAIN | frozenset(COMPLETED.values())
_CLASSES: Final = "cluster.upstream_rq_xx"
_STATUSES: Final = "cluster.upstream_rq"
_GRPC: Final[Mapping[str, str]] = {f"cluster.grpc.{status}": f"grpc-{status}" for status in GRPC_STATUSES.values()}
_LABELLED: Final[Mapping[str, str]] = {
    **{f"cluster.{name}": name for name in _PLAIN},
    _CLASSES: _CLASSES,
    _STATUSES: _STATUSES,
    **_GRPC,
}
_CODES: Final = frozenset(_GRPC.values())
_SINGLE: Final = re.compile("upstream_rq_([45][0-9][0-9])")
_EDGES: Final = list(LATENCY_EDGES_MS)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What one Envoy counted when it flushed.

    *flushed_ms* is Envoy's own clock, *uptime_s* seconds since that Envoy started, or None if the report does not say.
    *counters* grow from Envoy's start and are keyed ``cluster/statistic``; so do *codes*, keyed ``cluster/code`` with a
    code as in `VersionTick.codes`: they say once more of what kind some answers in *counters* were.
    *latency* holds, per cluster, the requests since the flush before, per bucket of `LATENCY_EDGES_MS`. *foreign_edges*
    says that some histogram had other buckets and was left out.
    """

    flushed_ms: int
    uptime_s: int | None
    counters: Mapping[str, int]
    codes: Mapping[str, int]
    active: Mapping[str, int]
    members: Mapping[str, tuple[int, int]]
    latency: Mapping[str, tuple[int, ...]]
    foreign_edges: bool = False

    def followed_by(self, later: "Report") -> "Report":
        """Return the one report that says what this and then *later* said."""
        return Report(
            flushed_ms=later.flushed_ms,
            uptime_s=self.uptime_s if later.uptime_s is None else later.uptime_s,
            counters={**self.counters, **later.counters},
            codes={**self.codes, **later.codes},
            active={**self.active, **later.active},
            members={**self.members, **later.members},
            latency={
                **self.latency,
                **{name: _sum(self.latency.get(name), more) for name, more in later.latency.items()},
            },
            foreign_edges=self.foreign_edges or later.foreign_edges,
        )


class _Draft:
    """A report in the making."""

    def __init__(self) -> None:
        self.flushed_ms = 0
        self.uptime_s: int | None = None
        self.counters: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        self.active: dict[str, int] = {}
        self.healthy: dict[str, int] = {}
        self.total: dict[str, int] = {}
        self.latency: dict[str, tuple[int, ...]] = {}
        self.foreign_edges = False

    def add(self, cluster: str, statistic: str, metric: Any) -> None:
        if cluster in OWN_CLUSTERS:
            return
        match statistic:
            case "upstream_rq_active":
                self.active[cluster] = max(0, int(metric.gauge.value))
            case "membership_healthy":
                self.healthy[cluster] = int(metric.gauge.value)
            case "membership_total":
                self.total[cluster] = int(metric.gauge.value)
            case "upstream_rq_time":
                self._add_latency(cluster, metric.histogram)
            case _:
                self.counters[f"{cluster}/{statistic}"] = int(metric.counter.value)

    def add_code(self, cluster: str, code: str, metric: Any) -> None:
        if cluster not in OWN_CLUSTERS:
            self.codes[f"{cluster}/{code}"] = int(metric.counter.value)

    def _add_latency(self, cluster: str, histogram: Any) -> None:
        if not histogram.sample_count:
            return
        if [bucket.upper_bound for bucket in histogram.bucket] != _EDGES:
            self.foreign_edges = True
            return
        below = 0
        counts = []
        for bucket in histogram.bucket:
            up_to = bucket.cumulative_count
            counts.append(max(0, up_to - below))
            below = up_to
        counts.append(max(0, histogram.sample_count - below))
        self.latency[cluster] = _sum(self.latency.get(cluster), tuple(counts))

    def finish(self) -> Report:
        clusters = self.healthy.keys() | self.total.keys()
        return Report(
            flushed_ms=self.flushed_ms,
            uptime_s=self.uptime_s,
            counters=self.counters,
            codes=self.codes,
            active=self.active,
            members={name: (self.healthy.get(name, 0), self.total.get(name, 0)) for name in clusters},
            latency=self.latency,
            foreign_edges=self.foreign_edges,
        )


def parse(message: pb.StreamMetricsMessage) -> Report:
    """Read one message of the metrics stream; statistics that nobody here needs are passed over."""
    draft = _Draft()
    labelled = False  # a sink labels all or none: the many families that nobody needs are then passed over faster
    for family in message.envoy_metrics:
        name = family.name
        statistic = _LABELLED.get(name)
        if statistic is not None:
            for metric in family.metric:
                if metric.label:
                    labelled = True
                    _add_labelled(draft, statistic, metric)
                else:
                    _add_named(draft, name, metric)
        elif name == UPTIME:
            for metric in family.metric:
                draft.flushed_ms = metric.timestamp_ms
                draft.uptime_s = int(metric.gauge.value) if draft.flushed_ms else None
        elif not labelled and name.startswith("cluster."):
            for metric in family.metric:
                if not metric.label:
                    _add_named(draft, name, metric)
    if not draft.flushed_ms:
        draft.flushed_ms = _first_timestamp(message.envoy_metrics)
    return draft.finish()


def _add_labelled(draft: _Draft, statistic: str, metric: Any) -> None:
    cluster = value = ""
    for label in metric.label:
        if label.name == "envoy.cluster_name":
            cluster = label.value
        elif label.name in {"envoy.response_code_class", "envoy.response_code"}:
            value = label.value
    if not cluster:
        return
    if statistic == _CLASSES:
        if value in COMPLETED:
            draft.add(cluster, COMPLETED[value], metric)
    elif statistic == _STATUSES:
        if _SINGLE.fullmatch(f"upstream_rq_{value}"):
            draft.add_code(cluster, value, metric)
    elif statistic in _CODES:
        draft.add_code(cluster, statistic, metric)
    else:
        draft.add(cluster, statistic, metric)


def _add_named(draft: _Draft, name: str, metric: Any) -> None:
    parts = name.split(".")
    if len(parts) == 4 and parts[2] == "grpc":
        code = f"grpc-{parts[3]}"
        if code in _CODES:
            draft.add_code(parts[1], code, metric)
    elif len(parts) == 3 and (parts[2] in _NAMED):
        draft.add(parts[1], parts[2], metric)
    elif len(parts) == 3 and (single := _SINGLE.fullmatch(parts[2])):
        draft.add_code(parts[1], single[1], metric)


def _first_timestamp(families: Iterable[Any]) -> int:
    return next((metric.timestamp_ms for family in families for metric in family.metric), 0)


def _sum(mine: tuple[int, ...] | None, theirs: tuple[int, ...]) -> tuple[int, ...]:
    return theirs if mine is None else tuple(a + b for a, b in zip(mine, theirs, strict=True))
