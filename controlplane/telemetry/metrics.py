"""What our own telemetry intake says of itself to Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class TelemetryMetrics:
    """Counters and gauges of the intake, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reports = Counter("hueshift_telemetry_reports", "Flushes received from Envoys.", registry=registry)
        self.refused = Counter(
            "hueshift_telemetry_refused", "Streams of which something was not counted.", ["event"], registry=registry
        )
        self.reporting = Gauge("hueshift_telemetry_nodes_reporting", "Envoys heard within 5 s.", registry=registry)
        self.silent = Gauge(
            "hueshift_telemetry_nodes_silent", "Envoys that should have reported and did not.", registry=registry
        )
        self.gaps = Counter(
            "hueshift_telemetry_histogram_gaps", "Spans for which an Envoy's latencies were lost.", registry=registry
        )
        self.write_seconds = Histogram(
            "hueshift_telemetry_write_seconds",
            "Time to commit one batch.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.write_failures = Counter(
            "hueshift_telemetry_write_failures", "Batches that the database did not take.", registry=registry
        )
