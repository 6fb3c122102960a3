"""Points over time: steps that fit, sums by hand, and intervals that hold what they should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.rollout.series import Counted, points, quantile, starts, step_s, wilson
from controlplane.rollout.windows import BUCKETS, LATENCY_EDGES_MS, edge_index
from tests.builders import make_counts


@given(
    since=st.integers(0, 2_000_000_000),
    length=st.integers(1, 40_000_000),
    most=st.integers(2, 2_000),
    at_least=st.sampled_from([1, 60, 3600]),
)
def test_the_points_are_never_too_many_and_cover_the_time(since: int, length: int, most: int, at_least: int) -> None:
    step = step_s(since, since + length, most, at_least=at_least)
    places = starts(since, since + length, step)
    assert 1 <= len(places) <= most
    assert step >= at_least
    assert places[0] <= since < since + length <= places[-1] + step
    assert all(place % step == 0 for place in places)


def test_counts_fall_into_their_points_and_what_is_outside_is_left_out() -> None:
    counted = [Counted(at, make_counts(10, errors=at % 2, active=at)) for at in (99, 100, 104, 105, 119, 120)]
    first, second, third, fourth = points(counted, 100, 120, 5, bad=("5xx",))
    assert first is not None
    assert second is not None
    assert (first.requests, first.errors, first.active) == (20, 0, 104)
    assert (second.requests, second.errors, second.error_rate) == (10, 1, 0.1)
    assert third is None, "nothing is known of it"
    assert fourth is not None
    assert fourth.requests == 10


@pytest.mark.parametrize(
    ("bad", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (20, 100, 0.1334, 0.2888),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_a_share_lies_where_wilsons_tables_say(bad: int, total: int, low: float, high: float) -> None:
    found = wilson(bad, total)
    assert found is not None
    assert list(found) == pytest.approx([low, high], abs=1e-4)
    assert wilson(0, 0) is None


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_quantiles_interval_holds_the_true_one_nineteen_times_in_twenty(share: float) -> None:
    rng = np.random.default_rng(7)
    true = float(np.exp(np.log(100) + 0.5 * {0.5: 0.0, 0.95: 1.6449, 0.99: 2.3263}[share]))
    held, runs = 0, 400
    for _ in range(runs):
        drawn = np.exp(np.log(100) + 0.5 * rng.standard_normal(2_000))
        histogram = [0] * BUCKETS
        for place in np.searchsorted(LATENCY_EDGES_MS, drawn, side="left"):
            histogram[int(place)] += 1
        found = quantile(histogram, share)
        assert found is not None
        assert found.low <= found.value <= found.high
        held += found.low <= true <= found.high
    assert held / runs > 0.9


def test_without_requests_there_is_no_quantile_and_one_request_is_its_bucket() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None
    histogram = [0] * BUCKETS
    histogram[edge_index(400.0)] = 1
    found = quantile(histogram, 0.95)
    assert found is not None
    assert 380 <= found.low <= found.high <= 400
