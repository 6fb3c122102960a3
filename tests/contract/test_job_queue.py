"""The queue of jobs: on SQL, once for each database, on a real RabbitMQ, and on a mock of Kafka.

And what only RabbitMQ can do; test_kafka_queue.py has what only Kafka can.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Iterator

import aio_pika
import anyio.from_thread
import pytest

from controlplane.broker.kafka import KafkaQueue
from controlplane.broker.rabbitmq import DEAD, DEAD_TASKS, TASKS, RabbitQueue
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.model import JobId
from controlplane.jobs.operations import DeadTask, DeadTasks
from controlplane.jobs.ports import DeadLetter, ForeignTasks, JobQueue, WakeUp
from controlplane.store import SqlStore
from controlplane.store.job_queue import SqlQueue
from tests.fakes import ManualClock
from tests.job_builders import make_wake_up, take_all, take_one, take_wake_ups
from tests.kafka import MockKafka, open_queue, running_kafka
from tests.rabbitmq import RabbitServer, require_rabbitmq, running_rabbitmq

ARE_QUEUES: tuple[type[JobQueue], ...] = (SqlQueue, RabbitQueue, KafkaQueue)  # mypy sits this exam


@pytest.fixture(scope="module")
def rabbit_portal() -> Iterator[anyio.from_thread.BlockingPortal]:
    require_rabbitmq()  # here, since a skip cannot leave the thread
    with anyio.from_thread.start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="module")
def rabbitmq(rabbit_portal: anyio.from_thread.BlockingPortal) -> Iterator[RabbitServer]:
    """Run one broker for all tests, in a thread with a loop of its own."""
    with rabbit_portal.wrap_async_context_manager(running_rabbitmq()) as server:
        yield server


@pytest.fixture
async def vhost(rabbitmq: RabbitServer) -> str:
    return await rabbitmq.make_vhost()


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    with running_kafka() as cluster:
        yield cluster


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.integration),
        pytest.param("rabbitmq", marks=pytest.mark.integration),
        pytest.param("kafka", marks=pytest.mark.integration),
    ]
)
def opened(request: pytest.FixtureRequest) -> tuple[JobQueue, JobQueue]:
    """Open the queue as two processes do."""
    if request.param == "rabbitmq":
        vhost = request.getfixturevalue("vhost")
        return RabbitQueue(vhost), RabbitQueue(vhost)
    if request.param == "kafka":
        url = request.getfixturevalue("kafka").url
        return open_queue(url), open_queue(url)
    store: SqlStore = request.getfixturevalue(f"{request.param}_store")
    clock = ManualClock()
    return SqlQueue(database=store.database, clock=clock), SqlQueue(database=store.database, clock=clock)


@pytest.fixture
async def queues(opened: tuple[JobQueue, JobQueue]) -> AsyncIterator[tuple[JobQueue, JobQueue]]:
    yield opened
    for queue in opened:
        await queue.close()


@pytest.fixture
def queue(queues: tuple[JobQueue, JobQueue]) -> JobQueue:
    return queues[0]


@pytest.fixture
def other(queues: tuple[JobQueue, JobQueue]) -> JobQueue:
    return queues[1]


async def test_what_was_published_is_taken_by_whoever_looks(queue: JobQueue, other: JobQueue) -> None:
    sent = [make_wake_up() for _ in range(20)]
    await queue.publish(sent)
    await queue.publish([])
    missing = set(sent)
    async with asyncio.timeout(60):
        while missing:  # a rebalance between two processes may repeat some
            missing -= {*await take_wake_ups(queue, limit=3), *await take_wake_ups(other, limit=3)}


@pytest.mark.parametrize(
    "opened",
    ["sqlite", *(pytest.param(name, marks=pytest.mark.integration) for name in ("postgres", "rabbitmq"))],
    indirect=True,
)
async def test_where_there_are_no_partitions_each_is_taken_once_by_whoever_comes(
    queue: JobQueue, other: JobQueue
) -> None:
    sent = [make_wake_up() for _ in range(20)]
    await queue.publish(sent)
    mine = await queue.take(["photos"], limit=15)
    theirs = await other.take(["photos"], limit=15)
    assert [each.wake_up for each in (*mine, *theirs)] == sent
    assert (len(mine), len(theirs)) == (15, 5)
    for delivery in mine:
        await queue.acknowledge(delivery)
    for delivery in theirs:
        await other.acknowledge(delivery)
    assert await queue.take(["photos"], limit=1) == ()


async def test_those_of_vips_come_first_whatever_waits(queue: JobQueue) -> None:
    normal = [make_wake_up() for _ in range(10)]
    vips = [make_wake_up(vip=True), make_wake_up("buildings", vip=True)]
    await queue.publish([*normal, *vips])
    assert set(await take_wake_ups(queue, "photos", "buildings", limit=2)) == set(vips)
    assert set(await take_all(10, queue)) == set(normal)


async def test_each_kind_has_a_queue_of_its_own(queue: JobQueue) -> None:
    photo, building = make_wake_up(), make_wake_up("buildings")
    await queue.publish([photo, building])
    assert await take_wake_ups(queue, "buildings") == [building]
    assert await take_wake_ups(queue, "nothing") == []
    assert await take_wake_ups(queue, "photos", "nothing") == [photo]


async def test_what_is_released_comes_again(queue: JobQueue, other: JobQueue) -> None:
    sent = make_wake_up()
    await queue.publish([sent])
    await queue.release(await take_one(queue))
    assert set(await take_all(1, other, queue)) == {sent}
    assert set(await take_wake_ups(queue)) <= {sent}, "again at worst"


async def test_a_repetition_is_another_wake_up(queue: JobQueue) -> None:
    sent = make_wake_up()
    await queue.publish([sent, sent])
    assert await take_all(2, queue) == [sent, sent]
    assert await take_wake_ups(queue) == []


async def test_what_is_buried_stays_among_the_dead_letters(queue: JobQueue, other: JobQueue) -> None:
    first, second = make_wake_up(), make_wake_up(vip=True)
    await queue.publish([first])
    await queue.bury(await take_one(queue), words="422: 彩色照片")
    await queue.publish([second])
    await queue.bury(await take_one(queue), words="500 (failed 3 times)")
    letters = {DeadLetter(first.job, "422: 彩色照片"), DeadLetter(second.job, "500 (failed 3 times)")}
    assert set(await other.dead_letters()) == letters
    assert set(await queue.dead_letters()) == letters, "looking at them takes none"
    assert len(await queue.dead_letters(limit=1)) == 1
    assert await take_wake_ups(queue) == []


async def test_on_sql_what_nobody_acknowledges_comes_again(sqlite_store: SqlStore) -> None:
    clock = ManualClock()
    queue = SqlQueue(database=sqlite_store.database, clock=clock, taken_for=dt.timedelta(minutes=1))
    sent = make_wake_up()
    await queue.publish([sent])
    lost = await take_one(queue)
    clock.move(dt.timedelta(seconds=59))
    assert await queue.take(["photos"], limit=1) == ()
    clock.move(dt.timedelta(seconds=2))
    again = await take_one(queue)
    await queue.acknowledge(lost)  # too late: it is somebody else's by now
    await queue.release(again)
    assert await take_wake_ups(queue) == [sent]


async def test_on_sql_a_job_that_took_long_is_among_the_dead_letters_once_it_dies(sqlite_store: SqlStore) -> None:
    clock = ManualClock()
    queue = SqlQueue(database=sqlite_store.database, clock=clock, taken_for=dt.timedelta(minutes=1))
    sent = make_wake_up()
    await queue.publish([sent])
    first = await take_one(queue)
    clock.move(dt.timedelta(minutes=2))
    await queue.acknowledge(await take_one(queue))  # a second look, which found it running
    await queue.bury(first, words="500 (failed 3 times)")
    assert await queue.dead_letters() == (DeadLetter(sent.job, "500 (failed 3 times)"),)
    assert await take_wake_ups(queue) == []


# -- what only a broker can do -----------------------------------------------------------------------------------------


@pytest.mark.integration
async def test_a_stop_reaches_who_takes_whenever_it_comes(vhost: str) -> None:
    queue, loop = RabbitQueue(vhost), asyncio.get_running_loop()

    async def take_for_ever() -> None:
        while True:
            with contextlib.suppress(UnavailableError):  # a stop closes the channel
                await queue.take(["photos"], limit=1)

    await queue.publish([make_wake_up()])
    async with asyncio.timeout(120):
        for number in range(60):
            taking = loop.create_task(take_for_ever())
            loop.call_later(0.02 + number * 0.0003, taking.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await taking
    await queue.close()


@pytest.mark.integration
async def test_what_a_dead_process_had_taken_comes_again(vhost: str) -> None:
    mine, other = RabbitQueue(vhost), RabbitQueue(vhost)
    sent = make_wake_up()
    await mine.publish([sent])
    taken = await take_one(mine)
    await mine.close()  # as the kernel does for one that was killed
    async with asyncio.timeout(30):
        while not (again := await take_wake_ups(other)):
            pass
    assert again == [sent]
    with pytest.raises(UnavailableError, match=r"HUESHIFT_QUEUE_URL: RabbitMQ at 127\.0\.0\.1 cannot be used"):
        await mine.acknowledge(taken)
    assert await take_wake_ups(mine) == [], "and it goes on with a new connection"
    await mine.close()
    await other.close()


@pytest.mark.integration
async def test_queues_are_durable_quorum_queues_and_messages_persistent(vhost: str) -> None:
    queue = RabbitQueue(vhost)
    await queue.publish([make_wake_up(), make_wake_up(vip=True)])
    async with await aio_pika.connect(vhost) as connection:
        for name in ("hueshift.photos", "hueshift.photos.vip", DEAD):
            channel = await connection.channel()
            with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed, match="inequivalent arg"):
                await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "classic"})
        channel = await connection.channel()
        found = await (await channel.get_queue("hueshift.photos")).get()
        assert found is not None
        assert found.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
        await found.nack()
    await queue.close()


@pytest.mark.integration
async def test_a_message_that_no_queue_takes_is_an_error_and_the_next_call_mends_it(vhost: str) -> None:
    queue = RabbitQueue(vhost)
    await queue.publish([make_wake_up()])
    async with await aio_pika.connect(vhost) as connection:
        await (await connection.channel()).queue_delete("hueshift.photos")
    sent = make_wake_up()
    with pytest.raises(UnavailableError, match="jobs are kept until it can"):
        await queue.publish([sent])
    await queue.publish([sent])
    assert await take_wake_ups(queue) == [sent]
    await queue.close()


@pytest.mark.integration
async def test_what_is_no_job_of_ours_goes_to_the_dead_letters(vhost: str) -> None:
    queue = RabbitQueue(vhost)
    sent = make_wake_up()
    await queue.publish([sent])
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(aio_pika.Message(b"\x00 drop table"), "hueshift.photos")
    assert await take_wake_ups(queue) == [sent]
    async with asyncio.timeout(30):
        while not (letters := await queue.dead_letters()):
            pass
    assert letters == (DeadLetter(JobId("\x00 drop table"), "the broker gave it up (rejected)"),)
    await queue.close()


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_a_broker_that_dies_loses_nothing_that_it_confirmed(
    rabbitmq: RabbitServer, rabbit_portal: anyio.from_thread.BlockingPortal
) -> None:
    vhost = await rabbitmq.make_vhost()
    queue = RabbitQueue(vhost)
    sent = [make_wake_up() for _ in range(50)]
    await queue.publish(sent)
    held = await queue.take(["photos"], limit=10)
    await asyncio.to_thread(rabbit_portal.call, rabbitmq.kill)
    for refused in (queue.publish([make_wake_up()]), queue.take(["photos"], limit=1), queue.acknowledge(held[0])):
        with pytest.raises(UnavailableError):
            await refused
    await asyncio.to_thread(rabbit_portal.call, rabbitmq.restart)
    found: set[WakeUp] = set()
    async with asyncio.timeout(120):
        while len(found) < len(sent):
            with contextlib.suppress(UnavailableError):  # its queues are elected after its listener is there
                found |= set(await take_wake_ups(queue))
    assert found == set(sent)
    await queue.close()


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost", "amqp://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_QUEUE_URL: is no address of a broker"):
        RabbitQueue(url)


# -- tasks of foreign producers ----------------------------------------------------------------------------------------

IS_A_FOREIGN_QUEUE: type[ForeignTasks] = RabbitQueue
HAS_DEAD_TASKS: type[DeadTasks] = RabbitQueue


@pytest.mark.integration
@pytest.mark.parametrize("first", ["producer", "we"])
async def test_a_foreign_producer_and_we_declare_the_same_queue(vhost: str, first: str) -> None:
    """The article's producer declares it durable, without arguments; whoever comes second must not be refused."""
    queue = RabbitQueue(vhost)
    if first == "we":
        assert await queue.take_tasks(limit=1) == ()
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await channel.declare_queue(TASKS, durable=True)
        for body in (b"one", b"two", b"three"):
            await channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), TASKS)
        one, two, three = await queue.take_tasks(limit=10)
        assert [one.body, two.body, three.body] == [b"one", b"two", b"three"]
        await queue.acknowledge_task(one)
        await queue.release_task(two)
        await queue.refuse_task(three, words="body: 不是 JSON")
        assert [task.body for task in await queue.take_tasks(limit=10)] == [b"two"]
        dead = await (await channel.get_queue(DEAD_TASKS)).get()
        assert dead is not None
        assert (dead.body, dead.headers["x-reason"]) == (b"three", "body: 不是 JSON")
        await dead.nack()
        assert await queue.dead_tasks() == (DeadTask("three", "body: 不是 JSON"),)
        assert await queue.dead_tasks() == (DeadTask("three", "body: 不是 JSON"),), "looking at them takes none"
    await queue.close()
