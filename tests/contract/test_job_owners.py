"""Owners of jobs in the store: what was agreed is read back, and of two last places nobody gets more than one."""

import asyncio
import datetime as dt

import pytest

from controlplane.errors import InvalidInputError, NotFoundError, OverQuotaError
from controlplane.jobs.model import Job, photo_key
from controlplane.jobs.owners import JobOwner, JobUsage, Quotas
from controlplane.store import SqlStore
from tests.builders import NOW, make_change
from tests.contract.test_jobs import claim, finish
from tests.job_builders import PHOTO, PNG, make_kind, make_new_job, make_picture

DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
MANY = Quotas()


@pytest.fixture(autouse=True)
async def _kinds(store: SqlStore) -> None:
    await store.apply_kind(make_kind(), make_change())


async def submit(
    store: SqlStore, *, quotas: Quotas = MANY, now: dt.datetime = NOW, key: str | None = None, **changes: object
) -> Job:
    return await store.submit(make_new_job(**changes), key=key, now=now, quotas=quotas)


async def use(store: SqlStore, *, quotas: Quotas = MANY, now: dt.datetime = NOW, owner: str = "ada") -> JobUsage:
    return await store.load_usage(owner, quotas=quotas, now=now)


async def test_what_was_agreed_is_read_back_and_the_same_again_changes_nothing(store: SqlStore) -> None:
    ada = JobOwner(name="ada", keep=DAY, max_waiting=3, max_daily=0, max_bytes=1 << 45, vip=False)
    bob = JobOwner(name="Bob@example.org")
    assert await store.apply_owner(ada, make_change())
    assert await store.apply_owner(bob, make_change())
    assert not await store.apply_owner(ada, make_change())
    assert set(await store.list_owners()) == {bob, ada}
    first, second = await store.list_owners()
    assert await store.list_owners(limit=1) == (first,)
    assert await store.list_owners(after=first.name, limit=1) == (second,)
    assert await store.list_owners(after=second.name) == ()
    assert await store.find_owner("ada") == ada
    assert await store.find_owner("eve") is None
    changed = JobOwner(name="ada", max_waiting=3)
    assert await store.apply_owner(changed, make_change())
    assert await store.find_owner("ada") == changed
    await store.delete_owner("ada", make_change())
    assert await store.list_owners() == (bob,)
    with pytest.raises(NotFoundError, match=r"job owner 'ada' does not exist \(known: Bob@example.org\)"):
        await store.delete_owner("ada", make_change())


async def test_what_an_owner_has_is_counted_from_the_rows(store: SqlStore) -> None:
    waiting, done = await submit(store), await submit(store, now=NOW + HOUR)
    await submit(store, owner="bob")
    await finish(store, await claim(store, done))
    cancelled = await submit(store, image_url="https://x/", photo=None)
    await store.cancel_job(cancelled.id, owner="ada", now=NOW)
    stored = 2 * len(PHOTO) + len(PNG)
    assert await use(store) == JobUsage(waiting=1, daily=3, bytes=stored)
    assert await use(store, now=NOW + DAY) == JobUsage(waiting=1, daily=1, bytes=stored)
    await store.delete_job(waiting.id, owner="ada", now=NOW)
    await store.forget_pictures([waiting.id], now=NOW)
    assert await use(store) == JobUsage(waiting=0, daily=3, bytes=len(PHOTO) + len(PNG))
    assert await use(store, owner="nobody") == JobUsage(waiting=0, daily=0, bytes=0)
    tight = await use(store, quotas=Quotas(max_daily=2))
    assert tight.daily_free_at == NOW + DAY, "when the second newest is a day old"


@pytest.mark.parametrize(
    ("quotas", "quota", "retry_after"),
    [
        (Quotas(max_waiting=1), "max_waiting", None),
        (Quotas(max_daily=1), "max_daily", DAY - HOUR),
        (Quotas(max_bytes=2 * len(PHOTO) - 1), "max_bytes", None),
        (Quotas(max_daily=0), "max_daily", None),
    ],
)
async def test_one_too_many_leaves_no_row_and_no_wake_up(
    store: SqlStore, quotas: Quotas, quota: str, retry_after: dt.timedelta | None
) -> None:
    first = await submit(store, task_id="t", key="ada/k")
    for refused in (
        submit(store, quotas=quotas, now=NOW + HOUR),
        store.admit(make_new_job(), key=None, now=NOW + HOUR, quotas=quotas),
    ):
        with pytest.raises(OverQuotaError, match=quota) as over:
            await refused
        assert (over.value.quota, over.value.retry_after) == (quota, retry_after)
    assert await store.list_jobs("ada") == (first,)
    assert len(await store.load_outbox(now=NOW + DAY)) == 1
    assert await submit(store, task_id="t", key="ada/k", quotas=quotas) == first, "a repetition is none too many"
    assert await store.admit(make_new_job(task_id="t"), key=None, now=NOW, quotas=quotas) == first
    assert (await submit(store, owner="bob", photo=None, quotas=Quotas(max_waiting=1))).owner == "bob"


async def test_an_agreement_wins_over_the_defaults(store: SqlStore) -> None:
    await store.apply_owner(JobOwner(name="ada", max_waiting=2, vip=False), make_change())
    for _ in range(2):
        await submit(store, quotas=Quotas(max_waiting=1))
    with pytest.raises(OverQuotaError, match="may have 2"):
        await submit(store, quotas=MANY)
    vip = make_new_job(vip=True)
    with pytest.raises(InvalidInputError, match="vip is not agreed for ada"):
        await store.submit(vip, key=None, now=NOW)
    with pytest.raises(InvalidInputError, match="vip is not agreed for ada"):
        await store.admit(vip, key=None, now=NOW)


async def test_of_many_at_once_no_more_get_in_than_there_is_room_for(store: SqlStore, other: SqlStore) -> None:
    quotas = Quotas(max_waiting=3)
    refused: list[str] = []

    async def try_one(at: SqlStore, owner: str) -> None:
        try:
            await submit(at, owner=owner, quotas=quotas)
        except OverQuotaError:
            refused.append(owner)

    owners = ["first", "second", "third"]  # the first one's connections are still being made
    for owner in owners:
        async with asyncio.TaskGroup() as tasks:
            for number in range(12):
                tasks.create_task(try_one(store if number % 2 else other, owner))
    assert [len(await store.list_jobs(owner)) for owner in owners] == [3, 3, 3]
    assert [refused.count(owner) for owner in owners] == [9, 9, 9]


async def test_a_photo_of_a_job_counts_from_when_it_was_fetched(store: SqlStore) -> None:
    job = await submit(store, photo=None, image_url="https://x/")
    assert (await use(store)).bytes == 0
    mine = await claim(store, job)
    await store.attach_photo(mine, make_picture(photo_key(job.id)))
    assert (await use(store)).bytes == len(PHOTO)
