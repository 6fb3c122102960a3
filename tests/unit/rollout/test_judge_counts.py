"""Each request counts once per objective, and a request that hangs counts before it ends."""

import dataclasses

import numpy as np

from controlplane.rollout.counting import batch_of
from controlplane.rollout.policy import BatchPolicy, Policy
from controlplane.rollout.state import BatchState
from controlplane.rollout.tally import Tally, place_edges, tally
from controlplane.rollout.windows import (
    BASELINE,
    BUCKETS,
    CANDIDATE,
    LATENCY_EDGES_MS,
    TickWindow,
    VersionTick,
)
from tests.unit.rollout.judge_ticks import latencies, traffic

SLOW = len(LATENCY_EDGES_MS)


@dataclasses.dataclass
class Counter:
    """Feeds ticks of the candidate and remembers what was counted."""

    policy: Policy
    total: float = 0
    bad: float = 0

    def __post_init__(self) -> None:
        self.state = BatchState.initial([self.policy])
        self.tick = 0

    def see(
        self, *, started: int, fast: int = 0, slow: int = 0, active: int = 0, lost: int = 0, gap: bool = False
    ) -> float:
        """Count a tick and give its newly bad requests; *lost* ended without a latency."""
        self.tick += 1
        latency = [0] * BUCKETS
        latency[0], latency[SLOW] = fast, slow
        candidate = VersionTick(fast + slow + lost, lost, started, active, tuple(latency))
        window = TickWindow(self.tick, VersionTick.zero(), candidate, gap)
        seen: Tally = tally(self.state, batch_of([window], [self.policy]), BatchPolicy.of([self.policy]))
        self.state = dataclasses.replace(
            self.state,
            tick=np.array([self.tick]),
            counted=seen.counted,
            starts=seen.starts,
            starts_since=seen.starts_since,
        )
        total, bad = seen.counts[0, 1, CANDIDATE]
        self.total += total
        self.bad += bad
        return float(bad)


def test_hung_requests_count_as_slow_once_they_are_too_old() -> None:
    counter = Counter(Policy(latency_threshold_ms=400))
    assert counter.see(started=5, active=5) == 0
    assert counter.see(started=5, active=10) == 5
    assert counter.see(started=0, active=10) == 5
    assert counter.see(started=0, active=10) == 0


def test_a_long_threshold_waits_as_long() -> None:
    counter = Counter(Policy(latency_threshold_ms=10_000))
    found = [counter.see(started=1, active=second + 1) for second in range(20)]
    assert found[:10] == [0.0] * 10
    assert found[11:] == [1.0] * 9


def test_requests_that_hang_are_not_counted_again_when_they_end() -> None:
    counter = Counter(Policy(latency_threshold_ms=400))
    counter.see(started=10, active=10)
    counter.see(started=0, active=10)
    assert counter.see(started=0, slow=10) == 0
    assert counter.see(started=5, fast=3, slow=2) == 2
    assert (counter.total, counter.bad) == (15, 12)


def test_requests_that_hang_and_vanish_make_room_for_the_next_ones() -> None:
    counter = Counter(Policy(latency_threshold_ms=400))
    counter.see(started=10, active=10)
    counter.see(started=0, active=10)
    counter.see(started=0, lost=10)
    counter.see(started=10, active=10)
    assert counter.see(started=0, active=10) == 10


def test_fast_traffic_never_looks_late() -> None:
    counter = Counter(Policy(latency_threshold_ms=400))
    for _ in range(50):
        assert counter.see(started=100, fast=100, active=40) == 0
    assert (counter.total, counter.bad) == (5000, 0)


def test_nothing_is_called_late_that_may_have_started_during_a_gap() -> None:
    counter = Counter(Policy(latency_threshold_ms=3_000))
    for _ in range(5):
        counter.see(started=1, fast=1)
    assert counter.see(started=0, active=30, gap=True) == 0
    for _ in range(3):
        assert counter.see(started=0, active=30) == 0
    assert counter.see(started=0, active=30) == 30


def test_every_request_counts_once_in_any_order_of_events() -> None:
    rng = np.random.default_rng(3)
    for threshold_ms in (400, 2_000, 90_000):
        counter = Counter(Policy(latency_threshold_ms=threshold_ms))
        ends: list[tuple[int, int]] = []  # when requests in flight will end
        slow_all = started_all = 0
        for second in range(400):
            started = int(rng.poisson(3)) if second < 250 else 0
            ages = rng.choice([0, 1, 5, 60], size=started)
            slow_all += int((ages * 1000 > threshold_ms).sum())
            started_all += started
            fast_now = int((ages == 0).sum())
            due = [(end, age) for end, age in ends if end == second]
            ends = [entry for entry in ends if entry[0] > second]
            ends += [(second + int(age), int(age)) for age in ages if age]
            slow_now = sum(age * 1000 > threshold_ms for _, age in due)
            counter.see(started=started, fast=fast_now + len(due) - slow_now, slow=slow_now, active=len(ends))
        assert (counter.total, counter.bad) == (started_all, slow_all)


# -- where latencies are compared -------------------------------------------------------------------------------------


def placed(median_ms: float, samples: int, policy: Policy | None = None) -> list[float | None]:
    batch = BatchPolicy.of([policy or Policy()])
    state = dataclasses.replace(
        BatchState.initial([policy or Policy()]), histogram=np.array([latencies(samples, median_ms=median_ms)])
    )
    edges = place_edges(state, batch, rows=np.array([True]))[0].tolist()
    return [LATENCY_EDGES_MS[edge] if edge >= 0 else None for edge in edges]


def test_edges_sit_near_the_median_and_the_95th_percentile() -> None:
    assert placed(100, 20_000) == [100, 250, 100]
    for median_ms in (3.0, 17.0, 61.0, 140.0, 700.0, 4_000.0):
        middle, late, other = placed(median_ms, 20_000)
        assert middle is not None
        assert late is not None
        assert other is not None
        assert 0.75 * median_ms <= middle <= 1.34 * median_ms
        assert 0.75 * median_ms <= other <= 1.34 * median_ms
        assert 0.7 * 2.5 * median_ms <= late <= 1.45 * 2.5 * median_ms


def test_too_few_requests_place_nothing() -> None:
    assert placed(100, 29) == [None, None, None]
    assert placed(100, 100)[1] is None


def test_the_tolerated_multiple_is_never_tighter_than_asked() -> None:
    policy = BatchPolicy.of([Policy(latency_tolerance=1.10)])
    edges = np.array(LATENCY_EDGES_MS)
    inside = policy.shifted_edge[0] < edges.size
    shifted = edges[policy.shifted_edge[0][inside]] / edges[inside]
    assert shifted.min() >= 1.10 * 0.995
    margin = edges[policy.inferior_edge[0]] / edges
    assert margin.max() <= 1.21 * 1.005


def test_the_baseline_counts_like_the_candidate() -> None:
    window = TickWindow(1, traffic(100, 3), traffic(50, 1))
    seen = tally(BatchState.initial([Policy()]), batch_of([window], [Policy()]), BatchPolicy.of([Policy()]))
    assert seen.counts[0, 0].tolist() == [[100, 3], [50, 1]]
    assert seen.finished[0].tolist() == [100, 50]
    assert seen.above[0, BASELINE, -1] == 0
