"""What whoever runs the jobs is told and may do: another chance, reports though the broker is away, operators."""

import datetime as dt

import pytest

from controlplane.errors import ConflictError, UnavailableError
from controlplane.jobs.model import Failed, JobState, Refused, photo_key
from controlplane.jobs.operations import ALL_KINDS, DeadTask, Letters
from controlplane.jobs.ports import MAX_BATCH, DeadLetter
from tests.builders import make_change
from tests.job_builders import PHOTO, make_kind, make_overseer
from tests.unit.jobs.conftest import BreakableQueue, Works

URL = "https://photos.example.org/1.jpg"
SECOND = dt.timedelta(seconds=1)


class Tasks:
    """Foreign messages that became no jobs."""

    async def dead_tasks(self, *, limit: int = MAX_BATCH) -> tuple[DeadTask, ...]:
        return (DeadTask("{", "body: is not JSON"), DeadTask("[]", "body: is not JSON"))[:limit]


class AwayQueue(BreakableQueue):
    """A queue whose dead letters cannot be looked at."""

    async def dead_letters(self, *, limit: int = MAX_BATCH) -> tuple[DeadLetter, ...]:
        raise UnavailableError(f"HUESHIFT_QUEUE_URL: the broker is away, and so are {limit} letters")


async def test_a_dead_job_runs_again_and_its_letter_counts_no_more(works: Works) -> None:
    works.workers.outcomes = [Refused("422: in colour")]
    job, other = await works.submit(), await works.submit()
    overseer = make_overseer(works.store, works.blobs, works.clock, queue=works.queue)
    await works.relay.move()
    for delivery in await works.queue.take(["photos"], limit=2):
        works.workers.outcomes = [Refused("422: in colour")]
        await works.dispatcher().work(delivery)
    assert (await overseer.report()).letters == Letters(reasons=(("422: in colour", 2),))
    assert (await overseer.retry(job.id, owner="ada")).state is JobState.WAITING
    assert (await overseer.report()).letters == Letters(reasons=(("422: in colour", 1),))
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE
    with pytest.raises(ConflictError, match="is done; only one that is dead or cancelled can be run again"):
        await overseer.retry(job.id, owner="ada")
    await works.blobs.delete_blob(photo_key(other.id))
    with pytest.raises(ConflictError, match="its photo is gone; hand the photo in anew"):
        await overseer.retry(other.id, owner="ada")
    assert (await works.load(other.id)).state is JobState.DEAD


async def test_all_failures_are_forgiven(works: Works) -> None:
    works.workers.outcomes = [Failed("500")] * 5
    job = await works.submit()
    overseer = make_overseer(works.store, works.blobs, works.clock, queue=works.queue)
    for _ in range(3):
        await works.dispatcher().work(await works.take())
        works.clock.move(dt.timedelta(minutes=2))
    await overseer.retry(job.id, owner="ada")
    for _ in range(3):
        await works.dispatcher().work(await works.take())
        works.clock.move(dt.timedelta(minutes=2))
    assert (await works.load(job.id)).state is JobState.DONE


async def test_a_photo_that_is_gone_is_fetched_again(works: Works) -> None:
    works.photos.there[URL] = PHOTO
    works.workers.outcomes = [Refused("422")]
    job = await works.submit(image_url=URL)
    await works.dispatcher().work(await works.take())
    await works.blobs.delete_blob(photo_key(job.id))
    overseer = make_overseer(works.store, works.blobs, works.clock, queue=works.queue)
    assert (await overseer.retry(job.id, owner="ada")).photo is None
    await works.dispatcher().work(await works.take())
    assert (await works.load(job.id)).state is JobState.DONE
    assert works.photos.asked == [URL, URL]


async def test_a_report_has_what_rows_say_though_the_broker_is_away(works: Works) -> None:
    await works.submit()
    away = AwayQueue(database=works.store.database, clock=works.clock)
    overseer = make_overseer(works.store, works.blobs, works.clock, queue=away, tasks=Tasks())
    report = await overseer.report()
    assert (report.standing.backlogs[0].waiting, report.standing.outbox) == (1, 1)
    assert (report.letters, report.tasks) == (Letters(), Letters())
    assert report.trouble.startswith("HUESHIFT_QUEUE_URL: the broker is away")
    overseer = make_overseer(works.store, works.blobs, works.clock, queue=works.queue, tasks=Tasks())
    assert (await overseer.report()).tasks == Letters(reasons=(("body: is not JSON", 2),))


async def test_a_drained_kind_starts_nothing_on_any_replica_and_goes_on_by_itself(works: Works) -> None:
    """Kinds that share a queue are told apart, and wake-ups that were taken meanwhile come back at the end."""
    await works.store.apply_kind(make_kind("building"), make_change())
    drained, dispatcher = await works.submit(), works.dispatcher()
    delivery = await works.take()
    await works.store.begin_drain("person", by="ada", why="", now=works.clock.now())
    await dispatcher.work(delivery)
    assert works.workers.asked == []
    assert await works.waiting() == 0
    await works.store.end_drain("person", by="ada", why="", now=works.clock.now() + SECOND)
    works.clock.move(SECOND)
    await works.dispatcher(holder="other").work(await works.take())
    assert (await works.load(drained.id)).state is JobState.DONE


async def test_queues_of_which_all_kinds_are_drained_are_left_alone(works: Works) -> None:
    await works.submit()
    await works.relay.move()
    await works.store.begin_drain(ALL_KINDS, by="ada", why="", now=works.clock.now())
    assert await works.dispatcher()._take() == ()
    assert await works.waiting() == 1, "its wake-up was not even touched"
    await works.store.end_drain(ALL_KINDS, by="ada", why="", now=works.clock.now())
    assert len(await works.dispatcher()._take()) >= 1
