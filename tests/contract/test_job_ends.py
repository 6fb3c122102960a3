"""What is left of jobs in the store: the time of their pictures, and of their rows."""

import datetime as dt

import pytest
import sqlalchemy as sa

from controlplane.errors import NotFoundError
from controlplane.jobs.model import AttemptOutcome, Claim, Job, JobId
from controlplane.jobs.owners import JobOwner
from controlplane.jobs.ports import EndedAttempt
from controlplane.store import SqlStore
from controlplane.store.engine import Tx
from controlplane.store.job_tables import job_attempt, job_message, job_outbox
from tests.builders import NOW, make_change
from tests.contract.test_jobs import claim, finish, submit
from tests.job_builders import make_kind

DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)
REFUSED = EndedAttempt(AttemptOutcome.REFUSED, "422", "v1")
ENDS = ["done", "dead", "cancelled"]


@pytest.fixture(autouse=True)
async def _kinds(store: SqlStore) -> None:
    await store.apply_kind(make_kind(keep=2 * DAY), make_change())


async def end(store: SqlStore, how: str, **changes: object) -> Job:
    """Submit a job and bring it to an end."""
    job = await submit(store, **changes)
    match how:
        case "done":
            assert await finish(store, await claim(store, job))
        case "dead":
            assert await store.bury_job(await claim(store, job), REFUSED, words="422", now=NOW + SECOND)
        case _:
            await store.cancel_job(job.id, owner="ada", now=NOW + SECOND)
    return await store.load_job(job.id)


async def sweep(store: SqlStore, now: dt.datetime) -> tuple[JobId, ...]:
    found = await store.load_removable(now=now)
    await store.forget_pictures(found, now=now)
    return found


@pytest.mark.parametrize("how", ENDS)
async def test_from_its_end_on_a_jobs_pictures_have_their_time(store: SqlStore, how: str) -> None:
    job = await end(store, how, image_url="https://photos.example.org/?token=x")
    expires_at = NOW + SECOND + 2 * DAY
    assert (job.finished_at, job.expires_at, job.swept_at) == (NOW + SECOND, expires_at, None)
    assert await sweep(store, expires_at - SECOND) == ()
    assert await sweep(store, expires_at) == (job.id,)
    assert await sweep(store, expires_at) == ()
    left = await store.load_job(job.id)
    assert (left.photo, left.result, left.swept_at, left.expires_at) == (None, None, expires_at, None)
    assert (left.state, left.version, left.words, left.image_url) == (job.state, job.version, job.words, "")
    assert await store.load_pictured([job.id]) == {}


async def test_the_shorter_of_kinds_and_owners_time_wins(store: SqlStore) -> None:
    await store.apply_owner(JobOwner(name="ada", keep=DAY), make_change())
    assert (await end(store, "done")).expires_at == NOW + SECOND + DAY
    await store.apply_owner(JobOwner(name="ada", keep=3 * DAY), make_change())
    assert (await end(store, "done")).expires_at == NOW + SECOND + 2 * DAY


async def test_what_waits_or_runs_keeps_its_pictures_and_may_not_be_forgotten(store: SqlStore) -> None:
    waiting, running = await submit(store), await submit(store)
    await claim(store, running)
    assert await store.load_removable(now=NOW + 1000 * DAY) == ()
    await store.forget_pictures([waiting.id, running.id], now=NOW + 1000 * DAY)
    assert (await store.load_job(waiting.id)).photo is not None
    assert set(await store.load_pictured([waiting.id, running.id, JobId("0" * 32)])) == {waiting.id, running.id}


async def test_a_batch_has_its_bound_and_deleted_jobs_come_first(store: SqlStore) -> None:
    old = [(await end(store, how)).id for how in ENDS]
    deleted = await submit(store)
    await store.delete_job(deleted.id, owner="ada", now=NOW)
    later = NOW + 10 * DAY
    assert await store.load_removable(now=later, limit=1) == (deleted.id,)
    assert len(await store.load_removable(now=later, limit=3)) == 3
    assert set(await store.load_removable(now=later)) == {deleted.id, *old}
    assert set(await store.load_pictured([deleted.id])) == {deleted.id}
    assert await sweep(store, NOW) == (deleted.id,)


async def test_an_end_without_a_time_gets_one(store: SqlStore) -> None:
    jobs = [await end(store, how) for how in ENDS]
    waiting = await submit(store)

    def forget(tx: Tx) -> None:
        tx.conn.execute(sa.text("UPDATE job SET expires_at = NULL"))

    await store.database.write(forget)
    assert await store.date_pictures(limit=2) == 2
    assert await store.date_pictures(limit=2) == 1
    assert await store.date_pictures() == 0
    assert [(await store.load_job(job.id)).expires_at for job in jobs] == [job.expires_at for job in jobs]
    assert (await store.load_job(waiting.id)).expires_at is None


async def test_rows_go_in_batches_with_all_that_belongs_to_them(store: SqlStore) -> None:
    old = [await end(store, how, task_id=how) for how in ENDS]
    deleted, waiting, pictured = await submit(store), await submit(store), await end(store, "done")
    await store.delete_job(deleted.id, owner="ada", now=NOW + SECOND)
    for job in (*old, deleted):
        await store.forget_pictures([job.id], now=NOW + 3 * DAY)

    def belong(tx: Tx) -> None:
        for job in (old[0].id, old[2].id, waiting.id):
            message = {"job": job, "queue": "photos", "vip": False, "taken": 0, "dead_words": "why"}
            tx.conn.execute(job_message.insert(), message)
            attempt = {"attempt": 9, "kind": "person", "service": "", "version": "v1", "outcome": "done", "words": ""}
            tx.conn.execute(job_attempt.insert(), {"job": job, "started_at": NOW, "ended_at": NOW, **attempt})

    await store.database.write(belong)
    assert await store.prune_jobs(before=NOW + SECOND) == 0
    later = NOW + 2 * SECOND
    assert [await store.prune_jobs(before=later, limit=3) for _ in range(3)] == [3, 1, 0]
    for job in (*old, deleted):
        with pytest.raises(NotFoundError):
            await store.load_job(job.id)
    left = {waiting.id, pictured.id}
    assert {job.id for job in await store.list_jobs("ada")} == left

    def rest(tx: Tx) -> list[set[str]]:
        return [set(tx.conn.scalars(sa.select(table.c.job))) for table in (job_outbox, job_message, job_attempt)]

    assert await store.database.read(rest) == [left, {waiting.id}, left]
    assert (await submit(store, task_id="done")).id != old[0].id, "its name may be used again"
    assert await store.claim_job(old[0].id, holder="late", until=NOW + DAY, now=NOW) is None
    assert not await finish(store, Claim(old[0].id, 1))
