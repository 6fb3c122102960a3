"""The worker's own counters, in a registry of their own so that two apps in one process do not mix.

Images per second are `rate(hueshift_worker_images_total[1m])`, the share of colour photos among the inputs is that of
`hueshift_worker_inputs_total{kind="colour"}`; memory is `process_resident_memory_bytes` and, of what one run of the
network may hold, `hueshift_worker_run_budget_pixels`. A GPU's figures begin with `hueshift_worker_gpu_`.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from inference_worker.gpus import GpuWatch
from inference_worker.identity import Identity

PATHS: Final = frozenset({"/repair", "/transform", "/healthz", "/readyz", "/health", "/ready", "/models", "/metrics"})
"""Any other path is counted as `other`: a label must not grow with what strangers ask for."""
LATENCY_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0)
STAGE_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)


class Metrics:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._add_http()
        self._add_work()
        self.inside = self._gauge("requests_inside", "Requests inside the worker.")
        self.waiting = self._gauge("queue_depth", "Pictures waiting for the device.")
        self.held_bytes = self._gauge("held_body_bytes", "Bytes of bodies inside the worker.")
        self.held_pixels = self._gauge("held_photo_pixels", "Pixels of decoded photos inside the worker.")
        self.ready = self._gauge("ready", "1 when the model is loaded and warm.")
        self.budget = Gauge(
            "hueshift_worker_run_budget_pixels", "Most input pixels in one run.", ("model",), registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self._gpu: GpuWatch | None = None

    def watch_gpu(self, watch: GpuWatch) -> None:
        """Show what the worker's GPU says of itself."""
        self._gpu = watch
        self.registry.register(watch)

    async def render(self) -> bytes:
        """All figures, in Prometheus' text format."""
        if self._gpu is not None:
            await self._gpu.refresh()
        return generate_latest(self.registry)

    def show_identity(self, identity: Identity) -> None:
        """Say which code and models these figures are of."""
        info = Gauge(
            "hueshift_worker_model_info",
            "A model that is served; always 1.",
            ("model", "version", "family", "backend", "checksum", "code_version"),
            registry=self.registry,
        )
        for model in identity.models:
            facts = (model.name, model.version, model.family, model.backend, model.checksum)
            info.labels(*facts, identity.code_version).set(1)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"hueshift_worker_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"hueshift_worker_{name}", text, labels, registry=self.registry)

    def _add_http(self) -> None:
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
        self.refused = self._counter("refused", "Requests refused, by reason.", "reason")
        self.faults = self._counter("injected_faults", "Faults injected for a drill.", "kind")

    def _add_work(self) -> None:
        self.accepted = self._gauge("accepted", "Requests that got a place inside, since the start.")
        self.answered = self._gauge("answered", "Those of them that were answered, well or badly; some clients leave.")
        self.images = self._counter("images", "Pictures made, by path.", "path")
        self.inputs = self._counter("inputs", "Photos by what was found in them: grey, toned or colour.", "kind")
        self.out_of_memory = self._counter("out_of_memory", "Runs that found no memory and were split or tried again.")
        self.batches = Histogram(
            "hueshift_worker_batch_size",
            "Pictures in one run of the network.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "hueshift_worker_queue_wait_seconds",
            "From a decoded photo to the start of its run.",
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.stages = Histogram(
            "hueshift_worker_stage_seconds",
            "Duration of one stage: decode and encode per picture, model per run.",
            ("stage",),
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.stage_cpu = self._counter("stage_cpu_seconds", "CPU of the thread that did the stage.", "stage")

    def count_answer(self, path: str, status: int, seconds: float) -> None:
        """Count one finished answer."""
        label = path if path in PATHS else "other"
        self.requests.labels(label, str(status)).inc()
        self.latency.labels(label).observe(seconds)

    def count_stage(self, stage: str, *, wall_s: float, cpu_s: float) -> None:
        """Count one finished stage."""
        self.stages.labels(stage).observe(wall_s)
        self.stage_cpu.labels(stage).inc(cpu_s)
