"""What the judge decides, and why: one situation per test."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from controlplane.rollout import evidence
from controlplane.rollout.engine import FRESH_WEIGHT
from controlplane.rollout.judge import Policy, Verdict, peek_hard_stop
from controlplane.rollout.processes import NOT_INFERIOR
from controlplane.rollout.windows import TickWindow, VersionTick
from tests.unit.rollout.judge_ticks import POLICY, Run, failing, healthy, traffic

MOVES = (Verdict.ADVANCE, Verdict.ROLLBACK, Verdict.PROBE)


# -- the candidate's own trouble --------------------------------------------------------------------------------------


def test_a_fifth_of_errors_is_rolled_back_within_seconds() -> None:
    run = Run().watch(60)
    assert run.until(10, failing(95, 5, 1), stop=MOVES) is Verdict.ROLLBACK
    assert run.held_s <= 8
    assert run.judgement.reason.startswith("error rate 20 % (")
    assert re.search(r"> SLO 1 %, v1 at 0 % in the same seconds; evidence (at least )?1:\d+$", run.judgement.reason)


def test_a_dead_version_is_stopped_after_sixteen_requests() -> None:
    run = Run(weight_bp=3_000, next_weight_bp=5_000).watch(30, requests=60)
    assert run.see(traffic(42), traffic(15, 15)) is Verdict.HOLD
    run = Run(weight_bp=3_000, next_weight_bp=5_000).watch(30, requests=60)
    assert run.see(traffic(42), traffic(17, 17)) is Verdict.ROLLBACK
    assert run.judgement.reason == (
        "nearly every request fails: 100 % (17/17) in this second, v1 at 0 % (0/42); evidence at least 1:10000"
    )


def test_a_slow_version_is_rolled_back_though_nothing_fails() -> None:
    run = Run().watch(60)
    assert run.until(30, healthy(median_ms=300), stop=MOVES) is Verdict.ROLLBACK
    assert "share slower than 400 ms" in run.judgement.reason
    assert "> SLO 5 %" in run.judgement.reason


def test_a_version_within_the_slo_but_slower_than_the_old_one_is_rolled_back() -> None:
    run = Run(weight_bp=2_500, next_weight_bp=5_000, min_hold_s=600).watch(60)
    assert run.until(90, healthy(75, 25, median_ms=150), stop=MOVES) is Verdict.ROLLBACK
    assert run.judgement.reason.startswith("slower than 1.1 times v1: ")


def test_more_errors_than_the_old_version_are_rolled_back_long_before_the_slo_is_surely_broken() -> None:
    run = Run(weight_bp=2_500, next_weight_bp=5_000, min_hold_s=600).watch(60)
    quiet_errors = lambda second: (traffic(750, int(second % 5 == 0)), traffic(250, 3))  # noqa: E731
    assert run.until(60, quiet_errors, stop=MOVES) is Verdict.ROLLBACK
    assert "more than 2 times v1's odds" in run.judgement.reason


def test_a_hung_version_is_rolled_back_though_it_answers_nothing() -> None:
    run = Run().watch(60)
    hung = 0
    for _ in range(20):
        hung += 5
        candidate = VersionTick(completed=0, errors=0, started=5, active=hung)
        if run.see(traffic(95), candidate) is not Verdict.HOLD:
            break
    assert run.judgement.verdict is Verdict.ROLLBACK
    assert run.held_s <= 6


def test_a_defect_that_starts_late_is_caught_as_well() -> None:
    run = Run(min_hold_s=10_000).watch(60)
    assert run.until(400, healthy(), stop=MOVES) is Verdict.HOLD
    assert run.until(15, failing(95, 5, 1), stop=MOVES) is Verdict.ROLLBACK


# -- trouble that is shared -------------------------------------------------------------------------------------------


def test_an_incident_of_both_versions_holds_and_is_told_so() -> None:
    run = Run().watch(60)
    shared = failing(95, 5, 1, baseline_errors=19)
    assert run.until(120, shared, stop=MOVES) is Verdict.HOLD
    assert "v1 is in trouble too" in run.judgement.reason


def test_after_an_incident_the_rollout_goes_on_with_fresh_evidence() -> None:
    run = Run().watch(60)
    run.until(60, failing(95, 5, 1, baseline_errors=19), stop=MOVES)
    assert run.until(29, healthy(), stop=MOVES) is Verdict.HOLD
    assert run.until(60, healthy(), stop=MOVES) is Verdict.ADVANCE


def test_an_outage_of_both_versions_does_not_hard_stop() -> None:
    run = Run(weight_bp=5_000, next_weight_bp=10_000).watch(60)
    outage = failing(50, 50, 50, baseline_errors=50)
    assert run.until(60, outage, stop=MOVES) is Verdict.HOLD
    baseline_first = failing(50, 50, 45, baseline_errors=20)  # it recovers half a second before the candidate
    assert run.until(1, baseline_first, stop=MOVES) is Verdict.HOLD
    assert run.until(20, healthy(50, 50), stop=MOVES) is Verdict.HOLD


def test_a_shared_incident_can_be_made_a_reason_to_retreat() -> None:
    run = Run(policy=Policy(on_shared_incident="rollback")).watch(60)
    assert run.until(30, failing(95, 5, 1, baseline_errors=19), stop=MOVES) is Verdict.ROLLBACK


def test_a_bursty_service_is_not_hard_stopped() -> None:
    """The baseline is known to fail 20 requests at once now and then; so may the candidate."""
    run = Run(weight_bp=2_000, next_weight_bp=5_000).watch(200, errors=lambda second: 20 * (second % 40 == 0))
    burst = lambda second: (traffic(80), traffic(20, 20 * (second == 0)))  # noqa: E731
    assert run.until(29, burst, stop=MOVES) is Verdict.HOLD


def test_the_same_burst_stops_a_version_whose_baseline_never_bursts() -> None:
    run = Run(weight_bp=2_000, next_weight_bp=5_000).watch(200)
    burst = lambda second: (traffic(80), traffic(20, 20 * (second == 0)))  # noqa: E731
    assert run.until(29, burst, stop=MOVES) is Verdict.ROLLBACK


# -- at 100 % ---------------------------------------------------------------------------------------------------------


def at_full_weight() -> Run:
    run = Run(min_hold_s=60).watch(60)
    run.until(20, healthy(), stop=MOVES)
    run.move(10_000, None)
    assert run.until(20, healthy(0, 100), stop=MOVES) is Verdict.HOLD
    return run


def test_a_breach_at_full_weight_is_probed_first() -> None:
    run = at_full_weight()
    assert run.until(10, failing(0, 100, 20), stop=MOVES) is Verdict.PROBE
    assert "nothing to compare with at 100 %, so v1 gets half back" in run.judgement.reason


def test_a_probe_that_still_breaches_rolls_back() -> None:
    run = at_full_weight()
    run.until(10, failing(0, 100, 20), stop=MOVES)
    run.move(5_000, None, probing=True)
    assert run.until(10, failing(50, 50, 10), stop=MOVES) is Verdict.ROLLBACK


def test_a_probe_into_a_shared_incident_holds_until_it_is_over_and_goes_back() -> None:
    run = at_full_weight()
    run.until(10, failing(0, 100, 20), stop=MOVES)
    run.move(5_000, None, probing=True)
    assert run.until(90, failing(50, 50, 10, baseline_errors=10), stop=MOVES) is Verdict.HOLD
    assert run.until(60, healthy(50, 50), stop=MOVES) is Verdict.ADVANCE
    assert "without a breach beside v1, back to 100 %" in run.judgement.reason


def test_an_incident_that_ends_before_the_probe_begins_is_not_held_against_the_candidate() -> None:
    run = at_full_weight()
    run.until(10, failing(0, 1000, 200), stop=MOVES)
    run.move(5_000, None, probing=True)
    assert run.until(60, healthy(500, 500), stop=MOVES) is Verdict.ADVANCE


def test_a_version_that_breaks_only_under_full_load_is_rolled_back_the_second_time() -> None:
    run = at_full_weight()
    for expected in (Verdict.ADVANCE, Verdict.ROLLBACK):
        run.move(10_000, None)
        assert run.until(20, failing(0, 100, 20), stop=MOVES) is Verdict.PROBE
        run.move(5_000, None, probing=True)
        assert run.until(60, healthy(50, 50), stop=MOVES) is expected
    assert "cannot carry all of the traffic" in run.judgement.reason


# -- going on ---------------------------------------------------------------------------------------------------------


def test_a_healthy_step_ends_after_its_hold() -> None:
    run = Run().watch(60)
    assert run.until(29, healthy(), stop=MOVES) is Verdict.HOLD
    assert run.judgement.reason == "29 of 30 s without a breach at 5 %"
    assert run.until(15, healthy(), stop=MOVES) is Verdict.ADVANCE
    assert run.judgement.reason.startswith("all objectives kept: error rate 0 % (0/")


def test_the_plan_may_hold_longer() -> None:
    run = Run(min_hold_s=100).watch(60)
    assert run.until(99, healthy(), stop=MOVES) is Verdict.HOLD
    assert run.judgement.reason == "5 % is held for 99 of at least 100 s"
    assert run.until(1, healthy(), stop=MOVES) is Verdict.ADVANCE


def test_too_little_traffic_decides_nothing() -> None:
    run = Run(min_hold_s=0)
    sparse = lambda second: (traffic(int(second % 60 == 0)), traffic(int(second % 60 == 30)))  # noqa: E731
    run.move(10_000, None)
    assert run.until(300, sparse, stop=MOVES) is Verdict.HOLD
    assert run.judgement.reason.endswith("more requests")


def test_no_traffic_decides_nothing() -> None:
    run = Run(min_hold_s=0).watch(60)
    idle = lambda _: (traffic(100), VersionTick.zero())  # noqa: E731
    assert run.until(100, idle, stop=MOVES) is Verdict.HOLD
    assert run.judgement.reason == "no request to the candidate has ended at 5 % yet"


def test_the_next_step_waits_until_it_cannot_cost_more_than_the_budget() -> None:
    """At 100 requests/s, 10 % for 30 s are 300 requests: 10 bad ones more than the SLO's are 4.3 %."""
    run = Run().watch(60)
    run.until(30, lambda _: (traffic(98), traffic(2)), stop=MOVES)
    assert run.judgement.verdict is Verdict.HOLD
    error = run.judgement.objectives[0]
    assert error.still_needed in range(1, 60)
    assert f"not yet shown to be below 4.3 %: needs about {error.still_needed} more requests" in run.judgement.reason


def test_full_weight_asks_for_a_comparison_of_its_own() -> None:
    """What was seen at lower weights does not speak for 100 %: a latency ramp would slip through."""
    run = Run(weight_bp=2_500, next_weight_bp=5_000).watch(60)
    run.until(60, healthy(75, 25), stop=MOVES)
    run.move(5_000, 10_000)
    slower = healthy(50, 50, median_ms=118)
    assert run.until(45, slower, stop=MOVES) is Verdict.HOLD
    assert run.judgement.reason.startswith("not yet shown to be as fast as v1: ")


@pytest.mark.parametrize("requests", [5, 50, 500])
def test_the_stake_on_no_slower_follows_from_traffic_and_never_from_latency(requests: int) -> None:
    bets = evidence.difference_bets(np.array(float(requests)), np.array(float(requests)))
    for median_ms in (60, 100, 180):
        run = Run(weight_bp=5_000, next_weight_bp=10_000).watch(120, requests=2 * requests)
        run.see(traffic(requests, seed=3), traffic(requests, median_ms=median_ms))
        state = run.state.batch
        baseline, candidate = state.shifts[0, 2, :, 1] / state.shifts[0, 2, :, 0]
        grown = FRESH_WEIGHT * evidence.DIFFERENCE_PRIOR * (1 + bets * (baseline - candidate))
        assert state.stakes[0, NOT_INFERIOR] == pytest.approx(grown)


def test_missing_telemetry_holds_and_stops_the_clocks() -> None:
    run = Run().watch(60)
    run.until(20, healthy(), stop=MOVES)
    for _ in range(30):
        assert run.see(VersionTick.zero(), VersionTick.zero(), gap=True) is Verdict.HOLD
    assert "telemetry of at least one Envoy is missing" in run.judgement.reason
    run.held_s = 20  # the controller's clock may run on or not
    assert run.until(9, healthy(), stop=MOVES) is Verdict.HOLD
    run.held_s = 100
    assert run.until(8, healthy(), stop=MOVES) is Verdict.ADVANCE


def test_data_that_did_arrive_rolls_back_even_in_a_gap() -> None:
    run = Run(weight_bp=3_000, next_weight_bp=5_000).watch(30)
    assert run.see(traffic(70), traffic(30, 30), gap=True) is Verdict.ROLLBACK


def test_time_without_telemetry_accuses_nobody() -> None:
    """A breach of unclear origin counts as the candidate's after a minute of telemetry, not after one of silence."""
    run = Run(weight_bp=5_000, next_weight_bp=10_000).watch(30)
    run.until(3, lambda _: (traffic(1, 0), traffic(1, 1)), stop=MOVES)
    before = run.judgement.verdict
    for _ in range(300):
        run.see(VersionTick.zero(), VersionTick.zero(), gap=True)
    assert before is run.judgement.verdict is Verdict.HOLD


def test_what_a_gap_held_back_counts_as_one_observation() -> None:
    """40 bad requests that arrive as one tick are one x of 40 %, not forty."""
    run = Run(weight_bp=5_000, next_weight_bp=10_000, min_hold_s=600).watch(30)
    run.until(10, healthy(50, 50), stop=MOVES)
    run.see(VersionTick.zero(), VersionTick.zero(), gap=True)
    assert run.see(traffic(1000, 0), traffic(1000, 400)) is Verdict.HOLD


def test_an_incident_that_nobody_saw_does_not_hold_the_rollout_for_minutes() -> None:
    run = Run(weight_bp=2_500, next_weight_bp=5_000).watch(120)
    run.until(20, healthy(75, 25), stop=MOVES)
    for _ in range(60):
        run.see(VersionTick.zero(), VersionTick.zero(), gap=True)
    assert run.see(traffic(4_500, 600), traffic(1_500, 200)) is Verdict.HOLD
    assert run.until(45, healthy(75, 25), stop=MOVES) is Verdict.ADVANCE


def test_what_a_gap_held_back_proves_no_bound_either() -> None:
    run = Run(weight_bp=2_500, next_weight_bp=None).watch(120)
    run.until(3, healthy(75, 25), stop=MOVES)
    for _ in range(60):
        run.see(VersionTick.zero(), VersionTick.zero(), gap=True)
    run.see(traffic(45_000), traffic(15_000))
    assert run.until(40, lambda _: (traffic(3), traffic(1)), stop=MOVES) is Verdict.HOLD
    assert run.judgement.objectives[0].still_needed in range(200, 400)


# -- peeking ----------------------------------------------------------------------------------------------------------


def test_a_dead_version_is_seen_within_the_running_second() -> None:
    run = Run(weight_bp=3_000, next_weight_bp=5_000).watch(60, requests=600)
    run.until(3, healthy(420, 180), stop=MOVES)
    before = run.state.to_json()
    flush = TickWindow(run.tick, traffic(105), traffic(45, 45))
    judgement = peek_hard_stop(run.state, flush, POLICY)
    assert judgement is not None
    assert judgement.verdict is Verdict.ROLLBACK
    assert judgement.reason.startswith("nearly every request fails: 100 % (45/45) in this second, v1 at 0 % (0/105)")
    assert run.state.to_json() == before


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [((105, 0), (45, 20)), ((105, 100), (45, 45)), ((0, 0), (45, 45)), ((105, 0), (9, 9)), ((105, 0), (0, 0))],
    ids=["half works", "shared", "no baseline", "few", "none"],
)
def test_a_peek_stops_nothing_else(baseline: tuple[int, int], candidate: tuple[int, int]) -> None:
    run = Run(weight_bp=3_000, next_weight_bp=5_000).watch(60)
    flush = TickWindow(run.tick, traffic(*baseline), traffic(*candidate))
    assert peek_hard_stop(run.state, flush, POLICY) is None


def test_a_peek_at_a_judged_tick_stops_nothing() -> None:
    run = Run(weight_bp=3_000, next_weight_bp=5_000).watch(60)
    flush = TickWindow(run.tick - 1, traffic(105), traffic(45, 45))
    assert peek_hard_stop(run.state, flush, POLICY) is None


# -- objectives -------------------------------------------------------------------------------------------------------


def test_each_objective_says_where_it_stands() -> None:
    run = Run(min_hold_s=600).watch(60)
    run.until(20, healthy(), stop=MOVES)
    names = [objective.name for objective in run.judgement.objectives]
    assert names == ["error_abs", "error_rel", "latency_abs", "latency_rel"]
    error = run.judgement.objectives[0]
    assert error.candidate == 0
    assert error.baseline == pytest.approx(2 / (95 * 20))
    assert error.bound == 0.01
    assert error.odds < 1
    assert error.still_needed is not None


def test_latency_alone_can_be_the_objective() -> None:
    run = Run(policy=Policy(error_max=None), min_hold_s=10).watch(60)
    assert run.until(60, failing(95, 5, 1), stop=MOVES) is Verdict.ADVANCE
    assert [objective.name for objective in run.judgement.objectives] == ["latency_abs", "latency_rel"]


def test_errors_alone_can_be_the_objective() -> None:
    run = Run(policy=Policy(latency_threshold_ms=None), weight_bp=5_000, next_weight_bp=10_000).watch(60)
    assert run.until(60, healthy(50, 50, median_ms=1000), stop=MOVES) is Verdict.ADVANCE
    assert [objective.name for objective in run.judgement.objectives] == ["error_abs", "error_rel"]


def test_without_an_error_objective_a_dead_version_is_stopped_all_the_same() -> None:
    run = Run(policy=Policy(error_max=None)).watch(60)
    assert run.until(10, failing(95, 5, 5), stop=MOVES) is Verdict.ROLLBACK


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("error_max", 0.0),
        ("error_max", 0.7),
        ("latency_threshold_ms", 0.1),
        ("latency_quantile", 1.0),
        ("latency_tolerance", 0.9),
        ("error_odds_ratio", 0.5),
        ("alpha", 0.0),
        ("alpha_advance", 1.0),
        ("hard_stop_alpha", -1.0),
        ("attribution_s", float("nan")),
        ("quiet_s", float("inf")),
        ("on_shared_incident", "panic"),
    ],
)
def test_an_absurd_policy_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(POLICY, **{field: value})


def test_a_policy_without_objectives_is_refused() -> None:
    with pytest.raises(ValueError, match="error_max and latency_threshold_ms are both None"):
        Policy(error_max=None, latency_threshold_ms=None)
