"""Groups of Envoys in virtual time, through the whole control plane: services, verdicts and canaries of revisions."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.ports import Desired, RevisionStatus, SnapshotRecord, SnapshotStatus, Store
from controlplane.rollout.model import PauseCause, Paused, Preparing
from controlplane.traffic.model import ServiceSpec
from tests.builders import make_node, make_spec, seconds
from tests.simulation.world import World, open_world, restarted

CANARY = "+canary"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        opened.nodes = ("edge-1", "edge-2")
        await opened.turn()
        yield opened


async def apply(world: World, spec: ServiceSpec) -> int:
    revision, _ = await world.store.apply(spec, by="ada", why="", now=world.clock.now())
    await world.turn()
    return revision.number


async def status(world: World, service: str = "colorize") -> tuple[int, RevisionStatus]:
    record = await world.store.load_service(service)
    return record.newest.number, record.newest.status


async def pass_seconds(world: World, count: int) -> None:
    for _ in range(count):
        await world.pass_second()


def running(world: World, node: str) -> dict[str, int]:
    """Return the revisions that *node* runs."""
    return dict(world.running[node].revisions)


# -- groups ------------------------------------------------------------------------------------------------------------


async def test_a_service_goes_to_the_groups_it_names_and_to_no_other(world: World) -> None:
    world.nodes, world.groups = ("edge-1", "eu-1", "us-1"), {"eu-1": "eu", "us-1": "us"}
    await apply(world, dataclasses.replace(make_spec("local", port=9090), groups=("eu",)))
    assert running(world, "edge-1") == running(world, "us-1") == {"colorize": 1}
    assert running(world, "eu-1") == {"colorize": 1, "local": 1}
    assert await status(world, "local") == (1, RevisionStatus.GOOD)


async def test_a_refusal_in_one_group_takes_the_revision_back_everywhere(world: World) -> None:
    world.nodes, world.groups = ("edge-1", "eu-1"), {"eu-1": "eu"}
    await apply(world, dataclasses.replace(make_spec("local", port=9090), groups=("eu",)))
    world.refusing = lambda snapshot: "no such filter" if snapshot.group == "eu" else ""
    await apply(world, make_spec(port=8088))
    assert await status(world) == (2, RevisionStatus.REJECTED)
    world.refusing = lambda _: ""
    await world.turn()
    assert running(world, "edge-1") == {"colorize": 1}
    assert running(world, "eu-1") == {"colorize": 1, "local": 1}


async def test_a_new_service_that_envoys_run_is_not_blamed_for_another(world: World) -> None:
    """An Envoy that has just left is waited for, so that nothing new is proven meanwhile."""
    away = dataclasses.replace(make_node("edge-9"), cluster="edge", group="edge", disconnected_at=world.clock.now())
    await world.store.record_nodes([away])
    await apply(world, make_spec("local", port=9090))
    assert await status(world, "local") == (1, RevisionStatus.PROPOSED)
    world.refusing = lambda snapshot: "no such filter" if snapshot.revisions["colorize"] == 2 else ""
    await apply(world, dataclasses.replace(make_spec(), routes=make_spec().routes[1:]))
    await world.turn()
    assert await status(world) == (2, RevisionStatus.REJECTED)
    assert await status(world, "local") == (1, RevisionStatus.PROPOSED)
    assert running(world, "edge-1") == {"colorize": 1, "local": 1}


async def test_a_refusal_of_a_service_stops_no_rollout_in_another_group(world: World) -> None:
    world.nodes, world.groups = ("edge-1", "eu-1"), {"eu-1": "eu"}
    everyone = dataclasses.replace(make_spec("colorize"), groups=("edge",))
    await apply(world, everyone)
    await apply(world, dataclasses.replace(make_spec("local", port=9090), groups=("eu",)))
    rollout = await world.start()
    await pass_seconds(world, 5)
    world.refusing = lambda snapshot: "no such filter" if snapshot.group == "eu" else ""
    await apply(world, dataclasses.replace(make_spec("local", port=9091), groups=("eu",)))
    await pass_seconds(world, 3)
    assert await status(world, "local") == (2, RevisionStatus.REJECTED)
    assert not isinstance((await world.store.load(rollout)).state, Paused)


async def test_a_weight_is_live_when_every_group_that_serves_it_runs_it(world: World) -> None:
    world.nodes, world.groups = ("edge-1", "edge-2", "eu-1"), {"eu-1": "eu"}
    await apply(world, dataclasses.replace(make_spec(), groups=("edge", "eu")))
    rollout = await world.start()
    world.nodes = ("edge-1", "edge-2")  # eu-1 is connected and says nothing more
    await pass_seconds(world, 8)
    assert type((await world.store.load(rollout)).state).__name__ == "Shifting"
    world.nodes = ("edge-1", "edge-2", "eu-1")
    await pass_seconds(world, 2)
    assert type((await world.store.load(rollout)).state).__name__ == "Baking"


async def test_after_a_restart_each_group_is_served_what_it_was(world: World) -> None:
    world.nodes, world.groups = ("edge-1", "eu-1"), {"eu-1": "eu"}
    await apply(world, dataclasses.replace(make_spec("local", port=9090), groups=("eu",)))
    again = restarted(world)
    await again.projector.restore()
    assert again.cache.served_versions == world.cache.served_versions
    assert again.cache._grouping == world.cache._grouping


async def test_a_snapshot_of_proven_revisions_that_is_refused_goes_back_too(world: World) -> None:
    """Nobody is to blame, so no revision is rejected; the group goes back to what all of it ran, and stays there."""
    good = world.cache.served_versions[""]
    world.refusing = lambda snapshot: "out of memory" if snapshot.version != good else ""
    await world.store.set_split("colorize", (await world.split())[:1], by="ada", why="", now=world.clock.now())
    rollout = await world.start()
    await pass_seconds(world, 4)
    state = (await world.store.load(rollout)).state
    assert isinstance(state, Paused)
    assert state.cause is PauseCause.NACK
    assert "out of memory" in state.words
    assert world.cache.served_versions[""] == good
    newest = await world.store.load_newest_snapshot("")
    assert newest is not None
    assert newest.version == good


class Overtaken:
    """A store whose rows were read a moment too early, once."""

    def __init__(self, store: Store, stale: Desired) -> None:
        self._store = store
        self._stale: Desired | None = stale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load_desired(self) -> Desired:
        stale, self._stale = self._stale, None
        return stale or await self._store.load_desired()


async def test_a_refusal_takes_nothing_from_a_new_service_that_waits_for_its_acknowledgements(world: World) -> None:
    """Also when the projector read the rows before the refusal was written, and the snapshot's fate after it."""
    away = dataclasses.replace(make_node("edge-9"), cluster="edge", group="edge", disconnected_at=world.clock.now())
    await world.store.record_nodes([away])
    await apply(world, make_spec("beside", port=9090))
    assert await status(world, "beside") == (1, RevisionStatus.PROPOSED)
    both = world.cache.served_versions[""]
    world.refusing = lambda snapshot: "no" if snapshot.revisions["colorize"] == 2 else ""
    world.acking = False
    await apply(world, dataclasses.replace(make_spec(), routes=make_spec().routes[1:]))
    stale, refused = await world.store.load_desired(), world.cache.served_versions[""]
    world.acking = True
    await world.envoys_answer()
    await world.controller.turn()
    assert await status(world) == (2, RevisionStatus.REJECTED)
    world.cache._groups[""].in_doubt = True  # as a stream that hears the refusal would have it
    world.projector.store = Overtaken(world.store, stale)
    await world.projector.project()
    assert world.cache.served_versions[""] == refused
    await world.projector.project()
    assert world.cache.served_versions[""] == both


# -- canaries of revisions ---------------------------------------------------------------------------------------------


def careful(port: int = 8088, *, span: int = 60) -> ServiceSpec:
    return dataclasses.replace(make_spec(port=port), config_canary=seconds(span))


async def test_a_new_revision_goes_to_one_envoy_and_a_healthy_minute_later_to_all(world: World) -> None:
    await apply(world, careful())
    await pass_seconds(world, 58)
    assert (running(world, "edge-1"), running(world, "edge-2")) == ({"colorize": 2}, {"colorize": 1})
    assert await status(world) == (2, RevisionStatus.PROPOSED)
    await pass_seconds(world, 4)
    assert running(world, "edge-1") == running(world, "edge-2") == {"colorize": 2}
    assert await status(world) == (2, RevisionStatus.GOOD)
    words = [entry.words for entry in await world.store.history("colorize")]
    assert "revision 2: ran on edge-1 for 60 s; now the others get it" in words


async def test_a_revision_that_the_first_envoy_refuses_never_reaches_the_others(world: World) -> None:
    seen: list[SnapshotRecord] = []

    def refusing(snapshot: SnapshotRecord) -> str:
        seen.append(snapshot)
        return "bad regex" if snapshot.group == CANARY else ""

    world.refusing = refusing
    await apply(world, careful())
    await pass_seconds(world, 70)
    assert await status(world) == (2, RevisionStatus.REJECTED)
    assert {snapshot.group for snapshot in seen if snapshot.revisions.get("colorize") == 2} == {CANARY}
    assert running(world, "edge-1") == running(world, "edge-2") == {"colorize": 1}
    last = await world.store.load_last_good_snapshot("")
    assert last is not None
    assert (last.status, last.revisions) == (SnapshotStatus.GOOD, {"colorize": 1})


async def test_the_minute_begins_anew_when_the_workers_are_down(world: World) -> None:
    await apply(world, careful())
    await pass_seconds(world, 50)
    world.unhealthy = "colorize_v1"
    await pass_seconds(world, 1)
    world.unhealthy = ""
    await pass_seconds(world, 50)
    assert running(world, "edge-2") == {"colorize": 1}
    await pass_seconds(world, 12)
    assert running(world, "edge-2") == {"colorize": 2}


async def test_weights_move_on_both_sides_of_a_trial(world: World) -> None:
    rollout = await world.start()
    await world.live(rollout, until=lambda found: type(found.state).__name__ == "Baking", seconds=20)
    await apply(world, careful(span=600))
    first = {node: world.running[node].version for node in world.nodes}
    await world.live(rollout, until=lambda found: getattr(found.state, "step", 0) > 0)
    await pass_seconds(world, 2)
    assert all(world.running[node].version != first[node] for node in world.nodes)
    assert (running(world, "edge-1"), running(world, "edge-2")) == ({"colorize": 2}, {"colorize": 1})


async def test_a_rollout_of_a_version_on_trial_waits_until_everyone_has_it(world: World) -> None:
    spec = dataclasses.replace(make_spec(versions=("v1", "v2", "v3")), config_canary=seconds(30))
    await apply(world, spec)
    rollout = await world.start()
    await pass_seconds(world, 20)
    assert isinstance((await world.store.load(rollout)).state, Preparing)
    await pass_seconds(world, 20)
    assert not isinstance((await world.store.load(rollout)).state, Preparing)


async def test_a_new_leader_counts_the_minute_from_the_start(world: World) -> None:
    await apply(world, careful())
    await pass_seconds(world, 50)
    again = restarted(world)
    await again.projector.restore()
    assert again.cache._grouping.canaries == {"edge-1": CANARY}
    await pass_seconds(again, 50)
    assert running(again, "edge-2") == {"colorize": 1}
    await pass_seconds(again, 15)
    assert running(again, "edge-2") == {"colorize": 2}


async def test_the_only_envoy_of_a_group_is_its_canary(world: World) -> None:
    world.nodes = ("edge-1",)
    gone = dataclasses.replace((await world.store.load_nodes())[1], disconnected_at=world.clock.now() - seconds(99))
    await world.store.record_nodes([gone])
    await apply(world, careful())
    assert running(world, "edge-1") == {"colorize": 2}
    await pass_seconds(world, 62)
    assert await status(world) == (2, RevisionStatus.GOOD)
