"""The examiner in virtual time: whose pictures are compared and when, and that no comparison concerns anybody else."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from controlplane.controller.examiner import AT_ONCE, Examiner
from controlplane.errors import UnavailableError
from controlplane.ports import Rollout, VersionWorkers
from controlplane.rollout.model import NO_STEP, Baking, PauseCause, Paused, Preparing, RollbackCause, RollingBack, State
from controlplane.rollout.quality import QualityRun, RunStatus
from controlplane.rollout.slo import QualitySlo
from controlplane.store import SqlStore, open_store
from controlplane.traffic.model import Endpoint
from controlplane.wake import WakeBoard
from tests.builders import NOW, make_new_rollout, make_spec, make_version, seconds
from tests.fakes import FakeGate, ManualClock

PICTURES = QualitySlo("pictures", interval=seconds(60))
PREPARING = Preparing(NOW)


@dataclasses.dataclass
class Scene:
    """A store with rollouts as tests want them, and an examiner over it."""

    store: SqlStore
    clock: ManualClock
    gate: FakeGate
    examiner: Examiner
    leads: bool = True

    async def start(
        self,
        service: str = "colorize",
        *,
        slo: QualitySlo = PICTURES,
        state: State = PREPARING,
        port: int = 8080,
        endpoints: tuple[Endpoint, ...] | None = None,
    ) -> Rollout:
        """Start a rollout with an objective about pictures and put it into *state*."""
        spec = make_spec(service, port=port)
        versions = tuple(make_version(name, service=service, endpoints=endpoints) for name in ("v1", "v2"))
        await self.store.apply(dataclasses.replace(spec, versions=versions), by="ada", why="", now=NOW)
        new = make_new_rollout(service)
        rollout = await self.store.start(dataclasses.replace(new, slos=(*new.slos, slo)), key=None, now=NOW)
        return await self.store.save(dataclasses.replace(rollout, state=state), now=NOW)

    async def turn(self, *, after: float = 0.0) -> None:
        """Take a turn after some seconds, and wait for the comparisons that it begins."""
        self.clock.move(seconds(after))
        async with asyncio.TaskGroup() as tasks:
            await self.examiner.turn(tasks)

    async def newest(self, rollout: Rollout) -> QualityRun:
        return (await self.store.load_quality_runs(rollout.id))[0]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    clock, gate = ManualClock(), FakeGate()
    async with await open_store("sqlite://", board=WakeBoard(), clock=clock) as store:
        examiner = Examiner(store=store, gate=gate, clock=clock, leads=lambda: True)
        scene = Scene(store, clock, gate, examiner)
        examiner.leads = lambda: scene.leads
        yield scene


async def test_both_versions_workers_are_asked_where_envoy_finds_them(scene: Scene) -> None:
    endpoints = Endpoint("workers.example", 8083), Endpoint("10.0.0.9", 8084), Endpoint("fd00::9", 8085)
    await scene.store.save_addresses({"workers.example": ("10.0.0.1", "fd00::1")}, now=NOW)
    rollout = await scene.start(endpoints=endpoints)
    await scene.turn()
    urls = ("http://10.0.0.1:8083", "http://[fd00::1]:8083", "http://10.0.0.9:8084", "http://[fd00::9]:8085")
    assert scene.gate.asked == [(VersionWorkers("v1", urls), VersionWorkers("v2", urls), PICTURES)]
    assert (await scene.newest(rollout)).words == "v2 is like v1"


async def test_a_host_name_that_resolves_to_nothing_yet_is_said_to(scene: Scene) -> None:
    rollout = await scene.start(endpoints=(Endpoint("workers.example", 8083),))
    await scene.turn()
    run = await scene.newest(rollout)
    assert (run.status, run.words) == (RunStatus.FAILED, "no worker of v1 has an address yet")
    assert scene.gate.asked == []


@pytest.mark.parametrize(
    ("state", "asks"),
    [
        (PREPARING, True),
        (Baking(0, NOW), True),
        (Paused(0, NOW, PauseCause.OPERATOR, "", 1), True),
        (Paused(NO_STEP, NOW, PauseCause.OPERATOR, "", 0), False),
        (RollingBack(NOW, RollbackCause.ABORTED, ""), False),
    ],
)
async def test_only_rollouts_that_may_get_or_have_traffic_are_compared(
    scene: Scene, state: State, *, asks: bool
) -> None:
    await scene.start(state=state)
    await scene.turn()
    assert bool(scene.gate.asked) == asks


async def test_it_is_asked_again_at_its_interval_and_sooner_after_a_failure(scene: Scene) -> None:
    await scene.start(state=Baking(0, NOW))
    for _ in range(13):
        await scene.turn(after=10)
    assert len(scene.gate.asked) == 3
    scene.gate.asked.clear()
    scene.gate.styles["v2"] = "away"
    for _ in range(12):
        await scene.turn(after=10)
    assert len(scene.gate.asked) == 3 + 1


async def test_who_does_not_lead_compares_nothing(scene: Scene) -> None:
    rollout = await scene.start()
    scene.leads = False
    await scene.turn()
    assert (scene.gate.asked, await scene.store.load_quality_runs(rollout.id)) == ([], ())


async def test_without_what_it_takes_to_compare_the_rollout_waits_and_says_so(scene: Scene) -> None:
    rollout = await scene.start()
    scene.examiner.gate = None
    await scene.turn()
    assert "pip install 'hueshift[quality]'" in (await scene.newest(rollout)).words


async def test_a_bug_over_one_rollout_is_its_own_misfortune(scene: Scene) -> None:
    rollout = await scene.start()
    scene.gate.styles["v2"] = "bug"
    with capture_logs() as logs:
        await scene.turn()
    assert "bug of ours" in (await scene.newest(rollout)).words
    assert "quality.crashed" in [line["event"] for line in logs]


async def test_a_long_comparison_keeps_no_turn_waiting_and_is_begun_once(scene: Scene) -> None:
    rollouts = [await scene.start(f"s{number}", port=9000 + number) for number in range(AT_ONCE + 1)]
    scene.gate.released.clear()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            await scene.examiner.turn(tasks)
            await drain(scene)
        assert len(scene.gate.asked) == AT_ONCE
        assert (await scene.newest(rollouts[0])).status is RunStatus.RUNNING
        scene.gate.released.set()
    assert len(scene.gate.asked) == AT_ONCE + 1
    assert {(await scene.newest(rollout)).status for rollout in rollouts} == {RunStatus.DONE}


async def drain(scene: Scene) -> None:
    """Let everything run that waits for nothing but the database."""
    while len(scene.gate.asked) < AT_ONCE:
        await scene.store.load_nodes()
        await scene.clock.sleep(seconds(0))


async def test_the_loop_outlives_a_database_that_is_away_and_bugs(scene: Scene) -> None:
    survived = asyncio.Event()
    troubles: list[Exception] = [UnavailableError("the database is away"), LookupError("a bug")]

    def leads() -> bool:
        if troubles:
            raise troubles.pop()
        survived.set()
        return False

    scene.examiner.leads = leads
    with contextlib.suppress(TimeoutError), capture_logs() as logs:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(scene.examiner.run())
            await survived.wait()
            running.cancel()
    assert [line["event"] for line in logs] == ["examiner.turn_crashed", "examiner.turn_refused"]
