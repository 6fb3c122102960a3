"""The worker's own counters, in a registry of their own so that two apps in one process do not mix."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PATHS: Final = frozenset({"/repair", "/healthz", "/readyz", "/metrics"})
"""Any other path is counted as `other`: a label must not grow with what strangers ask for."""
LATENCY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0)


class Metrics:
    """What `/metrics` shows."""

    def __init__(self, *, model: str, version: str, sha256: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests", "Answers by path and status.", ("path", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "http_request_duration_seconds",
            "From the request's head to the answer's end.",
            ("path",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.refused = Counter(
            "hueshift_worker_refused", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        self.faults = Counter(
            "hueshift_worker_injected_faults", "Faults injected for a drill.", ("kind",), registry=self.registry
        )
        self.batches = Histogram(
            "hueshift_worker_batch_size",
            "Pictures in one run of the network.",
            buckets=(1, 2, 4, 8, 16),
            registry=self.registry,
        )
        self.inside = Gauge("hueshift_worker_requests_inside", "Requests inside the worker.", registry=self.registry)
        self.waiting = Gauge("hueshift_worker_queue_depth", "Pictures waiting for the device.", registry=self.registry)
        self.ready = Gauge("hueshift_worker_ready", "1 when the model is loaded and warm.", registry=self.registry)
        info = Gauge(
            "hueshift_worker_model_info",
            "The model that is served; always 1.",
            ("model", "version", "sha256"),
            registry=self.registry,
        )
        info.labels(model, version, sha256).set(1)

    def count_answer(self, path: str, status: int, seconds: float) -> None:
        """Count one finished answer."""
        label = path if path in PATHS else "other"
        self.requests.labels(label, str(status)).inc()
        self.latency.labels(label).observe(seconds)
