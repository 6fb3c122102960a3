"""The record of what the judge saw and said: whole, written with the rollout that it moved, gone with the telemetry."""

import dataclasses

import pytest

from controlplane.errors import StaleWriteError
from controlplane.ports import Rollout, RolloutId, Store
from controlplane.rollout.recorded import JudgedTick, Look
from controlplane.rollout.verdict import Exposure, Verdict
from controlplane.rollout.windows import BUCKETS, Sample, TickWindow, VersionTick
from tests.builders import NOW, TICK, make_judged, make_new_rollout, make_spec, seconds

FULL = VersionTick(
    completed=2**40, errors=2, started=3, active=4, latency=tuple(range(BUCKETS)), codes=(("422", 5), ("grpc-14", 1))
)
SAMPLES = (Sample("memory", (1, 0), (1, 1)), Sample("empty", missing="no data for 20 s (größer)"))
RECORD = (
    make_judged(TICK, look=Look.HISTORY),
    make_judged(TICK + 1, previous=TICK),
    JudgedTick(
        TICK + 1,
        TickWindow(TICK + 9, FULL, VersionTick.zero(), gap=True, samples=SAMPLES),
        Look.PARTIAL,
        Exposure(10_000, None, True, 30.0, 1 / 3, True, "größer"),
        (Verdict.ROLLBACK,),
        Verdict.ROLLBACK,
        "nearly every request fails: 100 % (坏)",
        (("error_abs", 1.25), ("nonsense rel", 1e12)),
    ),
)


@pytest.fixture
async def rollout(store: Store) -> Rollout:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    return await store.start(make_new_rollout(), key=None, now=NOW)


def test_the_record_above_leaves_out_nothing_that_is_counted() -> None:
    """Whoever counts something new sees to it that a replay gets it too."""
    empty = dataclasses.asdict(VersionTick.zero())
    assert [name for name, value in dataclasses.asdict(FULL).items() if value == empty[name]] == []


async def test_what_the_judge_saw_is_read_back_exactly(store: Store, rollout: Rollout) -> None:
    saved = await store.save(rollout, judged=RECORD[:1], now=NOW)
    await store.save(saved, judged=RECORD[1:], now=NOW)
    assert await store.load_judged(rollout.id) == RECORD
    assert await store.load_judged(RolloutId("colorize-2")) == ()


async def test_it_is_read_a_part_at_a_time(store: Store, rollout: Rollout) -> None:
    await store.save(rollout, judged=RECORD, now=NOW)
    assert await store.load_judged(rollout.id, limit=2) == RECORD[:2]
    assert await store.load_judged(rollout.id, after=TICK + 1) == RECORD[2:]
    assert await store.load_judged(rollout.id, after=TICK + 9) == ()


async def test_a_save_that_is_refused_records_nothing(store: Store, rollout: Rollout) -> None:
    await store.save(rollout, now=NOW)
    with pytest.raises(StaleWriteError):
        await store.save(rollout, judged=RECORD, now=NOW)
    assert await store.load_judged(rollout.id) == ()


async def test_rollouts_have_records_of_their_own(store: Store, rollout: Rollout) -> None:
    await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    other = await store.start(make_new_rollout("other"), key=None, now=NOW + seconds(1))
    await store.save(rollout, judged=RECORD[:1], now=NOW)
    await store.save(other, judged=RECORD[:2], now=NOW)
    assert await store.load_judged(other.id) == RECORD[:2]


async def test_it_goes_with_the_telemetry(store: Store, rollout: Rollout) -> None:
    await store.save(rollout, judged=RECORD, now=NOW)
    await store.prune_telemetry(before_tick=TICK + 1)
    assert await store.load_judged(rollout.id) == RECORD[1:]
