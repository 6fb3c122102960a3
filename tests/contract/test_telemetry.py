"""Counts and histograms per version and tick; what Envoys say of their members."""

import dataclasses
import datetime as dt

from controlplane.ports import (
    Beat,
    ClusterHealth,
    ClusterTick,
    CounterBase,
    HistogramGap,
    TelemetryBatch,
    TelemetryStore,
    TickRead,
)
from controlplane.rollout.windows import BUCKETS, VersionTick
from controlplane.store.telemetry import DEAD_AFTER_TICKS
from tests.builders import NOW, TICK, make_batch, make_counts, seconds


async def ticks_of(store: TelemetryStore, *clusters: str, after: int = TICK - 1, limit: int = 600) -> list[TickRead]:
    return list(await store.load_ticks(clusters, after=after, limit=limit))


async def closed_ticks(store: TelemetryStore) -> dict[int, bool]:
    return {read.tick - TICK: read.closed for read in await ticks_of(store)}


async def test_an_empty_store_has_no_ticks(store: TelemetryStore) -> None:
    assert await ticks_of(store, "v1", after=0) == []


async def test_a_batch_is_read_back(store: TelemetryStore) -> None:
    codes = (("404", 2), ("503", 2), ("grpc-14", 2**40), ("grpc-5", 1))
    counts = VersionTick(7, 2, 2**40, 5, tuple(range(BUCKETS)), codes)
    await store.record(make_batch("one", v1=counts, v2=VersionTick.zero(), v3=make_counts(1), silent=2, reporting=3))
    assert await ticks_of(store, "v1", "v2", "v9") == [
        TickRead(TICK, {"v1": counts, "v2": VersionTick.zero()}, reporting=3, silent=2, closed=True)
    ]
    assert (await ticks_of(store))[0].counts == {}


async def test_a_tick_without_a_beat_is_not_read(store: TelemetryStore) -> None:
    await store.record(TelemetryBatch("one", ticks=(ClusterTick("v1", TICK, make_counts(1)),)))
    assert await ticks_of(store, "v1") == []


async def test_a_source_replaces_its_own_rows(store: TelemetryStore) -> None:
    await store.record(make_batch("one", v1=make_counts(3), closed=False))
    await store.record(make_batch("one", v1=make_counts(8, errors=1), v2=make_counts(1), silent=1))
    await store.record(make_batch("one", silent=1))
    (read,) = await ticks_of(store, "v1", "v2")
    assert read == TickRead(TICK, {"v1": make_counts(8, errors=1), "v2": make_counts(1)}, 1, silent=1, closed=True)


async def test_sources_are_summed(store: TelemetryStore) -> None:
    mine = dataclasses.replace(make_counts(3, bucket=5), codes=(("422", 1), ("429", 2)))
    theirs = dataclasses.replace(make_counts(4, errors=4, active=9), codes=(("422", 3), ("503", 4)))
    await store.record(make_batch("one", v1=mine, reporting=2, silent=1))
    await store.record(make_batch("two", v1=theirs, v2=make_counts(1), reporting=1))
    (read,) = await ticks_of(store, "v1", "v2")
    assert read.counts == {"v1": mine + theirs, "v2": make_counts(1)}
    assert read.counts["v1"].codes == (("422", 4), ("429", 2), ("503", 4))
    assert (read.reporting, read.silent) == (3, 1)


async def test_ticks_are_read_in_order_after_one_and_up_to_a_limit(store: TelemetryStore) -> None:
    for offset in (4, 0, 2, 1, 9):
        await store.record(make_batch("one", tick=TICK + offset, v1=make_counts(offset)))
        await store.record(make_batch("two", tick=TICK + offset))
    reads = await ticks_of(store, "v1", after=TICK, limit=3)
    assert [(read.tick - TICK, read.counts["v1"].completed) for read in reads] == [(1, 1), (2, 2), (4, 4)]
    assert [read.tick - TICK for read in await ticks_of(store, after=TICK + 4)] == [9]
    assert await ticks_of(store, after=TICK + 9) == []


# -- when a tick is closed ---------------------------------------------------------------------------------------------


async def test_a_tick_is_closed_when_all_its_sources_have_closed_it(store: TelemetryStore) -> None:
    await store.record(make_batch("one"))
    await store.record(make_batch("two", closed=False))
    assert await closed_ticks(store) == {0: False}
    await store.record(make_batch("two"))
    assert await closed_ticks(store) == {0: True}


async def test_a_source_that_came_later_holds_none_of_the_past_open(store: TelemetryStore) -> None:
    await store.record(make_batch("one"))
    await store.record(make_batch("two", tick=TICK + 1, closed=False))
    assert await closed_ticks(store) == {0: True, 1: False}


async def test_closing_a_tick_closes_those_before_it(store: TelemetryStore) -> None:
    """Or a source that came late, or was killed and came back, would hold up the judge for ever."""
    await store.record(make_batch("one", closed=False))
    await store.record(make_batch("two", tick=TICK + 1))
    assert await closed_ticks(store) == {0: False, 1: True}
    await store.record(make_batch("one", tick=TICK + 2))
    assert await closed_ticks(store) == {0: True, 1: True, 2: True}


async def test_a_source_that_stopped_holds_up_only_what_it_was_heard_in(store: TelemetryStore) -> None:
    await store.record(make_batch("one", closed=False))
    await store.record(make_batch("two", tick=TICK + 1))
    assert await closed_ticks(store) == {0: False, 1: True}


async def test_a_dead_source_holds_nothing_up(store: TelemetryStore) -> None:
    await store.record(make_batch("dead", closed=False))
    await store.record(make_batch("one", tick=TICK + DEAD_AFTER_TICKS - 1))
    assert (await closed_ticks(store))[0] is False
    await store.record(make_batch("one", tick=TICK + DEAD_AFTER_TICKS))
    assert (await closed_ticks(store))[0] is True


async def test_what_lies_before_the_ticks_asked_for_decides_nothing(store: TelemetryStore) -> None:
    await store.record(make_batch("gone", tick=TICK - 1, closed=False))
    await store.record(make_batch("one"))
    assert await closed_ticks(store) == {0: True}


# -- counters, health, gaps --------------------------------------------------------------------------------------------


async def test_counter_bases_are_replaced_per_envoy(store: TelemetryStore) -> None:
    first = CounterBase("edge-1", 2**33, {"v1/upstream_rq_total": 2**60, "v1/upstream_rq_5xx": 0}, NOW)
    other = CounterBase("edge-0", 1, {}, NOW)
    await store.record(TelemetryBatch("one", bases=(first, other)))
    assert await store.load_bases() == (other, first)
    restarted = CounterBase("edge-1", 2**33 + 1, {"v1/upstream_rq_total": 1}, NOW + seconds(1))
    await store.record(TelemetryBatch("two", bases=(restarted,)))
    assert await store.load_bases() == (other, restarted)


async def test_health_is_replaced_per_envoy_and_cluster(store: TelemetryStore) -> None:
    await store.record(
        TelemetryBatch("one", health=(ClusterHealth("edge-1", "v2", 0, 1), ClusterHealth("edge-1", "v1", 1, 1)))
    )
    await store.record(
        TelemetryBatch("two", health=(ClusterHealth("edge-1", "v2", 1, 1), ClusterHealth("edge-0", "v2", 0, 2)))
    )
    everything = (
        ClusterHealth("edge-0", "v2", 0, 2),
        ClusterHealth("edge-1", "v1", 1, 1),
        ClusterHealth("edge-1", "v2", 1, 1),
    )
    assert await store.load_health() == everything
    await store.forget_health(("edge-1", "edge-9"))
    assert await store.load_health() == everything[:1]
    await store.forget_health(())
    assert await store.load_health() == everything[:1]


async def test_gaps_are_read_that_end_later(store: TelemetryStore) -> None:
    short = HistogramGap("edge-1", NOW, NOW + seconds(2))
    longer = dataclasses.replace(short, until=NOW + seconds(5))
    other = HistogramGap("edge-0", NOW - seconds(9), NOW + seconds(1))
    await store.record(TelemetryBatch("one", gaps=(short, other)))
    await store.record(TelemetryBatch("one", gaps=(longer,)))
    assert await store.load_gaps(since=NOW) == (other, longer)
    assert await store.load_gaps(since=NOW + seconds(1)) == (longer,)
    assert await store.load_gaps(since=NOW + seconds(5)) == ()


async def test_old_rows_are_pruned(store: TelemetryStore) -> None:
    bound = dt.datetime.fromtimestamp(TICK, dt.UTC)
    for age in (1, 0):
        at = bound - seconds(age)
        await store.record(
            TelemetryBatch(
                "one",
                ticks=(ClusterTick("v1", TICK - age, make_counts(1)),),
                beats=(Beat(TICK - age, 1, 0, closed=True),),
                bases=(CounterBase(f"edge-{age}", 1, {}, at),),
                health=(ClusterHealth("edge-1", "v1", 1, 1),),
                gaps=(HistogramGap("edge-1", at - seconds(60), at),),
            )
        )
    await store.prune_telemetry(before_tick=TICK)
    assert [(read.tick, set(read.counts)) for read in await ticks_of(store, "v1", after=0)] == [(TICK, {"v1"})]
    assert [base.node for base in await store.load_bases()] == ["edge-0"]
    assert [gap.until for gap in await store.load_gaps(since=bound - seconds(999))] == [bound]
    assert len(await store.load_health()) == 1
