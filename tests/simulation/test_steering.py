"""Undo, starts that wait, and freezes, in virtual time: the real controller over the real store, restarts included."""

import contextlib
import dataclasses
import datetime as dt
import random
from collections.abc import AsyncIterator

import pytest

from controlplane.errors import ConflictError
from controlplane.ports import DesiredService, RolloutId
from controlplane.rollout.lifecycle import weight_bp
from controlplane.rollout.model import (
    Abort,
    Baking,
    Pause,
    Preparing,
    Promote,
    Promoted,
    Resume,
    RollbackCause,
    RolledBack,
    RollingBack,
    Shifting,
    State,
)
from controlplane.rollout.waiting import WaitingEnd, WaitingStart
from tests.builders import DEFAULT_SLOS, make_new_rollout, make_plan, make_spec, make_split, seconds
from tests.simulation.world import World, open_world, restarted

PLAN = make_plan(2500, 10_000, hold=seconds(3600))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        spec = make_spec(versions=("v1", "v2", "v3"))
        await opened.store.apply(spec, by="ada", why="v3", now=opened.clock.now())
        await opened.turn()
        yield opened


async def start(world: World, candidate: str = "v2") -> RolloutId:
    new = make_new_rollout(candidate=candidate, plan=PLAN)
    rollout = await world.store.start(new, key=None, now=world.clock.now())
    await world.live(rollout.id, until=lambda found: found.state == Baking(0, world.clock.now()), seconds=20)
    return rollout.id


async def promote(world: World, rollout: RolloutId) -> None:
    for _ in range(2):
        await world.command(Promote("ada", "", full=True))
        await world.pass_second()
    assert isinstance((await world.store.load(rollout)).state, Promoted)


def asked(world: World, candidate: str = "v3", **options: object) -> WaitingStart:
    waiting = WaitingStart(
        id="",
        service="colorize",
        candidate=candidate,
        baseline="",
        plan=None,
        supersede=False,
        only_after_success=False,
        again=False,
        after="",
        not_before=None,
        by="bob",
        why="newer",
        at=world.clock.now(),
    )
    return dataclasses.replace(waiting, **options)  # type: ignore[arg-type] # passed through


async def line_up(world: World, candidate: str = "v3", **options: object) -> RolloutId:
    waiting = await world.store.line_up(asked(world, candidate, **options), key=None, now=world.clock.now())
    return RolloutId(waiting.id)


async def state_of(world: World, rollout: RolloutId) -> State:
    return (await world.store.load(rollout)).state


async def waits(world: World, start: RolloutId) -> bool:
    return (await world.store.load_waiting(start)).end is None


async def live_from_line(world: World, start: RolloutId) -> None:
    """Let seconds pass until the start's wait is over, then until its first weight is live."""
    for _ in range(10):
        await world.pass_second()
        if not await waits(world, start):
            break
    await world.live(start, until=lambda found: isinstance(found.state, Baking), seconds=20)


async def undo(world: World, to: str = "") -> RolloutId:
    done = await world.store.undo("colorize", to, by="eve", why="grey", key=None, now=world.clock.now())
    return done.rollout


# -- undo --------------------------------------------------------------------------------------------------------------


async def test_an_undo_in_the_bake_is_one_change_back_to_the_warm_version(world: World) -> None:
    rollout = await start(world)
    await world.command(Promote("ada", "", full=True))
    await world.pass_second()
    assert await world.split() == make_split(v2=10_000)
    assert await undo(world) == rollout
    await world.pass_second()
    state = await state_of(world, rollout)
    assert isinstance(state, RolledBack)
    assert (state.cause, state.words) == (RollbackCause.UNDONE, "eve: grey")
    assert await world.split() == make_split(v1=10_000)


async def test_an_undo_after_the_promotion_skips_steps_and_judge_but_waits_for_workers_and_acks(world: World) -> None:
    await promote(world, await start(world))
    world.unhealthy = "colorize_v1"
    await world.pass_second()
    back = await undo(world)
    await world.pass_second()
    assert isinstance(await state_of(world, back), Preparing)
    assert await world.split() == make_split(v2=10_000)
    world.unhealthy, world.acking = "", False
    await world.pass_second()
    world.acking = True
    await world.envoys_answer()
    world.acking = False  # it knows the workers, and has not acknowledged the way back yet
    await world.pass_second()
    assert isinstance(await state_of(world, back), Shifting)
    world.acking = True
    await world.pass_second()
    assert isinstance(await state_of(world, back), Promoted)
    assert (await world.store.load_service("colorize")).split == make_split(v1=10_000)
    failure = await world.store.load_failure("colorize", "v2")
    assert failure is not None
    assert failure.words == "v2 was taken back by eve in colorize-2: grey"


# -- supersede ---------------------------------------------------------------------------------------------------------


async def test_a_newer_version_takes_the_place_of_the_canary_by_itself(world: World) -> None:
    old = await start(world)
    new = await line_up(world, supersede=True)
    assert new == "colorize-2"
    world.acking = False
    await world.pass_second()
    assert isinstance(await state_of(world, old), RollingBack)
    assert await waits(world, new), "it starts when the fleet has acknowledged zero"
    world.acking = True
    await world.live(old, until=lambda found: isinstance(found.state, RolledBack), seconds=5)
    state = await state_of(world, old)
    assert isinstance(state, RolledBack)
    assert (state.cause, state.words) == (RollbackCause.SUPERSEDED, "superseded by colorize-2 (bob: newer)")
    await live_from_line(world, new)
    rollout = await world.store.load(new)
    assert (rollout.baseline, rollout.candidate, rollout.by, rollout.why) == ("v1", "v3", "bob", "newer")


@pytest.mark.parametrize("moments", range(4))
async def test_wherever_the_leader_dies_the_newer_version_starts_once(world: World, moments: int) -> None:
    await start(world)
    new = await line_up(world, supersede=True)
    for _ in range(moments):
        await world.projector.project()
        await world.envoys_answer()
        await world.controller.turn()
    world = restarted(world)
    await live_from_line(world, new)
    rollouts = await world.store.list_rollouts("colorize")
    assert [(each.id, each.candidate) for each in rollouts] == [("colorize-2", "v3"), ("colorize-1", "v2")]


# -- the queue and the clock -------------------------------------------------------------------------------------------


async def test_a_queued_start_begins_with_what_is_declared_then(world: World) -> None:
    first = await start(world)
    new = await line_up(world)
    await world.pass_second()
    assert await waits(world, new)
    changed = make_spec(versions=("v1", "v2", "v3"), plan=make_plan(1000, 10_000), slos=DEFAULT_SLOS[:1])
    await world.store.apply(changed, by="ada", why="", now=world.clock.now())
    await world.pass_second()
    running = await world.store.load(first)
    assert (running.plan, running.slos) == (PLAN, DEFAULT_SLOS), "what runs keeps its own"
    await promote(world, first)
    await world.pass_second()
    begun = await world.store.load(new)
    assert (begun.baseline, begun.plan, begun.slos) == ("v2", make_plan(1000, 10_000), DEFAULT_SLOS[:1])


@pytest.mark.parametrize("only_after_success", [False, True])
async def test_after_a_rollback_the_queued_one_starts_unless_it_wanted_success(
    world: World,
    only_after_success: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    await start(world)
    new = await line_up(world, only_after_success=only_after_success)
    await world.command(Abort("ada", ""))
    await world.pass_second()
    waiting = await world.store.load_waiting(new)
    if only_after_success:
        assert waiting.end is WaitingEnd.DROPPED
        assert waiting.words == "colorize-1 was rolled back, and it was to start only after success"
        assert "gave up the start of colorize-2 to v3" in (await world.store.history("colorize"))[-1].words
    else:
        assert waiting.end is WaitingEnd.STARTED
        assert (await world.store.load(new)).candidate == "v3"


async def test_a_version_that_failed_meanwhile_is_not_started_from_the_queue(world: World) -> None:
    await start(world)
    new = await line_up(world, "v2")
    again = await line_up(world, "v2", again=True)
    await undo(world)
    await world.pass_second()
    waiting = await world.store.load_waiting(new)
    assert waiting.end is WaitingEnd.DROPPED
    assert "v2 was undone in colorize-1: eve: grey" in waiting.words
    assert (await world.store.load(again)).candidate == "v2"


async def test_a_scheduled_start_waits_for_its_hour_across_a_restart(world: World) -> None:
    new = await line_up(world, not_before=world.clock.now() + dt.timedelta(hours=2))
    await world.pass_second()
    world.clock.move(dt.timedelta(hours=1))
    world = restarted(world)
    await world.pass_second()
    assert await waits(world, new)
    world.clock.move(dt.timedelta(hours=1))
    await live_from_line(world, new)


async def test_a_start_that_cannot_begin_is_given_up_with_its_reason(world: World) -> None:
    new = await line_up(world, "v1", not_before=world.clock.now() + seconds(5))
    for _ in range(6):
        await world.pass_second()
    waiting = await world.store.load_waiting(new)
    assert (waiting.end, waiting.words) == (
        WaitingEnd.DROPPED,
        "'v1' already has all traffic of 'colorize'; name another version",
    )


# -- any order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_asked_in_whatever_order_nothing_starts_twice_and_nothing_is_lost(
    world: World, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's choice
    asked_for: list[RolloutId] = []
    for _ in range(60):
        before = (await world.store.load_desired()).services[0]
        freezes = (await world.store.load_agenda(since=world.clock.now())).freezes
        frozen = any(freeze.end > world.clock.now() + seconds(2) for freeze in freezes)
        with contextlib.suppress(ConflictError):
            match chance.randrange(9):
                case 0:
                    asked_for.append(await line_up(world, chance.choice(("v2", "v3")), supersede=True, again=True))
                case 1:
                    asked_for.append(await line_up(world, chance.choice(("v1", "v2", "v3")), again=True))
                case 2:
                    at = world.clock.now() + seconds(chance.randrange(1, 20))
                    asked_for.append(await line_up(world, "v3", not_before=at, only_after_success=True))
                case 3 | 4:
                    await world.command(Promote("ada", "", full=True))
                case 5:
                    await undo(world)
                case 6:
                    await world.command(Abort("ada", ""))
                case 7 if not freezes:
                    await freeze(world, 1)
                    world.clock.move(dt.timedelta(seconds=chance.choice((55, 65))))
                case _:
                    world = restarted(world)
        world.acking = chance.random() < 0.8
        await world.pass_second()
        after = (await world.store.load_desired()).services[0]
        check_step(before, after, frozen=frozen)
    world.acking = True
    world.clock.move(dt.timedelta(hours=1))
    for start in asked_for:
        for _ in range(20):
            with contextlib.suppress(ConflictError):
                await world.command(Abort("ada", ""))
            await world.pass_second()
            if not await waits(world, start):
                break
        assert not await waits(world, start), "everything has its turn"
    started = [each.id for each in await world.store.list_rollouts("colorize", limit=200)]
    assert len(started) == len(set(started))
    ends = {start: (await world.store.load_waiting(start)).end for start in asked_for}
    for start, end in ends.items():
        assert (start in started) == (end is WaitingEnd.STARTED), (start, end)


def check_step(before: DesiredService, after: DesiredService, *, frozen: bool) -> None:
    """In a freeze that lasts, no version but one that an undo brings back gets more than it had."""
    rollout = after.rollout
    if not frozen or rollout is None or rollout.plan.direct or before.rollout is None:
        return
    if before.rollout.id == rollout.id:
        was = weight_bp(rollout.plan, before.rollout.state) or 0
        assert (weight_bp(rollout.plan, rollout.state) or 0) <= was


# -- freezes -----------------------------------------------------------------------------------------------------------


async def freeze(world: World, minutes: int = 60, *, service: str = "") -> None:
    now = world.clock.now()
    await world.store.freeze(service, until=now + dt.timedelta(minutes=minutes), by="ada", why="sale", now=now)


async def test_in_a_freeze_nothing_steps_up_and_its_time_counts_against_no_plan(world: World) -> None:
    plan = dataclasses.replace(make_plan(2500, 10_000, hold=seconds(1)), deadline=dt.timedelta(minutes=10))
    started = await world.store.start(make_new_rollout(plan=plan), key=None, now=world.clock.now())
    await world.live(started.id, until=lambda found: isinstance(found.state, Baking), seconds=20)
    await freeze(world)
    await world.command(Promote("bob", ""))
    await world.pass_second()
    refused = (await world.store.history("colorize"))[-1]
    assert refused.kind == "refused"
    assert "cannot promote rollout colorize-1: everything is frozen until" in refused.words
    found = await world.live(started.id, until=lambda found: "is frozen until" in (found.evidence or ""), seconds=300)
    assert isinstance(found.state, Baking)
    assert found.state.step == 0
    world.clock.move(dt.timedelta(minutes=60))
    await world.live(started.id, until=lambda found: isinstance(found.state, Shifting | Baking), seconds=1)
    await world.live(started.id, until=lambda found: getattr(found.state, "step", 0) == 1, seconds=60)


async def test_in_a_freeze_traffic_still_goes_back(world: World) -> None:
    rollout = await start(world)
    await promote(world, rollout)
    await freeze(world, service="colorize")
    back = await undo(world)
    await world.live(back, until=lambda found: isinstance(found.state, Promoted), seconds=5)
    assert (await world.store.load_service("colorize")).split == make_split(v1=10_000)


async def test_what_waits_and_what_prepares_go_on_when_the_freeze_ends(world: World) -> None:
    world.unhealthy = "colorize_v2"
    await world.pass_second()
    preparing = await world.store.start(make_new_rollout(), key=None, now=world.clock.now())
    new = await line_up(world, supersede=True)
    await freeze(world)
    world.unhealthy = ""
    for _ in range(3):
        await world.pass_second()
    world.clock.move(dt.timedelta(minutes=50))  # longer than a version may take to become ready
    await world.pass_second()
    assert isinstance(await state_of(world, preparing.id), Preparing)
    assert await waits(world, new), "a freeze also keeps what runs from being replaced"
    await world.store.unfreeze("", by="ada", why="", now=world.clock.now())
    await live_from_line(world, new)
    assert isinstance(await state_of(world, preparing.id), RolledBack)


async def test_a_resume_that_gives_no_more_traffic_works_in_a_freeze(world: World) -> None:
    rollout = await start(world)
    await world.command(Pause("ada", ""))
    await world.pass_second()
    await freeze(world)
    await world.command(Resume("ada", ""))
    await world.pass_second()
    assert isinstance(await state_of(world, rollout), Baking)
