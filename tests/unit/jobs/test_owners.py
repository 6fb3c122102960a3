"""Owners' quotas: what is over one is refused by name, with the time where it is known; repetitions never are."""

import datetime as dt
import pathlib

import pytest

from controlplane.errors import InvalidInputError, OverQuotaError
from controlplane.job_parts import open_jobs
from controlplane.jobs.model import JobState, Order
from controlplane.jobs.owners import (
    JobOwner,
    JobUsage,
    Quotas,
    check_quotas,
    check_vip,
    keep_for,
    room_for,
)
from controlplane.settings import read_settings
from controlplane.store.jobs import SqlJobs
from tests.builders import NOW, make_change
from tests.job_builders import PHOTO, WORKFLOW
from tests.unit.jobs.conftest import Works

HOUR = dt.timedelta(hours=1)
QUOTAS = Quotas(max_waiting=2, max_daily=5, max_bytes=1000)


def use(waiting: int = 0, daily: int = 0, stored: int = 0, free_at: dt.datetime | None = None) -> JobUsage:
    return JobUsage(waiting=waiting, daily=daily, bytes=stored, daily_free_at=free_at)


@pytest.mark.parametrize(
    ("usage", "photo_bytes", "quota", "words", "retry_after"),
    [
        (use(waiting=2), 1, "max_waiting", "ada has 2 jobs that wait or run, and may have 2; wait until", None),
        (use(daily=5), 1, "max_daily", "ada has submitted 5 jobs within 24 hours, and may submit 5; wait", None),
        (use(daily=5, free_at=NOW + HOUR), 1, "max_daily", "raised", HOUR),
        (use(daily=5, free_at=NOW - HOUR), 1, "max_daily", "raised", dt.timedelta(0)),
        (use(stored=950), 51, "max_bytes", "has 950 bytes of pictures stored, sends 51, and may have 1000", None),
        (use(stored=1000), 0, "max_bytes", "delete jobs whose results you have", None),
    ],
)
def test_what_is_over_a_quota_is_named(
    usage: JobUsage, photo_bytes: int, quota: str, words: str, retry_after: dt.timedelta | None
) -> None:
    with pytest.raises(OverQuotaError) as refused:
        check_quotas("ada", QUOTAS, usage, photo_bytes=photo_bytes, now=NOW)
    assert (refused.value.quota, refused.value.retry_after) == (quota, retry_after)
    assert str(refused.value).startswith(f"{quota}: ada has")
    assert words in str(refused.value)


def test_what_is_just_within_all_quotas_is_let_through() -> None:
    check_quotas("ada", QUOTAS, use(waiting=1, daily=4, stored=950), photo_bytes=50, now=NOW)
    check_quotas("ada", QUOTAS, use(waiting=1, daily=4, stored=999), photo_bytes=0, now=NOW)


@pytest.mark.parametrize(
    ("usage", "room"),
    [(use(), 2), (use(waiting=1), 1), (use(daily=4), 1), (use(waiting=7), 0), (use(stored=1000), 0)],
)
def test_the_room_is_what_the_tightest_quota_leaves(usage: JobUsage, room: int) -> None:
    assert room_for(QUOTAS, usage) == room


def test_what_was_not_agreed_is_the_default_and_the_shorter_time_wins() -> None:
    assert JobOwner(name="ada", max_daily=0).quotas(QUOTAS) == Quotas(max_waiting=2, max_daily=0, max_bytes=1000)
    assert keep_for(2 * HOUR, None) == 2 * HOUR
    assert keep_for(2 * HOUR, HOUR) == HOUR
    assert keep_for(HOUR, 2 * HOUR) == HOUR


def test_vip_is_refused_only_where_it_was_excluded() -> None:
    check_vip(None, vip=True)
    check_vip(JobOwner(name="ada"), vip=True)
    check_vip(JobOwner(name="ada", vip=False), vip=False)
    with pytest.raises(InvalidInputError, match="priority: vip is not agreed for ada; leave it out"):
        check_vip(JobOwner(name="ada", vip=False), vip=True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "owner"),
        ({"name": "a b"}, "owner"),
        ({"name": "x" * 64}, "owner"),
        ({"keep": dt.timedelta(seconds=59)}, "keep"),
        ({"keep": dt.timedelta(days=3651)}, "keep"),
        ({"max_waiting": -1}, "max_waiting"),
        ({"max_daily": 1_000_000_001}, "max_daily"),
        ({"max_bytes": (1 << 50) + 1}, "max_bytes"),
    ],
)
def test_an_agreement_that_makes_no_sense_is_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        JobOwner(**{"name": "ada", **changes})  # type: ignore[arg-type] # passed through
    assert refused.value.field == field


# -- at the desk -------------------------------------------------------------------------------------------------------


async def test_over_quota_nothing_is_stored_and_a_repetition_is_still_answered(works: Works) -> None:
    works.desk.quotas = Quotas(max_waiting=1)
    first = await works.submit(task_id="one")
    with pytest.raises(OverQuotaError, match="max_waiting"):
        await works.submit(task_id="two")
    with pytest.raises(OverQuotaError, match="max_waiting"):
        await works.submit(task_id="two", image_url="https://photos.example.org/1.jpg")
    assert await works.submit(task_id="one") == first
    assert len(list((works.blobs.folder / "photos").iterdir())) == 1
    assert len(await works.store.list_jobs("ada")) == 1
    await works.dispatcher().work(await works.take())
    assert (await works.submit(task_id="two")).state is JobState.WAITING


async def test_a_photo_that_lost_the_race_for_the_last_place_is_not_kept(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def admit(*_: object, **__: object) -> None:
        """Say yes, as it does a moment before another one takes the place."""

    await works.store.apply_owner(JobOwner(name="ada", max_bytes=len(PHOTO)), make_change())
    await works.submit()
    monkeypatch.setattr(SqlJobs, "admit", admit)
    with pytest.raises(OverQuotaError, match="max_bytes"):
        await works.submit()
    assert len(list((works.blobs.folder / "photos").iterdir())) == 1


async def test_the_settings_are_the_defaults(works: Works, tmp_path: pathlib.Path) -> None:
    given = {"job_max_waiting": 1, "job_max_daily": 2, "job_max_bytes": "3KiB", "job_rows_keep": dt.timedelta(days=4)}
    settings = read_settings(data_dir=tmp_path, **given)
    async with open_jobs(settings, store=works.store, clock=works.clock, board=works.board) as parts:
        assert parts.desk.quotas == Quotas(max_waiting=1, max_daily=2, max_bytes=3072)
        assert parts.keeper.rows_keep == dt.timedelta(days=4)
    for name, value in (("max_waiting", -1), ("max_daily", "many"), ("max_bytes", "3 apples"), ("rows_keep", "1h")):
        with pytest.raises(InvalidInputError, match=f"HUESHIFT_JOB_{name.upper()}: "):
            read_settings(**{f"job_{name}": value})


async def test_vip_that_was_not_agreed_is_refused_before_anything_is_stored(works: Works) -> None:
    await works.store.apply_owner(JobOwner(name="ada", vip=False), make_change())
    with pytest.raises(InvalidInputError, match="vip is not agreed"):
        await works.desk.submit(Order(workflow=WORKFLOW, vip=True), PHOTO, owner="ada", key=None)
    assert not works.blobs.folder.exists()
    await works.submit()
