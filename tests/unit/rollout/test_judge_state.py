"""What the judge remembers: the same after a restart, in any batch, and when a tick comes twice."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.rollout.judge import Exposure, JudgeState, Policy, Verdict, judge, judge_all, observe_history
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.slo import ErrorRateSlo, LatencySlo, OnBreach, Terms, ValueQuerySlo
from controlplane.rollout.windows import Sample, TickWindow, VersionTick
from tests.unit.rollout.judge_ticks import POLICY, Run, failing, healthy, traffic

MOVES = (Verdict.ADVANCE, Verdict.ROLLBACK, Verdict.PROBE)


def restart(state: JudgeState) -> JudgeState:
    return JudgeState.from_json(json.loads(json.dumps(state.to_json())))


SAMPLES = (
    (),
    (Sample("memory", (1, 0), (1, 1)),),
    (Sample("memory", (1, 1), (1, 0)),),
    (Sample("memory", missing="no data"),),
)
MEMORY = ValueQuerySlo("memory", "memory$version", highest=1)
MANY = policy_of([ErrorRateSlo("e", 0.01, terms=Terms(on_breach=OnBreach.PAUSE)), LatencySlo("l", 400, 0.95), MEMORY])


@st.composite
def windows(draw: st.DrawFn, *, at_most: int = 25) -> list[TickWindow]:
    """Ticks as a real fleet gives them: any counts, skipped seconds, gaps, requests that hang."""
    found, tick = [], 1_000
    for seed in range(draw(st.integers(1, at_most))):
        tick += draw(st.sampled_from([1, 1, 1, 1, 2, 40]))
        versions = []
        for version in range(2):
            requests = draw(st.integers(0, 60))
            errors = draw(st.one_of(st.just(0), st.integers(0, requests)))
            plain = traffic(requests, errors, median_ms=draw(st.sampled_from([100.0, 300.0])), seed=seed * 2 + version)
            hanging = draw(st.sampled_from([0, 0, 0, 7]))
            blamed = draw(st.sampled_from([0, 0, requests - errors]))
            codes = (("422", blamed),) if blamed else ()
            versions.append(
                VersionTick(plain.completed, plain.errors, plain.started + hanging, hanging, plain.latency, codes)
            )
        samples = draw(st.sampled_from(SAMPLES))
        found.append(TickWindow(tick, versions[0], versions[1], draw(st.integers(0, 9)) == 0, samples))
    return found


EXPOSURES = st.builds(
    Exposure,
    weight_bp=st.sampled_from([500, 5_000, 10_000]),
    next_weight_bp=st.sampled_from([None, 1_000, 10_000]),
    weight_changed=st.booleans(),
    min_hold_s=st.sampled_from([0.0, 5.0, 30.0]),
    held_s=st.floats(0, 100),
    probing=st.booleans(),
)


@settings(max_examples=12)
@given(windows(), st.data())
def test_a_restart_at_any_tick_changes_nothing(ticks: list[TickWindow], data: st.DataObject) -> None:
    policy = data.draw(st.sampled_from([POLICY, MANY]))
    steady = restarted = JudgeState.initial(policy)
    for window in ticks:
        exposure = data.draw(EXPOSURES)
        steady, said = judge(steady, window, exposure, policy)
        restarted, said_again = judge(restart(restarted), window, exposure, policy)
        assert said_again == said
        assert restarted.to_json() == steady.to_json()


@settings(max_examples=12)
@given(st.lists(windows(at_most=8), min_size=2, max_size=4), st.data())
def test_many_rollouts_at_once_are_judged_like_each_alone(ticks: list[list[TickWindow]], data: st.DataObject) -> None:
    policies = data.draw(
        st.lists(
            st.sampled_from(
                [POLICY, Policy(latency_threshold_ms=30_000), Policy(error_max=None), Policy(alpha=0.05), MANY]
            ),
            min_size=len(ticks),
            max_size=len(ticks),
        )
    )
    together = alone = [JudgeState.initial(policy) for policy in policies]
    for seconds in zip(*ticks, strict=False):
        exposures = [data.draw(EXPOSURES) for _ in seconds]
        results = judge_all(together, seconds, exposures, policies)
        single = [
            judge(state, window, exposure, policy)
            for state, window, exposure, policy in zip(alone, seconds, exposures, policies, strict=True)
        ]
        assert [said for _, said in results] == [said for _, said in single]
        together, alone = [state for state, _ in results], [state for state, _ in single]
        assert [state.to_json() for state in together] == [state.to_json() for state in alone]


def test_no_rollout_is_no_work() -> None:
    assert judge_all([], [], [], []) == []


@settings(max_examples=12)
@given(windows(), st.data())
def test_a_tick_that_comes_again_changes_nothing(ticks: list[TickWindow], data: st.DataObject) -> None:
    state = JudgeState.initial(POLICY)
    for window in ticks:
        exposure = data.draw(EXPOSURES)
        state, _ = judge(state, window, exposure, POLICY)
        before = state.to_json()
        again, said = judge(state, data.draw(st.sampled_from(ticks[: ticks.index(window) + 1])), exposure, POLICY)
        assert again.to_json() == before
        assert said.verdict is Verdict.HOLD
        assert said.reason.endswith("was judged before")
        assert observe_history(state, window, POLICY).to_json() == before
        assert state.last_tick == window.tick


@settings(max_examples=12)
@given(windows(), st.data())
def test_no_counts_can_break_the_judge(ticks: list[TickWindow], data: st.DataObject) -> None:
    """Whatever arrives, evidence stays a number, and one that can be written down."""
    state = JudgeState.initial(MANY)
    for window in ticks:
        state, said = judge(state, window, data.draw(EXPOSURES), MANY)
        assert np.isfinite(state.batch.stakes).all()
        assert (state.batch.stakes >= 0).all()
        assert said.reason
        assert not (window.gap and said.verdict is Verdict.ADVANCE)
        json.dumps(state.to_json(), allow_nan=False)


def test_the_state_stays_small() -> None:
    run = Run().watch(300, requests=900)
    run.until(40, healthy(900, 50), stop=())
    run.until(40, failing(900, 50, 3, baseline_errors=90), stop=())
    assert len(json.dumps(run.state.to_json())) <= 4_096


@pytest.mark.parametrize(("threshold_ms", "cells"), [(400, 1), (1_000, 2), (30_000, 31), (300_000, 61)])
def test_a_long_threshold_does_not_grow_the_state(threshold_ms: float, cells: int) -> None:
    policy = Policy(latency_threshold_ms=threshold_ms)
    run = Run(policy=policy, min_hold_s=600).watch(10)
    run.until(150, lambda _: (traffic(20), traffic(5)), stop=())
    assert run.state.batch.starts.shape[-1] == cells
    assert len(json.dumps(run.state.to_json())) <= 4_096


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"format": 0}, "has format 0; this judge reads"),
        ({"stakes": None}, "damaged in stakes"),
        ({"stakes": [0.0] * 1000}, "damaged in stakes"),
        ({"tick": "now"}, "damaged in tick"),
        ({"starts": 3}, "damaged in starts"),
    ],
)
def test_a_state_of_another_make_is_refused(damage: dict[str, Any], words: str) -> None:
    values = JudgeState.initial(POLICY).to_json() | damage
    with pytest.raises(ValueError, match=words):
        JudgeState.from_json(values)


@settings(max_examples=10)
@given(st.integers(0, 60), st.integers(0, 5), st.integers(0, 19))
def test_splitting_a_tick_changes_nothing_for_the_half_without_the_candidate(
    errors: int, candidate_errors: int, second: int
) -> None:
    """A tick without requests to the candidate is no observation of it."""

    def run(*, split: bool) -> list[float]:
        state = JudgeState.initial(POLICY)
        for tick in range(20):
            candidate = traffic(5, candidate_errors if tick == second else 0)
            halves = [(traffic(60, errors), VersionTick.zero())] if split else []
            for baseline, other in [*halves, (traffic(60), candidate)]:
                window = TickWindow(state.last_tick + 1 if state.last_tick else 1, baseline, other)
                state, _ = judge(state, window, Exposure(500, 1_000, min_hold_s=30, held_s=1), POLICY)
        return state.batch.stakes[0, [0, 4]].ravel().tolist()  # errors against the bound, and against its quarter

    assert run(split=True) == run(split=False)
