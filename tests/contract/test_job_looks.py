"""Looks at jobs on the move: the same jobs, order and places on every database, and a word when to look."""

import datetime as dt

import pytest

from controlplane.jobs import ports
from controlplane.jobs.model import Again, AttemptOutcome, Claim, Job, JobId, JobState, result_key
from controlplane.jobs.ports import EndedAttempt, JobLooks, JobsLook
from controlplane.store import SqlStore
from controlplane.store import job_looks as looking
from controlplane.wake import Topic
from tests.builders import NOW, make_change
from tests.contract.conftest import Ears
from tests.job_builders import PNG, make_kind, make_new_job, make_picture

IS_A_SIGHT: type[JobLooks] = SqlStore  # mypy sits this exam

SECOND = dt.timedelta(seconds=1)
AWAY = EndedAttempt(AttemptOutcome.AWAY, "busy")
REFUSED = EndedAttempt(AttemptOutcome.REFUSED, "no picture")
LEASE = dt.timedelta(seconds=30)


@pytest.fixture(autouse=True)
async def _kinds(store: SqlStore) -> None:
    await store.apply_kind(make_kind(), make_change())
    await store.apply_kind(make_kind("building", queue="buildings"), make_change())


async def submit(store: SqlStore, *, after_s: int = 0, **changes: object) -> Job:
    return await store.submit(make_new_job(**changes), key=None, now=NOW + after_s * SECOND)


async def start(store: SqlStore, job: Job) -> Claim:
    claimed = await store.claim_job(job.id, holder="main", until=NOW + LEASE, now=NOW)
    assert claimed is not None
    return Claim(claimed.id, claimed.attempts)


async def finish(store: SqlStore, job: Job, *, now: dt.datetime = NOW) -> None:
    mine = await start(store, job)
    result = make_picture(result_key(mine.job, mine.attempt), PNG)
    assert await store.finish_job(mine, result, version="v1", now=now)


async def look(
    store: SqlStore, *owners: str, known: tuple[JobId, ...] = (), after: int | None = None
) -> tuple[list[JobId], JobsLook]:
    found = await store.look_at_jobs(owners, known=known, after=after)
    return [job.id for job in found.jobs], found


async def test_a_look_has_what_is_open_and_what_else_is_asked_for(store: SqlStore) -> None:
    old, waiting, running = [await submit(store) for _ in range(3)]
    bobs, cleos = await submit(store, owner="bob"), await submit(store, owner="cleo")
    quick, deleted = await submit(store), await submit(store)
    await finish(store, old)
    await start(store, running)
    await finish(store, quick)
    await store.delete_job(deleted.id, owner="ada", now=NOW)
    assert (await look(store))[0] == []
    ids, found = await look(store, "ada", "bob")
    assert ids == [waiting.id, running.id, bobs.id]
    assert found.newest == deleted.number
    assert [job.state for job in found.jobs][:2] == [JobState.WAITING, JobState.RUNNING]
    known = (old.id, cleos.id, deleted.id, JobId("nothing"))
    assert (await look(store, "bob", known=known))[0] == [old.id, bobs.id, cleos.id]
    assert (await look(store, "ada", after=cleos.number))[0] == [waiting.id, running.id, quick.id]


async def test_of_many_open_jobs_those_are_seen_that_come_first(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "MAX_OPEN", 3)
    first, _, vip, running, bobs = [
        await submit(store),
        await submit(store),
        await submit(store, vip=True),
        await submit(store),
        await submit(store, owner="bob"),
    ]
    await start(store, running)
    assert (await look(store, "ada", "bob"))[0] == [first.id, vip.id, running.id, bobs.id]


async def test_a_place_counts_the_jobs_of_the_same_queue_that_come_before(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await submit(store), await submit(store, owner="bob", after_s=1)
    building = await submit(store, kind="building", workflow="building.json", after_s=2)
    vip = await submit(store, vip=True, after_s=3)
    await start(store, await submit(store))
    assert (await look(store))[1].places == {vip.id: 1, first.id: 2, second.id: 3, building.id: 1}
    monkeypatch.setattr(looking, "MAX_PLACES", 2)
    assert (await look(store))[1].places == {first.id: 1, second.id: 2}
    assert ports.MAX_PLACES > 2


async def test_what_ended_since_a_moment_is_found(store: SqlStore) -> None:
    early, late, _, bobs = [await submit(store, owner=owner) for owner in ("ada", "ada", "ada", "bob")]
    await finish(store, early)
    await finish(store, late, now=NOW + SECOND)
    await finish(store, bobs, now=NOW + SECOND)
    assert [job.id for job in await store.load_ended("ada", since=NOW, limit=9)] == [late.id, early.id]
    assert [job.id for job in await store.load_ended("ada", since=NOW, limit=1)] == [late.id]
    assert [job.id for job in await store.load_ended("ada", since=NOW + SECOND, limit=9)] == [late.id]
    await store.delete_job(late.id, owner="ada", now=NOW)
    assert await store.load_ended("ada", since=NOW + SECOND, limit=9) == ()


async def test_every_step_of_a_job_is_announced_to_those_who_look_on(store: SqlStore, ears: Ears) -> None:
    job, other = await submit(store), await submit(store)
    await ears.heard()
    mine = await start(store, job)
    assert await ears.heard() == {Topic.JOB_STATES}
    assert await store.retry_job(mine, AWAY, again=Again("busy", 0 * SECOND, counts=False), now=NOW)
    assert await ears.heard() == {Topic.JOBS, Topic.JOB_STATES}
    await finish(store, job)
    assert await ears.heard() == {Topic.JOB_STATES}
    await store.cancel_job(other.id, owner="ada", now=NOW)
    assert await ears.heard() == {Topic.JOB_STATES}
    dead = await submit(store)
    mine = await start(store, dead)
    await ears.heard()
    assert await store.bury_job(mine, REFUSED, words="no picture", now=NOW)
    assert await ears.heard() == {Topic.JOB_STATES}
    assert not await store.bury_job(mine, REFUSED, words="no picture", now=NOW)
    assert await ears.heard() == set()
