"""The watch over pinned models in virtual time, and that a rollout waits while a worker serves something else."""

import dataclasses
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from controlplane.controller.provenance import CALM, EAGER, RENEWED, ProvenanceWatch
from controlplane.ports import Rollout
from controlplane.rollout.model import Baking, RollbackCause, RolledBack
from controlplane.store import SqlStore, open_store
from controlplane.traffic.model import Endpoint, ModelPin
from controlplane.traffic.provenance import ModelReport
from controlplane.wake import Wake, WakeBoard
from tests.builders import NOW, make_new_rollout, make_pin, make_report, make_spec, make_version, pinned, seconds
from tests.fakes import FakeModels, ManualClock
from tests.simulation.world import World, open_world

OTHER = make_pin(digit="b")
ADDRESS = "127.0.0.1:8083"


@dataclasses.dataclass
class Scene:
    """A store, workers that say what a test wants, and the watch over both."""

    store: SqlStore
    clock: ManualClock
    models: FakeModels
    watch: ProvenanceWatch
    leads: bool = True

    async def turn(self, *, after: float = 0.0) -> int:
        """Take a turn after some seconds; return how many workers it asked."""
        self.clock.move(seconds(after))
        before = len(self.models.asked)
        await self.watch.turn()
        return len(self.models.asked) - before


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    clock, models = ManualClock(), FakeModels(make_report())
    async with await open_store("sqlite://", board=WakeBoard(), clock=clock) as store:
        watch = ProvenanceWatch(store=store, source=models, clock=clock, wake=Wake(), leads=lambda: True)
        scene = Scene(store, clock, models, watch)
        watch.leads = lambda: scene.leads
        await store.apply(pinned(make_spec()), by="ada", why="", now=NOW)
        yield scene


async def test_only_workers_of_pinned_versions_are_asked_and_what_they_say_is_kept(scene: Scene) -> None:
    assert await scene.turn() == 1
    (report,) = await scene.store.load_models()
    assert (report.cluster, report.models, report.at) == ("colorize_v2", make_report().models, NOW)


async def test_calm_workers_are_asked_now_and_then_and_those_of_a_candidate_often(scene: Scene) -> None:
    await scene.turn()
    assert await scene.turn(after=EAGER.total_seconds()) == 0
    await scene.store.start(make_new_rollout(), key=None, now=NOW)
    assert await scene.turn() == 1, "it does not wait for the pace of before"
    assert await scene.turn(after=EAGER.total_seconds() - 0.1) == 0
    assert await scene.turn(after=0.1) == 1


async def test_a_worker_that_was_replaced_is_noticed_and_told_once(scene: Scene) -> None:
    await scene.turn()
    scene.models.say(make_report(pin=OTHER))
    with capture_logs() as logs:
        await scene.turn(after=CALM.total_seconds())
        await scene.turn(after=CALM.total_seconds())
        scene.models.say(make_report())
        await scene.turn(after=CALM.total_seconds())
    assert [entry["event"] for entry in logs] == ["model.deviates", "model.as_pinned"]
    assert "sha256:bbbbbbbbbbbb" in logs[0]["words"]


async def test_a_worker_that_falls_silent_keeps_its_last_word(scene: Scene) -> None:
    await scene.turn()
    scene.models.reports.clear()
    await scene.turn(after=CALM.total_seconds())
    (report,) = await scene.store.load_models()
    assert (report.models, report.at) == (make_report().models, NOW)
    assert report.words.startswith("it cannot be reached")


async def test_an_answer_that_says_nothing_new_is_not_written_each_time(scene: Scene) -> None:
    await scene.store.start(make_new_rollout(), key=None, now=NOW)
    await scene.turn()
    await scene.turn(after=EAGER.total_seconds())
    (report,) = await scene.store.load_models()
    assert report.at == NOW
    await scene.turn(after=RENEWED.total_seconds())
    (report,) = await scene.store.load_models()
    assert report.at == NOW + EAGER + RENEWED


async def test_workers_behind_a_name_are_asked_at_their_addresses_under_that_name(scene: Scene) -> None:
    versions = (make_version("v1"), make_version("v2", endpoints=[Endpoint("worker.example", 8083)]))
    spec = pinned(dataclasses.replace(make_spec(), versions=versions))
    await scene.store.apply(spec, by="ada", why="", now=NOW)
    assert await scene.turn() == 0, "no address is known yet"
    await scene.store.save_addresses({"worker.example": ("10.0.0.1", "fd00::1")}, now=NOW)
    scene.models.asked.clear()
    await scene.turn()
    host = "worker.example:8083"
    assert sorted(scene.models.asked) == [("10.0.0.1:8083", host), ("[fd00::1]:8083", host)]


async def test_what_is_no_longer_declared_is_forgotten(scene: Scene) -> None:
    await scene.turn()
    await scene.store.apply(make_spec(), by="ada", why="", now=NOW)
    await scene.turn()
    assert await scene.store.load_models() == ()


# -- rollouts ----------------------------------------------------------------------------------------------------------


async def start(world: World, *reports: ModelReport) -> Rollout:
    await world.store.apply(pinned(make_spec()), by="ada", why="", now=world.clock.now())
    await world.store.record_models(reports)
    return await world.store.start(make_new_rollout(), key=None, now=world.clock.now())


async def keep_saying(world: World, rollout: Rollout, pin: ModelPin, *, seconds_long: int) -> Rollout:
    """Let a worker say for some seconds that it serves what *pin* names."""
    found = rollout
    for _ in range(seconds_long):
        await world.store.record_models([make_report(pin=pin, at=world.clock.now())])
        await world.pass_second()
        found = await world.store.load(rollout.id)
    return found


async def test_nobody_gets_traffic_from_a_version_whose_model_nobody_confirmed() -> None:
    async with open_world() as world:
        rollout = await start(world)
        gave_up = await world.live(rollout.id, until=lambda found: isinstance(found.state, RolledBack))
    assert isinstance(gave_up.state, RolledBack)
    assert gave_up.state.cause is RollbackCause.NEVER_READY
    assert gave_up.state.words == "no worker of v2 has confirmed that it serves v2 (sha256:aaaaaaaaaaaa)"
    assert all(not split.get("v2", 0) for split in world.splits)


async def test_a_worker_replaced_in_the_middle_holds_the_step_until_it_is_itself_again() -> None:
    async with open_world() as world:
        rollout = await start(world, make_report(at=world.clock.now()))
        baking = await keep_saying(world, rollout, make_pin(), seconds_long=3)
        assert baking.state == Baking(0, baking.state.since)  # type: ignore[union-attr] # it is one
        held = await keep_saying(world, rollout, OTHER, seconds_long=200)
        assert isinstance(held.state, Baking)
        assert held.state.step == 0
        assert "127.0.0.1:8083 serves v2 (sha256:bbbbbbbbbbbb)" in (held.evidence or "")
        after = await keep_saying(world, rollout, make_pin(), seconds_long=3)
        assert isinstance(after.state, Baking)
        assert after.state.step == 1, "the evidence was in already"


async def test_a_breach_goes_back_although_the_step_is_held() -> None:
    async with open_world() as world:
        rollout = await start(world, make_report(at=world.clock.now()))
        await keep_saying(world, rollout, make_pin(), seconds_long=3)
        world.errors = lambda: 0.3
        ended = await keep_saying(world, rollout, OTHER, seconds_long=20)
    assert isinstance(ended.state, RolledBack)
    assert ended.state.cause is RollbackCause.SLO_BREACH


# -- who asks ----------------------------------------------------------------------------------------------------------


async def test_a_process_that_does_not_lead_asks_nobody(scene: Scene) -> None:
    scene.leads = False
    assert await scene.turn() == 0
    scene.leads = True
    assert await scene.turn() == 1
