"""Jobs for whoever runs them, on both databases: dead ones wait again, drains start nothing, figures are exact."""

import datetime as dt
import itertools
import math
import random

import pytest

from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.figures import FigureStore, KindFigures, Spans, figures_of
from controlplane.jobs.meter import RUN_EDGES_S, WAIT_EDGES_S, TotalStore
from controlplane.jobs.model import Again, AttemptOutcome, Claim, Job, JobState, result_key
from controlplane.jobs.operations import ALL_KINDS, Attempt, OperatorStore
from controlplane.jobs.ports import EndedAttempt
from controlplane.store import SqlStore
from controlplane.store.job_tables import job_attempt
from controlplane.wake import Topic
from tests.builders import NOW, make_change
from tests.contract.conftest import Ears
from tests.job_builders import PNG, make_kind, make_new_job, make_picture

ARE_STORES: tuple[type[OperatorStore], type[FigureStore], type[TotalStore]] = (SqlStore, SqlStore, SqlStore)

SECOND = dt.timedelta(seconds=1)
HOUR = dt.timedelta(hours=1)
LEASE = 30 * SECOND


@pytest.fixture(autouse=True)
async def _kinds(store: SqlStore) -> None:
    await store.apply_kind(make_kind(), make_change())
    await store.apply_kind(make_kind("building"), make_change())


async def submit(store: SqlStore, *, now: dt.datetime = NOW, **changes: object) -> Job:
    return await store.submit(make_new_job(**changes), key=None, now=now)


async def claim(store: SqlStore, of: Job, *, now: dt.datetime = NOW) -> Claim:
    claimed = await store.claim_job(of.id, holder="main", until=now + LEASE, now=now)
    assert claimed is not None
    return Claim(claimed.id, claimed.attempts)


async def add_attempt(store: SqlStore, of: Job, outcome: AttemptOutcome, **changes: object) -> None:
    """Insert an attempt that has ended, unless whoever ended it did."""
    row = {
        "job": of.id,
        "attempt": 1,
        "kind": of.kind,
        "service": "colorize",
        "version": "v1",
        "started_at": NOW,
        "ended_at": NOW + SECOND,
        "outcome": outcome.value,
        "words": "",
        **changes,
    }
    same = (job_attempt.c.job == of.id, job_attempt.c.attempt == row["attempt"])
    await store.database.write(lambda tx: tx.conn.execute(job_attempt.delete().where(*same)).rowcount)
    await store.database.write(lambda tx: tx.conn.execute(job_attempt.insert(), row).rowcount)


async def bury(store: SqlStore, of: Job, *, now: dt.datetime = NOW) -> None:
    ended = EndedAttempt(AttemptOutcome.REFUSED, "422: in colour", "v1")
    assert await store.bury_job(await claim(store, of, now=now), ended, words=ended.words, now=now)


async def finish(store: SqlStore, of: Job, *, start: dt.datetime, end: dt.datetime, version: str = "v1") -> None:
    mine = await claim(store, of, now=start)
    result = make_picture(result_key(mine.job, mine.attempt), PNG)
    assert await store.finish_job(mine, result, version=version, now=end)


async def empty_outbox(store: SqlStore) -> None:
    await store.drop_outbox([entry.number for entry in await store.load_outbox(now=NOW + 10 * HOUR)])


# -- attempts and another chance ---------------------------------------------------------------------------------------


async def test_attempts_are_read_in_their_order(store: SqlStore) -> None:
    of = await submit(store)
    await add_attempt(store, of, AttemptOutcome.DONE, attempt=2, version="v2")
    await add_attempt(store, of, AttemptOutcome.AWAY, version="", words="503")
    first, second = await store.load_attempts(of.id)
    assert first == Attempt(
        attempt=1, version="", outcome=AttemptOutcome.AWAY, words="503", started_at=NOW, ended_at=NOW + SECOND
    )
    assert (second.attempt, second.version, second.outcome) == (2, "v2", AttemptOutcome.DONE)


@pytest.mark.parametrize("state", [JobState.DEAD, JobState.CANCELLED])
async def test_a_job_that_ended_without_a_result_waits_again_as_if_new(
    store: SqlStore, ears: Ears, state: JobState
) -> None:
    of = await submit(store)
    if state is JobState.DEAD:
        await bury(store, of)
    else:
        await store.cancel_job(of.id, owner="ada", now=NOW)
    await empty_outbox(store)
    await ears.heard()
    again = await store.retry_dead(of.id, owner="ada", refetch=False, now=NOW + SECOND)
    assert (again.state, again.failures, again.words, again.finished_at) == (JobState.WAITING, 0, "", None)
    assert again.photo == of.photo
    assert await ears.heard() == {Topic.JOBS}
    assert [entry.wake_up.job for entry in await store.load_outbox(now=NOW + SECOND)] == [of.id]
    assert await store.retry_dead(of.id, owner="ada", refetch=False, now=NOW + 2 * SECOND) == again
    assert len(await store.load_outbox(now=NOW + 2 * SECOND)) == 1, "asked twice, woken once"
    mine = await claim(store, again, now=NOW + SECOND)
    assert mine.attempt == (2 if state is JobState.DEAD else 1), "what an earlier attempt may still write is fenced"
    running = await store.retry_dead(of.id, owner="ada", refetch=False, now=NOW)
    assert running.state is JobState.RUNNING


async def test_a_done_job_or_another_owners_is_not_run_again(store: SqlStore) -> None:
    of = await submit(store)
    await finish(store, of, start=NOW, end=NOW)
    with pytest.raises(ConflictError, match="is done; only one that is dead or cancelled"):
        await store.retry_dead(of.id, owner="ada", refetch=False, now=NOW)
    with pytest.raises(NotFoundError):
        await store.retry_dead(of.id, owner="bob", refetch=False, now=NOW)


async def test_a_photo_that_is_gone_is_fetched_again_where_it_came_from(store: SqlStore) -> None:
    of = await submit(store, image_url="https://photos.example.org/1.jpg")
    await bury(store, of)
    again = await store.retry_dead(of.id, owner="ada", refetch=True, now=NOW)
    assert (again.photo, again.image_url) == (None, of.image_url)


# -- drains ------------------------------------------------------------------------------------------------------------


async def test_no_job_of_a_drained_kind_is_started_until_the_end_wakes_those_that_wait(
    store: SqlStore, other: SqlStore, ears: Ears
) -> None:
    person, building = await submit(store), await submit(store, kind="building", workflow="building.json")
    running = await submit(store)
    mine = await claim(store, running)
    await ears.heard()
    assert await store.begin_drain("person", by="ada", why="new disks", now=NOW)
    assert await ears.heard() == {Topic.JOBS}
    assert not await other.begin_drain("person", by="bob", why="", now=NOW + SECOND)
    assert (await other.load_workload()).drained == {"person"}
    assert await other.claim_job(person.id, holder="other", until=NOW + LEASE, now=NOW) is None
    assert await other.renew_jobs([mine], until=NOW + LEASE) == {mine}, "what runs goes on"
    await claim(other, building)
    await submit(store)
    await empty_outbox(store)
    assert await store.revive_jobs(lost_before=NOW + HOUR, now=NOW + SECOND) == 0, "nobody is told what may not start"
    assert await store.end_drain("person", by="bob", why="they turn", now=NOW + SECOND)
    assert not await store.end_drain("person", by="bob", why="", now=NOW + SECOND)
    assert len(await store.load_outbox(now=NOW + SECOND)) == 2
    await claim(other, person)
    (drain,) = await store.load_drains()
    assert (drain.kind, drain.began_by, drain.began_why, drain.began_at) == ("person", "ada", "new disks", NOW)
    assert (drain.ended_by, drain.ended_why, drain.ended_at) == ("bob", "they turn", NOW + SECOND)


async def test_a_drain_of_all_kinds_holds_until_all_end(store: SqlStore) -> None:
    of = await submit(store)
    await store.begin_drain("building", by="ada", why="", now=NOW)
    await store.begin_drain(ALL_KINDS, by="ada", why="", now=NOW)
    assert (await store.load_workload()).drained == {"person", "building"}
    assert await store.claim_job(of.id, holder="main", until=NOW + LEASE, now=NOW) is None
    with pytest.raises(ConflictError, match="all kinds are drained"):
        await store.end_drain("person", by="ada", why="", now=NOW)
    assert await store.end_drain(ALL_KINDS, by="ada", why="", now=NOW)
    assert (await store.load_workload()).drained == frozenset()
    await store.begin_drain("building", by="bob", why="", now=NOW)
    live, *ended = await store.load_drains()
    assert (live.began_by, live.ended_at) == ("bob", None)
    assert {drain.kind for drain in ended} == {"building", ALL_KINDS}


async def test_a_retry_that_is_due_later_is_not_woken_early_by_the_end(store: SqlStore) -> None:
    of = await submit(store)
    await empty_outbox(store)
    busy = EndedAttempt(AttemptOutcome.AWAY, "503")
    await store.retry_job(await claim(store, of), busy, again=Again("503", HOUR, counts=False), now=NOW)
    await store.begin_drain("person", by="ada", why="", now=NOW)
    await store.end_drain("person", by="ada", why="", now=NOW + SECOND)
    assert await store.load_outbox(now=NOW + SECOND) == ()
    assert len(await store.load_outbox(now=NOW + HOUR)) == 1


async def test_a_kind_that_is_not_there_is_not_drained(store: SqlStore) -> None:
    for change in (store.begin_drain, store.end_drain):
        with pytest.raises(NotFoundError, match="known: building, person"):
            await change("photo", by="ada", why="", now=NOW)


# -- where all stand ---------------------------------------------------------------------------------------------------


async def test_a_standing_counts_each_kind_and_wake_ups_that_are_due(store: SqlStore) -> None:
    oldest = await submit(store)
    await submit(store, now=NOW + SECOND)
    running, dead, deleted = [await submit(store, now=NOW - HOUR) for _ in range(3)]
    await claim(store, running)
    await bury(store, dead)
    await store.delete_job(deleted.id, owner="ada", now=NOW)
    standing = await store.load_standing(now=NOW)
    assert standing.outbox == 4, "the one that came in later is not due"
    building, person = standing.backlogs
    assert (building.kind, building.waiting, building.running, building.oldest) == ("building", 0, 0, None)
    assert (person.queue, person.waiting, person.running, person.dead) == ("photos", 2, 1, 1)
    assert person.oldest == oldest.submitted_at
    states = await store.load_states([dead.id, running.id])
    assert states == {dead.id: JobState.DEAD, running.id: JobState.RUNNING}


# -- figures -----------------------------------------------------------------------------------------------------------


async def figures(store: SqlStore, *, kind: str | None = None, span: dt.timedelta = HOUR) -> dict[str, KindFigures]:
    sums = await store.load_sums(kind, since=NOW, until=NOW + span)
    return {each.kind: each for each in figures_of(sums)}


async def test_figures_count_jobs_and_attempts_for_whom_they_belong_to(store: SqlStore) -> None:
    done, dead, dead_unanswered, cancelled = [await submit(store, now=NOW + SECOND) for _ in range(4)]
    await submit(store, now=NOW - SECOND)  # before the while
    await finish(store, done, start=NOW + 2 * SECOND, end=NOW + 5 * SECOND, version="v2")
    await add_attempt(store, done, AttemptOutcome.DONE, version="v2", ended_at=NOW + 4 * SECOND)
    for of, version in ((dead, "v1"), (dead_unanswered, "")):
        await bury(store, of, now=NOW + 3 * SECOND)
        await add_attempt(store, of, AttemptOutcome.FAILED, version=version)
    await store.cancel_job(cancelled.id, owner="ada", now=NOW + SECOND)
    await add_attempt(store, cancelled, AttemptOutcome.THROWN, version="v1")
    await add_attempt(store, cancelled, AttemptOutcome.AWAY, attempt=2, version="")
    found = (await figures(store))["person"]
    assert (found.enqueued, found.cancelled, found.whole.done, found.whole.dead) == (4, 1, 1, 2)
    assert found.whole.job_share == found.whole.attempt_share == pytest.approx(1 / 3)
    assert (found.now.waiting, found.now.oldest) == (1, NOW - SECOND)
    assert list(found.versions) == ["v1", "v2", ""], "nobody comes last"
    one, two, nobody = found.versions.values()
    assert (one.done, one.dead, one.attempts) == (0, 1, {AttemptOutcome.FAILED: 1, AttemptOutcome.THROWN: 1})
    assert (one.job_share, one.attempt_share) == (0.0, 0.0)
    assert (two.done, two.dead, two.job_share, two.attempt_share) == (1, 0, 1.0, 1.0)
    assert two.waits == Spans(count=1, p50=SECOND, p95=SECOND)
    assert two.runs == Spans(count=1, p50=4 * SECOND, p95=4 * SECOND)
    assert (nobody.dead, nobody.attempts) == (1, {AttemptOutcome.FAILED: 1, AttemptOutcome.AWAY: 1})
    assert (await figures(store))["building"].versions == {}
    assert list(await figures(store, kind="person")) == ["person"]


async def test_a_while_begins_with_its_first_moment_and_ends_before_its_last(store: SqlStore) -> None:
    for at in (NOW - dt.timedelta(microseconds=1), NOW, NOW + HOUR - dt.timedelta(microseconds=1), NOW + HOUR):
        await submit(store, now=at)
    assert (await figures(store))["person"].enqueued == 2


async def test_percentiles_are_those_of_every_row_to_the_microsecond(store: SqlStore) -> None:
    luck = random.Random(7)  # noqa: S311 - no secret
    waits: list[dt.timedelta] = []
    runs: dict[str, list[dt.timedelta]] = {"v1": [], "v2": []}
    last = {"v1": NOW, "v2": NOW}
    firsts: list[dt.datetime] = []
    for version in itertools.islice(itertools.cycle(runs), 101):
        begun = NOW + dt.timedelta(microseconds=luck.randrange(1_000_000))
        waits.append(dt.timedelta(microseconds=luck.randrange(90_000_000)))
        firsts.append(begun + waits[-1])
        runs[version].append(dt.timedelta(microseconds=luck.randrange(3_600_000_000)))
        of = await submit(store, now=begun)
        await claim(store, of, now=firsts[-1])
        ended = firsts[-1] + runs[version][-1]
        last[version] = max(last[version], ended)
        await add_attempt(store, of, AttemptOutcome.DONE, version=version, started_at=firsts[-1], ended_at=ended)
    found = (await figures(store, span=3 * HOUR))["person"]

    def rank(spans: list[dt.timedelta], percent: int) -> dt.timedelta:
        return sorted(spans)[math.ceil(len(spans) * percent / 100) - 1]

    assert found.whole.waits == Spans(count=101, p50=rank(waits, 50), p95=rank(waits, 95))
    for version, spans in runs.items():
        assert found.versions[version].runs == Spans(count=len(spans), p50=rank(spans, 50), p95=rank(spans, 95))
    every = [*runs["v1"], *runs["v2"]]
    assert found.whole.runs == Spans(count=101, p50=rank(every, 50), p95=rank(every, 95))
    totals = await store.load_totals()
    buckets = totals.waits["person"]
    edges = [dt.timedelta(seconds=edge) for edge in WAIT_EDGES_S]
    assert buckets.counts == (*(sum(span <= edge for span in waits) for edge in edges), 101)
    assert buckets.sum_s == pytest.approx(sum(waits, dt.timedelta()).total_seconds())
    edges = [dt.timedelta(seconds=edge) for edge in RUN_EDGES_S]
    counts = tuple(sum(span <= edge for span in runs["v1"]) for edge in edges)
    assert totals.runs["person", "v1"].counts == (*counts, 51)
    assert totals.attempts == {("person", "v1", AttemptOutcome.DONE): 51, ("person", "v2", AttemptOutcome.DONE): 50}
    assert totals.seen["person", "v1"] == last["v1"]
    for until in (NOW + 60 * SECOND, NOW + HOUR, NOW + 24 * HOUR):
        assert await store.settle_totals(until=until)
        assert await store.settle_totals(until=until - SECOND), "another replica, a little behind"
        settled = await store.load_totals()
        assert (settled.attempts, settled.seen) == (totals.attempts, totals.seen)
        assert settled.waits["person"].counts == totals.waits["person"].counts
        assert settled.runs["person", "v2"].sum_s == pytest.approx(totals.runs["person", "v2"].sum_s)


async def test_totals_outlive_the_rows_that_they_were_counted_from(store: SqlStore, other: SqlStore) -> None:
    first, second = await submit(store), await submit(store)
    await add_attempt(store, first, AttemptOutcome.DONE)
    assert await store.settle_totals(until=NOW + 2 * SECOND)
    await store.database.write(lambda tx: tx.conn.execute(job_attempt.delete()).rowcount)
    await add_attempt(store, second, AttemptOutcome.DONE, ended_at=NOW + 3 * SECOND)
    assert (await other.load_totals()).attempts == {("person", "v1", AttemptOutcome.DONE): 2}


async def test_years_are_settled_a_day_at_a_time_and_empty_ones_skipped(store: SqlStore) -> None:
    for days in (0, 0, 1, 400, 401):
        await add_attempt(store, await submit(store), AttemptOutcome.DONE, ended_at=NOW + 24 * days * HOUR)
    turns = 1
    while not await store.settle_totals(until=NOW + 24 * 800 * HOUR):
        turns += 1
    assert turns <= 5
    assert (await store.load_totals()).attempts == {("person", "v1", AttemptOutcome.DONE): 5}
    assert await store.settle_totals(until=NOW + 24 * 800 * HOUR)
