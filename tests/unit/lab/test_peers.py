"""The peers' rules, look by look, as their projects have them."""

import numpy as np
import pytest

from controlplane.lab.peers import PEERS, Peer
from controlplane.rollout.policy import BatchPolicy, Policy
from controlplane.rollout.verdict import BatchExposure, Exposure, Verdict
from controlplane.rollout.windows import BUCKETS, BatchTicks

HOLD, ON, BACK = Verdict.HOLD, Verdict.ADVANCE, Verdict.ROLLBACK
SOME_EXPOSURE = BatchExposure.of([Exposure(weight_bp=500, next_weight_bp=1_000)])


def tick(requests: int, errors: int = 0, slow: int = 0, *, baseline: int = 100) -> BatchTicks:
    """Return a second in which the candidate answered so many requests; the baseline is healthy."""
    latency = np.zeros((1, 2, BUCKETS), np.int64)
    latency[0, 0, 10] = baseline
    latency[0, 1, 10], latency[0, 1, BUCKETS - 2] = requests - slow, slow
    completed = np.array([[baseline, requests]])
    return BatchTicks(
        tick=np.array([0]),
        gap=np.array([False]),
        completed=completed,
        errors=np.array([[0, errors]]),
        started=completed,
        active=np.zeros_like(completed),
        latency=latency,
        shares=np.zeros((1, 0, 2, 2), np.int64),
        unknown=np.array([False]),
    )


def looks(name: str, seconds: list[BatchTicks]) -> list[Verdict]:
    """Return what an engine says at each look at these seconds."""
    peer: Peer = PEERS[name](BatchPolicy.of([Policy()]))
    found = []
    for second in seconds:
        before = peer.looks
        (verdict,), _ = peer.judge(second, SOME_EXPOSURE)
        if peer.looks > before:
            found.append(Verdict(verdict))
        else:
            assert verdict == HOLD
    return found


def minutes(*seconds: BatchTicks) -> list[BatchTicks]:
    return [second for second in seconds for _ in range(60)]


GOOD, BAD, NONE = tick(20), tick(20, errors=1), tick(0)


def test_flagger_moves_on_at_every_check_that_passes_and_stays_at_others() -> None:
    assert looks("flagger60_t5", minutes(GOOD, BAD, GOOD)) == [ON, HOLD, ON]


def test_flagger_goes_back_an_interval_after_enough_failures_however_far_apart() -> None:
    seconds = minutes(BAD, GOOD, BAD, GOOD, BAD, BAD, BAD, GOOD)
    assert looks("flagger60_t5", seconds) == [HOLD, ON, HOLD, ON, HOLD, HOLD, HOLD, BACK]


@pytest.mark.parametrize(("name", "verdict"), [("flagger60_t5", HOLD), ("argo60_f0", BACK), ("argo60_f3", ON)])
def test_no_data_is_a_failure(name: str, verdict: Verdict) -> None:
    assert looks(name, minutes(NONE)) == [verdict]


def test_argo_aborts_at_once_when_more_than_the_limit_have_failed() -> None:
    assert looks("argo60_f3", minutes(BAD, GOOD, BAD, BAD, BAD)) == [ON, ON, ON, ON, BACK]


def test_slow_requests_fail_a_check_as_errors_do() -> None:
    assert looks("argo60_f0", minutes(tick(20, slow=1), tick(20, slow=2))) == [ON, BACK]


def test_burn_rates_page_at_ten_times_the_budget_and_not_at_five_times() -> None:
    assert looks("sre_burn", minutes(tick(100, errors=5), tick(100, errors=15))) == [ON, BACK]
    assert looks("sre_burn", minutes(*[tick(100, errors=5)] * 10)) == [ON] * 10


def test_kayenta_looks_after_ten_points_and_compares_with_the_baseline() -> None:
    step = [second for _ in range(5) for second in minutes(GOOD)]
    assert looks("kayenta", step) == [HOLD] * 9 + [ON]
    assert looks("kayenta", [second for _ in range(5) for second in minutes(BAD)]) == [HOLD] * 9 + [BACK]
    assert looks("kayenta", [second for _ in range(5) for second in minutes(NONE)]) == [HOLD] * 9 + [ON]
