"""What comparing pictures says of itself to Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class QualityMetrics:
    """Comparisons by what they came to, and how long they took, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = Counter(
            "hueshift_quality_runs",
            "Comparisons of two versions' pictures: ok, drift, block, or unknown where nothing came of it.",
            ["verdict"],
            registry=registry,
        )
        self.seconds = Histogram(
            "hueshift_quality_seconds",
            "Time that a comparison took, with or without a verdict.",
            buckets=(1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500),
            registry=registry,
        )
