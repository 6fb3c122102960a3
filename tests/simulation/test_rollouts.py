"""Whole rollouts in virtual time: promoted when healthy, back when not, still when blind, and never lost."""

import dataclasses
import random

import pytest

from controlplane.ports import RevisionStatus, Rollout, SnapshotStatus
from controlplane.rollout.lifecycle import weight_bp
from controlplane.rollout.model import (
    Abort,
    Baking,
    Pause,
    PauseCause,
    Paused,
    Promote,
    Promoted,
    Resume,
    RollbackCause,
    RolledBack,
    RollingBack,
    Shifting,
    is_final,
)
from controlplane.traffic.model import HeaderMatch, HeaderRule, Route, RouteMatch
from tests import builders
from tests.simulation.world import World, open_world, restarted


def ended(rollout: Rollout) -> bool:
    return is_final(rollout.state)


async def test_a_healthy_version_climbs_every_step_and_is_promoted() -> None:
    async with open_world() as world:
        rollout = await world.live(await world.start(), until=ended)
        assert isinstance(rollout.state, Promoted)
        weights = [split["v2"] for split in world.splits if "v2" in split]
        assert list(dict.fromkeys(weights)) == [500, 2500, 5000, 10_000]
        assert (await world.store.load_service("colorize")).split == builders.make_split(v2=10_000)
        words = [entry.words for entry in await world.store.history("colorize")]
        assert any("v2 is promoted" in line for line in words)


async def test_a_failing_version_goes_back_in_seconds_with_the_reason() -> None:
    async with open_world() as world:
        world.errors = lambda: 0.2
        rollout = await world.live(await world.start(), until=ended, seconds=60)
        assert isinstance(rollout.state, RolledBack)
        assert rollout.state.cause is RollbackCause.SLO_BREACH
        assert "error rate" in rollout.state.words
        assert (await world.store.load_service("colorize")).split == builders.make_split(v1=10_000)


async def test_a_weight_is_not_live_before_every_envoy_has_acknowledged_it() -> None:
    async with open_world() as world:
        started = await world.start()
        await world.live(started, until=lambda found: isinstance(found.state, Baking))
        world.acking = False
        rollout = await world.live(started, until=lambda found: isinstance(found.state, Shifting), seconds=200)
        for _ in range(30):
            await world.pass_second()
        assert (await world.store.load(started)).state == rollout.state
        world.acking = True
        assert isinstance((await world.live(started, until=ended)).state, Promoted)


async def test_lost_telemetry_holds_and_then_asks_for_a_person() -> None:
    async with open_world() as world:
        started = await world.start()
        await world.live(started, until=lambda found: isinstance(found.state, Baking))
        world.silent = True
        rollout = await world.live(started, until=lambda found: not isinstance(found.state, Baking), seconds=300)
        assert isinstance(rollout.state, Paused)
        assert rollout.state.cause is PauseCause.TELEMETRY_LOST
        assert weight_bp(rollout.plan, rollout.state) == 500
        world.silent = False
        await world.command(Resume("ada", "telemetry is back"))
        assert isinstance((await world.live(started, until=ended)).state, Promoted)


async def test_the_guard_does_not_sleep_while_a_rollout_is_paused() -> None:
    async with open_world() as world:
        started = await world.start()
        await world.live(started, until=lambda found: isinstance(found.state, Baking))
        await world.command(Pause("ada", "lunch"))
        await world.live(started, until=lambda found: isinstance(found.state, Paused))
        world.errors = lambda: 0.5
        rollout = await world.live(started, until=ended, seconds=60)
        assert isinstance(rollout.state, RolledBack)


async def test_commands_do_what_they_say_and_refusals_are_recorded() -> None:
    async with open_world() as world:
        started = await world.start()
        await world.live(started, until=lambda found: isinstance(found.state, Baking))
        await world.command(Resume("ada", "by mistake"))
        await world.turn()
        history = await world.store.history("colorize")
        assert [entry.words for entry in history if entry.kind == "refused"] == [
            "cannot resume a rollout that is baking"
        ]
        await world.command(Promote("ada", "in a hurry", full=True))
        rollout = await world.live(started, until=lambda found: weight_bp(found.plan, found.state) == 10_000)
        await world.command(Abort("ada", "changed my mind"))
        rollout = await world.live(started, until=ended)
        assert isinstance(rollout.state, RolledBack)
        assert rollout.state.cause is RollbackCause.ABORTED


async def test_a_refused_revision_stops_the_rollout_and_is_never_served_again() -> None:
    async with open_world() as world:
        started = await world.start()
        baked = await world.live(started, until=lambda found: isinstance(found.state, Baking))
        good = world.cache.served_version
        spec = builders.make_spec()
        odd = Route("odd", RouteMatch("/", (HeaderMatch("x-odd", HeaderRule.REGEX, "(?=a)"),)), version="v1")
        await world.store.apply(
            dataclasses.replace(spec, routes=(odd, *spec.routes)), by="ada", why="odd", now=world.clock.now()
        )
        world.refusing = lambda snapshot: "invalid perl operator" if snapshot.revisions["colorize"] == 2 else ""
        await world.turn()
        stopped = await world.store.load(started)
        assert isinstance(stopped.state, Paused)
        assert stopped.state.cause is PauseCause.NACK
        assert "edge-1 refused RDS: invalid perl operator" in stopped.state.words
        assert weight_bp(stopped.plan, stopped.state) == weight_bp(baked.plan, baked.state)
        record = await world.store.load_service("colorize")
        assert (record.newest.status, record.served.number) == (RevisionStatus.REJECTED, 1)
        assert world.cache.served_version == good


async def test_a_refused_weight_stops_the_rollout_where_traffic_was() -> None:
    async with open_world() as world:
        started = await world.start()
        await world.live(started, until=lambda found: isinstance(found.state, Baking))
        served = world.cache.served_version
        world.refusing = lambda snapshot: "" if snapshot.version == served else "no more weights today"
        rollout = await world.live(started, until=lambda found: isinstance(found.state, Paused), seconds=300)
        assert weight_bp(rollout.plan, rollout.state) == 500
        assert world.cache.served_version == served
        assert (await world.store.find_snapshot(served)).status is SnapshotStatus.GOOD  # type: ignore[union-attr]


async def test_a_version_without_healthy_workers_is_given_up_without_touching_traffic() -> None:
    async with open_world() as world:
        world.unhealthy, world.answered = "colorize_v2", ("", ())
        rollout = await world.live(await world.start(), until=ended, seconds=400)
        assert isinstance(rollout.state, RolledBack)
        assert rollout.state.cause is RollbackCause.NEVER_READY
        assert all(split == {"v1": 10_000} for split in world.splits)


@pytest.mark.parametrize("failing", [False, True], ids=["healthy", "failing"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_killed_control_plane_goes_on_from_its_rows(seed: int, failing: bool) -> None:  # noqa: FBT001 - pytest's
    chance = random.Random(seed)  # noqa: S311 - moments of a drill
    async with open_world() as first:
        world = first
        started = await world.start()
        world.errors = lambda: 0.2 if failing else 0.0
        for _ in range(900):
            await world.pass_second()
            if chance.random() < 0.1:
                world = await killed(world, chance)
            if is_final((await world.store.load(started)).state):
                break
        assert isinstance((await world.store.load(started)).state, RolledBack if failing else Promoted)


async def killed(world: World, chance: random.Random) -> World:
    """Start the control plane anew after a random part of a turn and an outage of up to 8 s."""
    loops = (world.projector.project, world.envoys_answer, world.controller.turn)
    for loop in loops[: chance.randrange(len(loops))]:
        await loop()
    fresh = restarted(world)
    fresh.clock.move(builders.seconds(chance.randrange(8)))
    await fresh.projector.restore()
    assert fresh.cache.served_version, "a restarted process serves what was served"
    return fresh


async def test_a_rollback_stays_one_while_an_envoy_is_away() -> None:
    async with open_world() as world:
        started = await world.start()
        await world.live(started, until=lambda found: isinstance(found.state, Baking))
        world.acking = False
        await world.command(Abort("ada", "now"))
        await world.pass_second()
        rollout = await world.store.load(started)
        assert isinstance(rollout.state, RollingBack)
        assert weight_bp(rollout.plan, rollout.state) == 0
        world.acking = True
        assert isinstance((await world.live(started, until=ended)).state, RolledBack)
