"""The history as one log: whoever reads on from a number misses nothing, however transactions cross each other."""

import asyncio
import dataclasses
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from controlplane.ports import EnvoyAnswer, LoggedAnswer, LoggedEntry, Occurrence
from controlplane.rollout.model import NO_STEP, PauseCause, Paused, Promoted, RollbackCause, RollingBack, Shifting
from controlplane.store import SqlStore
from controlplane.store.engine import Tx, sqlite_engine
from controlplane.store.event_log import number_of
from controlplane.store.queries import append_history, audit
from controlplane.store.urls import is_sqlite
from tests.builders import NOW, TICK, make_new_rollout, make_node, make_snapshot, make_spec, make_split

SLO = RollbackCause.SLO_BREACH


@pytest.fixture
async def services(store: SqlStore) -> tuple[str, str]:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    return "colorize", "other"


async def read_on(store: SqlStore, after: int) -> list[tuple[str, int]]:
    found = await store.load_log(after=after, limit=100)
    return [(each.entry.words, each.entry.number) for each in found if isinstance(each, LoggedEntry)]


async def test_the_log_has_all_services_in_order_and_goes_on_after_any_number(
    store: SqlStore, services: tuple[str, str]
) -> None:
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    await store.set_split("other", make_split(v1=10_000), by="ada", why="", now=NOW)
    log = await store.load_log(after=0, limit=100)
    entries = [logged for logged in log if isinstance(logged, LoggedEntry)]
    assert [logged.entry.service for logged in entries] == [*services, "colorize", "colorize", "other"]
    numbers = [logged.entry.number for logged in entries]
    assert numbers == sorted(set(numbers))
    assert [(each.baseline, each.candidate) for each in entries[1:4]] == [("", ""), ("v1", "v2"), ("v1", "v2")]
    assert entries[2].entry == (await store.history("colorize"))[1]
    assert entries[2].entry.rollout == rollout.id
    assert await store.load_log(after=numbers[2], limit=1) == log[3:4]
    assert await store.load_log_end(limit=2) == log[-2:]
    assert await store.load_log(after=numbers[-1], limit=5) == ()


async def test_the_answers_of_envoys_have_their_place_among_the_entries(
    store: SqlStore, services: tuple[str, str]
) -> None:
    await store.propose_snapshot(make_snapshot(revisions={"colorize": 1, "other": 1}))
    ack = EnvoyAnswer("rds", "s1-r", acked=True, nodes=("edge-1", "edge-2"), count=5, at=NOW)
    nack = EnvoyAnswer("lds", "gone", acked=False, nodes=("edge-1",), count=1, at=NOW, words="no such listener: 坏")
    await store.record_nodes([make_node()], answers=[ack, nack])
    await store.set_split("other", make_split(v1=10_000), by="ada", why="", now=NOW)
    await store.record_nodes([], answers=[ack])
    log = await store.load_log(after=0, limit=100)
    said = [(logged.answer, logged.services) for logged in log if isinstance(logged, LoggedAnswer)]
    assert said == [(ack, services), (nack, None), (ack, services)]
    numbers = [number_of(logged) for logged in log]
    assert numbers == sorted(set(numbers))
    assert [type(logged) for logged in log] == [LoggedEntry] * 2 + [LoggedAnswer] * 2 + [LoggedEntry, LoggedAnswer]
    for place, number in enumerate(numbers):
        assert await store.load_log(after=number, limit=2) == log[place + 1 : place + 3]
    assert await store.load_log_end(limit=3) == log[-3:]
    await store.prune_telemetry(before_tick=TICK + 1)
    assert [type(logged) for logged in await store.load_log(after=0, limit=100)] == [LoggedEntry] * 3


async def test_an_answer_may_be_the_first_that_happens(store: SqlStore) -> None:
    await store.record_nodes([make_node()], answers=[EnvoyAnswer("cds", "c", True, ("edge-1",), 1, NOW)])
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    first, second = await store.load_log(after=0, limit=10)
    assert number_of(first) < number_of(second)


async def test_entries_tell_the_weights_that_are_asked_for_from_then_on(
    store: SqlStore, services: tuple[str, str]
) -> None:
    name, _ = services
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    moved = Occurrence("transition", "Ready", "hueshift", "moved", "", "")
    for state in (Shifting(1, NOW, 0), Paused(NO_STEP, NOW, PauseCause.GATE, "", 0), RollingBack(NOW, SLO, "")):
        rollout = await store.save(dataclasses.replace(rollout, state=state), occurred=[moved], now=NOW)
    ended = dataclasses.replace(rollout, state=Promoted(NOW, ""))
    await store.save(ended, occurred=[moved], split=make_split(v2=10_000), now=NOW)
    await store.set_split(name, make_split(v1=4000, v2=6000), by="ada", why="", now=NOW)
    found = [entry.weights for entry in await store.history(name)]
    assert found == [
        {"v1": 10_000},
        None,
        None,
        {"v1": 7500, "v2": 2500},
        {"v1": 10_000},
        {"v1": 10_000},
        {"v2": 10_000},
        {"v1": 4000, "v2": 6000},
    ]


async def test_a_transaction_that_commits_late_is_not_skipped(
    store: SqlStore, other: SqlStore, services: tuple[str, str]
) -> None:
    """Two replicas write at once; the one that took its number first is the last to commit."""
    mine, theirs = services
    begun, may_end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(tx: Tx) -> None:
        append_history(tx.conn, [audit(mine, "set-split", by="ada", words="slow", at=NOW)])
        tx.conn.execute(sa.text("SELECT 1"))
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(10)

    def quick(tx: Tx) -> None:
        append_history(tx.conn, [audit(theirs, "set-split", by="bob", words="quick", at=NOW)])

    seen: list[str] = []
    after = number_of((await store.load_log_end(limit=1))[0])
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(asyncio.to_thread(run_alone, store.database.url, slow))
        await begun.wait()
        second = tasks.create_task(other.database.write(quick))
        for _ in range(20):  # whatever can be seen meanwhile moves the reader's place on
            for words, number in await read_on(other, after):
                seen.append(words)
                after = number
        assert not first.done()
        may_end.set()
        await second
    seen += [words for words, _ in await read_on(other, after)]
    assert seen == ["slow", "quick"]


def run_alone(url: sa.URL, work: Callable[[Tx], None]) -> None:
    """Do what the store's own runner does, in a thread that may be made to wait."""
    engine = sqlite_engine(url) if is_sqlite(url) else sa.create_engine(url)
    with engine.begin() as connection:
        work(Tx(connection))
    engine.dispose()
