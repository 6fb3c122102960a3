"""The history as one log: whoever reads on from a number misses nothing, however transactions cross each other."""

import asyncio
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from controlplane.store import SqlStore
from controlplane.store.engine import Tx, sqlite_engine
from controlplane.store.queries import append_history, audit
from controlplane.store.urls import is_sqlite
from tests.builders import NOW, make_new_rollout, make_spec, make_split


@pytest.fixture
async def services(store: SqlStore) -> tuple[str, str]:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.apply(make_spec("other", port=9090), by="ada", why="", now=NOW)
    return "colorize", "other"


async def read_on(store: SqlStore, after: int) -> list[str]:
    return [logged.entry.words for logged in await store.load_log(after=after, limit=100)]


async def test_the_log_has_all_services_in_order_and_goes_on_after_any_number(
    store: SqlStore, services: tuple[str, str]
) -> None:
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    await store.set_split("other", make_split(v1=10_000), by="ada", why="", now=NOW)
    log = await store.load_log(after=0, limit=100)
    assert [logged.entry.service for logged in log] == [*services, "colorize", "colorize", "other"]
    numbers = [logged.entry.number for logged in log]
    assert numbers == sorted(set(numbers))
    assert [(logged.baseline, logged.candidate) for logged in log[1:4]] == [("", ""), ("v1", "v2"), ("v1", "v2")]
    assert log[2].entry == (await store.history("colorize"))[1]
    assert log[2].entry.rollout == rollout.id
    assert await store.load_log(after=numbers[2], limit=1) == log[3:4]
    assert await store.load_log_end(limit=2) == log[-2:]
    assert await store.load_log(after=numbers[-1], limit=5) == ()


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
    after = (await store.load_log_end(limit=1))[0].entry.number
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(asyncio.to_thread(run_alone, store.database.url, slow))
        await begun.wait()
        second = tasks.create_task(other.database.write(quick))
        for _ in range(20):  # whatever can be seen meanwhile moves the reader's place on
            for logged in await other.load_log(after=after, limit=100):
                seen.append(logged.entry.words)
                after = logged.entry.number
        assert not first.done()
        may_end.set()
        await second
    seen += await read_on(other, after)
    assert seen == ["slow", "quick"]


def run_alone(url: sa.URL, work: Callable[[Tx], None]) -> None:
    """Do what the store's own runner does, in a thread that may be made to wait."""
    engine = sqlite_engine(url) if is_sqlite(url) else sa.create_engine(url)
    with engine.begin() as connection:
        work(Tx(connection))
    engine.dispose()
