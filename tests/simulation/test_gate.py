"""What a real Envoy would refuse is taken back before any Envoy of the fleet has seen it."""

from collections.abc import AsyncIterator

import pytest

from controlplane.errors import InvalidInputError
from controlplane.ports import CompiledConfig, RevisionStatus
from controlplane.traffic.model import TrafficPlan
from controlplane.xds.snapshot import SnapshotCompiler
from tests.builders import make_spec
from tests.simulation.world import World, open_world


class Check:
    """The port `ConfigCheck`: refuses everything in these words."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.asked: list[str] = []

    async def refusal(self, config: CompiledConfig) -> str | None:
        self.asked.append(config.version)
        return self.words


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        await opened.turn()
        yield opened


async def apply(world: World, port: int) -> tuple[int, RevisionStatus, str]:
    """Declare another revision; return what became of it."""
    await world.store.apply(make_spec(port=port), by="ada", why="", now=world.clock.now())
    await world.turn()
    await world.turn()
    newest = (await world.store.load_service("colorize")).newest
    return newest.number, newest.status, newest.words


async def test_a_revision_that_the_check_refuses_reaches_no_envoy(world: World) -> None:
    served = world.cache.served_versions
    world.projector.check = Check("no such filter")
    assert await apply(world, 8088) == (2, RevisionStatus.REJECTED, "Envoy refuses it: no such filter")
    assert world.cache.served_versions == served
    assert await world.store.list_snapshot_groups() == ("",)
    assert world.running["edge-1"].revisions == {"colorize": 1}
    words = [entry.words for entry in await world.store.history("colorize")]
    assert "revision 2 is rejected: Envoy refuses it: no such filter" in words


async def test_a_rollout_goes_on_under_the_revision_before(world: World) -> None:
    rollout = await world.start()
    await world.live(rollout, until=lambda found: type(found.state).__name__ == "Baking", seconds=20)
    world.projector.check = Check("no such filter")
    assert (await apply(world, 8088))[1] is RevisionStatus.REJECTED
    found = await world.live(rollout, until=lambda found: getattr(found.state, "step", 0) > 0)
    assert type(found.state).__name__ in {"Shifting", "Baking"}


async def test_what_the_fleet_has_acknowledged_is_never_asked_about(world: World) -> None:
    asked = Check("refuses everything")
    world.projector.check = asked
    await world.start()
    for _ in range(5):
        await world.pass_second()
    assert world.running["edge-1"].revisions == {"colorize": 1}
    assert len({snapshot.version for snapshot in world.running.values()}) == 1
    assert asked.asked == []


async def test_a_revision_that_cannot_be_compiled_is_taken_back_as_well(world: World) -> None:
    class Strict(SnapshotCompiler):
        def compile(self, plan: TrafficPlan) -> CompiledConfig:
            if any(service.spec.listener.port == 8088 for service in plan.services):
                raise InvalidInputError("listener.port", "8088 is unlucky", "choose another")
            return super().compile(plan)

    world.projector.compiler = Strict()
    words = "listener.port: 8088 is unlucky; choose another"
    assert await apply(world, 8088) == (2, RevisionStatus.REJECTED, words)
    assert (await apply(world, 8089))[:2] == (3, RevisionStatus.GOOD)
