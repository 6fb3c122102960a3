"""What is left of jobs: pictures and rows until their time is over, and nothing that a kill left behind."""

import datetime as dt
import os

import pytest
import structlog

from controlplane.errors import ConflictError, GoneError, InvalidInputError, NotFoundError, UnavailableError
from controlplane.jobs.dispatcher import LEASE
from controlplane.jobs.leftovers import GRACE, MOST_UNKNOWN, LeftoverScan, is_left_over
from controlplane.jobs.model import JobId, JobState, photo_key, result_key
from controlplane.jobs.owners import JobOwner
from controlplane.jobs.ports import StoredBlob
from controlplane.store.job_attempts import SqlAttempts
from controlplane.store.jobs import SqlJobs
from tests.builders import NOW, make_change
from tests.job_builders import PHOTO, PNG, RESULT, make_kind
from tests.unit.jobs.conftest import BreakableBlobs, Works
from tests.unit.jobs.test_dispatcher import files
from tests.unit.jobs.test_model import make_job

DAY = dt.timedelta(days=1)
SECRET = "https://photos.example.org/1.jpg?token=s3cret"  # noqa: S105 - of these tests
STRAY = "f" * 32


async def done(works: Works) -> JobId:
    job = await works.submit()
    await works.dispatcher().work(await works.take())
    return job.id


async def test_pictures_of_a_job_go_when_their_time_is_over_and_its_figures_stay(works: Works) -> None:
    job = await done(works)
    await works.blobs.put_blob(result_key(job, 7), PNG)  # of an attempt that did not count
    waiting = await works.submit()
    works.clock.move(7 * DAY - dt.timedelta(seconds=1))
    await works.keeper.look()
    assert (await works.desk.result(job, owner="ada"))[1] == RESULT
    works.clock.move(dt.timedelta(seconds=1))
    await works.keeper.look()
    assert files(works) == {photo_key(waiting.id)}
    left = await works.load(job)
    assert (left.state, left.version, left.photo, left.result) == (JobState.DONE, "v1", None, None)
    assert (left.swept_at, left.expires_at) == (works.clock.now(), None)
    with pytest.raises(GoneError, match=f"job {job} is done, but its pictures were removed on 20"):
        await works.desk.result(job, owner="ada")
    await works.desk.delete(job, owner="ada")
    with pytest.raises(NotFoundError):
        await works.load(job)


async def test_an_owners_shorter_time_wins_and_each_end_counts(works: Works) -> None:
    await works.store.apply_owner(JobOwner(name="ada", keep=DAY), make_change())
    cancelled = await works.submit()
    await works.store.cancel_job(cancelled.id, owner="ada", now=works.clock.now())
    assert (await works.load(cancelled.id)).expires_at == works.clock.now() + DAY
    works.clock.move(DAY)
    await works.keeper.look()
    assert files(works) == set()
    with pytest.raises(ConflictError, match="is cancelled"):
        await works.desk.result(cancelled.id, owner="ada")


async def test_a_sweep_that_the_blobs_interrupt_goes_on_later(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise UnavailableError("HUESHIFT_BLOBS: the bucket is away")

    job = await done(works)
    works.clock.move(8 * DAY)
    with monkeypatch.context() as broken:
        broken.setattr(BreakableBlobs, "delete_blob", refuse)
        with pytest.raises(UnavailableError):
            await works.keeper.look()
    assert (await works.load(job)).swept_at is None
    await works.keeper.look()
    assert (await works.load(job)).swept_at == works.clock.now()


async def test_rows_go_after_their_own_time_and_never_before_the_pictures(works: Works) -> None:
    await works.store.apply_kind(make_kind(keep=200 * DAY), make_change())
    long = await done(works)
    await works.store.apply_kind(make_kind(), make_change())
    job = await works.submit(task_id="again")
    await works.desk.delete(job.id, owner="ada")
    works.clock.move(89 * DAY)
    await works.keeper.look()
    with pytest.raises(ConflictError, match="was used for a job that was deleted"):
        await works.submit(task_id="again")
    works.clock.move(2 * DAY)
    await works.keeper.look()
    assert (await works.submit(task_id="again")).id != job.id
    assert (await works.load(long)).result is not None
    works.clock.move(110 * DAY)
    await works.keeper.look()  # the pictures
    await works.keeper.look()  # the row
    with pytest.raises(NotFoundError):
        await works.load(long)


# -- what a kill left --------------------------------------------------------------------------------------------------


def age(works: Works, key: str, by: dt.timedelta = 2 * GRACE) -> None:
    """Make a blob so old, by the test's clock."""
    written = (works.clock.now() - by).timestamp()
    os.utime(works.blobs.folder / key, (written, written))


async def test_blobs_that_no_row_names_go_once_they_are_old(works: Works) -> None:
    job, waiting = await done(works), (await works.submit()).id
    wanted = [photo_key(job), result_key(job, 1), photo_key(waiting), result_key(waiting, 3)]
    left = [f"photos/{STRAY}", f"results/{STRAY}/1", result_key(job, 2), "photos/.part-x1", f"results/{job}/.part-y"]
    strange = ["photos/readme.txt", f"photos/{STRAY}.bak", "photos/deeper/.part-z"]
    for key in (result_key(waiting, 3), *left, *strange):
        await works.blobs.put_blob(key, PNG)
    young = f"photos/{'e' * 32}"
    await works.blobs.put_blob(young, PHOTO)
    for key in (*wanted, *left, *strange):
        age(works, key)
    age(works, young, GRACE - dt.timedelta(minutes=30))
    scan = LeftoverScan(store=works.store, blobs=works.blobs, clock=works.clock, page=2)
    removed = 0
    for _ in range(12):
        removed += await scan.look()
        assert await scan.look() == 0, "one page per pause"
        works.clock.move(scan.pause)
    assert removed == len(left)
    assert files(works) >= {*wanted, *strange}
    assert not files(works) & set(left)
    assert not (works.blobs.folder / "results" / STRAY).exists(), "nor are empty folders left"


async def test_what_a_kill_in_between_leaves_goes(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_: object, **__: object) -> None:
        raise UnavailableError("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(SqlJobs, "submit", die)
        with pytest.raises(UnavailableError):
            await works.submit()
    (orphan,) = files(works)
    job = (await works.submit()).id
    with monkeypatch.context() as broken:
        broken.setattr(SqlAttempts, "finish_job", die)
        with pytest.raises(UnavailableError):
            await works.dispatcher().work(await works.take())
    works.clock.move(LEASE * 2)
    await works.keeper.look()
    await works.dispatcher().work(await works.take())
    wanted = {photo_key(job), result_key(job, 2)}
    assert files(works) == {orphan, *wanted, result_key(job, 1)}
    for key in files(works):
        age(works, key)
    for _ in range(3):
        works.clock.move(works.keeper.scan.rest)
        await works.keeper.look()
    assert files(works) == wanted
    assert (await works.desk.result(job, owner="ada"))[1] == RESULT


async def test_the_keeper_scans_and_rests_when_it_has_seen_all(works: Works) -> None:
    for _ in range(2):
        await works.blobs.put_blob(f"photos/{STRAY}", PHOTO)
        age(works, f"photos/{STRAY}")
        await works.keeper.look()
        assert files(works) == set()
        works.clock.move(works.keeper.scan.pause)
        await works.keeper.look()
        works.clock.move(works.keeper.scan.rest)


async def test_blobs_of_another_database_are_left_alone(works: Works) -> None:
    for number in range(MOST_UNKNOWN + 1):
        key = f"photos/{number:032x}"
        await works.blobs.put_blob(key, PHOTO)
        age(works, key)
    with structlog.testing.capture_logs() as logs:
        await works.keeper.look()
    assert len(files(works)) == MOST_UNKNOWN + 1
    assert [line["blobs"] for line in logs if line["event"] == "jobs.blobs_of_another_database"] == [MOST_UNKNOWN + 1]


def test_a_blob_as_young_as_an_upload_is_never_left_over() -> None:
    blob = StoredBlob(f"photos/{STRAY}", NOW)
    assert not is_left_over(blob, {}, now=NOW + GRACE - dt.timedelta(seconds=1))
    assert is_left_over(blob, {}, now=NOW + GRACE)
    running = make_job()
    assert not is_left_over(StoredBlob(f"results/{STRAY}/1", NOW), {JobId(STRAY): running}, now=NOW + GRACE)


async def test_jobs_that_ended_under_the_release_before_get_their_time_too(works: Works) -> None:
    job = await done(works)
    await works.store.database.write(lambda tx: tx.conn.exec_driver_sql("UPDATE job SET expires_at = NULL").rowcount)
    await works.keeper.look()
    assert (await works.load(job)).expires_at == NOW + 7 * DAY


# -- logs --------------------------------------------------------------------------------------------------------------


async def test_no_log_line_has_a_picture_or_a_secret_address(
    works: Works, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise UnavailableError("HUESHIFT_BLOBS: the bucket is away")

    with structlog.testing.capture_logs() as logs:
        kept = await done(works)
        fetched = await works.submit(image_url=SECRET)
        for failure in (UnavailableError("image_url: its host answers 500"), InvalidInputError("image_url", "x", "y")):
            works.photos.there[SECRET] = failure
            works.clock.move(dt.timedelta(minutes=2))
            await works.dispatcher().work(await works.take())
        other = await works.submit(image_url=SECRET)
        with monkeypatch.context() as broken:
            broken.setattr(BreakableBlobs, "delete_blob", refuse)
            await works.desk.delete(other.id, owner="ada")
        await works.desk.delete(kept, owner="ada")
        works.clock.move(100 * DAY)
        for _ in range(2):
            await works.keeper.look()
    assert {"job.done", "job.waits_again", "job.died", "job.pictures_not_deleted", "jobs.pictures_removed"} <= {
        line["event"] for line in logs
    }
    seen = repr(logs) + caplog.text
    for secret in ("s3cret", "1.jpg", repr(PHOTO)[2:20], repr(PNG)[2:20]):
        assert secret not in seen
    with pytest.raises(NotFoundError):
        await works.load(fetched.id)


async def test_a_statement_that_fails_does_not_tell_its_values(works: Works) -> None:
    with pytest.raises(ConflictError) as refused:
        await works.store.database.write(
            lambda tx: tx.conn.exec_driver_sql("INSERT INTO job (id, image_url) VALUES (?, ?)", ("x", SECRET)).rowcount
        )
    assert "s3cret" not in repr(refused.value.__cause__) + str(refused.value.__cause__) + str(refused.value)
