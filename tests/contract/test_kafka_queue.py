"""What only Kafka can do, and do wrong, as far as librdkafka's mock goes; test_job_queue.py has the port's suite."""

import asyncio
import datetime as dt
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka import Consumer

from controlplane.broker.kafka import DEAD_TASKS, TASKS, KafkaQueue, read_address
from controlplane.broker.kafka_reader import Taken
from controlplane.clock import SystemClock
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.model import JobId
from controlplane.jobs.operations import DeadTask
from controlplane.jobs.ports import DeadLetter, Delivery, ForeignTask, ForeignTasks, WakeUp
from tests.job_builders import make_wake_up, take_all, take_one, take_wake_ups
from tests.kafka import (
    NOT_LEADER,
    OFFSET_COMMIT,
    PRODUCE,
    REBALANCE_IN_PROGRESS,
    TOPIC_AUTHORIZATION_FAILED,
    MockKafka,
    open_queue,
    running_kafka,
)

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
IS_A_FOREIGN_QUEUE: type[ForeignTasks] = KafkaQueue
SHORT = dt.timedelta(seconds=1)


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    with running_kafka() as cluster:
        yield cluster


@pytest.fixture
async def queue(kafka: MockKafka) -> AsyncIterator[KafkaQueue]:
    opened = open_queue(kafka.url)
    yield opened
    await opened.close()


@pytest.fixture
async def other(kafka: MockKafka) -> AsyncIterator[KafkaQueue]:
    opened = open_queue(kafka.url)
    yield opened
    await opened.close()


async def take_until(queue: KafkaQueue, *others: KafkaQueue, found: int) -> list[Delivery]:
    """Take without acknowledging until *queue* got *found*; the others look too, as processes do all the time."""
    taken: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(taken) < found:
            taken += await queue.take(["photos"], limit=100)
            for each in others:
                await each.take(["photos"], limit=100)
    return taken


def is_lost(delivery: Delivery) -> bool:
    assert isinstance(delivery.tag, Taken)
    return delivery.tag.is_lost


async def test_what_is_answered_out_of_order_is_committed_up_to_the_first_that_is_not(
    kafka: MockKafka, queue: KafkaQueue, other: KafkaQueue
) -> None:
    kafka.make_topic("hueshift.photos", partitions=1)
    sent = [make_wake_up() for _ in range(5)]
    await queue.publish(sent)
    first, second, third, *_ = await take_until(queue, found=5)
    await queue.acknowledge(third)
    await queue.acknowledge(first)
    await queue.close()
    assert await asyncio.to_thread(kafka.committed, "hueshift.photos", "hueshift.photos") == 1
    assert second.wake_up == sent[1]
    assert await take_all(4, other) == sent[1:], "a repetition of the third is the price"


async def test_messages_have_the_jobs_id_as_their_key(kafka: MockKafka, queue: KafkaQueue) -> None:
    sent, vip = make_wake_up(), make_wake_up(vip=True)
    await queue.publish([sent, vip])
    for topic, wake_up in (("hueshift.photos", sent), ("hueshift.photos.vip", vip)):
        (message,) = await asyncio.to_thread(kafka.read, topic, 1)
        assert (message.key(), message.value()) == (wake_up.job.encode(), wake_up.job.encode())


async def test_installations_on_one_cluster_leave_each_other_alone(kafka: MockKafka, queue: KafkaQueue) -> None:
    staging = open_queue(f"{kafka.url}/staging")
    mine, theirs = make_wake_up(), make_wake_up()
    await queue.publish([mine])
    await staging.publish([theirs])
    assert await take_wake_ups(queue) == [mine]
    assert await take_wake_ups(staging) == [theirs]
    await staging.close()


KILLED = """
import asyncio, sys
from tests.kafka import open_queue

async def main():
    queue = open_queue(sys.argv[1])
    while not (taken := await queue.take(["photos"], limit=1)):
        pass
    print(taken[0].wake_up.job, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_had_taken_comes_again(kafka: MockKafka, queue: KafkaQueue) -> None:
    sent = make_wake_up()
    await queue.publish([sent])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, kafka.url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).decode().strip() == sent.job
    finally:
        process.kill()
        await process.wait()
    assert set(await take_all(1, queue)) == {sent}


async def test_a_rebalance_drops_what_was_taken_and_answers_to_it_do_nothing(
    kafka: MockKafka, queue: KafkaQueue, other: KafkaQueue
) -> None:
    kafka.make_topic("hueshift.photos", partitions=2)
    sent = [make_wake_up() for _ in range(20)]
    await queue.publish(sent)
    mine = await take_until(queue, found=20)
    gone: list[Delivery] = []
    again: set[WakeUp] = set()
    async with asyncio.timeout(60):
        while not gone:  # some of what was taken is to belong to the other one
            await other.take(["photos"], limit=100)
            again |= {delivery.wake_up for delivery in await queue.take(["photos"], limit=100)}
            gone = [delivery for delivery in mine if is_lost(delivery)]
    for delivery in gone:
        await queue.acknowledge(delivery)
        await queue.release(delivery)
        await queue.bury(delivery, words="somebody else's by now")
    await other.close()
    async with asyncio.timeout(60):
        while not again >= {delivery.wake_up for delivery in gone}:
            again |= {delivery.wake_up for delivery in await queue.take(["photos"], limit=100)}
    assert again.isdisjoint(delivery.wake_up for delivery in mine if not is_lost(delivery))
    assert await queue.dead_letters() == ()


async def test_brokers_that_are_away_are_named_and_stall_nothing(kafka: MockKafka) -> None:
    queue = open_queue(kafka.url)
    sent = [make_wake_up() for _ in range(30)]
    await queue.publish(sent)
    held = await take_until(queue, found=30)
    impatient = open_queue(kafka.url, patience=SHORT)
    kafka.stop()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await CLOCK.sleep(dt.timedelta(milliseconds=10))
            beats += 1

    async with asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(beat())
        begun = CLOCK.steady()
        for refused in (
            impatient.publish([make_wake_up()]),
            impatient.take(["photos"], limit=1),
            impatient.take_tasks(limit=1),
            impatient.dead_letters(),
        ):
            with pytest.raises(
                UnavailableError, match=r"^HUESHIFT_QUEUE_URL: Kafka at 127.0.0.1:\d+,.* cannot be used"
            ):
                await refused
        took = CLOCK.steady() - begun
        beating.cancel()
    assert took > 2 * SHORT.total_seconds()
    assert beats > 20, "the event loop went on meanwhile"
    kafka.start()
    for delivery in held[:10]:
        await queue.acknowledge(delivery)
    await queue.close()
    await impatient.close()
    last = open_queue(kafka.url)
    missing = {delivery.wake_up for delivery in held[10:]}
    async with asyncio.timeout(60):
        while missing:
            missing -= set(await take_wake_ups(last))
    await last.close()


async def test_what_cannot_be_sent_on_comes_again(kafka: MockKafka) -> None:
    queue = open_queue(kafka.url, patience=dt.timedelta(seconds=5))
    sent = make_wake_up()
    await queue.publish([sent])
    (held,) = await take_until(queue, found=1)
    for answer in (queue.release, lambda delivery: queue.bury(delivery, words="500")):
        kafka.fail(PRODUCE, TOPIC_AUTHORIZATION_FAILED)
        with pytest.raises(UnavailableError, match="cannot be used"):
            await answer(held)
        held = await take_one(queue)
        assert held.wake_up == sent
    await queue.bury(held, words="500")
    assert await take_wake_ups(queue) == []
    assert await queue.dead_letters() == (DeadLetter(sent.job, "500"),)
    await queue.close()


async def test_a_broker_that_refuses_a_message_is_an_error_and_one_that_is_not_the_leader_is_none(
    kafka: MockKafka, queue: KafkaQueue
) -> None:
    refused, sent = make_wake_up(), make_wake_up()
    kafka.fail(PRODUCE, TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(UnavailableError, match="jobs are kept until it can"):
        await queue.publish([refused])
    kafka.fail(PRODUCE, NOT_LEADER, NOT_LEADER)
    await queue.publish([sent])
    assert await take_wake_ups(queue) == [sent], "once, although it was sent again"


async def test_a_commit_that_is_refused_is_tried_again(kafka: MockKafka, queue: KafkaQueue, other: KafkaQueue) -> None:
    sent = make_wake_up()
    await queue.publish([sent])
    kafka.fail(OFFSET_COMMIT, *[REBALANCE_IN_PROGRESS] * 2)
    assert await take_all(1, queue) == [sent]
    for _ in range(5):
        assert await take_wake_ups(queue) == []
    await queue.close()
    assert await take_wake_ups(other) == []


async def test_a_topic_that_may_not_be_read_is_an_error(kafka: MockKafka) -> None:
    queue = open_queue(kafka.url, patience=SHORT)
    kafka.break_topic("hueshift.photos", TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(UnavailableError, match="Topic authorization failed"):
        await queue.take(["photos"], limit=1)
    kafka.break_topic("hueshift.photos", 0)
    await queue.close()


async def test_a_group_that_cannot_be_left_does_not_hold_up_the_stop(
    kafka: MockKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What librdkafka does now and then after a topic's error: its close waits for ever."""
    may_leave = threading.Event()

    class Stuck(Consumer):
        def close(self) -> None:
            may_leave.wait()
            super().close()

    monkeypatch.setattr("controlplane.broker.kafka.Consumer", Stuck)
    queue = open_queue(kafka.url, patience=SHORT)
    assert await take_wake_ups(queue) == []
    await queue.close()
    assert not may_leave.is_set()
    may_leave.set()


async def test_what_is_no_job_of_ours_goes_to_the_dead_letters(kafka: MockKafka, queue: KafkaQueue) -> None:
    await asyncio.to_thread(kafka.produce, "hueshift.photos", b"\xff drop table", b"")
    sent = make_wake_up()
    await queue.publish([sent])
    assert await take_all(1, queue) == [sent]
    async with asyncio.timeout(60):
        while len(found := await queue.dead_letters()) < 2:  # one look may find one of them alone
            assert await take_wake_ups(queue) == []
    words = "it is no job of ours"
    assert set(found) == {DeadLetter(JobId(job), words) for job in ("� drop table", "")}


async def test_tasks_of_a_foreign_producer(kafka: MockKafka, queue: KafkaQueue, other: KafkaQueue) -> None:
    assert await queue.take_tasks(limit=1) == ()
    await asyncio.to_thread(kafka.produce, TASKS, b"one", b"two", b"three")
    tasks: dict[bytes, ForeignTask] = {}
    async with asyncio.timeout(60):
        while len(tasks) < 3:
            tasks |= {task.body: task for task in await queue.take_tasks(limit=10)}
    await queue.acknowledge_task(tasks[b"one"])
    await queue.release_task(tasks[b"two"])
    await queue.refuse_task(tasks[b"three"], words="body: 不是 JSON")
    (again,) = await queue.take_tasks(limit=10)
    assert again.body == b"two"
    await queue.acknowledge_task(again)
    await queue.close()
    assert await other.take_tasks(limit=10) == ()
    (dead,) = await asyncio.to_thread(kafka.read, DEAD_TASKS, 1)
    for _ in range(2):  # looking at them takes none
        assert await other.dead_tasks() == (DeadTask("three", "body: 不是 JSON"),)
    assert (dead.value(), dead.headers()) == (b"three", [("x-reason", "body: 不是 JSON".encode())])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kafka://one:9092", ("one:9092", "hueshift")),
        ("kafka://one.example.org:9092,10.0.0.2:9093", ("one.example.org:9092,10.0.0.2:9093", "hueshift")),
        ("kafka://[::1]:9092/staging-2", ("[::1]:9092", "staging-2")),
        ("kafka://one:9092/", ("one:9092", "hueshift")),
    ],
)
def test_an_address_names_brokers_and_perhaps_an_installation(url: str, expected: tuple[str, str]) -> None:
    assert read_address(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "kafka://",
        "kafka://one",
        "kafka://one:0",
        "kafka://one:70000",
        "kafka://one:9092,",
        "kafka://one:9092,two",
        "kafka://one:9092;two:9092",
        "kafka://user:password@one:9092",
        "kafka://one:9092/a/b",
        "kafka://one:9092/Staging",
        "kafka://one:9092?acks=0",
        "kafka://one:9092\n",
        "kafka:one:9092",
        "amqp://one:9092",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_QUEUE_URL: is no address of Kafka's brokers") as refusal:
        KafkaQueue(url)
    assert "password" not in str(refusal.value)
