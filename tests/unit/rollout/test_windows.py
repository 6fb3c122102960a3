"""Ticks and histogram edges: what Envoy counts and the judge reads."""

import itertools
from typing import Any

import pytest

from controlplane.rollout.counting import batch_of
from controlplane.rollout.policy import Policy
from controlplane.rollout.windows import (
    BUCKETS,
    LATENCY_EDGES_MS,
    TickWindow,
    VersionTick,
    snap_threshold,
)


def test_edges_grow_by_at_most_a_tenth() -> None:
    assert LATENCY_EDGES_MS[0] == 1
    assert LATENCY_EDGES_MS[-1] == 300_000
    growth = [above / below for below, above in itertools.pairwise(LATENCY_EDGES_MS)]
    assert min(growth) > 1
    assert max(growth) <= 1.1 + 1e-12


def test_usual_thresholds_are_edges() -> None:
    for threshold in (50, 100, 200, 250, 300, 400, 500, 750, 800, 1000, 1500, 2000, 2500, 5000, 30_000):
        assert snap_threshold(threshold) == threshold


def test_threshold_is_rounded_down_to_an_edge() -> None:
    assert snap_threshold(439.9) == 400
    assert snap_threshold(300_000) == 300_000


@pytest.mark.parametrize("threshold", [0.5, 300_001, float("nan")])
def test_threshold_outside_the_edges_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="latency_threshold_ms is"):
        snap_threshold(threshold)


def make_tick(*, slow: int = 0, fast: int = 0) -> VersionTick:
    latency = [0] * BUCKETS
    latency[LATENCY_EDGES_MS.index(400)] = fast  # up to and including 400 ms
    latency[LATENCY_EDGES_MS.index(400) + 1] = slow
    return VersionTick(slow + fast, 0, slow + fast, 0, tuple(latency))


def test_a_value_on_the_threshold_is_not_slow() -> None:
    tick = make_tick(slow=3, fast=10)
    assert tick.slow(400) == 3
    assert tick.slow(401) == 3
    assert tick.slow(300) == 13
    assert tick.slow(300_000) == 0


def test_ticks_of_two_proxies_add_up() -> None:
    total = make_tick(slow=3, fast=10) + VersionTick(7, 2, 8, 1)
    assert (total.completed, total.errors, total.started, total.active) == (20, 2, 21, 1)
    assert total.slow(400) == 3
    assert VersionTick.zero() + total == total


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"completed": 1, "errors": 2, "started": 1, "active": 0}, "errors is 2"),
        ({"completed": -1, "errors": 0, "started": 0, "active": 0}, "negative"),
        ({"completed": 0, "errors": 0, "started": 0, "active": 0, "latency": (1, 2)}, "latency has 2 buckets"),
    ],
)
def test_impossible_counts_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VersionTick(**fields)


def test_windows_are_laid_side_by_side() -> None:
    batch = batch_of([TickWindow(5, make_tick(fast=4), make_tick(slow=2), gap=True)], [Policy()])
    assert batch.tick.tolist() == [5]
    assert batch.gap.tolist() == [True]
    assert batch.completed.tolist() == [[4, 2]]
    assert batch.latency.shape == (1, 2, BUCKETS)
    assert batch.latency.sum() == 6
    assert batch_of([], []).latency.shape == (0, 2, BUCKETS)
