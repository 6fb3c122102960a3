"""The ports `JobQueue` and `ForeignTasks` on Kafka, by confluent-kafka.

Context: a topic is a log. It knows no priorities, no single acknowledgements and no dead letters, and a partition of it
is read by one process at a time. Choice: each queue of ours is a topic, with a second one for VIPs that is drained
first; dead letters are a topic; an installation has a group for each topic, so that a rebalance of one leaves the rest
alone; what is committed is the offset below which all is answered. Consequence: a crash repeats what was answered out
of order, and the wake-ups in a busy process's partitions wait for it even if another is idle.

The library blocks, so it never runs in the event loop's thread: all readers share one thread, messages are sent from
others. Connections that break are the library's to mend; what we had taken is dropped when it comes back to another
generation of the group.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # it is documented

from controlplane.broker.kafka_reader import SETTINGS, Ends, Options, Reader, Taken
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.model import NAME, JobId
from controlplane.jobs.operations import DeadTask
from controlplane.jobs.ports import MAX_BATCH, DeadLetter, Delivery, ForeignTask, WakeUp

T = TypeVar("T")

log = structlog.get_logger()

SETTING: Final = "HUESHIFT_QUEUE_URL"
TASKS: Final = "photo_repair_tasks"
"""Where foreign producers put their tasks; the article's name."""
DEAD_TASKS: Final = f"{TASKS}.dead"
REASON: Final = "x-reason"
INSTALLATION: Final = "hueshift"
PATIENCE: Final = dt.timedelta(seconds=5)
SILENT_FOR: Final = dt.timedelta(seconds=30)
PAUSE_S: Final = 0.1
SENDERS: Final = 4
SHOWN_CHARS: Final = 200
JOB: Final = re.compile(r"[0-9a-f]{32}")

_HOST: Final = r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])"
_SERVER: Final = rf"{_HOST}:[0-9]{{1,5}}"
_ADDRESS: Final = re.compile(rf"kafka://({_SERVER}(?:,{_SERVER})*)(?:/({NAME.pattern})?)?")
_LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the library's
_FAILURES: Final = (KafkaException, BufferError)


@dataclasses.dataclass(frozen=True, slots=True)
class _Letter:
    """A message that is to be sent."""

    topic: str
    body: bytes
    key: str | None = None
    words: str = ""


class KafkaQueue:
    """One cluster. Close it at the end.

    Args:
        url: ``kafka://HOST:PORT[,HOST:PORT…][/INSTALLATION]``; topics and groups begin with the installation's name.
        patience: How long brokers may take to answer.
        silent_for: How long a process may be silent before its partitions are given to others.

    Raises:
        InvalidInputError: *url* is no such address; the text names the setting.
    """

    sees_all = False  # others have the other partitions

    def __init__(self, url: str, *, patience: dt.timedelta = PATIENCE, silent_for: dt.timedelta = SILENT_FOR) -> None:
        self._servers, self._name = read_address(url)
        self._patience_s = patience.total_seconds()
        self._silent_ms = round(silent_for / dt.timedelta(milliseconds=1))
        self._dead = f"{self._name}.jobs.dead"  # names of queues have no dots
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None
        self._readers: dict[str, Reader] = {}
        self._is_closed = False
        self._reading = concurrent.futures.ThreadPoolExecutor(1, "kafka-read")
        self._sending = concurrent.futures.ThreadPoolExecutor(SENDERS, "kafka-send")

    async def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        await self._send([self._letter(each) for each in wake_ups])

    async def take(self, queues: Sequence[str], *, limit: int) -> tuple[Delivery, ...]:
        """Return as the port says. If the call is cancelled, what it found comes again after a rebalance."""
        found = await self._read(lambda: self._take(queues, limit=min(limit, MAX_BATCH)))
        sound: list[Delivery] = []
        for queue, vip, taken in found:
            job = taken.body.decode(errors="replace")
            if JOB.fullmatch(job):
                sound.append(Delivery(WakeUp(JobId(job), queue, vip), taken))
            else:
                await self._refuse(taken)
        return tuple(sound)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Note it; the next look into the queue, or the end, tells the brokers. Until then a crash repeats it."""
        _taken(delivery).reader.acknowledge(_taken(delivery))

    async def release(self, delivery: Delivery) -> None:
        await self._hand_on(_taken(delivery), self._letter(delivery.wake_up))

    async def bury(self, delivery: Delivery, *, words: str) -> None:
        job = delivery.wake_up.job
        await self._hand_on(_taken(delivery), _Letter(self._dead, job.encode(), job, words))

    async def dead_letters(self, *, limit: int = MAX_BATCH) -> tuple[DeadLetter, ...]:
        seen = await self._read(lambda: self._look_through(self._dead, limit=limit))
        return tuple(DeadLetter(JobId(body), words) for body, words in seen)

    async def take_tasks(self, *, limit: int) -> tuple[ForeignTask, ...]:
        found = await self._read(lambda: self._search([[self._reader(TASKS)]], limit=limit))
        return tuple(ForeignTask(taken.body, taken) for taken in found)

    async def acknowledge_task(self, task: ForeignTask) -> None:
        """As `acknowledge`."""
        _taken(task).reader.acknowledge(_taken(task))

    async def release_task(self, task: ForeignTask) -> None:
        await self._hand_on(_taken(task), _Letter(TASKS, task.body))

    async def refuse_task(self, task: ForeignTask, *, words: str) -> None:
        await self._hand_on(_taken(task), _Letter(DEAD_TASKS, task.body, words=words))

    async def dead_tasks(self, *, limit: int = MAX_BATCH) -> tuple[DeadTask, ...]:
        seen = await self._read(lambda: self._look_through(DEAD_TASKS, limit=limit))
        return tuple(DeadTask(body[:SHOWN_CHARS], words) for body, words in seen)

    async def close(self) -> None:
        def work() -> None:
            _leave(tuple(self._readers.values()), self._patience_s)
            self._readers.clear()
            self._producer = self._admin = None  # their ends may take a while, too

        if not self._is_closed:
            self._is_closed = True
            await self._read(work)
            for threads in (self._reading, self._sending):
                threads.shutdown(wait=False)

    # -- sending: from several threads, since one that waits for a broker must not hold up the others ------------------

    def _letter(self, wake_up: WakeUp) -> _Letter:
        return _Letter(self._topic(wake_up.queue, vip=wake_up.vip), wake_up.job.encode(), wake_up.job)

    def _topic(self, queue: str, *, vip: bool) -> str:
        return f"{self._name}.{queue}.vip" if vip else f"{self._name}.{queue}"

    async def _hand_on(self, taken: Taken, letter: _Letter) -> None:
        """Send *letter* in place of what was taken; nothing, where that is somebody else's by now."""
        if taken.is_lost:
            return
        try:
            await self._send([letter])
        except UnavailableError:
            taken.reader.put_back(taken)
            raise
        taken.reader.acknowledge(taken)

    async def _refuse(self, taken: Taken) -> None:
        with contextlib.suppress(UnavailableError):  # it comes again
            await self._hand_on(taken, _Letter(self._dead, taken.body, words="it is no job of ours"))

    async def _send(self, letters: Sequence[_Letter]) -> None:
        if not letters:
            return
        if self._producer is None:
            self._producer = Producer(
                self._config(
                    {"enable.idempotence": True, "acks": "all", "delivery.timeout.ms": round(1000 * self._patience_s)}
                )
            )
        producer = self._producer
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._sending, _deliver, producer, letters, self._patience_s)
        except _FAILURES as exc:
            if self._producer is producer:  # an idempotent one may be of no use after an error
                self._producer = None
            raise self._unavailable(exc) from exc

    # -- reading: all of it in one thread ------------------------------------------------------------------------------

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, work)
        except _FAILURES as exc:
            raise self._unavailable(exc) from exc

    def _take(self, queues: Sequence[str], *, limit: int) -> list[tuple[str, bool, Taken]]:
        levels = [[self._reader(self._topic(queue, vip=vip)) for queue in queues] for vip in (True, False)]
        came_from = {self._topic(queue, vip=vip): (queue, vip) for queue in queues for vip in (True, False)}
        return [(*came_from[taken.reader.topic], taken) for taken in self._search(levels, limit=limit)]

    def _search(self, levels: Sequence[Sequence[Reader]], *, limit: int) -> list[Taken]:
        """Take up to *limit* messages; those of an earlier level first."""
        found: list[Taken] = []
        try:
            self._collect(levels, found, limit=limit)
        except KafkaException:
            if not found:  # what was found is ours: whatever is wrong will be so the next time, too
                raise
        return [taken for taken in found if not taken.is_lost]  # a rebalance may have come in between

    def _collect(self, levels: Sequence[Sequence[Reader]], found: list[Taken], *, limit: int) -> None:
        readers = [reader for level in levels for reader in level]
        for reader in readers:
            reader.commit()
        if all(reader.is_settled for reader in readers):
            for level in levels:
                _drain(level, found, limit=limit)
            if found:
                return
        # Nothing is here. Is there nothing, or is it on its way? Also, does anybody answer?
        ends = self._ends(readers)
        for _ in range(round(self._patience_s / PAUSE_S)):
            for level in levels:
                _drain(level, found, limit=limit)
                late = [reader for reader in level if reader.is_behind(ends)]
                if len(found) >= limit or (found and level is levels[-1]):
                    return
                if late:  # those of VIPs are known to come before any other is looked at
                    taken = late[0].take(PAUSE_S)
                    found += [taken] if taken is not None else []
                    break
            else:
                return
        _drain(readers, found, limit=limit)

    def _reader(self, topic: str) -> Reader:
        if topic not in self._readers:
            self._wait_topic(topic)
            group = topic if topic.startswith(f"{self._name}.") else f"{self._name}.{topic}"
            self._readers[topic] = Reader(topic, group=group, make=self._consumer)
        return self._readers[topic]

    def _wait_topic(self, topic: str) -> set[int]:
        """Return a topic's partitions. Where brokers make topics for whoever asks, they do so now."""
        error: KafkaError | None = None
        for _ in range(round(self._patience_s / PAUSE_S)):
            told = self._ask().list_topics(topic, timeout=self._patience_s).topics[topic]
            if told.error is None:
                return set(told.partitions)
            error = told.error
            self._ask().poll(PAUSE_S)
        raise KafkaException(error)

    def _ends(self, readers: Sequence[Reader]) -> Ends:
        wanted = {TopicPartition(reader.topic, number): _LATEST for reader in readers for number in reader.partitions}
        if not wanted:
            self._ask().list_topics(readers[0].topic, timeout=self._patience_s)  # only to see that somebody answers
            return {}
        answers = self._ask().list_offsets(wanted, request_timeout=self._patience_s)
        return {(each.topic, each.partition): answer.result().offset for each, answer in answers.items()}

    def _look_through(self, topic: str, *, limit: int) -> tuple[tuple[str, str], ...]:
        """Read a topic's bodies and reasons from its beginning without a group, and so without taking anything."""
        unread = self._wait_topic(topic)
        consumer = self._consumer({"group.id": f"{topic}.looked-at", **SETTINGS})
        found: list[tuple[str, str]] = []
        try:
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
            for _ in range(round(self._patience_s / PAUSE_S) + limit):
                if not unread or len(found) >= limit:
                    return tuple(found)
                message = consumer.poll(PAUSE_S)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    found.append(_dead(message))
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's spelling
                    unread.discard(message.partition())
                else:
                    raise KafkaException(error)
        finally:
            consumer.close()
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - the library's spelling

    def _ask(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._config({}))
        return self._admin

    def _consumer(self, settings: Options) -> Consumer:
        return Consumer(self._config({"session.timeout.ms": self._silent_ms, **settings}))

    def _config(self, settings: Options) -> dict[str, Any]:
        # The library's own log says each attempt to connect; what we cannot do, we say once.
        return {"bootstrap.servers": self._servers, "client.id": self._name, "log_level": 0, **settings}

    def _unavailable(self, exc: BaseException) -> UnavailableError:
        error = exc.args[0] if exc.args else exc
        said = error.str() if isinstance(error, KafkaError) else str(error)
        words = " ".join(said.split())[:200] or type(exc).__name__
        return UnavailableError(
            f"{SETTING}: Kafka at {self._servers} cannot be used ({words}); jobs are kept until it can"
        )


def read_address(url: str) -> tuple[str, str]:
    """Return the brokers' addresses, as the library wants them, and the installation's name.

    Raises:
        InvalidInputError: *url* is no such address.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None or any(not 0 < int(each.rpartition(":")[2]) < 2**16 for each in found[1].split(",")):
        raise InvalidInputError(
            SETTING,
            "is no address of Kafka's brokers",
            "write it like kafka://HOST:PORT,HOST:PORT or kafka://HOST:PORT/INSTALLATION, without a user",
        )
    return found[1], found[2] or INSTALLATION


def _drain(readers: Sequence[Reader], found: list[Taken], *, limit: int) -> None:
    """Add what is here already, one of each reader in turn, until there are *limit* messages in *found*."""
    waiting = collections.deque(readers)
    while waiting and len(found) < limit:
        reader = waiting.popleft()
        taken = reader.take()
        if taken is not None:
            found.append(taken)
            waiting.append(reader)


def _leave(readers: Sequence[Reader], patience_s: float) -> None:
    """Have all leave their groups; not for longer than brokers may take to answer, since the library knows no limit.

    Who could not leave in time is taken for dead by the group after a while. The thread goes with the process.
    """

    def work() -> None:
        for reader in readers:
            with contextlib.suppress(KafkaException):
                reader.close()

    leaving = threading.Thread(target=work, name="kafka-leave", daemon=True)
    leaving.start()
    leaving.join(patience_s)
    if leaving.is_alive():
        log.warning("kafka.not_left", words="a group of Kafka's was not left in time; it will notice by itself")


def _deliver(producer: Producer, letters: Sequence[_Letter], patience_s: float) -> None:
    """Return once the brokers have all of them for good."""
    outcomes: list[KafkaError | None] = []
    for each in letters:
        producer.produce(
            each.topic,
            each.body,
            key=each.key,
            headers={REASON: each.words.encode()} if each.words else None,
            on_delivery=lambda error, _: outcomes.append(error),
        )
    producer.flush(patience_s + 1)
    failed = [error for error in outcomes if error is not None]
    if failed or len(outcomes) < len(letters):
        raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - the library's spelling


def _taken(given: Delivery | ForeignTask) -> Taken:
    assert isinstance(given.tag, Taken)  # noqa: S101 - we made it
    return given.tag


def _dead(message: Message) -> tuple[str, str]:
    words = dict(message.headers() or ()).get(REASON)
    body = message.value() or b""
    return body.decode(errors="replace"), words.decode(errors="replace") if isinstance(words, bytes) else ""
