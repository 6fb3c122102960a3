"""Latencies that lie close together, as a model's on a GPU do: told apart, and told to be the same."""

import bisect

import pytest

from controlplane.rollout.judge import Exposure, JudgeState, Policy, Verdict, judge, observe_history
from controlplane.rollout.windows import BUCKETS, LATENCY_EDGES_MS, TickWindow, VersionTick

POLICY = Policy()
HALF = Exposure(weight_bp=5_000, next_weight_bp=10_000, min_hold_s=5, held_s=60, baseline="old")
TICK = 1_795_350_000


def constant(latency_ms: float, count: int = 50) -> VersionTick:
    """Return a tick in which every request took the same time."""
    latency = [0] * BUCKETS
    latency[bisect.bisect_left(LATENCY_EDGES_MS, latency_ms)] = count
    return VersionTick(completed=count, errors=0, started=count, active=0, latency=tuple(latency))


def verdict(baseline_ms: float, candidate_ms: float) -> tuple[Verdict, str]:
    """Return the first verdict other than HOLD in five minutes at 50 %, or the last HOLD, with its reason."""
    state = JudgeState.initial(POLICY)
    for second in range(60):
        window = TickWindow(TICK + second, constant(baseline_ms), VersionTick.zero(), gap=False)
        state = observe_history(state, window, POLICY)
    found = Verdict.HOLD, ""
    for second in range(60, 360):
        window = TickWindow(TICK + second, constant(baseline_ms), constant(candidate_ms), gap=False)
        state, judgement = judge(state, window, HALF, POLICY)
        found = judgement.verdict, judgement.reason
        if judgement.verdict is not Verdict.HOLD:
            break
    return found


@pytest.mark.parametrize("latency_ms", [0.4, 1.0, 86.0, 100.0])
def test_the_same_constant_latency_is_shown_to_be_the_same(latency_ms: float) -> None:
    assert verdict(latency_ms, latency_ms)[0] is Verdict.ADVANCE


@pytest.mark.parametrize(("baseline_ms", "candidate_ms"), [(86.0, 110.0), (100.0, 150.0), (0.4, 3.0)])
def test_a_slower_constant_latency_goes_back_by_name(baseline_ms: float, candidate_ms: float) -> None:
    found, reason = verdict(baseline_ms, candidate_ms)
    assert found is Verdict.ROLLBACK
    assert "slower than 1.1 times old" in reason


def test_a_version_that_leaves_the_immeasurable_is_not_called_the_same() -> None:
    assert verdict(0.4, 1.5)[0] is not Verdict.ADVANCE
