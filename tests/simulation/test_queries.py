"""Objectives that are Prometheus queries, in virtual time: they decide as errors do, and hold where nobody answers."""

import re
from collections.abc import AsyncIterator

import pytest

from controlplane.ports import Rollout, RolloutId
from controlplane.rollout.model import Baking, PauseCause, Paused, Promoted, RollbackCause, RolledBack
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.recorded import JudgedTick
from controlplane.rollout.replay import Replay, sum_up
from controlplane.rollout.slo import OnBreach, RatioQuerySlo, Slo, Terms, ValueQuerySlo
from controlplane.rollout.verdict import Verdict
from tests.builders import seconds
from tests.fakes import Answer
from tests.simulation.world import RPS, SECOND, World, open_world, restarted

IMAGES = RatioQuerySlo("grey images", 'grey{version="$version"}', 'images{cluster="$cluster"}', 0.01, seconds(2))
MEMORY = ValueQuerySlo("memory", 'memory{service="$service",version="$version"}', highest=8.0, interval=seconds(2))


class Workers:
    """What both versions' workers tell Prometheus: images by the split, grey ones among them, and memory in use."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.grey = {"v1": 0.0, "v2": 0.0}
        """The share of grey images, from now on."""
        self.memory = {"v1": 5.0, "v2": 5.0}
        self.refusal = ""
        self._seen = len(world.splits)
        self._images = {"v1": 1e6, "v2": 0.0}
        self._bad = {"v1": 1e3, "v2": 0.0}

    def answer(self, query: str) -> Answer:
        if self.refusal:
            return self.refusal
        for split in self.world.splits[self._seen :]:
            for version, weight_bp in split.items():
                images = RPS * weight_bp / 10_000
                self._images[version] += images
                self._bad[version] += images * self.grey[version]
        self._seen = len(self.world.splits)
        version = "v2" if "v2" in query else "v1"
        match query.partition("{")[0]:
            case "images":
                assert f'cluster="colorize_{version}"' in query
                return self._images[version] or None
            case "grey":
                return self._bad[version] or None
            case _:
                assert 'service="colorize"' in query
                return self.memory[version]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


@pytest.fixture
def workers(world: World) -> Workers:
    workers = Workers(world)
    world.metrics.answer = workers.answer
    return workers


def is_baking(step: int) -> object:
    return lambda found: isinstance(found.state, Baking) and found.state.step >= step


async def reach(world: World, rollout: RolloutId, *states: type, step: int = 0, seconds: int = 900) -> Rollout:
    return await world.live(
        rollout,
        until=lambda found: isinstance(found.state, states) and getattr(found.state, "step", 9) >= step,
        seconds=seconds,
    )


async def words(world: World, what: str) -> str:
    """Return the sentence of the last event called *what*."""
    return [entry.words for entry in await world.store.history("colorize") if entry.what == what][-1]


async def pass_seconds(world: World, count: int) -> None:
    for _ in range(count):
        await world.pass_second()


async def assert_reproduced(world: World, rollout: RolloutId) -> list[JudgedTick]:
    """Check that all that was decided comes out again from the record alone, without asking anybody."""
    found = await world.store.load(rollout)
    asked = len(world.metrics.asked)
    record = list(await world.store.load_judged(rollout, limit=9999))
    ticks = Replay(rollout, policy_of(found.slos)).take(record)
    assert [tick for tick in ticks if not tick.is_same] == []
    assert sum_up(ticks).is_reproduced
    assert len(world.metrics.asked) == asked
    return record


async def test_a_healthy_candidate_is_promoted(world: World, workers: Workers) -> None:
    workers.grey = {"v1": 0.001, "v2": 0.001}
    rollout = await world.start(IMAGES, MEMORY)
    await reach(world, rollout, Promoted, step=9)
    sentence = await words(world, "Advance")
    assert re.search(
        r"share of bad grey images 0\.1 % \(\d+/\d+\), v1 at 0\.1 % \(\d+/\d+\) in the same seconds", sentence
    )
    assert "share of memory out of bounds 0 % (0/" in sentence
    record = await assert_reproduced(world, rollout)
    told = [sample for tick in record for sample in tick.window.samples]
    assert {sample.missing for sample in told} == {""}
    images = [sample.candidate for sample in told if sample.name == "grey images"]
    assert sum(total for total, _ in images) == pytest.approx(
        workers.answer('images{cluster="colorize_v2"}'), abs=3 * RPS
    )


async def test_a_candidate_whose_bad_counter_rises_is_rolled_back(world: World, workers: Workers) -> None:
    rollout = await world.start(IMAGES)
    await reach(world, rollout, Baking, step=1)
    workers.grey["v2"] = 0.1
    found = await reach(world, rollout, RolledBack, step=9, seconds=30)
    assert isinstance(found.state, RolledBack)
    assert found.state.cause is RollbackCause.SLO_BREACH
    assert re.match(
        r"share of bad grey images \S+ % \(\d+/\d+\) > SLO 1 %, v1 at 0 % in the same seconds; evidence",
        await words(world, "Breach"),
    )
    await assert_reproduced(world, rollout)


async def test_a_value_out_of_bounds_is_rolled_back(world: World, workers: Workers) -> None:
    rollout = await world.start(MEMORY)
    await reach(world, rollout, Baking, step=1)
    workers.memory["v2"] = 8.5
    await reach(world, rollout, RolledBack, step=9, seconds=60)
    assert re.match(r".*memory out of bounds.*100 % \(\d+/\d+\)", await words(world, "Breach"))
    await assert_reproduced(world, rollout)


async def test_what_both_versions_suffer_from_is_held(world: World, workers: Workers) -> None:
    rollout = await world.start(IMAGES)
    await reach(world, rollout, Baking, step=1)
    workers.grey = {"v1": 0.1, "v2": 0.1}
    await pass_seconds(world, 120)
    found = await world.store.load(rollout)
    assert isinstance(found.state, Baking)
    assert "v1 is in trouble too" in str(found.evidence)
    await assert_reproduced(world, rollout)


async def test_without_answers_a_rollout_holds_and_says_why_and_goes_on_with_them(
    world: World, workers: Workers
) -> None:
    rollout = await world.start(IMAGES)
    baking = await reach(world, rollout, Baking, step=1)
    workers.refusal = "cannot reach Prometheus at prom:9090 (refused)"
    await pass_seconds(world, 17)
    held = await world.store.load(rollout)
    assert re.search(
        r"nothing is known of grey images: no data for 16 s: cannot reach Prometheus at prom:9090 \(refused\), so the "
        "clocks stand still",
        str(held.evidence),
    )
    await pass_seconds(world, 90)
    assert (await world.store.load(rollout)).state == baking.state
    workers.refusal = ""
    await reach(world, rollout, Baking, step=2, seconds=60)
    await assert_reproduced(world, rollout)


async def test_after_two_minutes_without_answers_a_person_is_asked(world: World, workers: Workers) -> None:
    rollout = await world.start(IMAGES, MEMORY)
    await reach(world, rollout, Baking)
    workers.refusal = "Prometheus at prom answered 503"
    found = await reach(world, rollout, Paused, seconds=130)
    assert isinstance(found.state, Paused)
    assert found.state.cause is PauseCause.TELEMETRY_LOST
    assert re.fullmatch(r"no answer for grey images for 12\d s: Prometheus at prom answered 503", found.state.words)
    await assert_reproduced(world, rollout)


async def test_nothing_advances_on_a_query_that_was_never_answered(world: World, workers: Workers) -> None:
    workers.refusal = "no Prometheus is configured"
    rollout = await world.start(IMAGES)
    first = await reach(world, rollout, Baking)
    await pass_seconds(world, 14)
    assert "NO_DATA" not in str((await world.store.load(rollout)).evidence)
    await pass_seconds(world, 100)
    held = await world.store.load(rollout)
    assert held.state == first.state
    assert "no Prometheus is configured" in str(held.evidence)


async def test_a_version_that_the_query_knows_nothing_of_is_named(world: World, workers: Workers) -> None:
    world.metrics.answer = lambda query: None if "v2" in query else workers.answer(query)
    rollout = await world.start(MEMORY)
    await reach(world, rollout, Baking)
    await pass_seconds(world, 30)
    assert "the query gives nothing for v2" in str((await world.store.load(rollout)).evidence)


async def test_an_outage_shorter_than_three_askings_is_not_even_mentioned(world: World, workers: Workers) -> None:
    rollout = await world.start(IMAGES)
    await reach(world, rollout, Baking, step=1)
    workers.refusal = "restarting"
    await pass_seconds(world, 12)
    workers.refusal = ""
    await reach(world, rollout, Promoted, step=9)
    record = await assert_reproduced(world, rollout)
    assert {sample.missing for tick in record for sample in tick.window.samples} == {""}


@pytest.mark.parametrize("slo", [IMAGES, MEMORY], ids=["ratio", "value"])
async def test_muted_ones_decide_nothing(world: World, workers: Workers, slo: RatioQuerySlo | ValueQuerySlo) -> None:
    workers.grey["v2"], workers.memory["v2"] = 0.5, 99.0
    rollout = await world.start(muted(slo))
    await reach(world, rollout, Baking, step=1)
    workers.refusal = "away"
    await reach(world, rollout, Promoted, step=9)
    assert any(
        sample.candidate[1] for tick in await assert_reproduced(world, rollout) for sample in tick.window.samples
    )


def muted(slo: RatioQuerySlo | ValueQuerySlo) -> Slo:
    return with_terms(slo, Terms(muted=True))


def with_terms(slo: RatioQuerySlo | ValueQuerySlo, terms: Terms) -> Slo:
    if isinstance(slo, RatioQuerySlo):
        return RatioQuerySlo(slo.name, slo.bad, slo.total, slo.max_ratio, slo.interval, terms)
    return ValueQuerySlo(slo.name, slo.query, slo.highest, slo.lowest, slo.max_ratio, slo.interval, terms)


@pytest.mark.parametrize("slo", [IMAGES, MEMORY], ids=["ratio", "value"])
async def test_a_breach_may_ask_a_person_instead(
    world: World, workers: Workers, slo: RatioQuerySlo | ValueQuerySlo
) -> None:
    rollout = await world.start(with_terms(slo, Terms(on_breach=OnBreach.PAUSE)))
    await reach(world, rollout, Baking, step=1)
    workers.grey["v2"], workers.memory["v2"] = 0.5, 99.0
    found = await reach(world, rollout, Paused, seconds=60)
    assert isinstance(found.state, Paused)
    assert found.state.cause is PauseCause.BREACH
    assert slo.name in found.state.words
    outcome = sum_up(Replay(rollout, policy_of(found.slos)).take(await assert_reproduced(world, rollout)))
    assert outcome.replayed[-1].verdict is Verdict.ASK


@pytest.mark.usefixtures("workers")
async def test_a_restart_in_the_middle_neither_loses_nor_doubles_anything(world: World) -> None:
    rollout = await world.start(IMAGES)
    await reach(world, rollout, Baking, step=1)
    await pass_seconds(world, 5)
    world = restarted(world)
    await world.projector.restore()
    for _ in range(3):  # nobody leads, and nobody asks
        await world.report()
        world.clock.move(SECOND)
    await pass_seconds(world, 10)
    record = await assert_reproduced(world, rollout)
    counted = sum(sample.candidate[0] for tick in record for sample in tick.window.samples)
    told = await world.store.load_samples(rollout, [IMAGES.name], after=0)
    good = [sample.candidate.value or 0 for sample in told if not sample.words and sample.tick <= record[-1].tick]
    assert counted == good[-1] - good[0] > 1000
