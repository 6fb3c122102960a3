"""One job has one result, whoever dies at which line: what the dispatcher, the relay and the keeper make of a job."""

import asyncio
import collections
import dataclasses
import datetime as dt

import pytest

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.dispatcher import LEASE, Dispatcher
from controlplane.jobs.lanes import draw
from controlplane.jobs.model import (
    Away,
    Coloured,
    Failed,
    Job,
    JobId,
    JobKind,
    JobState,
    Refused,
    photo_key,
    result_key,
)
from controlplane.jobs.relay import DRY_FOR, LOST_AFTER
from controlplane.ports import Rollout
from controlplane.rollout.model import RollbackCause, RolledBack
from tests.builders import NOW, make_change, make_new_rollout, make_spec, make_split
from tests.job_builders import COLOURED, PHOTO, RESULT, FakeWorkers, Outcome, make_kind, make_new_job, make_picture
from tests.unit.jobs.conftest import BreakableBlobs, BreakableQueue, Works

SECOND = dt.timedelta(seconds=1)
URL = "https://photos.example.org/1.jpg?token=x"


def files(works: Works) -> set[str]:
    return {str(path.relative_to(works.blobs.folder)) for path in works.blobs.folder.rglob("*") if path.is_file()}


async def test_a_job_is_coloured_and_its_wake_up_acknowledged(works: Works) -> None:
    job = await works.submit()
    await works.dispatcher().work(await works.take())
    done = await works.load(job.id)
    assert (done.state, done.version, done.attempts) == (JobState.DONE, "v1", 1)
    assert (await works.desk.result(job.id, owner="ada"))[1] == RESULT
    assert await works.waiting() == 0
    assert [asked.id for asked in works.workers.asked] == [job.id]


async def test_a_repetition_finds_nothing_to_do(works: Works) -> None:
    job = await works.submit()
    delivery = await works.take()
    await works.queue.publish([delivery.wake_up, delivery.wake_up])
    dispatcher = works.dispatcher()
    await dispatcher.work(delivery)
    for again in await works.queue.take(["photos"], limit=10):
        await dispatcher.work(again)
    assert len(works.workers.asked) == 1
    assert files(works) == {photo_key(job.id), result_key(job.id, 1)}
    assert await works.waiting() == 0


async def test_a_failure_runs_again_when_it_is_due_and_then_counts(works: Works) -> None:
    works.workers.outcomes = [Failed("500: oops"), Away("503", 10 * SECOND)]
    job = await works.submit()
    dispatcher = works.dispatcher()
    await dispatcher.work(await works.take())
    failed = await works.load(job.id)
    assert (failed.state, failed.failures, failed.words) == (JobState.WAITING, 1, "500: oops")
    assert await works.waiting() == 0
    works.clock.move(SECOND)
    await dispatcher.work(await works.take())
    assert (await works.load(job.id)).failures == 1
    works.clock.move(9 * SECOND)
    assert await works.waiting() == 0
    works.clock.move(SECOND)
    await dispatcher.work(await works.take())
    done = await works.load(job.id)
    assert (done.state, done.attempts, done.words) == (JobState.DONE, 3, "")


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([Refused("422: in colour")], "422: in colour"),
        ([Failed("500")] * 3, "500 (failed 3 times)"),
        ([Coloured(b"<html>", "text/html", "v2")] * 3, "version v2 answered with something that is no picture"),
    ],
)
async def test_a_dead_job_is_among_the_dead_letters_with_its_reason(
    works: Works, outcomes: list[Refused | Failed | Coloured], words: str
) -> None:
    works.workers.outcomes = list(outcomes)
    job = await works.submit()
    for _ in outcomes:
        await works.dispatcher().work(await works.take())
        works.clock.move(dt.timedelta(minutes=2))
    dead = await works.load(job.id)
    assert dead.state is JobState.DEAD
    assert dead.words.startswith(words)
    assert [(letter.job, letter.words) for letter in await works.queue.dead_letters()] == [(job.id, dead.words)]


async def test_a_kill_between_a_dead_jobs_row_and_its_dead_letter_loses_neither(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    works.workers.outcomes = [Refused("422: in colour")]
    job = await works.submit()
    delivery = await works.take()
    with monkeypatch.context() as killed:
        killed.setattr(BreakableQueue, "away", True)
        with pytest.raises(UnavailableError):
            await works.dispatcher().work(delivery)
    assert (await works.load(job.id)).state is JobState.DEAD
    assert await works.queue.dead_letters() == ()
    await works.queue.release(delivery)
    await works.dispatcher().work(await works.take())
    assert [(letter.job, letter.words) for letter in await works.queue.dead_letters()] == [(job.id, "422: in colour")]
    assert await works.waiting() == 0


async def test_workers_that_are_away_kill_no_job(works: Works) -> None:
    works.workers.answer = lambda _: Away("Envoy cannot be reached")
    job = await works.submit()
    for _ in range(30):
        await works.dispatcher().work(await works.take())
        works.clock.move(dt.timedelta(minutes=2))
    works.workers.answer = lambda _: COLOURED
    await works.dispatcher().work(await works.take())
    done = await works.load(job.id)
    assert (done.state, done.attempts, done.failures) == (JobState.DONE, 31, 0)


async def test_a_job_whose_photo_is_gone_dies_with_that_reason(works: Works) -> None:
    job = await works.submit()
    await works.blobs.delete_blob(photo_key(job.id))
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).words == "its photo is not in the blob store any more"


async def test_a_photo_is_fetched_once_however_often_it_is_coloured(works: Works) -> None:
    job = await works.submit(image_url=URL)
    assert job.photo is None
    works.photos.there[URL] = PHOTO
    works.workers.outcomes = [Failed("500")]
    for _ in range(2):
        await works.dispatcher().work(await works.take())
        works.clock.move(2 * SECOND)
    done = await works.load(job.id)
    assert (done.state, done.photo) == (JobState.DONE, make_picture(photo_key(job.id)))
    assert works.photos.asked == [URL]
    assert files(works) == {photo_key(job.id), result_key(job.id, 2)}


@pytest.mark.parametrize(
    ("there", "state"),
    [
        (b"<html>", JobState.DEAD),
        (InvalidInputError("image_url", "is not public", "use a public one"), JobState.DEAD),
        (UnavailableError("image_url: its host does not answer"), JobState.WAITING),
    ],
)
async def test_a_photo_that_cannot_be_had_is_said_without_its_address(
    works: Works, there: bytes | Exception, state: JobState
) -> None:
    job = await works.submit(image_url=URL)
    works.photos.there[URL] = there
    await works.dispatcher().work(await works.take())
    found = await works.load(job.id)
    assert found.state is state
    assert found.words.startswith("image")
    assert "token" not in found.words
    assert works.workers.asked == []


async def test_blobs_that_are_away_are_not_the_jobs_fault(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await works.submit()
    delivery = await works.take()
    monkeypatch.setattr(BreakableBlobs, "away", True)
    await works.dispatcher().work(delivery)
    assert ((await works.load(job.id)).state, (await works.load(job.id)).failures) == (JobState.WAITING, 0)
    with pytest.raises(UnavailableError):
        await works.submit()
    monkeypatch.setattr(BreakableBlobs, "away", False)
    works.clock.move(2 * SECOND)
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE


async def test_a_dispatcher_that_died_loses_its_job_to_another_and_may_write_nothing(works: Works) -> None:
    job = await works.submit()
    first = await works.take()

    async def be_silent_too_long() -> None:
        works.clock.move(LEASE + SECOND)
        await works.keeper.look()
        await works.dispatcher(holder="other").work(await works.take())

    works.workers.meanwhile = be_silent_too_long
    await works.dispatcher().work(first)
    done = await works.load(job.id)
    assert (done.state, done.attempts) == (JobState.DONE, 2)
    assert done.result is not None
    assert files(works) == {photo_key(job.id), result_key(job.id, 2)}, "what the first one made is thrown away"


async def test_a_job_cancelled_while_it_runs_has_no_result(works: Works) -> None:
    job = await works.submit()

    works.workers.meanwhile = lambda: works.store.cancel_job(job.id, owner="ada", now=works.clock.now())
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.CANCELLED
    assert files(works) == {photo_key(job.id)}
    assert await works.waiting() == 0


async def test_a_result_that_is_stored_counts_even_if_the_queue_is_away(works: Works) -> None:
    job = await works.submit()
    delivery = await works.take()
    works.queue.away = True
    with pytest.raises(UnavailableError):
        await works.dispatcher().work(delivery)
    assert (await works.load(job.id)).state is JobState.DONE
    works.queue.away = False
    await works.queue.release(delivery)  # as a broker does with a connection that broke
    await works.dispatcher().work(await works.take())
    assert len(works.workers.asked) == 1


async def test_submissions_are_taken_while_the_broker_is_away_and_delivered_afterwards(works: Works) -> None:
    works.queue.away = True
    jobs = [await works.submit() for _ in range(3)]
    with pytest.raises(UnavailableError):
        await works.relay.move()
    works.queue.away = False
    assert await works.relay.move() == 3
    assert await works.relay.move() == 0
    assert await works.waiting() == 3
    assert [(await works.load(job.id)).state for job in jobs] == [JobState.WAITING] * 3


async def test_a_wake_up_that_the_queue_lost_comes_again(works: Works) -> None:
    job = await works.submit()
    await works.queue.acknowledge(await works.take())  # nobody has looked at the job
    works.clock.move(LOST_AFTER - SECOND)
    await works.keeper.look()
    assert await works.waiting() == 0
    works.clock.move(2 * SECOND)
    await works.keeper.look()
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE


async def test_a_wake_up_that_is_missing_in_an_empty_queue_comes_again_soon(works: Works) -> None:
    job = await works.submit()
    await works.queue.acknowledge(await works.take())  # the broker came back from a kill without it
    begun = works.clock.steady()
    keeper = dataclasses.replace(works.keeper, dry_since=lambda: begun)
    works.clock.move(DRY_FOR - SECOND)
    await keeper.look()
    assert await works.waiting() == 0, "it may be on its way"
    works.clock.move(2 * SECOND)
    await keeper.look()
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE


async def test_the_queue_is_dry_while_every_take_finds_nothing(works: Works) -> None:
    dispatcher = works.dispatcher(slots=1)
    dry: list[float | None] = []

    def answer(_: Job) -> Coloured:
        dry.append(dispatcher.dry_since)
        return COLOURED

    works.workers.answer = answer
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(dispatcher.run())
        first = await _dry_since(works, dispatcher)
        assert first >= 1000.0
        assert await _dry_since(works, dispatcher) == first, "since the first empty one"
        job = (await works.submit()).id
        await works.relay.move()
        while (await works.load(job)).state is not JobState.DONE:
            pass
        assert dry == [None], "it had something, and then had no room to look"
        assert await _dry_since(works, dispatcher) > first
        running.cancel()


async def _dry_since(works: Works, dispatcher: Dispatcher) -> float:
    while (since := dispatcher.dry_since) is None:
        await works.clock.sleep(SECOND)
    return since


async def test_a_queue_that_shows_each_reader_a_part_is_never_known_to_be_dry(works: Works) -> None:
    works.queue.sees_all = False
    dispatcher = works.dispatcher()
    job = (await works.submit()).id
    await works.relay.move()
    await run_until_done(works, dispatcher, job, is_drained=True)
    assert dispatcher.dry_since is None


async def test_pictures_of_deleted_jobs_go_once_the_blobs_are_back(works: Works) -> None:
    job = await works.submit()
    await works.store.delete_job(job.id, owner="ada", now=works.clock.now())
    assert files(works) == {photo_key(job.id)}
    await works.keeper.look()
    assert files(works) == set()
    await works.dispatcher().work(await works.take())
    assert works.workers.asked == []


async def run_until_done(works: Works, dispatcher: Dispatcher, *jobs: JobId, is_drained: bool = False) -> None:
    """Run until *jobs* are done, and (*is_drained*) their messages acknowledged, which comes after."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(dispatcher.run())
        for job in jobs:
            while (await works.load(job)).state is not JobState.DONE:
                pass
        while is_drained and await works.waiting():
            pass
        running.cancel()


@pytest.mark.parametrize("slots", [1, 3])
async def test_as_many_run_at_once_as_there_are_slots_and_vips_go_first(works: Works, slots: int) -> None:
    normal = [(await works.submit()).id for _ in range(5)]
    vip = (await works.submit(vip=True)).id
    await works.relay.move()
    works.workers.crowd = slots
    await run_until_done(works, works.dispatcher(slots=slots), vip, *normal)
    asked = [job.id for job in works.workers.asked]
    assert works.workers.most_running == slots
    assert vip in asked[:slots]
    assert sorted(asked) == sorted([vip, *normal])


async def test_a_bug_that_one_job_meets_does_not_stop_the_others(works: Works) -> None:
    bad = (await works.submit(task_id="bad")).id
    good = (await works.submit()).id

    def answer(job: Job) -> Coloured:
        if job.id == bad:
            raise ZeroDivisionError
        return COLOURED

    works.workers.answer = answer
    await works.relay.move()
    await run_until_done(works, works.dispatcher(slots=1), good)
    assert (await works.load(bad)).state is JobState.RUNNING, "its lease runs out, and it runs again"


async def test_a_stop_gives_its_jobs_back_at_once(works: Works) -> None:
    job = await works.submit()
    await works.relay.move()
    hanging = asyncio.Event()

    async def hang() -> None:
        hanging.set()
        await asyncio.Event().wait()

    works.workers.meanwhile = hang
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(works.dispatcher().run())
        await hanging.wait()
        running.cancel()
    waiting = await works.load(job.id)
    assert (waiting.state, waiting.failures, waiting.words) == (JobState.WAITING, 0, "its process was stopped")
    await works.dispatcher(holder="other").work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE


async def test_a_stop_leaves_what_waits_for_its_version_to_others_at_once(works: Works) -> None:
    await cover(works, v1=5_000, v2=5_000)
    works.workers = workers = CountingWorkers()  # they wait until two run at each version, which never comes
    jobs = [await submit_for(works, version, place) for place in range(3) for version in ("v1", "v2")]
    await works.relay.move()
    dispatcher = works.dispatcher(slots=1)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(dispatcher.run())
        while workers.now != {"v1": 1, "v2": 1}:
            await works.load(jobs[0])
        running.cancel()
    for _ in range(3):
        works.clock.move(SECOND)
        await works.relay.move()
    taken = await works.queue.take(["photos"], limit=100)
    assert {delivery.wake_up.job for delivery in taken} == set(jobs)


async def test_work_whose_lease_was_lost_is_cut_off(works: Works) -> None:
    job = await works.submit()
    hanging = asyncio.Event()

    async def hang() -> None:
        await works.store.cancel_job(job.id, owner="ada", now=works.clock.now())
        hanging.set()
        await asyncio.Event().wait()

    works.workers.meanwhile = hang
    other = await works.submit()
    await works.relay.move()
    await run_until_done(works, works.dispatcher(slots=1), other.id, is_drained=True)
    assert hanging.is_set()


# -- rollouts ----------------------------------------------------------------------------------------------------------


async def cover(works: Works, *, draw_header: str = "x-draw", **weights_bp: int) -> Rollout:
    """Have a rollout cover the jobs, which gives v2 so much."""
    await works.store.apply(dataclasses.replace(make_spec(), draw_header=draw_header), by="ada", why="", now=NOW)
    await works.store.apply_kind(make_kind(service="colorize", attempts=1), make_change())
    rollout = await works.store.start(make_new_rollout(), key=None, now=NOW)
    return await works.store.save(rollout, split=make_split(**weights_bp), now=NOW)


@pytest.mark.parametrize("outcome", [Failed("500", "v2"), Refused("422", "v2"), Failed("no answer within 300 s")])
async def test_what_a_candidate_fails_the_stable_version_does(works: Works, outcome: Failed | Refused) -> None:
    await cover(works, v1=1, v2=9_999)
    works.workers.outcomes = [outcome]
    job = await works.submit()
    dispatcher = works.dispatcher()
    await dispatcher.work(await works.take())
    waiting = await works.load(job.id)
    assert (waiting.state, waiting.failures, waiting.stable_only) == (JobState.WAITING, 0, True)
    works.clock.move(2 * SECOND)
    await dispatcher.work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE
    assert [kind.headers["x-draw"] for kind in works.workers.kinds] == [str(draw(job.id)), "0"]


async def test_what_no_version_was_asked_is_no_versions_failure(works: Works) -> None:
    rollout = await cover(works, v1=0, v2=10_000)
    job = await works.submit()
    await works.blobs.delete_blob(photo_key(job.id))
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DEAD
    ended = dataclasses.replace(rollout, state=RolledBack(works.clock.now(), RollbackCause.SLO_BREACH, "errors"))
    await works.store.save(ended, now=works.clock.now())
    await works.keeper.look()
    assert (await works.load(job.id)).state is JobState.DEAD


async def test_a_rollout_that_goes_back_has_the_jobs_that_died_of_it_run_again(works: Works) -> None:
    rollout = await cover(works, draw_header="", v1=5_000, v2=5_000)
    works.workers.outcomes = [Failed("no answer within 300 s")]
    job = await works.submit()
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DEAD, "nobody knows that it was v2"
    ended = dataclasses.replace(rollout, state=RolledBack(works.clock.now(), RollbackCause.SLO_BREACH, "errors"))
    await works.store.save(ended, split=make_split(v1=10_000, v2=0), now=works.clock.now())
    await works.keeper.look()
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE


async def submit_for(works: Works, version: str, place: int) -> JobId:
    """Submit a job whose draw means *version* at 50 : 50."""
    number = place if version == "v1" else 5_000 + place
    job = JobId(f"{number:08x}{0:024x}")
    assert draw(job) == number
    await works.blobs.put_blob(photo_key(job), PHOTO)
    await works.store.submit(
        make_new_job(id=job, task_id=job, photo=make_picture(photo_key(job))), key=None, now=works.clock.now()
    )
    return job


class CountingWorkers(FakeWorkers):
    """Count how many run at once at each version, by what the call's draw means at 50 : 50."""

    def __init__(self) -> None:
        super().__init__()
        self.now: collections.Counter[str] = collections.Counter()
        self.most: collections.Counter[str] = collections.Counter()
        self.full = asyncio.Event()

    async def colour(self, job: Job, kind: JobKind, photo: bytes) -> Outcome:
        version = "v1" if int(kind.headers["x-draw"]) < 5_000 else "v2"
        self.now[version] += 1
        self.most[version] = max(self.most[version], self.now[version])
        if set(self.now.values()) == {2} and len(self.now) == 2:
            self.full.set()
        await self.full.wait()
        self.now[version] -= 1
        return await super().colour(job, kind, photo)


async def test_each_version_has_slots_of_its_own(works: Works) -> None:
    await cover(works, v1=5_000, v2=5_000)
    works.workers = workers = CountingWorkers()
    jobs = [await submit_for(works, version, place) for place in range(6) for version in ("v1", "v2")]
    await works.relay.move()
    await run_until_done(works, works.dispatcher(slots=2), *jobs)
    assert workers.most == {"v1": 2, "v2": 2}
