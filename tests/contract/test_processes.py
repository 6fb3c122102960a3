"""Several processes on one database, and processes that die: nothing committed is lost, no race has two winners."""

import asyncio
import dataclasses
import datetime as dt
import pathlib
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa

from controlplane.clock import SystemClock
from controlplane.errors import ConflictError, ControlPlaneError, StaleWriteError, UnavailableError
from controlplane.ports import Rollout
from controlplane.store import SqlStore, open_store
from controlplane.store.engine import Tx
from controlplane.store.listener import Listener
from controlplane.wake import Topic, WakeBoard
from tests.builders import (
    NOW,
    make_batch,
    make_change,
    make_counts,
    make_key,
    make_new_rollout,
    make_snapshot,
    make_spec,
    seconds,
)
from tests.contract.conftest import Ears
from tests.pg import Postgres

T = Awaitable[object]


async def race(*runners: Callable[[], T]) -> list[object]:
    """Run all at once; return what each returned or how it was refused."""
    results: list[object] = [None] * len(runners)

    async def run(place: int, runner: Callable[[], T]) -> None:
        try:
            results[place] = await runner()
        except ControlPlaneError as refusal:
            results[place] = refusal

    async with asyncio.TaskGroup() as tasks:
        for place, runner in enumerate(runners):
            tasks.create_task(run(place, runner))
    return results


# -- races -------------------------------------------------------------------------------------------------------------


async def test_of_two_starts_at_once_one_wins(store: SqlStore, other: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)

    def start(by: SqlStore) -> Callable[[], T]:
        return lambda: by.start(make_new_rollout(), key=None, now=NOW)

    results = await race(*[start(one) for one in (store, other) * 4])
    assert sum(isinstance(result, Rollout) for result in results) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 7
    assert len(await store.load_active()) == 1


async def test_of_two_starts_with_one_key_both_get_the_same(store: SqlStore, other: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    first, second = await race(
        lambda: store.start(make_new_rollout(), key="k", now=NOW),
        lambda: other.start(make_new_rollout(), key="k", now=NOW),
    )
    assert isinstance(first, Rollout)
    assert first == second


async def test_of_two_savers_at_once_one_is_stale(store: SqlStore, other: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    results = await race(
        lambda: store.save(dataclasses.replace(rollout, judge="mine"), now=NOW),
        lambda: other.save(dataclasses.replace(rollout, judge="theirs"), now=NOW),
    )
    saved = [result for result in results if isinstance(result, Rollout)]
    assert [type(result) for result in results if not isinstance(result, Rollout)] == [StaleWriteError]
    assert saved == [await store.load(rollout.id)]


async def test_two_services_cannot_claim_one_port_at_once(store: SqlStore, other: SqlStore) -> None:
    results = await race(
        lambda: store.apply(make_spec("a"), by="ada", why="", now=NOW),
        lambda: other.apply(make_spec("b"), by="bob", why="", now=NOW),
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 1
    assert len(await store.list_services()) == 1


async def test_a_split_and_a_rollout_do_not_both_win(store: SqlStore, other: SqlStore) -> None:
    spec = make_spec()
    await store.apply(spec, by="ada", why="", now=NOW)
    versions = spec.initial_split
    started, moved = await race(
        lambda: store.start(make_new_rollout(), key=None, now=NOW),
        lambda: other.set_split("colorize", tuple(reversed(versions)), by="bob", why="", now=NOW),
    )
    assert isinstance(started, Rollout)
    assert moved is None or isinstance(moved, ConflictError)


async def test_one_process_gets_the_lease(store: SqlStore, other: SqlStore) -> None:
    results = await race(
        lambda: store.acquire_lease("a", ttl=seconds(10), now=NOW),
        lambda: other.acquire_lease("b", ttl=seconds(10), now=NOW),
    )
    assert sorted(results, key=str) == [1, None]


async def test_snapshots_and_keys_of_two_processes_get_in_line(store: SqlStore, other: SqlStore) -> None:
    results = await race(
        *[lambda at=at, n=n: at.propose_snapshot(make_snapshot(f"s{n}")) for n, at in enumerate((store, other) * 5)],
        lambda: store.add_key(make_key(digest="d1"), make_change()),
        lambda: other.add_key(make_key(digest="d2"), make_change()),
    )
    assert results[:10] == [None] * 10
    assert sum(isinstance(result, ConflictError) for result in results) == 1


async def test_readers_see_one_picture_while_others_write(store: SqlStore, other: SqlStore) -> None:
    """Split and revision change together or not at all."""
    await store.apply(make_spec(versions=("v0",)), by="ada", why="", now=NOW)

    async def write() -> None:
        for number in range(1, 15):
            spec = make_spec(versions=tuple(f"v{each}" for each in range(number + 1)))
            await other.apply(spec, by="ada", why="", now=NOW)
            await other.set_split("colorize", make_spec(versions=(f"v{number}",)).initial_split, by="", why="", now=NOW)

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write())
        while not writing.done():
            (service,) = (await store.load_desired()).services
            service.revision.spec.version(service.split[0].version)


# -- deaths ------------------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from controlplane.clock import SystemClock
from controlplane.store import open_store
from controlplane.wake import WakeBoard
from tests.builders import make_key

async def main():
    async with await open_store(sys.argv[1], board=WakeBoard(), clock=SystemClock()) as store:
        number = 0
        while True:
            await store.add_key(make_key(f"key-{number}", digest=f"d{number}"), make_change())
            print(number, flush=True)
            number += 1

asyncio.run(main())
"""


async def test_what_was_committed_outlives_kill_9(database_url: str, store: SqlStore) -> None:
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, database_url]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as writer:  # noqa: ASYNC220 - nothing else runs here
        assert writer.stdout is not None
        confirmed = [int(writer.stdout.readline()) for _ in range(25)][-1]
        writer.kill()
        confirmed = max([confirmed, *(int(line) for line in writer.stdout)])
    found = [key.name for key in await store.list_keys()]
    assert len(found) - (confirmed + 1) in {0, 1}  # one commit may not have been told any more
    assert sorted(found) == sorted(f"key-{number}" for number in range(len(found)))
    await store.add_key(make_key("after", digest="after"), make_change())


async def test_everything_is_there_after_reopening(database_url: str, store: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    rollout = await store.start(make_new_rollout(), key="k", now=NOW)
    await store.propose_snapshot(make_snapshot())
    before = (await store.load_desired(), await store.history("colorize"))
    await store.close()
    async with await open_store(database_url, board=WakeBoard(), clock=SystemClock()) as reopened:
        assert (await reopened.load_desired(), await reopened.history("colorize")) == before
        assert await reopened.start(make_new_rollout(), key="k", now=NOW) == rollout
        assert await reopened.load_newest_snapshot("") == make_snapshot()


async def test_a_caller_that_gives_up_harms_nobody(store: SqlStore) -> None:
    for number in range(20):
        with_time = dt.timedelta(microseconds=150 * number)
        try:
            async with asyncio.timeout(with_time.total_seconds()):
                await store.record(make_batch(f"source-{number}", v1=make_counts(1)))
                await store.list_services()
        except TimeoutError:
            pass
    await store.record(make_batch("last", v1=make_counts(1)))
    (read,) = await store.load_ticks(("v1",), after=0)
    assert 1 <= read.counts["v1"].completed <= 21


@pytest.mark.integration
async def test_a_transaction_that_crossed_another_is_repeated(postgres_store: SqlStore) -> None:
    attempts = 0

    def work(tx: Tx) -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            tx.conn.execute(sa.text("DO $$ BEGIN RAISE EXCEPTION 'crossed' USING ERRCODE = '40P01'; END $$"))
        return attempts

    assert await postgres_store.database.write(work) == 3


@pytest.mark.integration
@pytest.mark.parametrize("announces", [True, False])
async def test_a_commit_that_is_cut_off_is_said_and_not_repeated(
    postgres: Postgres, postgres_url: str, postgres_store: SqlStore, *, announces: bool
) -> None:
    attempts = 0

    def work(tx: Tx) -> None:
        nonlocal attempts
        attempts += 1
        tx.conn.execute(sa.text("SELECT 1"))
        if announces:
            tx.announce(Topic.JOBS)
        postgres.disconnect_all(postgres_url)

    with pytest.raises(UnavailableError, match="HUESHIFT_DATABASE_URL"):
        await postgres_store.database.write(work)
    assert attempts == 1
    assert await postgres_store.list_services() == ()  # it is connected again


# -- news --------------------------------------------------------------------------------------------------------------


class HastyClock(SystemClock):
    """Waits for nothing but its turn."""

    def __init__(self) -> None:
        self.slept: list[dt.timedelta] = []

    async def sleep(self, delay: dt.timedelta) -> None:
        self.slept.append(delay)
        await super().sleep(dt.timedelta(0))


@pytest.mark.integration
async def test_other_processes_hear_of_commits(postgres: Postgres, postgres_url: str, postgres_store: SqlStore) -> None:
    clock, ears, patience = HastyClock(), Ears(), seconds(20)
    async with await open_store(postgres_url, board=ears.board, clock=clock) as store, asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(store.run_listener())
        assert await ears.heard(at_most=patience) == set(Topic)  # what was missed before

        await postgres_store.apply(make_spec(), by="ada", why="", now=NOW)
        await postgres_store.start(make_new_rollout(), key=None, now=NOW)
        await postgres_store.record(make_batch("one"))
        for topic in (Topic.DESIRED, Topic.COMMANDS, Topic.TELEMETRY):
            assert await ears.hears(topic, at_most=patience)

        postgres.disconnect_all(postgres_url)
        assert await ears.hears(Topic.FLEET, at_most=patience)  # connected again, and announces everything
        assert clock.slept
        listening.cancel()


async def test_a_process_hears_its_own_commits_once(store: SqlStore, ears: Ears) -> None:
    listener = Listener(database=store.database, clock=SystemClock())
    listener.hear(f"{store.database.origin}:desired")
    assert await ears.heard() == set()
    listener.hear("another:desired,fleet,gossip")
    assert await ears.heard() == {Topic.DESIRED, Topic.FLEET}
    listener.hear("nonsense")
    assert await ears.heard() == set()


async def test_sqlite_has_no_news_to_listen_to(sqlite_store: SqlStore) -> None:
    await sqlite_store.run_listener()
