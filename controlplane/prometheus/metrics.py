"""What our own asking says of itself to Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class QueryMetrics:
    """Counters and times of the queries, in the registry that is handed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "hueshift_query_seconds",
            "Time until a query was answered, or was given up.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.failures = Counter(
            "hueshift_query_failures",
            "Queries that gave no number, and did not say that there is none.",
            registry=registry,
        )
