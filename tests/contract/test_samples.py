"""What queries told: raw, one row per rollout, objective and tick, read with what each is to be compared with."""

import math

import pytest

from controlplane.errors import ConflictError
from controlplane.ports import Rollout, RolloutId, Store
from controlplane.rollout.sampling import QuerySample, Reading
from tests.builders import NOW, TICK, make_new_rollout, make_spec
from tests.contract.conftest import Ears

FULL = QuerySample("images", TICK, Reading(1e18 + 256, 0.1), Reading(1 / 3, 2.5))
BARE = QuerySample("images", TICK + 1, Reading(), Reading(7.0))
FAILED = QuerySample("images", TICK + 2, words="Prometheus at größer:9090 answered 400: 坏")
HUGE = QuerySample("memory", TICK + 1, Reading(-math.inf), Reading(math.inf))


@pytest.fixture
async def rollout(store: Store) -> Rollout:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    return await store.start(make_new_rollout(), key=None, now=NOW)


async def test_samples_are_read_back_exactly(store: Store, rollout: Rollout) -> None:
    await store.record_samples({rollout.id: (FAILED, FULL, HUGE, BARE)})
    assert await store.load_samples(rollout.id, ["images"], after=0) == (FULL, BARE, FAILED)
    assert await store.load_samples(rollout.id, ["images", "memory"], after=0) == (FULL, BARE, FAILED, HUGE)
    assert await store.load_samples(rollout.id, [], after=0) == ()
    assert await store.load_samples(RolloutId("colorize-9"), ["images"], after=0) == ()


async def test_what_counted_last_before_comes_with_what_is_new(store: Store, rollout: Rollout) -> None:
    news = QuerySample("images", TICK + 3, Reading(3.0), Reading(9.0))
    await store.record_samples({rollout.id: (FULL, BARE, FAILED, news)})
    assert await store.load_samples(rollout.id, ["images"], after=TICK + 2) == (BARE, news)
    assert await store.load_samples(rollout.id, ["images"], after=TICK) == (FULL, BARE, FAILED, news)
    assert await store.load_samples(rollout.id, ["images"], after=TICK + 9) == (news,)


async def test_a_second_sample_of_a_tick_replaces_the_first(store: Store, rollout: Rollout) -> None:
    await store.record_samples({rollout.id: (FULL,)})
    failed = QuerySample("images", TICK, words="timed out")
    await store.record_samples({rollout.id: (failed,)})
    assert await store.load_samples(rollout.id, ["images"], after=0) == (failed,)
    await store.record_samples({})
    await store.record_samples({rollout.id: ()})


async def test_all_are_written_or_none(store: Store, rollout: Rollout) -> None:
    with pytest.raises(ConflictError):
        await store.record_samples({rollout.id: (FULL,), RolloutId("nobody-1"): (FULL,)})
    assert await store.load_samples(rollout.id, ["images"], after=0) == ()


async def test_writing_them_wakes_nobody(store: Store, rollout: Rollout, ears: Ears) -> None:
    """The judge reads them with the ticks, which come every second and wake it."""
    await ears.heard()
    await store.record_samples({rollout.id: (FULL,)})
    assert await ears.heard() == set()


async def test_they_go_with_the_telemetry(store: Store, rollout: Rollout) -> None:
    await store.record_samples({rollout.id: (FULL, BARE, FAILED)})
    await store.prune_telemetry(before_tick=TICK + 1)
    assert await store.load_samples(rollout.id, ["images"], after=0) == (BARE, FAILED)
