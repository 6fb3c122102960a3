"""Telemetry summed up over minutes and hours: equal to its parts, done once, and kept when the parts are gone."""

import pytest

from controlplane.controller.summing import Summing
from controlplane.ports import ClusterTick, Store
from controlplane.rollout.windows import VersionTick
from tests.builders import TICK, make_batch, make_counts, seconds
from tests.fakes import ManualClock

MINUTE = TICK - TICK % 3600
"""A whole hour."""


async def fill(store: Store, *ticks: int, cluster: str = "v1", source: str = "one") -> None:
    for tick in ticks:
        counts = make_counts(10, errors=1, started=11, active=tick % 7)
        await store.record(make_batch(source, tick=tick, **{cluster: counts}))  # type: ignore[arg-type] # a cluster


async def sums(store: Store, span_s: int, *clusters: str) -> tuple[ClusterTick, ...]:
    return await store.load_summed(clusters or ("v1",), span_s, since=MINUTE - 7200, until=MINUTE + 7200)


async def test_a_minute_is_the_sum_of_its_ticks_from_all_sources(store: Store) -> None:
    await fill(store, *range(MINUTE, MINUTE + 61))
    await fill(store, MINUTE + 58, MINUTE + 59, source="two")
    await fill(store, MINUTE + 3, cluster="v2")
    assert await store.sum_up(60, until=MINUTE + 60)
    found = await sums(store, 60)
    latency = make_counts(620).latency
    last = (MINUTE + 59) % 7
    assert found == (ClusterTick("v1", MINUTE, VersionTick(620, 62, 682, 2 * last, latency)),)
    both = await sums(store, 60, "v2", "v1", "v3")
    assert [each.cluster for each in both] == ["v1", "v2"]


async def test_only_what_is_over_is_summed_up_and_gaps_are_passed_over(store: Store) -> None:
    await fill(store, MINUTE + 1, MINUTE + 60 * 50)
    assert not await store.sum_up(60, until=MINUTE + 59)
    assert await store.sum_up(60, until=MINUTE + 60)
    assert not await store.sum_up(60, until=MINUTE + 60 * 50 + 59)
    assert await store.sum_up(60, until=MINUTE + 60 * 51)
    assert not await store.sum_up(60, until=MINUTE + 60 * 99)
    assert [each.tick for each in await sums(store, 60)] == [MINUTE, MINUTE + 60 * 50]


async def test_an_hour_is_the_sum_of_its_minutes_and_outlives_the_ticks(store: Store) -> None:
    clock = ManualClock()
    clock.move(seconds(MINUTE + 2 * 3600 - clock.now().timestamp()))
    await fill(store, MINUTE - 1, MINUTE, MINUTE + 1799, MINUTE + 3599, MINUTE + 3600)
    await Summing(store=store, clock=clock, leads=lambda: True).turn()
    await store.prune_telemetry(before_tick=MINUTE + 9999)
    found = await sums(store, 3600)
    assert [(each.tick, each.counts.completed) for each in found] == [(MINUTE - 3600, 10), (MINUTE, 30)]
    assert found[1].counts == VersionTick(30, 3, 33, (MINUTE + 3599) % 7, make_counts(30).latency)
    await store.prune_sums(3600, before=MINUTE)
    assert [each.tick for each in await sums(store, 3600)] == [each.tick for each in found[1:]]
    assert len(await sums(store, 60)) == 5


async def test_what_is_too_old_goes(store: Store) -> None:
    clock = ManualClock()
    await fill(store, MINUTE)
    await Summing(store=store, clock=clock, leads=lambda: True).turn()
    assert await sums(store, 60) != ()
    clock.move(seconds(15 * 24 * 3600))
    await fill(store, MINUTE + 14 * 24 * 3600)
    await Summing(store=store, clock=clock, leads=lambda: True).turn()
    assert await sums(store, 60) == ()
    assert [each.tick for each in await sums(store, 3600)] == [MINUTE]


@pytest.mark.parametrize("span_s", [60, 3600])
async def test_without_telemetry_there_is_nothing_to_do(store: Store, span_s: int) -> None:
    assert not await store.sum_up(span_s, until=TICK)
    assert await sums(store, span_s) == ()


async def test_sums_of_one_step_come_as_one_at_the_time_of_the_last(store: Store) -> None:
    await fill(store, MINUTE - 60, MINUTE, MINUTE + 60, MINUTE + 130, MINUTE + 300)
    await fill(store, MINUTE + 60, cluster="v2")
    while await store.sum_up(60, until=MINUTE + 999):
        pass
    found = await store.load_summed(("v1", "v2"), 60, since=MINUTE - 60, until=MINUTE + 999, step_s=300)
    assert [(each.cluster, each.tick, each.counts.completed) for each in found] == [
        ("v1", MINUTE - 60, 10),
        ("v2", MINUTE + 60, 10),
        ("v1", MINUTE + 120, 30),
        ("v1", MINUTE + 300, 10),
    ]
    assert found[2].counts == VersionTick(30, 3, 33, (MINUTE + 130) % 7, make_counts(30).latency)
