"""Pictures as an objective, in virtual time: no user sees a broken version, and a sound one is not kept waiting."""

import dataclasses
from collections.abc import AsyncIterator, Callable

import pytest

from controlplane.ports import Rollout, RolloutId
from controlplane.rollout.model import (
    NO_STEP,
    Abort,
    Baking,
    PauseCause,
    Paused,
    Preparing,
    Promoted,
    Resume,
    RollbackCause,
    RolledBack,
    State,
    Step,
)
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.quality import QualityVerdict, RunStatus
from controlplane.rollout.replay import Replay, sum_up
from controlplane.rollout.slo import OnBreach, OnDrift, QualitySlo, Terms
from controlplane.rollout.verdict import Verdict
from tests.builders import make_new_rollout, make_plan, seconds
from tests.simulation.world import World, open_world, restarted

PICTURES = QualitySlo("pictures", interval=seconds(60))
ASKS = dataclasses.replace(PICTURES, on_drift=OnDrift.ASK)
PAUSES = dataclasses.replace(PICTURES, terms=Terms(on_breach=OnBreach.PAUSE))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


async def reach(
    world: World, rollout: RolloutId, *states: type[State], step: int = NO_STEP, at_most: int = 900
) -> Rollout:
    return await world.live(
        rollout,
        until=lambda found: isinstance(found.state, states) and getattr(found.state, "step", 9) >= step,
        seconds=at_most,
    )


async def stay(world: World, rollout: RolloutId, until: Callable[[Rollout], bool], *, count: int) -> None:
    """Let *count* seconds pass, in all of which *until* holds."""
    for _ in range(count):
        await world.pass_second()
        found = await world.store.load(rollout)
        assert until(found), found.state


def served(world: World) -> int:
    """Return the most traffic that the candidate ever had."""
    return max(split.get("v2", 0) for split in world.splits)


async def words(world: World, what: str) -> str:
    return [entry.words for entry in await world.store.history("colorize") if entry.what == what][-1]


async def test_a_broken_version_is_undone_before_it_serves_a_single_request(world: World) -> None:
    world.gate.styles["v2"] = "grey"
    rollout = await world.start(PICTURES)
    found = await reach(world, rollout, RolledBack)
    assert served(world) == 0
    assert isinstance(found.state, RolledBack)
    assert found.state.cause is RollbackCause.SLO_BREACH
    assert found.state.words == "v2 is blocked: grey in 66 of 66 pictures"
    assert await words(world, "Breach") == "v2 is blocked: grey in 66 of 66 pictures; rolled back"
    assert await words(world, "compare") == "v2 is blocked: grey in 66 of 66 pictures"


async def test_a_healthy_twin_is_promoted_and_compared_again_and_again(world: World) -> None:
    rollout = await world.start(PICTURES)
    found = await reach(world, rollout, Promoted)
    runs = await world.store.load_quality_runs(rollout, limit=50)
    assert {run.verdict for run in runs} == {QualityVerdict.OK}
    took = (found.state.at - found.started_at).total_seconds() if isinstance(found.state, Promoted) else 0
    assert len(runs) == pytest.approx(1 + took // 60, abs=1)
    told = [entry.words for entry in await world.store.history("colorize") if entry.what == "compare"]
    assert told == ["v2 is like v1"], "the same verdict again is no news"


async def test_a_version_that_breaks_under_traffic_is_rolled_back(world: World) -> None:
    rollout = await world.start(PICTURES)
    await reach(world, rollout, Baking, step=1)
    world.gate.styles["v2"] = "grey"
    found = await reach(world, rollout, RolledBack, at_most=70)
    assert isinstance(found.state, RolledBack)
    assert (found.state.cause, found.state.words[:13]) == (RollbackCause.SLO_BREACH, "v2 is blocked")


async def test_workers_that_cannot_be_asked_hold_the_rollout_with_words_until_it_is_given_up(world: World) -> None:
    world.gate.styles["v2"] = "away"
    rollout = await world.start(PICTURES)
    await stay(world, rollout, lambda found: isinstance(found.state, Preparing), count=250)
    assert 8 <= len(world.gate.asked) <= 14
    assert len(await world.store.load_quality_runs(rollout, limit=50)) == 1, "what came to nothing is begun anew"
    found = await reach(world, rollout, RolledBack)
    assert isinstance(found.state, RolledBack)
    assert found.state.cause is RollbackCause.NEVER_READY
    assert found.state.words.startswith("the pictures of v2 and v1 cannot be compared: v2: http://127.0.0.1:8083/rep")
    assert served(world) == 0


async def test_busy_workers_hold_it_only_as_long_as_they_are_busy(world: World) -> None:
    world.gate.styles["v2"] = "busy"
    rollout = await world.start(PICTURES)
    await stay(world, rollout, lambda found: isinstance(found.state, Preparing), count=30)
    del world.gate.styles["v2"]
    await reach(world, rollout, Baking, at_most=30)


async def test_workers_that_are_not_healthy_yet_are_not_asked(world: World) -> None:
    world.unhealthy = "colorize_v2"
    await world.pass_second()
    rollout = await world.start(PICTURES)
    await stay(world, rollout, lambda found: isinstance(found.state, Preparing), count=30)
    assert world.gate.asked == []
    world.unhealthy = ""
    await reach(world, rollout, Baking, at_most=10)


async def test_drift_is_shown_and_decides_nothing_unless_the_owner_wants_it(world: World) -> None:
    world.gate.styles["v2"] = "vivid"
    rollout = await world.start(PICTURES)
    await reach(world, rollout, Promoted)
    runs = await world.store.load_quality_runs(rollout)
    assert runs[0].verdict is QualityVerdict.DRIFT


async def test_drift_may_be_a_question_that_is_asked_once(world: World) -> None:
    world.gate.styles["v2"] = "vivid"
    rollout = await world.start(ASKS)
    found = await reach(world, rollout, Paused)
    assert isinstance(found.state, Paused)
    assert (found.state.step, found.state.cause) == (NO_STEP, PauseCause.BREACH)
    assert found.state.words == "v2 drifts from v1: mean CIEDE2000 9"
    assert found.asked is QualityVerdict.DRIFT
    await stay(world, rollout, lambda found: isinstance(found.state, Paused), count=30)
    assert served(world) == 0
    await world.command(Resume("ada", "it is meant to be vivid"))
    await reach(world, rollout, Promoted)
    assert len(await world.store.load_quality_runs(rollout, limit=50)) > 2


async def test_a_flaw_after_a_question_about_drift_is_still_a_breach(world: World) -> None:
    world.gate.styles["v2"] = "vivid"
    rollout = await world.start(ASKS)
    await reach(world, rollout, Paused)
    await world.command(Resume("ada", ""))
    await reach(world, rollout, Baking)
    world.gate.styles["v2"] = "grey"
    await reach(world, rollout, RolledBack, at_most=70)


async def test_drift_may_be_a_breach(world: World) -> None:
    world.gate.styles["v2"] = "vivid"
    rollout = await world.start(dataclasses.replace(PICTURES, on_drift=OnDrift.BLOCK))
    await reach(world, rollout, RolledBack)
    assert served(world) == 0


async def test_a_breach_may_be_a_question_too(world: World) -> None:
    world.gate.styles["v2"] = "grey"
    rollout = await world.start(PAUSES)
    await reach(world, rollout, Paused)
    await world.command(Resume("ada", "grey is the new blue"))
    found = await reach(world, rollout, Baking)
    assert found.asked is QualityVerdict.BLOCK
    await stay(world, rollout, lambda found: not isinstance(found.state, Paused), count=150)


async def test_a_question_under_traffic_stands_with_the_weight_that_there_is(world: World) -> None:
    rollout = await world.start(PAUSES)
    await reach(world, rollout, Baking, step=1)
    world.gate.styles["v2"] = "grey"
    found = await reach(world, rollout, Paused, at_most=70)
    assert isinstance(found.state, Paused)
    assert found.state.step >= 1
    await world.command(Abort("ada", ""))
    await reach(world, rollout, RolledBack)


async def test_a_muted_objective_is_measured_and_decides_nothing(world: World) -> None:
    world.gate.styles["v2"] = "grey"
    rollout = await world.start(dataclasses.replace(PICTURES, terms=Terms(muted=True)))
    await reach(world, rollout, Promoted)
    assert (await world.store.load_quality_runs(rollout))[0].verdict is QualityVerdict.BLOCK


async def start_by_steps(world: World, *steps: Step) -> RolloutId:
    new = make_new_rollout(plan=dataclasses.replace(make_plan(), steps=steps))
    new = dataclasses.replace(new, slos=(*new.slos, dataclasses.replace(PICTURES, interval=seconds(86_400))))
    return (await world.store.start(new, key=None, now=world.clock.now())).id


async def test_a_later_step_waits_for_a_verdict_of_its_own_and_the_record_says_so(world: World) -> None:
    hold = seconds(30)
    steps = Step(500, hold, quality=False), Step(2500, hold, quality=True), Step(10_000, hold)
    rollout = await start_by_steps(world, *steps)
    world.gate.styles["v2"] = "away"
    await reach(world, rollout, Baking)
    await stay(world, rollout, lambda found: found.state == found.state and served(world) <= 500, count=200)
    found = await world.store.load(rollout)
    assert '"verdict": "hold"' in (found.evidence or "")
    assert "the pictures of v2 and v1 cannot be compared: v2: http://" in (found.evidence or "")
    del world.gate.styles["v2"]
    await reach(world, rollout, Baking, step=1, at_most=60)
    await reach(world, rollout, Promoted)
    record = list(await world.store.load_judged(rollout, limit=9999))
    held = [tick for tick in record if tick.verdict is Verdict.ADVANCE and Verdict.ADVANCE not in tick.heeded]
    assert len(held) > 50
    ticks = Replay(rollout, policy_of(found.slos)).take(record)
    assert sum_up(ticks).is_reproduced


async def test_without_a_demand_the_first_step_is_not_kept_waiting(world: World) -> None:
    rollout = await start_by_steps(world, Step(500, seconds(30), quality=False), Step(10_000, seconds(30)))
    world.gate.styles["v2"] = "away"
    await reach(world, rollout, Baking, at_most=10)


async def test_a_control_plane_that_dies_while_pictures_are_compared_begins_anew(world: World) -> None:
    rollout = await world.start(PICTURES)
    left = await world.store.begin_quality_run(rollout, now=world.clock.now())
    await world.turn()
    found = await world.store.load(rollout)
    assert isinstance(found.state, Preparing)
    after = restarted(world)
    await reach(after, rollout, Baking, at_most=10)
    assert not await world.store.end_quality_run(
        rollout, dataclasses.replace(left, status=RunStatus.FAILED, ended_at=world.clock.now()), None
    )
    (run,) = await world.store.load_quality_runs(rollout, limit=50)
    assert (run.number, run.verdict) == (1, QualityVerdict.OK)


async def test_a_long_comparison_is_waited_for_beyond_the_time_for_healthy_workers(world: World) -> None:
    rollout = await world.start(PICTURES)
    await world.store.begin_quality_run(rollout, now=world.clock.now())
    world.examiner._running.add(rollout)
    await stay(world, rollout, lambda found: isinstance(found.state, Preparing), count=400)
    world.examiner._running.clear()
    await reach(world, rollout, Baking, at_most=10)
