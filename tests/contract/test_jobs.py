"""Jobs in the store: job and wake-up are one transaction, a repetition makes nothing, a lost claim writes nothing."""

import datetime as dt

import pytest

from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.model import Again, AttemptOutcome, Claim, Job, JobId, JobState, photo_key, result_key
from controlplane.jobs.ports import EndedAttempt, JobStore, WakeUp
from controlplane.store import SqlStore
from controlplane.wake import Topic
from tests.builders import NOW, make_change
from tests.contract.conftest import Ears
from tests.job_builders import PNG, WORKFLOW, make_kind, make_new_job, make_picture

IS_A_STORE: type[JobStore] = SqlStore  # mypy sits this exam

LEASE = dt.timedelta(seconds=30)
SECOND = dt.timedelta(seconds=1)
NO_TIME = dt.timedelta(0)
FAILED = EndedAttempt(AttemptOutcome.FAILED, "500", "v1")
BUSY = EndedAttempt(AttemptOutcome.AWAY, "busy")
REFUSED = EndedAttempt(AttemptOutcome.REFUSED, "422: a colour photo", "v1")


@pytest.fixture(autouse=True)
async def _kinds(store: SqlStore) -> None:
    await store.apply_kind(make_kind(), make_change())


async def submit(store: SqlStore, **changes: object) -> Job:
    key = changes.pop("key", None)
    return await store.submit(make_new_job(**changes), key=key, now=NOW)  # type: ignore[arg-type] # passed through


async def claim(store: SqlStore, job: Job, *, holder: str = "main", now: dt.datetime = NOW) -> Claim:
    claimed = await store.claim_job(job.id, holder=holder, until=now + LEASE, now=now)
    assert claimed is not None
    return Claim(claimed.id, claimed.attempts)


async def finish(store: SqlStore, mine: Claim) -> bool:
    result = make_picture(result_key(mine.job, mine.attempt), PNG)
    return await store.finish_job(mine, result, version="v2", now=NOW + SECOND)


async def test_kinds_are_read_back_and_the_same_again_changes_nothing(store: SqlStore) -> None:
    building = make_kind("building", headers={}, min_px=960, max_px=1280, default_px=960)
    assert await store.apply_kind(building, make_change())
    assert not await store.apply_kind(building, make_change())
    assert await store.list_kinds() == (building, make_kind())
    wider = make_kind("building", headers={}, min_px=640, max_px=1280, default_px=960, queue="large")
    assert await store.apply_kind(wider, make_change())
    assert (await store.list_kinds())[0] == wider


async def test_two_kinds_do_not_share_a_workflow(store: SqlStore) -> None:
    with pytest.raises(ConflictError, match="is kind 'person'"):
        await store.apply_kind(make_kind("other", workflow=WORKFLOW), make_change())


async def test_a_job_is_read_back_and_its_wake_up_is_due_at_once(store: SqlStore, ears: Ears) -> None:
    await ears.heard()
    new = make_new_job(task_id="7f3a", vip=True)
    job = await store.submit(new, key=None, now=NOW)
    assert await ears.heard() == {Topic.JOBS}
    assert await store.load_job(job.id) == await store.load_job(job.id, owner="ada") == job
    assert (job.id, job.owner, job.task_id, job.photo) == (new.id, "ada", "7f3a", new.photo)
    assert (job.state, job.attempts, job.failures, job.result) == (JobState.WAITING, 0, 0, None)
    assert (job.submitted_at, job.started_at, job.finished_at) == (NOW, None, None)
    (entry,) = await store.load_outbox(now=NOW)
    assert entry.wake_up == WakeUp(job.id, "photos", True)
    await store.drop_outbox([entry.number])
    assert await store.load_outbox(now=NOW) == ()


async def test_a_job_of_no_kind_leaves_no_row_and_no_wake_up(store: SqlStore) -> None:
    new = make_new_job(kind="nothing")
    with pytest.raises(ConflictError):
        await store.submit(new, key=None, now=NOW)
    with pytest.raises(NotFoundError):
        await store.load_job(new.id)
    assert await store.load_outbox(now=NOW) == ()


async def test_the_same_key_or_task_again_gives_the_first_job(store: SqlStore) -> None:
    first = await submit(store, task_id="t", key="ada/k")
    assert await submit(store, task_id="t", key="ada/k") == first
    assert await submit(store, task_id="t") == first
    assert await submit(store, task_id="t", key="ada/other") == first
    assert len(await store.load_outbox(now=NOW)) == 1
    with pytest.raises(ConflictError, match="task_id 't' was used for another job"):
        await submit(store, task_id="t", request="two")
    with pytest.raises(ConflictError, match="idempotency key 'ada/k' was used for another job"):
        await submit(store, key="ada/k", request="two")
    assert (await submit(store, task_id="t", owner="bob", request="two")).id != first.id


async def test_owners_see_their_own_jobs_only(store: SqlStore) -> None:
    mine = [await submit(store) for _ in range(3)]
    theirs = await submit(store, owner="bob")
    assert await store.list_jobs("ada") == tuple(reversed(mine))
    assert await store.list_jobs("ada", limit=1) == (mine[2],)
    assert await store.list_jobs("ada", before=mine[2].id, limit=1) == (mine[1],)
    assert await store.list_jobs("ada", state=JobState.DONE) == ()
    assert await store.list_jobs("ada", before=theirs.id) == ()
    for refused in (
        store.load_job(theirs.id, owner="ada"),
        store.cancel_job(theirs.id, owner="ada", now=NOW),
        store.delete_job(theirs.id, owner="ada", now=NOW),
        store.load_job(JobId("none")),
    ):
        with pytest.raises(NotFoundError, match="job"):
            await refused
    await store.delete_job(mine[2].id, owner="ada", now=NOW)
    assert await store.list_jobs("ada", before=mine[2].id, limit=1) == (mine[1],), "its place is known still"


async def test_one_of_two_gets_the_claim_and_only_it_may_finish(store: SqlStore, other: SqlStore) -> None:
    job = await submit(store)
    mine = await claim(store, job)
    assert await other.claim_job(job.id, holder="other", until=NOW + LEASE, now=NOW) is None
    assert not await finish(other, Claim(job.id, 2))
    assert await finish(store, mine)
    assert not await finish(store, mine)
    done = await store.load_job(job.id)
    assert (done.state, done.attempts, done.version) == (JobState.DONE, 1, "v2")
    assert done.result == make_picture(result_key(job.id, 1), PNG)
    assert (done.started_at, done.finished_at) == (NOW, NOW + SECOND)


async def test_a_claim_is_heard_in_the_process_that_made_it(store: SqlStore, ears: Ears) -> None:
    job = await submit(store)
    await ears.heard()
    mine = await claim(store, job)
    assert await ears.heard() == {Topic.JOB_STATES}
    assert await store.claim_job(job.id, holder="other", until=NOW + LEASE, now=NOW) is None
    assert await ears.heard() == set()
    assert await finish(store, mine)
    assert await ears.heard() == {Topic.JOB_STATES}


async def test_a_job_that_failed_waits_until_it_is_due(store: SqlStore) -> None:
    job = await submit(store)
    (entry,) = await store.load_outbox(now=NOW)
    await store.drop_outbox([entry.number])
    mine = await claim(store, job)
    assert await store.retry_job(mine, FAILED, again=Again("500", SECOND, counts=True), now=NOW)
    assert not await store.retry_job(mine, FAILED, again=Again("500", SECOND, counts=True), now=NOW)
    waiting = await store.load_job(job.id)
    assert (waiting.state, waiting.failures, waiting.words) == (JobState.WAITING, 1, "500")
    assert await store.load_outbox(now=NOW) == ()
    assert [each.wake_up.job for each in await store.load_outbox(now=NOW + SECOND)] == [job.id]
    again = await claim(store, job)
    assert again.attempt == 2
    assert await store.retry_job(again, BUSY, again=Again("busy", NO_TIME, counts=False), now=NOW)
    assert (await store.load_job(job.id)).failures == 1


async def test_a_dead_job_says_why_and_stays_dead(store: SqlStore) -> None:
    job = await submit(store)
    mine = await claim(store, job)
    assert await store.bury_job(mine, REFUSED, words="422: a colour photo", now=NOW)
    dead = await store.load_job(job.id)
    assert (dead.state, dead.words, dead.finished_at) == (JobState.DEAD, "422: a colour photo", NOW)
    assert await store.claim_job(job.id, holder="main", until=NOW + LEASE, now=NOW) is None
    with pytest.raises(ConflictError, match="is dead"):
        await store.cancel_job(job.id, owner="ada", now=NOW)


@pytest.mark.parametrize("running", [False, True])
async def test_a_cancelled_job_ends_at_once_whatever_its_worker_does(store: SqlStore, *, running: bool) -> None:
    job = await submit(store)
    mine = await claim(store, job) if running else Claim(job.id, 1)
    cancelled = await store.cancel_job(job.id, owner="ada", now=NOW)
    assert (cancelled.state, cancelled.finished_at) == (JobState.CANCELLED, NOW)
    assert await store.cancel_job(job.id, owner="ada", now=NOW + SECOND) == cancelled
    assert not await finish(store, mine)
    assert await store.renew_jobs([mine], until=NOW + LEASE) == frozenset()


async def test_leases_are_renewed_or_the_job_runs_again(store: SqlStore) -> None:
    kept, lost = await submit(store), await submit(store)
    await store.drop_outbox([entry.number for entry in await store.load_outbox(now=NOW)])
    good, bad = await claim(store, kept), await claim(store, lost)
    later = NOW + LEASE + SECOND
    assert await store.renew_jobs([good, Claim(kept.id, 7)], until=later + LEASE) == {good}
    assert await store.revive_jobs(lost_before=NOW, now=NOW) == 0
    assert await store.revive_jobs(lost_before=NOW, now=later) == 1
    assert [each.wake_up.job for each in await store.load_outbox(now=later)] == [lost.id]
    assert not await finish(store, bad)
    assert (await claim(store, lost, now=later)).attempt == 2
    assert await finish(store, good)


async def test_a_job_whose_wake_up_was_lost_is_told_of_again(store: SqlStore) -> None:
    job = await submit(store)
    assert await store.revive_jobs(lost_before=NOW + SECOND, now=NOW + LEASE) == 0, "it is still in the outbox"
    await store.drop_outbox([entry.number for entry in await store.load_outbox(now=NOW)])
    assert await store.revive_jobs(lost_before=NOW, now=NOW + LEASE) == 0
    assert await store.revive_jobs(lost_before=NOW + SECOND, now=NOW + LEASE) == 1
    assert [each.wake_up.job for each in await store.load_outbox(now=NOW + LEASE)] == [job.id]
    assert await store.revive_jobs(lost_before=NOW + SECOND, now=NOW + LEASE) == 0


async def test_a_deleted_job_is_gone_and_its_pictures_are_named_until_they_are(store: SqlStore) -> None:
    waiting, done = await submit(store, task_id="t", key="ada/k"), await submit(store)
    mine = await claim(store, done)
    await finish(store, mine)
    for job in (waiting, done):
        await store.delete_job(job.id, owner="ada", now=NOW)
        with pytest.raises(NotFoundError):
            await store.load_job(job.id, owner="ada")
    assert await store.list_jobs("ada") == ()
    assert await store.claim_job(waiting.id, holder="main", until=NOW + LEASE, now=NOW) is None
    assert set(await store.load_removable(now=NOW)) == {waiting.id, done.id}
    await store.forget_pictures([waiting.id, done.id], now=NOW)
    assert await store.load_removable(now=NOW) == ()
    for key in (None, "ada/k"):
        with pytest.raises(ConflictError, match="was used for a job that was deleted"):
            await submit(store, task_id="t", key=key)
    assert photo_key(waiting.id) != photo_key(done.id)
