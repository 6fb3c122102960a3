"""What the xDS server counts about itself."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controlplane.xds.kinds import Kind

PROXY_STATES: Final = ("synced", "waiting", "nacked")

PUSH_TO_ACK_EDGES_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class XdsMetrics:
    """Counters and gauges of one server; *registry* is the process's. What is counted per push is looked up once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        push_to_ack = Histogram(
            "hueshift_xds_push_to_ack_seconds",
            "From publishing a change, or a request for it, to the client's acknowledgement.",
            ("type",),
            buckets=PUSH_TO_ACK_EDGES_S,
            registry=registry,
        )
        nacks = Counter("hueshift_xds_nacks_total", "Responses that a client refused.", ("type",), registry=registry)
        pushes = Counter("hueshift_xds_pushes_total", "Responses sent.", ("type",), registry=registry)
        self.push_to_ack: Mapping[Kind, Histogram] = {kind: push_to_ack.labels(kind.value) for kind in Kind}
        self.nacks: Mapping[Kind, Counter] = {kind: nacks.labels(kind.value) for kind in Kind}
        self.pushes: Mapping[Kind, Counter] = {kind: pushes.labels(kind.value) for kind in Kind}
        self.streams = Gauge("hueshift_xds_streams", "Open streams.", ("variant",), registry=registry)
        self.proxies = Gauge(
            "hueshift_xds_proxies",
            "Clients connected to this replica: synced (all that was sent is acknowledged), waiting, nacked.",
            ("state",),
            registry=registry,
        )
        self.closed = Counter(
            "hueshift_xds_streams_closed_total",
            "Streams that ended, by reason: client, stalled, protocol, identity, stopping, bug.",
            ("reason",),
            registry=registry,
        )
        self.superseded = Counter(
            "hueshift_xds_streams_superseded_total",
            "Streams whose node opened another one; the newest counts.",
            registry=registry,
        )
