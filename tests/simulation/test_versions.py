"""A service with more versions and routes than a rollout moves: the others are neither moved nor judged."""

import dataclasses
from collections.abc import AsyncIterator

import pytest

from controlplane.rollout.model import Promoted, RolledBack
from controlplane.traffic.model import Route, RouteMatch
from tests.builders import make_new_rollout, make_spec, make_split
from tests.simulation.world import World, open_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Serve v1 and v3 over two routes, with v2 to come."""
    async with open_world() as opened:
        spec = make_spec(versions=("v1", "v2", "v3"), split=make_split(v1=10_000))
        routes = (Route("people", RouteMatch("/people")), *spec.routes)
        await opened.store.apply(dataclasses.replace(spec, routes=routes), by="ada", why="", now=opened.clock.now())
        await opened.store.set_split(
            "colorize", make_split(v1=6_000, v3=4_000), by="ada", why="", now=opened.clock.now()
        )
        for _ in range(5):
            await opened.pass_second()
        yield opened


async def roll(world: World) -> object:
    new = dataclasses.replace(make_new_rollout(), baseline="v1")
    rollout = await world.store.start(new, key=None, now=world.clock.now())
    ended = await world.live(rollout.id, until=lambda found: isinstance(found.state, Promoted | RolledBack))
    await world.pass_second()
    return ended.state


async def test_other_versions_keep_what_they_have(world: World) -> None:
    assert isinstance(await roll(world), Promoted)
    assert {split["v3"] for split in world.splits[-50:]} == {4_000}
    assert any(split.get("v2", 0) == 300 for split in world.splits), "5 % of the 60 % that move"
    assert (await world.store.load_service("colorize")).split == make_split(v3=4_000, v2=6_000)


async def test_a_rollback_gives_back_what_was_taken_and_no_more(world: World) -> None:
    world.errors = lambda: 0.3
    assert isinstance(await roll(world), RolledBack)
    assert (await world.store.load_service("colorize")).split == make_split(v3=4_000, v1=6_000)
