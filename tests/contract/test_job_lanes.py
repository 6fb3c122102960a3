"""Attempts by version, how services are split, and the jobs of a rollout that went back."""

import dataclasses
import datetime as dt

import pytest
import sqlalchemy as sa

from controlplane.jobs.lanes import Lane
from controlplane.jobs.model import DEFAULT_KEEP, Again, AttemptOutcome, Claim, Job, JobState, result_key
from controlplane.jobs.ports import EndedAttempt
from controlplane.ports import Rollout
from controlplane.rollout.model import RollbackCause, RolledBack
from controlplane.store import SqlStore
from controlplane.store.job_tables import job_attempt
from tests.builders import NOW, make_change, make_new_rollout, make_spec, make_split
from tests.job_builders import PNG, make_kind, make_new_job, make_picture

LEASE = dt.timedelta(seconds=30)
SECOND = dt.timedelta(seconds=1)
AGAIN = Again("500", dt.timedelta(minutes=1), counts=True)


@pytest.fixture(autouse=True)
async def _kinds(store: SqlStore) -> None:
    await store.apply(dataclasses.replace(make_spec(), draw_header="x-draw"), by="ada", why="", now=NOW)
    await store.apply_kind(make_kind(service="colorize"), make_change())
    await store.apply_kind(make_kind("other"), make_change())


async def begin(store: SqlStore, **changes: object) -> Claim:
    job = await store.submit(make_new_job(**changes), key=None, now=NOW)
    return await begin_again(store, job)


async def begin_again(store: SqlStore, job: Job) -> Claim:
    started = await store.claim_job(job.id, holder="main", until=NOW + LEASE, now=NOW)
    assert started is not None
    return Claim(job.id, started.attempts)


def failed(version: str, outcome: AttemptOutcome = AttemptOutcome.FAILED) -> EndedAttempt:
    return EndedAttempt(outcome, "500", version)


async def attempts(store: SqlStore) -> list[tuple[str, int, str, str, str]]:
    query = sa.select(job_attempt).order_by(job_attempt.c.job, job_attempt.c.attempt)
    rows = await store.database.read(lambda tx: tx.conn.execute(query).all())
    return [(row.job, row.attempt, row.service, row.version, row.outcome) for row in rows]


async def roll_back(store: SqlStore) -> Rollout:
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    ended = dataclasses.replace(rollout, state=RolledBack(NOW + SECOND, RollbackCause.SLO_BREACH, "errors"))
    return await store.save(ended, now=NOW + SECOND)


# -- attempts ----------------------------------------------------------------------------------------------------------


async def test_each_attempt_is_on_record_with_its_version(store: SqlStore) -> None:
    mine = await begin(store)
    assert await store.retry_job(mine, failed("v2"), again=Again("500", SECOND, counts=False, stable=True), now=NOW)
    job = await store.load_job(mine.job)
    assert (job.stable_only, job.failures) == (True, 0)
    again = await begin_again(store, job)
    assert await store.finish_job(again, make_picture(result_key(job.id, 2), PNG), version="v1", now=NOW + SECOND)
    assert not await store.retry_job(again, failed("v1"), again=AGAIN, now=NOW), "it has ended"
    assert await attempts(store) == [(job.id, 1, "colorize", "v2", "failed"), (job.id, 2, "colorize", "v1", "done")]
    done = await store.load_job(job.id)
    assert (done.stable_only, done.first_started_at, done.started_at) == (True, NOW, NOW)


async def test_attempts_that_were_cut_off_are_on_record(store: SqlStore) -> None:
    cancelled, deleted, lost, refused = [await begin(store) for _ in range(4)]
    await store.cancel_job(cancelled.job, owner="ada", now=NOW)
    await store.delete_job(deleted.job, owner="ada", now=NOW)
    assert await store.bury_job(refused, failed("v1", AttemptOutcome.REFUSED), words="422", now=NOW)
    assert await store.revive_jobs(lost_before=NOW, now=NOW + LEASE + SECOND) == 1
    outcomes = {job: outcome for job, _, _, _, outcome in await attempts(store)}
    assert outcomes == {
        cancelled.job: "thrown",
        deleted.job: "thrown",
        lost.job: "lost",
        refused.job: "refused",
    }


# -- lanes -------------------------------------------------------------------------------------------------------------


async def test_a_lane_tells_the_split_and_the_candidate_of_a_service(store: SqlStore) -> None:
    lane = Lane(service="colorize", draw_header="x-draw", split=(("v1", 10_000),))
    assert (await store.load_workload()).lanes == {"colorize": lane}
    await store.apply_kind(make_kind("third", service="not-there"), make_change())
    rollout = await store.start(make_new_rollout(), key=None, now=NOW)
    await store.save(rollout, split=make_split(v1=9_500, v2=500), now=NOW)
    moved = dataclasses.replace(lane, split=(("v1", 9_500), ("v2", 500)), candidate="v2")
    assert (await store.load_workload()).lanes == {"colorize": moved}


# -- rollouts that went back -------------------------------------------------------------------------------------------


async def test_jobs_that_a_candidate_failed_run_again_once_it_was_taken_back(store: SqlStore) -> None:
    dead, waiting, unanswered, of_v1, of_others = [
        await begin(store, kind=kind) for kind in ("person", "person", "person", "person", "other")
    ]
    idle = (await store.submit(make_new_job(), key=None, now=NOW)).id
    for mine, version in ((dead, "v2"), (unanswered, ""), (of_v1, "v1"), (of_others, "v2")):
        assert await store.bury_job(mine, failed(version), words="500 (failed 3 times)", now=NOW)
    assert await store.retry_job(waiting, failed("v2"), again=AGAIN, now=NOW)
    await store.drop_outbox([entry.number for entry in await store.load_outbox(now=NOW + LEASE * 10)])
    assert await store.reroute_jobs(now=NOW) == 0, "no rollout went back yet"
    await roll_back(store)
    later = NOW + 5 * SECOND
    assert await store.reroute_jobs(now=later) == 3
    for mine in (dead, waiting, unanswered):
        job = await store.load_job(mine.job)
        assert (job.state, job.failures, job.stable_only, job.finished_at) == (JobState.WAITING, 0, True, None)
        assert job.words == "failed at v2, which was taken back; it runs again"
    assert {entry.wake_up.job for entry in await store.load_outbox(now=later)} == {
        dead.job,
        waiting.job,
        unanswered.job,
    }
    for other in (of_v1, of_others):
        assert (await store.load_job(other.job)).state is JobState.DEAD
    assert not (await store.load_job(idle)).stable_only
    assert await store.reroute_jobs(now=later) == 0, "each rollout is looked at once"


async def test_what_failed_before_the_rollout_or_has_no_photo_any_more_stays_as_it_is(store: SqlStore) -> None:
    mine = await begin(store)
    assert await store.bury_job(mine, failed("v2"), words="500", now=NOW - SECOND)
    deleted = await begin(store)
    assert await store.bury_job(deleted, failed("v2"), words="500", now=NOW)
    await store.delete_job(deleted.job, owner="ada", now=NOW)
    swept = await begin(store)
    assert await store.bury_job(swept, failed("v2"), words="500", now=NOW)
    await store.forget_pictures([swept.job], now=NOW + DEFAULT_KEEP)
    await roll_back(store)
    assert await store.reroute_jobs(now=NOW + LEASE) == 0
    assert (await store.load_job(mine.job)).state is JobState.DEAD
