"""Jobs in Prometheus' text format: what `JobMeter` read from the rows, the same on every replica.

Each replica that serves metrics shows all of the installation's jobs, so take the maximum over replicas, not the sum:
``max by (kind) (hueshift_jobs{state="waiting"})``. Series are bounded: as many as there are kinds, and for versions
those 100 pairs of kind and version whose attempts are the newest.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controlplane.jobs.meter import RUN_EDGES_S, WAIT_EDGES_S, Buckets, JobMeter, Reading, Totals


class JobCollector(Collector):
    """Shows the latest reading of a meter; nothing while there is none."""

    def __init__(self, meter: JobMeter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        """Write down the latest reading."""
        reading = self._meter.latest
        if reading is None:
            return
        yield from _gauges(reading)
        yield from _totals(reading.totals)

    def describe(self) -> Iterator[Metric]:
        """Name nothing: a registry then asks for no values when this is registered."""
        return iter(())


def _gauges(reading: Reading) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("hueshift_jobs", "Jobs that wait or run now.", labels=("kind", "state"))
    oldest = GaugeMetricFamily(
        "hueshift_job_oldest_waiting_seconds",
        "How long the first of the jobs that wait does; 0 where none waits.",
        labels=("kind",),
    )
    dead = GaugeMetricFamily("hueshift_job_dead_letters", "Jobs that are dead now.", labels=("kind",))
    for backlog in reading.standing.backlogs:
        jobs.add_metric((backlog.kind, "waiting"), backlog.waiting)
        jobs.add_metric((backlog.kind, "running"), backlog.running)
        since = reading.at if backlog.oldest is None else backlog.oldest
        oldest.add_metric((backlog.kind,), max(0.0, (reading.at - since).total_seconds()))
        dead.add_metric((backlog.kind,), backlog.dead)
    yield from (jobs, oldest, dead)
    outbox = "Wake-ups that are due and were not handed to the queue yet."
    yield GaugeMetricFamily("hueshift_job_outbox", outbox, value=reading.standing.outbox)
    read = "When all figures of jobs were read, in seconds since 1970."
    yield GaugeMetricFamily("hueshift_job_read_timestamp_seconds", read, value=reading.at.timestamp())


def _totals(totals: Totals) -> Iterator[Metric]:
    attempts = CounterMetricFamily(
        "hueshift_job_attempts",
        "Attempts that have ended, by what they came to and the version that answered (empty: nobody).",
        labels=("kind", "version", "outcome"),
    )
    for (kind, version, outcome), count in totals.attempts.items():
        attempts.add_metric((kind, version, outcome.value), count)
    runs = HistogramMetricFamily(
        "hueshift_job_run_seconds", "From start to end, of attempts that are done.", labels=("kind", "version")
    )
    for key, buckets in totals.runs.items():
        runs.add_metric(key, *_lines(buckets, RUN_EDGES_S))
    waits = HistogramMetricFamily(
        "hueshift_job_wait_seconds", "From a job's submission to its first start.", labels=("kind",)
    )
    for kind, buckets in totals.waits.items():
        waits.add_metric((kind,), *_lines(buckets, WAIT_EDGES_S))
    yield from (attempts, runs, waits)


def _lines(buckets: Buckets, edges_s: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    edges = [*(str(edge) for edge in edges_s), "+Inf"]
    return list(zip(edges, map(float, buckets.counts), strict=True)), buckets.sum_s
