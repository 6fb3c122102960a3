"""What is said of recent traffic: rates, shares, quantiles from a histogram."""

import math

import numpy as np
import pytest

from controlplane.rollout.recent import quantile_ms, sum_up
from controlplane.rollout.windows import BUCKETS, LATENCY_EDGES_MS, VersionTick
from tests.builders import make_counts


def test_versions_and_seconds_are_summed() -> None:
    found = sum_up([make_counts(60, errors=3), make_counts(40)], seconds=10)
    assert (found.requests, found.rate, found.error_ratio) == (100, 10.0, 0.03)
    assert found.p50_ms == pytest.approx(LATENCY_EDGES_MS[60], rel=0.1)


def test_no_requests_have_no_quantiles() -> None:
    found = sum_up([VersionTick.zero()], seconds=0)
    assert (found.rate, found.error_ratio, found.p50_ms, found.p95_ms) == (0.0, 0.0, None, None)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("median", [5.0, 120.0, 9_000.0])
def test_quantiles_are_right_to_a_few_percent(share: float, median: float) -> None:
    values = np.sort(np.random.default_rng(1).lognormal(math.log(median), 0.6, 50_000))
    histogram = np.bincount(np.searchsorted(LATENCY_EDGES_MS, values), minlength=BUCKETS)
    found = quantile_ms(histogram.tolist(), share)
    assert found == pytest.approx(float(np.quantile(values, share)), rel=0.03)


def test_the_ends_of_the_histogram_are_edges() -> None:
    first, last = [0] * BUCKETS, [0] * BUCKETS
    first[0] = last[-1] = 7
    assert quantile_ms(first, 0.5) == LATENCY_EDGES_MS[0]
    assert quantile_ms(last, 0.5) == LATENCY_EDGES_MS[-1]
