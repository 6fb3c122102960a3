"""The courier on a real store: at least once, never blocked by who is slow, and quiet about addresses."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator

import pytest
import structlog

from controlplane.courier.loop import HOST_SLOTS, TAKEN_FOR, Courier, rooms
from controlplane.courier.model import Heard, Unheard
from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from controlplane.jobs.callback_desk import CallbackDesk
from controlplane.jobs.callbacks import EVENTS, Notice
from controlplane.jobs.model import JobId, JobState
from controlplane.wake import Topic, Wake
from tests.job_builders import FakeSender, make_callback_desk, make_new_job
from tests.unit.jobs.conftest import Works

SHOP = "https://shop.example.org/hooks?token=s3cret"
DAY = dt.timedelta(days=1)


@pytest.fixture
def sender() -> FakeSender:
    return FakeSender()


@pytest.fixture
def desk(works: Works, sender: FakeSender) -> CallbackDesk:
    return make_callback_desk(works.store, works.clock, sender)


@pytest.fixture
def courier(works: Works, desk: CallbackDesk) -> Courier[Notice]:
    wake = Wake()
    works.board.listen(wake, Topic.NOTICES)
    return Courier(
        store=works.store,
        senders=desk.senders,
        clock=works.clock,
        wake=wake,
        interval=dt.timedelta(seconds=1),
        patience=DAY,
        luck=lambda: 0.5,
    )


async def end(works: Works, *, owner: str = "ada", **changes: object) -> JobId:
    now = works.clock.now()
    job = await works.store.submit(make_new_job(owner=owner, **changes), key=None, now=now)
    await works.store.cancel_job(job.id, owner=owner, now=now)
    return job.id


async def deliver_due(works: Works, courier: Courier[Notice]) -> int:
    """Deliver what is due now, one after the other."""
    now = works.clock.now()
    taken = await works.store.take_notices(until=now + TAKEN_FOR, now=now, room={}, each=100, limit=100)
    for notice in taken:
        await courier.deliver(notice)
    return len(taken)


async def settled(works: Works, jobs: list[JobId]) -> bool:
    states = [state for job in jobs for state in await works.store.load_notices(job)]
    return bool(states) and all(state.ended_at is not None for state in states)


class Running:
    """The courier's loop, for as long as a test needs it."""

    def __init__(self, courier: Courier[Notice]) -> None:
        self._courier = courier
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> None:
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self._courier.run())

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await self._tasks.__aexit__(None, None, None)


async def test_an_end_is_told_signed_and_once(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    _, secret = await desk.apply("ada", "shop", SHOP)
    job = await end(works)
    async with Running(courier), asyncio.timeout(60):
        while not await settled(works, [job]):
            await works.clock.sleep(dt.timedelta(0))
    ((address, message),) = sender.sent
    assert address == SHOP
    assert json.loads(message.body)["data"]["id"] == job
    assert sender.secrets == [(secret,)]
    (state,) = await works.store.load_notices(job)
    assert (state.delivered, state.tries, state.words, state.host) == (True, 1, "", "shop.example.org")


async def test_a_receiver_that_fails_is_told_again_with_the_same_id_until_it_takes_it(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    await desk.apply("ada", "shop", SHOP)
    sender.answers[SHOP] = [Unheard("answered 503"), Unheard("no answer within 15 s"), Heard()]
    job = await end(works)
    for pause in (5, 10, 0):
        assert await deliver_due(works, courier) == 1
        works.clock.move(dt.timedelta(seconds=pause - 1))
        assert await deliver_due(works, courier) == 0
        works.clock.move(dt.timedelta(seconds=1))
    assert len({message.body for _, message in sender.sent}) == 1
    assert len(sender.sent) == 3
    (state,) = await works.store.load_notices(job)
    assert (state.delivered, state.tries) == (True, 3)


async def test_what_is_in_vain_is_given_up_with_words(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    await desk.apply("ada", "shop", SHOP)
    sender.answers[SHOP] = [Unheard("answered 500")] * 100
    job = await end(works)
    begun = works.clock.now()
    while not await settled(works, [job]):
        await deliver_due(works, courier)
        works.clock.move(dt.timedelta(minutes=10))
    (state,) = await works.store.load_notices(job)
    assert state.ended_at is not None
    assert DAY - dt.timedelta(hours=2) < state.ended_at - begun <= DAY
    assert not state.delivered
    assert state.words == f"answered 500 (given up after {state.tries} tries)"
    assert 20 < state.tries < 40


async def test_what_its_owner_has_taken_away_is_given_up(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    await desk.apply("ada", "shop", SHOP)
    await desk.renew_secret("ada", "task")
    job = await end(works, callback_url="https://a.example.net/1")
    await works.store.delete_callback("ada", "shop")
    await works.store.delete_callback("ada", "task")
    assert await deliver_due(works, courier) == 2
    states = {state.callback: state.words for state in await works.store.load_notices(job)}
    assert states == {
        "shop": "its owner has deleted the callback",
        "task": "its owner has deleted the secret",
    }
    assert sender.sent == []


async def test_a_notice_whose_courier_died_is_told_by_another(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    await desk.apply("ada", "shop", SHOP)
    job = await end(works)
    now = works.clock.now()
    (lost,) = await works.store.take_notices(until=now + TAKEN_FOR, now=now, room={}, each=4, limit=4)
    assert await deliver_due(works, courier) == 0
    works.clock.move(TAKEN_FOR)
    assert await deliver_due(works, courier) == 1
    assert await settled(works, [job])
    with structlog.testing.capture_logs() as logs:
        await courier.deliver(lost)  # it was not dead after all
    assert [entry["event"] for entry in logs] == ["notice.taken_by_others"]
    assert len({message.event for _, message in sender.sent}) == 1


@pytest.fixture
async def hanging(works: Works, desk: CallbackDesk, sender: FakeSender) -> AsyncIterator[asyncio.Event]:
    """Have 80 jobs of bob's wait for four receivers that do not answer."""
    release = asyncio.Event()
    for number in range(4):
        address = f"https://hangs-{number}.example.net/"
        sender.hanging[address] = release
        await desk.apply("bob", f"hangs-{number}", address)
    for _ in range(20):
        await end(works, owner="bob")
    yield release
    release.set()


async def test_who_hangs_holds_up_nobody_else_and_has_a_bounded_share(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender, hanging: asyncio.Event
) -> None:
    await desk.apply("ada", "shop", SHOP)
    async with Running(courier), asyncio.timeout(60):
        while len(sender.sent) < 4 * HOST_SLOTS:
            await works.clock.sleep(dt.timedelta(0))
        jobs = [await end(works) for _ in range(10)]
        while not await settled(works, jobs):
            await works.clock.sleep(dt.timedelta(0))
        assert len([address for address, _ in sender.sent if address != SHOP]) == 4 * HOST_SLOTS
        hanging.set()
        while len(sender.sent) < 90:
            await works.clock.sleep(dt.timedelta(0))


def test_hosts_in_trouble_are_asked_apart_and_for_one_at_a_time() -> None:
    assert rooms({}, set()) == ({}, {})
    assert rooms({"a": 3, "b": 1}, {"b", "c"}) == ({"a": 1, "b": 0, "c": 0}, {"c": 1})


async def test_a_host_in_trouble_gets_one_notice_at_a_time_until_it_takes_one(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    await desk.apply("ada", "shop", SHOP)
    sender.answers[SHOP] = [Unheard("answered 503")]
    await end(works)
    assert await deliver_due(works, courier) == 1
    jobs = [await end(works) for _ in range(6)]
    sender.hanging[SHOP] = asyncio.Event()
    async with Running(courier), asyncio.timeout(60):
        while len(sender.sent) < 2:
            await works.clock.sleep(dt.timedelta(0))
        jobs += [await end(works) for _ in range(2)]  # each wakes it
        for _ in range(20):
            await works.clock.sleep(dt.timedelta(0))
        assert len(sender.sent) == 2
        sender.hanging.pop(SHOP).set()
        while not await settled(works, jobs):
            await works.clock.sleep(dt.timedelta(0))


async def test_no_log_line_has_an_address_or_a_secret(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    with structlog.testing.capture_logs() as logs:
        _, secret = await desk.apply("ada", "shop", SHOP)
        sender.answers[SHOP] = [Unheard("answered 503"), Heard(), Unheard("410", gone=True)]
        for _ in range(3):
            await end(works)
            await deliver_due(works, courier)
    assert {entry["event"] for entry in logs} == {"notice.waits_again", "notice.delivered", "notice.given_up"}
    text = json.dumps(logs, default=repr)
    assert secret is not None
    assert "shop.example.org" in text
    assert "s3cret" not in text
    assert "/hooks" not in text
    assert secret not in text


async def test_a_database_that_is_away_is_asked_again_and_a_bug_stops_nobody(
    works: Works, desk: CallbackDesk, courier: Courier[Notice], sender: FakeSender
) -> None:
    await desk.apply("ada", "shop", SHOP)
    jobs = [await end(works), await end(works)]
    take, settle, failures = works.store.take_notices, works.store.settle_notice, ["take", "settle", "bug"]

    async def take_notices(**options: object) -> object:
        if "take" in failures:
            failures.remove("take")
            raise UnavailableError("the database is away")
        return await take(**options)  # type: ignore[arg-type] # passed through

    async def settle_notice(*arguments: object, **options: object) -> bool:
        if failures:
            if failures.pop(0) == "bug":
                raise ZeroDivisionError
            raise UnavailableError("the database is away")
        return await settle(*arguments, **options)  # type: ignore[arg-type] # passed through

    class Broken:
        load_notices = works.store.load_notices

        def __init__(self) -> None:
            self.take_notices, self.settle_notice = take_notices, settle_notice

    courier.store = Broken()  # type: ignore[assignment] # as much of it as is used
    async with Running(courier), asyncio.timeout(60):
        while not await settled(works, jobs):
            await works.clock.sleep(dt.timedelta(seconds=1))
    assert len(sender.sent) == 4


# -- the desk ----------------------------------------------------------------------------------------------------------


async def test_addresses_are_held_against_the_list_and_the_field_is_named(desk: CallbackDesk) -> None:
    for address in ("https://evil.example.com/", "http://127.0.0.1/", "slack://A/B/C", "file:///etc/passwd"):
        with pytest.raises(InvalidInputError) as refused:
            await desk.apply("ada", "shop", address)
        assert refused.value.field == "address"
    with pytest.raises(InvalidInputError, match=r"^callback_url: leads to a host that is not allowed"):
        await desk.check_task("https://evil.example.com/", "ada")


async def test_a_tasks_own_address_needs_a_secret_of_its_owners(desk: CallbackDesk) -> None:
    with pytest.raises(InvalidInputError, match=r"callback_url: would be called without .* callbacks secret task"):
        await desk.check_task("https://a.example.net/", "ada")
    assert (await desk.renew_secret("ada", "task")).startswith("whsec_")
    await desk.check_task("https://a.example.net/", "ada")
    with pytest.raises(NotFoundError):
        await desk.renew_secret("ada", "shop")


async def test_a_test_is_sent_at_once_and_says_what_came_of_it(desk: CallbackDesk, sender: FakeSender) -> None:
    await desk.apply("ada", "shop", SHOP, EVENTS, secret="whsec_" + "A" * 32)
    sender.answers[SHOP] = [Heard(), Unheard("answered 401")]
    assert await desk.test("ada", "shop") == Heard()
    assert await desk.test("ada", "shop") == Unheard("answered 401")
    assert [json.loads(message.body)["type"] for _, message in sender.sent] == ["dev.hueshift.callback.test"] * 2
    assert sender.secrets == [("whsec_" + "A" * 32,)] * 2
    with pytest.raises(NotFoundError, match=r"callback 'x' does not exist \(known: shop\)"):
        await desk.test("ada", "x")
    await desk.renew_secret("ada", "task")
    with pytest.raises(InvalidInputError, match="task has no address of its own"):
        await desk.test("ada", "task")
    sender.hanging[SHOP] = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(desk.test("ada", "shop"))
        while len(sender.sent) < 6:
            await desk.clock.sleep(dt.timedelta(0))
        with pytest.raises(UnavailableError, match="4 callbacks are being tested"):
            await desk.test("ada", "shop")
        sender.hanging[SHOP].set()


async def test_only_webhooks_take_a_secret(desk: CallbackDesk, sender: FakeSender) -> None:
    with pytest.raises(InvalidInputError, match=r"^secret: is none"):
        await desk.apply("ada", "shop", SHOP, secret="x")  # noqa: S106 - none
    desk.senders = type(desk.senders)(webhooks=sender, others=_Everything())
    with pytest.raises(InvalidInputError, match=r"^secret: is given for what is not signed"):
        await desk.apply("ada", "team", "slack://A/B/C", secret="whsec_" + "A" * 32)
    assert await desk.apply("ada", "team", "slack://A/B/C", [JobState.DEAD]) == (True, None)
    with pytest.raises(ConflictError, match="is not signed"):
        await desk.renew_secret("ada", "team")


class _Everything(FakeSender):
    def check(self, address: str) -> None:
        del address
