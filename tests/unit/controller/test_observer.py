"""What ticks, levels and clocks amount to: at most one event, and evidence that people can read meanwhile."""

import dataclasses
import datetime as dt
import json

import pytest
from structlog.testing import capture_logs

from controlplane.controller.fleet import FleetLevel
from controlplane.controller.loop import _judge
from controlplane.controller.observer import (
    TELEMETRY_TIMEOUT,
    Case,
    Clusters,
    FleetView,
    clock_event,
    first_tick,
    heard_at,
    judge_many,
    judge_ticks,
    level_event,
)
from controlplane.ports import ClusterHealth, Rollout, TickRead
from controlplane.rollout.model import (
    Advance,
    Baking,
    Breach,
    DeadlinePassed,
    PauseCause,
    Paused,
    PrepareTimedOut,
    Preparing,
    Ready,
    RollbackCause,
    RollingBack,
    Shifting,
    State,
    TelemetryLost,
)
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.recorded import Look
from controlplane.rollout.slo import ErrorRateSlo
from controlplane.rollout.verdict import Exposure, Verdict
from tests import builders
from tests.simulation.world import spread

CLUSTERS = Clusters("colorize_v1", "colorize_v2")
NOW, TICK = builders.NOW, builders.TICK
BAKING = Baking(0, NOW)


def tick(at: int, *, errors: int = 0, closed: bool = True, silent: int = 0) -> TickRead:
    counts = {"colorize_v1": spread(380, errors=0), "colorize_v2": spread(60, errors=errors)}
    return TickRead(at, counts, reporting=1, silent=silent, closed=closed)


def baking(state: State = BAKING) -> Rollout:
    return dataclasses.replace(builders.make_rollout(), state=state)


def test_an_open_tick_leaves_the_last_judgement_readable() -> None:
    judged = judge_ticks(baking(), CLUSTERS, [tick(TICK), tick(TICK + 1), tick(TICK + 2, closed=False)])
    assert judged.event is None
    assert judged.rollout.judged_tick == TICK + 1
    evidence = json.loads(judged.rollout.evidence or "")
    assert (evidence["verdict"], evidence["tick"]) == ("hold", TICK + 1)
    assert {objective["name"] for objective in evidence["objectives"]} >= {"error_abs", "latency_abs"}


def test_a_dead_version_is_seen_in_the_tick_that_has_not_ended() -> None:
    judged = judge_ticks(baking(), CLUSTERS, [tick(TICK), tick(TICK + 1, errors=60, closed=False)])
    assert isinstance(judged.event, Breach)
    assert judged.rollout.judged_tick == TICK


def test_no_tick_is_judged_twice() -> None:
    once = judge_ticks(baking(), CLUSTERS, [tick(TICK), tick(TICK + 1, errors=3)]).rollout
    twice = judge_ticks(once, CLUSTERS, [tick(TICK), tick(TICK + 1, errors=3)]).rollout
    assert once == twice


def test_ticks_before_the_candidate_has_traffic_only_teach() -> None:
    judged = judge_ticks(baking(Preparing(NOW)), CLUSTERS, [tick(TICK, errors=20)])
    assert (judged.event, judged.rollout.evidence, judged.rollout.judged_tick) == (None, None, TICK)


def test_what_the_candidate_did_before_this_rollout_is_not_held_against_it() -> None:
    """As after a restart, when ticks that an earlier rollout filled are read only now."""
    judged = judge_ticks(baking(), CLUSTERS, [tick(TICK - 9, errors=60), tick(TICK - 8, errors=60), tick(TICK)])
    assert judged.event is None
    (errors,) = [row for row in json.loads(judged.rollout.evidence or "")["objectives"] if row["name"] == "error_abs"]
    assert (errors["candidate"], judged.rollout.judged_tick) == (0, TICK)


def test_many_rollouts_are_judged_together_exactly_as_each_by_itself() -> None:
    healthy = [tick(TICK + second, errors=int(second == 5)) for second in range(40)]
    failing = [tick(TICK + second, errors=12) for second in range(40)]
    loose = dataclasses.replace(baking(), slos=(ErrorRateSlo("errors", 0.3),))
    cases = [
        Case(baking(), CLUSTERS, healthy),
        Case(baking(), CLUSTERS, failing),
        Case(loose, CLUSTERS, failing),
        Case(baking(Preparing(NOW)), CLUSTERS, healthy),
        Case(baking(), CLUSTERS, []),
        Case(baking(), CLUSTERS, [*healthy[:7], tick(TICK + 7, errors=60, closed=False)]),
    ]
    together = judge_many(cases)
    assert together == [judge_ticks(case.rollout, case.clusters, case.ticks) for case in cases]
    healthy_now, failing_now, *_ = together
    assert isinstance(healthy_now.event, Advance)
    assert isinstance(failing_now.event, Breach)
    assert judge_many([]) == []


def test_one_that_cannot_be_judged_leaves_the_others_to_be_judged_by_themselves() -> None:
    broken = dataclasses.replace(baking(), judge="{}")
    cases = [Case(broken, CLUSTERS, [tick(TICK)]), Case(baking(), CLUSTERS, [tick(TICK)])]
    with capture_logs() as logs:
        assert _judge(cases) == [None, None]
    assert [line["event"] for line in logs] == ["controller.judge_crashed"]
    assert _judge(cases[1:]) == [judge_ticks(baking(), CLUSTERS, [tick(TICK)])]


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_record_chains_every_tick_to_the_one_before() -> None:
    first = judge_ticks(baking(), CLUSTERS, [tick(TICK - 9), tick(TICK), tick(TICK + 7, silent=1)])
    second = judge_ticks(first.rollout, CLUSTERS, [tick(TICK + 8), tick(TICK + 9, closed=False)])
    found = [*first.ticks, *second.ticks]
    assert [each.previous for each in found] == [None, *(each.tick for each in found[:-1])]
    assert [each.look for each in found] == [Look.HISTORY, Look.WHOLE, Look.WHOLE, Look.WHOLE]
    assert [each.window.gap for each in found] == [False, True, True, False]
    assert (found[1].exposure, found[3].words) == (
        Exposure(500, 2500, True, 30.0, TICK + 1 - NOW.timestamp(), False, "v1"),
        json.loads(second.rollout.evidence or "")["reason"],
    )


def test_what_a_peek_decided_is_recorded_and_one_that_decided_nothing_is_not() -> None:
    judged = judge_ticks(baking(), CLUSTERS, [tick(TICK), tick(TICK + 1, errors=60, closed=False)])
    last = judged.ticks[-1]
    assert (last.look, last.tick, last.previous, last.verdict) == (Look.PARTIAL, TICK + 1, TICK, Verdict.ROLLBACK)
    assert isinstance(judged.event, Breach)
    assert last.words == judged.event.words
    assert judge_ticks(baking(), CLUSTERS, [tick(TICK, closed=False)]).ticks == ()


@pytest.mark.parametrize(
    ("state", "heeded"),
    [
        (BAKING, {Verdict.ROLLBACK, Verdict.PROBE, Verdict.ADVANCE}),
        (Baking(3, NOW, probing=True), {Verdict.ROLLBACK, Verdict.ADVANCE}),
        (Baking(0, NOW + builders.seconds(60)), {Verdict.ROLLBACK, Verdict.PROBE}),
        (Paused(1, NOW, PauseCause.OPERATOR, "lunch", next_step=1), {Verdict.ROLLBACK, Verdict.PROBE}),
        (Paused(3, NOW, PauseCause.NACK, "no", 3, probing=True), {Verdict.ROLLBACK, Verdict.ADVANCE}),
        (Shifting(1, NOW, came_from=0), {Verdict.ROLLBACK}),
    ],
)
def test_the_record_says_which_verdicts_would_have_moved_the_rollout(state: State, heeded: set[Verdict]) -> None:
    rollout = dataclasses.replace(baking(state), evidence="{}")
    (found,) = judge_ticks(rollout, CLUSTERS, [tick(TICK)]).ticks
    assert set(found.heeded) == heeded | {Verdict.ASK}


def test_what_is_seen_during_a_retreat_is_not_recorded() -> None:
    judged = judge_ticks(baking(RollingBack(NOW, RollbackCause.ABORTED, "")), CLUSTERS, [tick(TICK)])
    assert (judged.ticks, judged.rollout.judged_tick) == ((), TICK)


# -- holds -------------------------------------------------------------------------------------------------------------

HOLD = "10.0.0.2:8083 serves something else"


def _enough() -> list[TickRead]:
    return [tick(TICK + second) for second in range(120)]


def test_a_hold_keeps_a_rollout_from_the_step_that_the_judge_would_take() -> None:
    free = judge_ticks(baking(), CLUSTERS, _enough())
    held = judge_ticks(baking(), CLUSTERS, _enough(), holds=(HOLD,))
    assert isinstance(free.event, Advance)
    assert held.event is None
    evidence = json.loads(held.rollout.evidence or "")
    assert (evidence["verdict"], evidence["reason"]) == ("hold", HOLD)


def test_the_record_has_the_judges_own_words_and_that_its_step_was_not_heeded() -> None:
    free = judge_ticks(baking(), CLUSTERS, _enough())
    held = judge_ticks(baking(), CLUSTERS, _enough(), holds=(HOLD,))
    assert held.ticks[len(free.ticks) - 1].words == free.ticks[-1].words
    assert held.ticks[len(free.ticks) - 1].verdict is Verdict.ADVANCE
    assert all(Verdict.ADVANCE not in found.heeded for found in held.ticks)


def test_a_hold_is_silent_while_the_judge_itself_would_wait() -> None:
    judged = judge_ticks(baking(), CLUSTERS, [tick(TICK)], holds=(HOLD,))
    assert HOLD not in (judged.rollout.evidence or "")


def test_a_breach_goes_back_whatever_holds_the_step() -> None:
    judged = judge_ticks(baking(), CLUSTERS, [tick(TICK), tick(TICK + 1, errors=60, closed=False)], holds=(HOLD,))
    assert isinstance(judged.event, Breach)


def test_a_hold_keeps_a_rollout_preparing_and_is_what_it_is_given_up_for() -> None:
    rollout = baking(Preparing(NOW))
    nodes = (builders.make_node(),)
    health = (ClusterHealth(nodes[0].node, CLUSTERS.candidate, 1, 1),)
    fleet = FleetView(nodes, FleetLevel(expected=1), health)
    later = NOW + rollout.plan.prepare_timeout
    assert level_event(rollout, CLUSTERS, fleet, now=NOW) == Ready()
    assert level_event(rollout, CLUSTERS, fleet, now=NOW, holds=(HOLD,)) is None
    assert level_event(rollout, CLUSTERS, fleet, now=later, holds=(HOLD,)) == PrepareTimedOut(HOLD)


# -- clocks ------------------------------------------------------------------------------------------------------------


def test_history_begins_five_minutes_before_the_start() -> None:
    assert first_tick(baking()) == TICK - 300
    assert first_tick(dataclasses.replace(baking(), judged_tick=7)) == 7


def test_the_deadline_comes_before_the_evidence() -> None:
    late = baking().deadline_at
    assert clock_event(baking(), heard_at=late, now=late) == DeadlinePassed()
    paused = Paused(0, NOW, PauseCause.OPERATOR, "lunch", next_step=0)
    assert clock_event(baking(paused), heard_at=late, now=late) is None


def test_silence_becomes_an_event_only_after_its_time() -> None:
    heard = NOW + dt.timedelta(seconds=60)
    assert clock_event(baking(), heard_at=heard, now=heard + TELEMETRY_TIMEOUT - builders.seconds(1)) is None
    assert isinstance(clock_event(baking(), heard_at=heard, now=heard + TELEMETRY_TIMEOUT), TelemetryLost)


def test_a_tick_counts_as_heard_only_when_nobody_was_silent() -> None:
    assert heard_at([tick(TICK), tick(TICK + 1, silent=1)]) == dt.datetime.fromtimestamp(TICK, dt.UTC)
    assert heard_at([]) is None


def test_a_service_without_a_latency_objective_is_judged_on_errors_alone() -> None:
    policy = policy_of([ErrorRateSlo("errors", 0.02)])
    assert (policy.error_max, policy.latency_threshold_ms) == (0.02, None)
