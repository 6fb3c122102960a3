"""Whole rollouts in virtual time, judged again: every decision and every sentence comes out as recorded."""

from collections.abc import AsyncIterator

import pytest

from controlplane.ports import Beat, ClusterTick, RolloutId, TelemetryBatch
from controlplane.rollout.judge import Policy, Verdict
from controlplane.rollout.model import (
    Baking,
    Pause,
    Paused,
    Promoted,
    Resume,
    RolledBack,
    State,
)
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.recorded import JudgedTick, Look
from controlplane.rollout.replay import IncompleteRecordError, Outcome, Replay, ReplayedTick, sum_up
from controlplane.rollout.slo import ErrorRateSlo, LatencySlo
from tests.simulation.world import SECOND, World, open_world, restarted, spread

MOVES = {"Advance": Verdict.ADVANCE, "Breach": Verdict.ROLLBACK, "Suspicion": Verdict.PROBE}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


async def record_of(world: World, rollout: RolloutId) -> list[JudgedTick]:
    """Return the whole record, read in parts."""
    record: list[JudgedTick] = []
    while part := await world.store.load_judged(rollout, after=record[-1].tick if record else 0, limit=7):
        record += part
    return record


async def again(world: World, rollout: RolloutId, policy: Policy | None = None) -> list[ReplayedTick]:
    """Judge a rollout again, by its own policy unless another one is given."""
    found = await world.store.load(rollout)
    return Replay(rollout, policy or policy_of(found.slos)).take(await record_of(world, rollout))


async def assert_reproduced(world: World, rollout: RolloutId) -> Outcome:
    """Check that everything comes out as recorded, and that what is recorded is what the history tells."""
    ticks = await again(world, rollout)
    assert [tick for tick in ticks if not tick.is_same] == []
    outcome = sum_up(ticks)
    told = [entry for entry in await world.store.history("colorize") if entry.what in MOVES]
    assert [(move.verdict, move.words) for move in outcome.recorded] == [
        (MOVES[entry.what], entry.words[: len(move.words)]) for entry, move in zip(told, outcome.recorded, strict=True)
    ]
    return outcome


async def reach(world: World, rollout: RolloutId, state: type[State], *, step: int = 0) -> None:
    await world.live(
        rollout, until=lambda found: isinstance(found.state, state) and getattr(found.state, "step", 9) >= step
    )


async def pass_seconds(world: World, count: int) -> None:
    for _ in range(count):
        await world.pass_second()


async def test_a_rollback_comes_out_as_it_was(world: World) -> None:
    rollout = await world.start()
    await reach(world, rollout, Baking, step=1)
    world.errors = lambda: 0.2
    await reach(world, rollout, RolledBack)
    outcome = await assert_reproduced(world, rollout)
    assert [move.verdict for move in outcome.replayed] == [Verdict.ADVANCE, Verdict.ROLLBACK]


async def test_a_promotion_comes_out_as_it_was_whatever_happened_on_the_way(world: World) -> None:
    rollout = await world.start()
    await reach(world, rollout, Baking)
    world.errors = lambda: 0.001
    await pass_seconds(world, 9)
    world = restarted(world)  # only rows are left
    await world.projector.restore()
    await pass_seconds(world, 3)
    await world.command(Pause("ada", "lunch"))
    await pass_seconds(world, 12)
    await world.command(Resume("ada", "back"))
    await pass_seconds(world, 4)
    world.silent = True
    await pass_seconds(world, 8)
    world.silent = False
    for _ in range(45):  # nobody leads; the ticks that pass are read at once later, up to each that decides
        await world.report()
        world.clock.move(SECOND)
    await reach(world, rollout, Promoted)
    outcome = await assert_reproduced(world, rollout)
    assert [move.exposure.weight_bp for move in outcome.replayed] == [500, 2500, 5000, 10_000]
    looks = {(tick.look, tick.window.gap) for tick in await record_of(world, rollout)}
    assert looks == {(Look.HISTORY, False), (Look.WHOLE, False), (Look.WHOLE, True)}


async def test_a_probe_at_100_percent_comes_out_as_it_was(world: World) -> None:
    rollout = await world.start()
    await reach(world, rollout, Baking, step=3)
    world.errors = lambda: 0.06
    await world.live(rollout, until=lambda found: getattr(found.state, "probing", False))
    world.errors = lambda: 0.0
    await world.command(Pause("ada", "look at this"))
    await pass_seconds(world, 60)
    await world.command(Resume("ada", ""))
    await world.live(rollout, until=lambda found: isinstance(found.state, Promoted | RolledBack | Paused))
    outcome = await assert_reproduced(world, rollout)
    assert Verdict.PROBE in [move.verdict for move in outcome.replayed]


async def report(world: World, completed: int, *, errors: int, closed: bool) -> None:
    """Have the Envoys say what the candidate has answered in the present second so far."""
    tick = int(world.clock.now().timestamp())
    counts = (
        ClusterTick("colorize_v1", tick, spread(240, errors=0)),
        ClusterTick("colorize_v2", tick, spread(completed, errors=errors)),
    )
    await world.store.record(TelemetryBatch("fleet", ticks=counts, beats=(Beat(tick, 1, 0, closed=closed),)))


async def test_a_decision_over_an_unfinished_second_comes_out_as_it_was(world: World) -> None:
    """Although the second went on: the judge saw what it had then."""
    rollout = await world.start()
    await reach(world, rollout, Baking, step=1)
    await pass_seconds(world, 3)
    await report(world, 60, errors=60, closed=False)
    await world.controller.turn()
    await report(world, 100, errors=61, closed=True)
    world.clock.move(SECOND)
    await reach(world, rollout, RolledBack)
    outcome = await assert_reproduced(world, rollout)
    assert outcome.replayed[-1].verdict is Verdict.ROLLBACK
    last = (await record_of(world, rollout))[-1]
    assert (last.look, last.window.candidate.errors) == (Look.PARTIAL, 60)


async def test_what_became_of_the_telemetry_since_changes_nothing(world: World) -> None:
    """As when a process that restarted within a second adds to it, and when it was pruned."""
    rollout = await world.start()
    await reach(world, rollout, Baking, step=1)
    for tick in [tick.tick for tick in await record_of(world, rollout)][-9:]:
        late = (ClusterTick("colorize_v2", tick, spread(40, errors=40)),)
        await world.store.record(TelemetryBatch("late", ticks=late, beats=(Beat(tick, 1, 1, closed=True),)))
    await assert_reproduced(world, rollout)


async def test_looser_objectives_would_not_have_rolled_back_and_stricter_ones_sooner(world: World) -> None:
    rollout = await world.start()
    await reach(world, rollout, Baking, step=1)
    world.errors = lambda: 0.05
    await reach(world, rollout, RolledBack)
    loose = sum_up(await again(world, rollout, Policy(error_max=0.2, error_odds_ratio=100)))
    assert loose.deviation is not None
    assert loose.deviation.recorded.decision is Verdict.ROLLBACK
    assert loose.deviation.replayed.decision is Verdict.HOLD
    slow = sum_up(await again(world, rollout, policy_of([LatencySlo("latency", 20, 0.95)])))
    assert slow.deviation is not None
    assert slow.deviation.tick < loose.deviation.tick
    tight = sum_up(await again(world, rollout, policy_of([ErrorRateSlo("errors", 0.001)])))
    assert tight.replayed[-1].verdict is Verdict.ROLLBACK


async def test_what_is_left_of_a_pruned_record_is_refused(world: World) -> None:
    rollout = await world.start()
    await reach(world, rollout, Baking)
    record = await record_of(world, rollout)
    await world.store.prune_telemetry(before_tick=record[2].tick)
    assert await record_of(world, rollout) == record[2:]
    with pytest.raises(IncompleteRecordError, match="HUESHIFT_TELEMETRY_RETENTION"):
        await again(world, rollout)
