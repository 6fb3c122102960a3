"""The sampler in virtual time: who is asked what and when, and that nothing that goes wrong concerns anybody else."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from controlplane.controller.sampler import AT_ONCE_OF_ONE, Sampler
from controlplane.errors import UnavailableError
from controlplane.ports import Rollout
from controlplane.rollout.model import (
    NO_STEP,
    Baking,
    PauseCause,
    Paused,
    Preparing,
    RollbackCause,
    RollingBack,
    Shifting,
    State,
)
from controlplane.rollout.sampling import QuerySample, Reading
from controlplane.rollout.slo import RatioQuerySlo, Slo, ValueQuerySlo
from controlplane.store import SqlStore, open_store
from controlplane.wake import WakeBoard
from tests.builders import NOW, TICK, make_new_rollout, make_spec, seconds
from tests.fakes import FakeMetrics, ManualClock

MEMORY = ValueQuerySlo("memory", 'memory{service="$service",version="$version",of="$cluster"}', highest=8.0)
IMAGES = RatioQuerySlo("images", 'bad{version="$version"}', 'all{version="$version"}', 0.01, seconds(2))
BAKING = Baking(0, NOW)


@dataclasses.dataclass
class Scene:
    """A store with rollouts as tests want them, and a sampler over it."""

    store: SqlStore
    clock: ManualClock
    metrics: FakeMetrics
    sampler: Sampler
    leads: bool = True

    async def start(self, *slos: Slo, state: State = BAKING, service: str = "colorize", port: int = 8080) -> Rollout:
        """Start a rollout with query objectives and put it into *state*."""
        await self.store.apply(make_spec(service, port=port), by="ada", why="", now=NOW)
        new = make_new_rollout(service)
        rollout = await self.store.start(dataclasses.replace(new, slos=(*new.slos, *slos)), key=None, now=NOW)
        return await self.store.save(dataclasses.replace(rollout, state=state), now=NOW)

    async def turn(self, *, after: float = 0.0) -> None:
        """Take a turn after some seconds, and wait for what it asks."""
        self.clock.move(seconds(after))
        async with asyncio.TaskGroup() as tasks:
            await self.sampler.turn(tasks)
        await self.sampler.write()

    async def told(self, rollout: Rollout) -> tuple[QuerySample, ...]:
        return await self.store.load_samples(rollout.id, ["memory", "images"], after=0)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    clock, metrics = ManualClock(), FakeMetrics()
    async with await open_store("sqlite://", board=WakeBoard(), clock=clock) as store:
        sampler = Sampler(store=store, source=metrics, clock=clock, leads=lambda: True)
        scene = Scene(store, clock, metrics, sampler)
        sampler.leads = lambda: scene.leads
        yield scene


async def test_both_versions_are_asked_by_their_names_and_kept_for_the_second_to_come(scene: Scene) -> None:
    rollout = await scene.start(MEMORY, IMAGES)
    scene.metrics.answer = lambda query: 7.0 if "v2" in query else None
    await scene.turn()
    assert sorted(scene.metrics.asked) == [
        'all{version="v1"}',
        'all{version="v2"}',
        'bad{version="v1"}',
        'bad{version="v2"}',
        'memory{service="colorize",version="v1",of="colorize_v1"}',
        'memory{service="colorize",version="v2",of="colorize_v2"}',
    ]
    assert await scene.told(rollout) == (
        QuerySample("memory", TICK + 1, Reading(), Reading(7.0)),
        QuerySample("images", TICK + 1, Reading(), Reading(7.0, 7.0)),
    )


async def test_each_objective_is_asked_for_at_its_own_interval(scene: Scene) -> None:
    await scene.start(MEMORY, IMAGES)
    times: dict[str, list[int]] = {"memory": [], "all": []}
    for second in range(11):
        scene.metrics.asked.clear()
        await scene.turn(after=1)
        for name, asked in times.items():
            if any(query.startswith(name) for query in scene.metrics.asked):
                asked.append(second)
    assert times == {"memory": [0, 5, 10], "all": [0, 2, 4, 6, 8, 10]}


@pytest.mark.parametrize(
    ("state", "asks"),
    [
        (Preparing(NOW), False),
        (Shifting(0, NOW, came_from=NO_STEP), True),
        (BAKING, True),
        (Paused(0, NOW, PauseCause.OPERATOR, "", 1), True),
        (Paused(NO_STEP, NOW, PauseCause.OPERATOR, "", 0), False),
        (RollingBack(NOW, RollbackCause.ABORTED, ""), False),
    ],
)
async def test_only_rollouts_whose_candidate_may_carry_traffic_are_asked_for(
    scene: Scene, state: State, *, asks: bool
) -> None:
    await scene.start(MEMORY, state=state)
    await scene.turn()
    assert bool(scene.metrics.asked) == asks


async def test_who_does_not_lead_asks_nothing(scene: Scene) -> None:
    rollout = await scene.start(MEMORY)
    scene.leads = False
    await scene.turn()
    assert (scene.metrics.asked, await scene.told(rollout)) == ([], ())
    scene.leads = True
    await scene.turn(after=1)
    assert len(await scene.told(rollout)) == 1


async def test_without_a_prometheus_the_samples_say_so(scene: Scene) -> None:
    rollout = await scene.start(MEMORY)
    scene.sampler.source = None
    await scene.turn()
    (sample,) = await scene.told(rollout)
    assert sample.words == "no Prometheus is configured: set HUESHIFT_PROMETHEUS_URL"


async def test_one_refused_query_of_several_leaves_nothing_but_its_words(scene: Scene) -> None:
    rollout = await scene.start(IMAGES, MEMORY)
    scene.metrics.answer = lambda query: "Prometheus at prom answered 400: parse error" if "bad" in query else 1.0
    await scene.turn()
    memory, images = await scene.told(rollout)
    assert (memory.words, images.words) == ("", "Prometheus at prom answered 400: parse error")


async def test_a_slow_query_keeps_neither_the_loop_nor_other_objectives_waiting(scene: Scene) -> None:
    slow = await scene.start(dataclasses.replace(MEMORY, query='slow{version="$version"}'), IMAGES)
    other = await scene.start(IMAGES, service="other", port=9090)
    scene.metrics.answer, scene.metrics.hanging = lambda _: 1.0, "slow"
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            await scene.sampler.turn(tasks)
            await drain(scene)
            scene.clock.move(seconds(2))
        await scene.sampler.turn(tasks)
        assert [sample.name for sample in await scene.told(slow)] == ["images"] * 4
        assert len(await scene.told(other)) == 4
        assert scene.metrics.under_way == 2, "what is not answered yet is not asked again"
        scene.metrics.released.set()
    await scene.sampler.write()
    assert [sample.name for sample in await scene.told(slow)][:1] == ["memory"]


async def drain(scene: Scene) -> None:
    """Let everything run that waits for nothing."""
    for _ in range(50):
        await scene.clock.sleep(seconds(0))


async def test_the_queries_of_one_rollout_leave_room_for_others(scene: Scene) -> None:
    await scene.start(*(dataclasses.replace(IMAGES, name=f"images {number}") for number in range(6)))
    other = await scene.start(MEMORY, service="other", port=9090)
    scene.metrics.answer, scene.metrics.hanging = lambda _: 1.0, "{version="
    async with asyncio.TaskGroup() as tasks:
        await scene.sampler.turn(tasks)
        await drain(scene)
        assert scene.metrics.under_way == AT_ONCE_OF_ONE
        await scene.sampler.write()
        assert len(await scene.told(other)) == 1
        scene.metrics.released.set()
    assert len(scene.metrics.asked) == 6 * 4 + 2
    assert scene.metrics.most_under_way <= AT_ONCE_OF_ONE + 2


async def test_a_failure_is_logged_when_it_begins_changes_and_ends(scene: Scene) -> None:
    await scene.start(MEMORY)
    answers = ["refused", "refused", "timed out", 1.0, 2.0, "refused"]
    with capture_logs() as logs:
        for answer in answers:
            scene.metrics.answer = lambda _, answer=answer: answer  # type: ignore[misc] # bound now
            await scene.turn(after=5)
    assert [(line["event"], line.get("words")) for line in logs] == [
        ("query.failed", "refused"),
        ("query.failed", "timed out"),
        ("query.resumed", None),
        ("query.failed", "refused"),
    ]


async def test_a_bug_over_one_objective_is_its_own_misfortune(scene: Scene) -> None:
    def answer(query: str) -> float:
        if "memory" in query:
            raise LookupError(query)
        return 1.0

    rollout = await scene.start(MEMORY, IMAGES)
    scene.metrics.answer = answer
    await scene.turn()
    memory, images = await scene.told(rollout)
    assert "bug of ours" in memory.words
    assert images.words == ""


async def test_the_loop_outlives_a_database_that_is_away_and_bugs(scene: Scene) -> None:
    survived = asyncio.Event()
    troubles: list[Exception] = [UnavailableError("the database is away"), LookupError("a bug")]

    def leads() -> bool:
        if troubles:
            raise troubles.pop()
        survived.set()
        return False

    scene.sampler.leads, scene.sampler.interval = leads, seconds(0.01)
    with contextlib.suppress(TimeoutError), capture_logs() as logs:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(scene.sampler.run())
            await survived.wait()
            running.cancel()
    assert [line["event"] for line in logs] == ["sampler.turn_crashed", "sampler.turn_refused"]
