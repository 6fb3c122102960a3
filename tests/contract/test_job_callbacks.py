"""Callbacks and their outbox in the store: every end leaves its notices in its own transaction, and none is lost."""

import asyncio
import datetime as dt

import pytest

from controlplane.courier.model import GivenUp, Heard, Later
from controlplane.courier.signatures import OLD_SECRET_FOR
from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.callback_ports import Applied, CallbackStore
from controlplane.jobs.callbacks import EVENTS, MAX_CALLBACKS, OWN, Callback, Notice
from controlplane.jobs.model import Again, AttemptOutcome, Claim, Job, JobState, result_key
from controlplane.jobs.ports import EndedAttempt
from controlplane.store import SqlStore
from controlplane.wake import Topic
from tests.builders import NOW, make_change, make_spec
from tests.contract.conftest import Ears
from tests.contract.test_job_lanes import roll_back
from tests.job_builders import PNG, make_kind, make_new_job, make_picture

IS_A_STORE: type[CallbackStore] = SqlStore  # mypy sits this exam

SECOND = dt.timedelta(seconds=1)
UNTIL = NOW + 45 * SECOND
SHOP = "https://shop.example.org/hooks"
OWN_URL = "https://own.example.org/7f3a"
FAILED = EndedAttempt(AttemptOutcome.FAILED, "500", "v2")
AGAIN = Again("500", dt.timedelta(0), counts=True)
ONE, TWO, THREE, X = "whsec_one", "whsec_two", "whsec_three", "whsec_x"


@pytest.fixture(autouse=True)
async def _kinds(store: SqlStore) -> None:
    await store.apply_kind(make_kind(), make_change())


async def apply(
    store: SqlStore,
    name: str = "shop",
    address: str = SHOP,
    *,
    events: tuple[JobState, ...] = EVENTS,
    owner: str = "ada",
    secret: str | None = None,
) -> Applied:
    callback = Callback(owner=owner, name=name, address=address, events=frozenset(events))
    return await store.apply_callback(callback, secret=secret, spare=f"whsec_{name}", now=NOW)


async def submit(store: SqlStore, **changes: object) -> Job:
    return await store.submit(make_new_job(**changes), key=None, now=NOW)


async def end(store: SqlStore, state: JobState, **changes: object) -> Job:
    """Bring a job to its end as the dispatcher or its owner does."""
    job = await submit(store, **changes)
    if state is JobState.CANCELLED:
        return await store.cancel_job(job.id, owner=job.owner, now=NOW)
    claimed = await store.claim_job(job.id, holder="main", until=NOW + SECOND, now=NOW)
    assert claimed is not None
    claim = Claim(claimed.id, claimed.attempts)
    if state is JobState.DONE:
        assert await store.finish_job(claim, make_picture(result_key(job.id, 1), PNG), version="v2", now=NOW)
    else:
        assert await store.bury_job(claim, FAILED, words="422: in colour", now=NOW)
    return await store.load_job(job.id)


async def take(
    store: SqlStore, *, now: dt.datetime = NOW, room: dict[str, int] | None = None, each: int = 4, limit: int = 100
) -> tuple[Notice, ...]:
    return await store.take_notices(until=now + 45 * SECOND, now=now, room=room or {}, each=each, limit=limit)


# -- callbacks ---------------------------------------------------------------------------------------------------------


async def test_a_callback_is_read_back_without_its_secret_and_the_same_again_changes_nothing(store: SqlStore) -> None:
    assert await apply(store) == Applied(changed=True, fresh=True)
    assert await apply(store) == Applied(changed=False, fresh=False)
    (callback,) = await store.list_callbacks("ada")
    assert (callback.name, callback.address, callback.events) == ("shop", SHOP, frozenset(EVENTS))
    assert await store.list_callbacks("bob") == ()
    assert await store.load_secrets("ada", "shop", now=NOW) == ("whsec_shop",)
    assert await store.load_secrets("bob", "shop", now=NOW) == ()
    assert await apply(store, events=(JobState.DEAD,)) == Applied(changed=True, fresh=False)
    assert await store.load_secrets("ada", "shop", now=NOW) == ("whsec_shop",)


async def test_mail_and_chat_have_no_secret(store: SqlStore) -> None:
    assert await apply(store, "team", "slack://A/B/C") == Applied(changed=True, fresh=False)
    assert await apply(store, "team", "slack://A/B/C") == Applied(changed=False, fresh=False)
    assert await store.load_secrets("ada", "team", now=NOW) == ()
    with pytest.raises(ConflictError, match="'team' is not signed"):
        await store.renew_secret("ada", "team", secret=X, now=NOW)
    assert await apply(store, "team", SHOP) == Applied(changed=True, fresh=True)


async def test_the_secret_before_signs_too_for_a_day(store: SqlStore) -> None:
    await apply(store, secret=ONE)
    assert await store.load_secrets("ada", "shop", now=NOW) == (ONE,)
    await store.renew_secret("ada", "shop", secret=TWO, now=NOW)
    assert await store.load_secrets("ada", "shop", now=NOW) == (TWO, ONE)
    assert await store.load_secrets("ada", "shop", now=NOW + OLD_SECRET_FOR) == (TWO,)
    assert await apply(store, secret=TWO) == Applied(changed=False, fresh=False)
    assert await apply(store, secret=THREE) == Applied(changed=True, fresh=False)
    assert await store.load_secrets("ada", "shop", now=NOW) == (THREE, TWO)


async def test_what_is_not_there_is_not_found_and_what_is_too_much_is_refused(store: SqlStore) -> None:
    for refused in (store.delete_callback("ada", "x"), store.renew_secret("ada", "x", secret=X, now=NOW)):
        with pytest.raises(NotFoundError, match="callback 'x' does not exist"):
            await refused
    for number in range(MAX_CALLBACKS):
        await apply(store, f"shop-{number}")
    with pytest.raises(ConflictError, match="you have 20 callbacks already"):
        await apply(store)
    await apply(store, owner="bob")
    await store.delete_callback("ada", "shop-0")
    await apply(store)


# -- notices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", EVENTS)
async def test_every_end_leaves_a_notice_for_each_who_wants_it(store: SqlStore, ears: Ears, state: JobState) -> None:
    await apply(store)
    await apply(store, "other", events=tuple(each for each in EVENTS if each is not state))
    await apply(store, OWN, "")
    await apply(store, owner="bob")
    await ears.heard()
    job = await end(store, state, callback_url=OWN_URL)
    assert Topic.NOTICES in await ears.heard()
    own, shop = sorted(await take(store), key=lambda notice: notice.callback, reverse=True)
    assert (own.callback, own.address, own.secrets) == (OWN, OWN_URL, (f"whsec_{OWN}",))
    assert (shop.callback, shop.address, shop.host, shop.tries) == ("shop", SHOP, "shop.example.org", 1)
    assert own.message.event == shop.message.event, "it is one event"
    assert own.message.body == shop.message.body
    assert (own.message.type, own.message.subject) == (f"dev.hueshift.job.{state}", job.id)
    assert (own.message.facts["state"], own.message.facts["words"]) == (state.value, job.words)


async def test_a_job_without_an_end_or_without_anybody_to_tell_leaves_none(store: SqlStore) -> None:
    await end(store, JobState.DONE)
    await apply(store, OWN, "")
    await end(store, JobState.DONE)
    await apply(store)
    running = await submit(store)
    assert await store.claim_job(running.id, holder="main", until=NOW + SECOND, now=NOW) is not None
    assert await store.retry_job(Claim(running.id, 1), FAILED, again=AGAIN, now=NOW)
    assert await store.claim_job(running.id, holder="main", until=NOW + SECOND, now=NOW) is not None
    assert await store.revive_jobs(lost_before=NOW, now=NOW + 2 * SECOND) == 1
    assert not await store.bury_job(Claim(running.id, 1), FAILED, words="late", now=NOW)
    assert await take(store) == ()


async def test_a_job_that_was_cancelled_twice_has_one_notice(store: SqlStore) -> None:
    await apply(store)
    job = await end(store, JobState.CANCELLED)
    await store.cancel_job(job.id, owner="ada", now=NOW)
    assert len(await store.load_notices(job.id)) == 1


async def test_a_job_that_runs_again_after_a_rollback_ends_and_is_told_again(store: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.apply_kind(make_kind(service="colorize"), make_change())
    await apply(store)
    job = await end(store, JobState.DEAD)
    await roll_back(store)
    assert await store.reroute_jobs(now=NOW + 5 * SECOND) == 1
    again = await store.claim_job(job.id, holder="main", until=NOW + SECOND, now=NOW)
    assert again is not None
    picture = make_picture(result_key(job.id, 2), PNG)
    assert await store.finish_job(Claim(job.id, again.attempts), picture, version="v1", now=NOW + 6 * SECOND)
    dead, done = await store.load_notices(job.id)
    assert (dead.state, done.state) == (JobState.DEAD, JobState.DONE)
    assert dead.event != done.event
    first, second = await take(store, now=NOW + 6 * SECOND)
    assert (first.message.facts["state"], second.message.facts["state"]) == ("dead", "done")


async def test_one_of_two_gets_a_notice_and_it_comes_again_if_nobody_settles_it(
    store: SqlStore, other: SqlStore
) -> None:
    await apply(store)
    await end(store, JobState.DONE)
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(take(each)) for each in (store, other)]
    ((first,),) = [task.result() for task in both if task.result()]
    assert await take(other, now=UNTIL - SECOND) == ()
    (again,) = await take(other, now=UNTIL)
    assert again.message.body == first.message.body
    assert (first.tries, again.tries) == (1, 2)
    assert not await store.settle_notice(first, Heard(), now=NOW), "it is somebody else's by now"
    assert await other.settle_notice(again, Heard(), now=NOW)
    assert not await other.settle_notice(again, Heard(), now=NOW)
    assert await take(store, now=UNTIL + 3600 * SECOND) == ()


async def test_what_became_of_a_notice_is_told_to_its_owner(store: SqlStore) -> None:
    await apply(store)
    job = await end(store, JobState.DEAD)
    (waiting,) = await store.load_notices(job.id)
    assert (waiting.tries, waiting.delivered, waiting.ended_at, waiting.due_at) == (0, False, None, NOW)
    (notice,) = await take(store)
    due = NOW + 5 * SECOND
    assert await store.settle_notice(notice, Later("answered 503", due), now=NOW)
    (later,) = await store.load_notices(job.id)
    assert (later.tries, later.words, later.due_at, later.event) == (1, "answered 503", due, waiting.event)
    assert await take(store, now=due - SECOND) == ()
    (notice,) = await take(store, now=due)
    assert await store.settle_notice(notice, GivenUp("answered 503 (given up)"), now=due)
    (over,) = await store.load_notices(job.id)
    assert (over.delivered, over.ended_at, over.words) == (False, due, "answered 503 (given up)")
    assert await take(store, now=due + 3600 * SECOND) == ()


async def test_no_host_gets_more_than_its_share_however_much_waits_for_it(store: SqlStore) -> None:
    await apply(store, "slow", "https://slow.example.org/")
    for _ in range(8):
        await end(store, JobState.CANCELLED)
    await apply(store, "shop")
    await end(store, JobState.CANCELLED)
    share = {"slow.example.org": 1}
    assert sorted(notice.host for notice in await take(store, room=share)) == ["shop.example.org", "slow.example.org"]
    assert [notice.host for notice in await take(store, room=share, each=0)] == ["slow.example.org"]
    assert await take(store, room={"slow.example.org": 0}) == ()
    assert await take(store, room={}, each=0) == ()
    assert len(await take(store, each=4)) == 4
    assert len(await take(store, each=4, limit=2)) == 2
    assert len(await take(store, each=4)) == 1


async def test_a_new_address_gets_what_waits_at_once(store: SqlStore, ears: Ears) -> None:
    await apply(store, address="https://old.example.org/")
    await end(store, JobState.DONE)
    (notice,) = await take(store)
    await store.settle_notice(notice, Later("answered 404", NOW + 3600 * SECOND), now=NOW)
    await ears.heard()
    await apply(store)
    assert Topic.NOTICES in await ears.heard()
    (again,) = await take(store)
    assert (again.address, again.host, again.message.event) == (SHOP, "shop.example.org", notice.message.event)


async def test_what_waits_for_a_callback_that_is_gone_has_no_address(store: SqlStore) -> None:
    await apply(store)
    await apply(store, OWN, "")
    await end(store, JobState.DONE, callback_url=OWN_URL)
    await store.delete_callback("ada", "shop")
    await store.delete_callback("ada", OWN)
    own, shop = sorted(await take(store), key=lambda notice: notice.callback, reverse=True)
    assert (shop.address, shop.secrets) == ("", ())
    assert (own.address, own.secrets) == (OWN_URL, ())


async def test_of_a_deleted_job_nobody_is_told(store: SqlStore) -> None:
    await apply(store)
    done = await end(store, JobState.DONE)
    await store.delete_job(done.id, owner="ada", now=NOW)
    running = await submit(store)
    await store.delete_job(running.id, owner="ada", now=NOW)
    assert await take(store) == ()
    assert await store.load_notices(done.id) == ()
