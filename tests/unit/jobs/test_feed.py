"""Those who look on hear what becomes of jobs: all of it that lasts, once, and nothing of others'."""

import asyncio
import contextlib
import datetime as dt
import pathlib
from collections.abc import AsyncIterator

import pytest

from controlplane.errors import UnavailableError
from controlplane.jobs import feed as feeding
from controlplane.jobs.feed import JobFeed, News, Onlooker
from controlplane.jobs.model import Again, AttemptOutcome, Claim, Job, JobState, result_key
from controlplane.jobs.ports import EndedAttempt
from controlplane.store import SqlStore, open_store
from controlplane.wake import Topic, Wake, WakeBoard
from tests.builders import NOW, make_change
from tests.job_builders import PNG, make_kind, make_new_job, make_picture
from tests.unit.api.world import ManualClock, make_template

SOON = dt.timedelta(seconds=10)
NEVER = dt.timedelta(0)
AWAY = EndedAttempt(AttemptOutcome.AWAY, "busy")
REFUSED = EndedAttempt(AttemptOutcome.REFUSED, "no picture")
LEASE = dt.timedelta(seconds=30)


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncIterator[SqlStore]:
    template = await asyncio.to_thread(_template, tmp_path)
    async with await open_store(f"sqlite:///{template}", board=WakeBoard(), clock=ManualClock()) as opened:
        await opened.apply_kind(make_kind(), make_change())
        yield opened


def _template(folder: pathlib.Path) -> pathlib.Path:
    return make_template(folder)


@pytest.fixture
def feed(store: SqlStore) -> JobFeed:
    wake = Wake()
    store.database.board.listen(wake, Topic.JOBS, Topic.JOB_STATES)
    return JobFeed(store=store, clock=ManualClock(), wake=wake, interval=dt.timedelta(hours=1))


@contextlib.asynccontextmanager
async def running(feed: JobFeed) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(feed.run())
        yield
        task.cancel()


async def submit(store: SqlStore, **changes: object) -> Job:
    return await store.submit(make_new_job(**changes), key=None, now=NOW)


async def start(store: SqlStore, job: Job) -> Claim:
    claimed = await store.claim_job(job.id, holder="main", until=NOW + LEASE, now=NOW)
    assert claimed is not None
    return Claim(claimed.id, claimed.attempts)


async def finish(store: SqlStore, job: Job, *, now: dt.datetime = NOW) -> None:
    claim = await start(store, job)
    result = make_picture(result_key(claim.job, claim.attempt), PNG)
    assert await store.finish_job(claim, result, version="v1", now=now)


async def heard(onlooker: Onlooker) -> News:
    news = await onlooker.wait_news(SOON)
    assert news is not None, "nothing was told"
    return news


def states(news: News) -> dict[str, JobState]:
    return {sighting.job.id: sighting.job.state for sighting in news.sightings}


async def test_an_onlooker_begins_with_how_things_stand_and_hears_each_change(store: SqlStore, feed: JobFeed) -> None:
    old, job = await submit(store), await submit(store)
    await finish(store, old)
    async with running(feed):
        with feed.follow("ada") as onlooker:
            news = await heard(onlooker)
            assert (news.first, states(news)) == (True, {old.id: JobState.DONE, job.id: JobState.WAITING})
            claim = await start(store, job)
            assert states(await heard(onlooker)) == {job.id: JobState.RUNNING}
            await store.bury_job(claim, REFUSED, words="no picture", now=NOW)
            news = await heard(onlooker)
            assert (news.first, states(news)) == (False, {job.id: JobState.DEAD})
            assert news.sightings[0].job.words == "no picture"
            new = await submit(store)
            assert states(await heard(onlooker)) == {new.id: JobState.WAITING}
            await store.cancel_job(new.id, owner="ada", now=NOW)
            assert states(await heard(onlooker)) == {new.id: JobState.CANCELLED}
            assert await onlooker.wait_news(NEVER) is None


async def test_what_is_read_late_is_only_what_is_newest(store: SqlStore, feed: JobFeed) -> None:
    job = await submit(store)
    with feed.follow("ada") as onlooker:
        await feed.look()
        await heard(onlooker)
        claim = await start(store, job)
        await feed.look()
        await store.retry_job(claim, AWAY, again=Again("busy", NEVER, counts=False), now=NOW)
        await feed.look()
        await finish(store, job)
        await feed.look()
        news = await heard(onlooker)
        assert (states(news), news.sightings[0].job.attempts) == ({job.id: JobState.DONE}, 2)
        assert await onlooker.wait_news(NEVER) is None


async def test_a_job_that_came_and_ended_between_two_looks_is_told_once(store: SqlStore, feed: JobFeed) -> None:
    await submit(store)
    with feed.follow("ada") as onlooker:
        await feed.look()
        await heard(onlooker)
        quick = await submit(store)
        await finish(store, quick)
        await feed.look()
        assert states(await heard(onlooker)) == {quick.id: JobState.DONE}
        await feed.look()
        assert await onlooker.wait_news(NEVER) is None


async def test_a_job_that_is_deleted_is_gone(store: SqlStore, feed: JobFeed) -> None:
    job = await submit(store)
    with feed.follow("ada") as all_of_hers, feed.follow("ada", only=job.id) as one:
        await feed.look()
        await heard(all_of_hers)
        await heard(one)
        await store.delete_job(job.id, owner="ada", now=NOW)
        await feed.look()
        assert (await heard(all_of_hers)).gone == (job.id,)
        assert (await heard(one)).gone == (job.id,)


async def test_nobody_hears_of_others_jobs(store: SqlStore, feed: JobFeed) -> None:
    with feed.follow("bob") as bob, feed.follow("ada") as ada:
        await feed.look()
        assert (await heard(bob)).sightings == ()
        job = await submit(store)
        await feed.look()
        assert await bob.wait_news(NEVER) is None
        assert set(states(await heard(ada))) == {job.id}


async def test_waiting_jobs_know_their_place_and_those_of_vips_come_first(store: SqlStore, feed: JobFeed) -> None:
    first, second = await submit(store), await submit(store, owner="bob")
    with feed.follow("bob") as bob:
        await feed.look()
        assert [(one.job.id, one.place) for one in (await heard(bob)).sightings] == [(second.id, 2)]
        vip = await submit(store, vip=True)
        await feed.look()
        news = await heard(bob)
        assert (news.sightings, news.places) == ((), {second.id: 3})
        await finish(store, vip)
        await finish(store, first)
        await feed.look()
        assert (await heard(bob)).places == {second.id: 1}
        await start(store, second)
        await feed.look()
        assert (await heard(bob)).sightings[0].place is None


async def test_who_comes_back_hears_of_what_ended_meanwhile(
    store: SqlStore, feed: JobFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "RECENT", 1)
    old, missed = await submit(store), await submit(store)
    last = await submit(store)
    await finish(store, old, now=NOW - dt.timedelta(hours=1))
    await finish(store, missed, now=NOW)
    with feed.follow("ada", since=NOW) as onlooker:
        await feed.look()
        assert set(states(await heard(onlooker))) == {missed.id, last.id}


async def test_looking_costs_nothing_while_nobody_looks_on(store: SqlStore, feed: JobFeed) -> None:
    looks = 0
    look = store.look_at_jobs

    async def counted(*args: object, **options: object) -> object:
        nonlocal looks
        looks += 1
        return await look(*args, **options)  # type: ignore[arg-type] # passed through

    feed.store = CountedStore(store, counted)  # type: ignore[assignment] # the same but for one method
    async with running(feed):
        await submit(store)
        with feed.follow("ada") as onlooker:
            await heard(onlooker)
        before = looks
        await finish(store, await submit(store))
        with feed.follow("ada") as onlooker:
            assert len((await heard(onlooker)).sightings) == 2
        assert looks <= before + 2


class CountedStore:
    """A store whose looks go another way."""

    def __init__(self, store: SqlStore, look: object) -> None:
        self._store = store
        self.look_at_jobs = look

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def test_a_database_that_is_away_is_asked_again(store: SqlStore, feed: JobFeed) -> None:
    tries = 0

    async def away_at_first(*args: object, **options: object) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise UnavailableError("the database does not answer")
        return await store.look_at_jobs(*args, **options)  # type: ignore[arg-type] # passed through

    feed.store = CountedStore(store, away_at_first)  # type: ignore[assignment] # the same but for one method
    feed.interval = dt.timedelta(milliseconds=10)
    async with running(feed):
        with feed.follow("ada") as onlooker:
            assert (await heard(onlooker)).first


async def test_the_end_of_the_process_is_the_end_of_the_news(store: SqlStore, feed: JobFeed) -> None:
    await submit(store)
    with feed.follow("ada") as onlooker:
        async with running(feed):
            await heard(onlooker)
        assert await onlooker.wait_news(SOON) is None
        assert onlooker.is_closed
