"""The ports `JobQueue` and `ForeignTasks` on RabbitMQ, 3.10 or newer, by aio-pika.

Every queue of ours is a durable quorum queue; every message is persistent, confirmed by the broker, and an error when
no queue takes it. Quorum queues know no priorities, so each queue of ours has a second one for VIPs, which is drained
first. Wake-ups are fetched one by one (``basic.get``) for as many free slots as there are, never ahead: what a process
holds and does not work on would wait behind it. A connection that fails is dropped with all that was taken over it,
which the broker then gives to somebody else, and the next call makes a new one.
"""

import asyncio
import collections
import contextlib
import dataclasses
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import aio_pika
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractIncomingMessage,
    AbstractQueue,
    FieldValue,
)
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.model import JobId
from controlplane.jobs.operations import DeadTask
from controlplane.jobs.ports import MAX_BATCH, DeadLetter, Delivery, ForeignTask, WakeUp

T = TypeVar("T")

SETTING: Final = "HUESHIFT_QUEUE_URL"
TIMEOUT_S: Final = 10
PREFIX: Final = "hueshift."
DEAD: Final = f"{PREFIX}dead"
TASKS: Final = "photo_repair_tasks"
"""Where foreign producers put their tasks; the article's name."""
DEAD_TASKS: Final = f"{TASKS}.dead"
REASON: Final = "x-reason"
SHOWN_BYTES: Final = 200
"""How much of a foreign message is shown to people."""
JOB: Final = re.compile(r"[0-9a-f]{32}")

DEAD_ARGUMENTS: Final[dict[str, FieldValue]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000,  # looking at dead letters delivers them
}
ARGUMENTS: Final[dict[str, FieldValue]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 100,
    "x-overflow": "reject-publish",  # what at-least-once dead-lettering asks for
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD,
    "x-dead-letter-strategy": "at-least-once",
}
_ARGUMENTS: Final[Mapping[str, Mapping[str, FieldValue]]] = {
    DEAD: DEAD_ARGUMENTS,
    DEAD_TASKS: DEAD_ARGUMENTS,
    TASKS: {},  # as its producers declare it: with other arguments their declaration, or ours, would be refused
}
_FAILURES: Final = (*CONNECTION_EXCEPTIONS, TimeoutError)


@dataclasses.dataclass(slots=True)
class _Link:
    """One connection: a channel that publishes, one that consumes, and the queues that are known to be there."""

    connection: AbstractConnection
    publishing: AbstractChannel
    consuming: AbstractChannel
    queues: dict[str, AbstractQueue] = dataclasses.field(default_factory=dict)

    async def queue(self, name: str) -> AbstractQueue:
        """Return a queue, made when it is not there."""
        if name not in self.queues:
            arguments = dict(_ARGUMENTS.get(name, ARGUMENTS))
            self.queues[name] = await self.consuming.declare_queue(name, durable=True, arguments=arguments)
        return self.queues[name]

    async def publish(self, name: str, message: aio_pika.Message) -> None:
        """Return once a queue has taken *message* for good."""
        await self.publishing.default_exchange.publish(message, name, mandatory=True)


class RabbitQueue:
    """One broker. Close it at the end.

    Args:
        url: ``amqp://USER:PASSWORD@HOST/VHOST``, or ``amqps``.

    Raises:
        InvalidInputError: *url* is no such address; the text names the setting.
    """

    sees_all = True

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"amqp", "amqps"} or not parts.hostname:
            raise InvalidInputError(SETTING, "is no address of a broker", "write it like amqp://USER:PASSWORD@HOST/")
        self._url = url
        self._who = f"RabbitMQ at {parts.hostname}"
        self._lock = asyncio.Lock()
        self._link: _Link | None = None

    async def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        async def work(link: _Link) -> None:
            for name in sorted({_name(each.queue, vip=each.vip) for each in wake_ups}):
                await link.queue(name)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for each in wake_ups:
                        tasks.create_task(_send(link, _name(each.queue, vip=each.vip), each.job))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from failures

        if wake_ups:
            await self._ask(work)

    async def take(self, queues: Sequence[str], *, limit: int) -> tuple[Delivery, ...]:
        async def work(link: _Link) -> tuple[Delivery, ...]:
            found: list[Delivery] = []
            for vip in (True, False):
                names = collections.deque(queues)
                while names and len(found) < min(limit, MAX_BATCH):  # one of each queue in turn
                    name = names.popleft()
                    message = await _next(await link.queue(_name(name, vip=vip)))
                    if message is None:
                        continue
                    names.append(name)
                    job = message.body.decode(errors="replace")
                    if JOB.fullmatch(job):
                        found.append(Delivery(WakeUp(JobId(job), name, vip), message))
                    else:  # none of ours
                        await message.reject(requeue=False)
            return tuple(found)

        return await self._ask(work)

    async def acknowledge(self, delivery: Delivery) -> None:
        await self._settle(_message(delivery).ack())

    async def release(self, delivery: Delivery) -> None:
        await self._settle(_message(delivery).nack(requeue=True))

    async def bury(self, delivery: Delivery, *, words: str) -> None:
        await self._ask(lambda link: _send(link, DEAD, delivery.wake_up.job, words))
        await self.acknowledge(delivery)

    async def dead_letters(self, *, limit: int = MAX_BATCH) -> tuple[DeadLetter, ...]:
        async def work(link: _Link) -> tuple[DeadLetter, ...]:
            seen = await _look(await link.queue(DEAD), limit)
            return tuple(DeadLetter(JobId(each.body.decode(errors="replace")), _reason(each)) for each in seen)

        return await self._ask(work)

    async def take_tasks(self, *, limit: int) -> tuple[ForeignTask, ...]:
        async def work(link: _Link) -> tuple[ForeignTask, ...]:
            tasks = await link.queue(TASKS)
            await link.queue(DEAD_TASKS)
            found: list[ForeignTask] = []
            while len(found) < limit and (message := await _next(tasks)) is not None:
                found.append(ForeignTask(message.body, message))
            return tuple(found)

        return await self._ask(work)

    async def acknowledge_task(self, task: ForeignTask) -> None:
        await self._settle(_message(task).ack())

    async def release_task(self, task: ForeignTask) -> None:
        await self._settle(_message(task).nack(requeue=True))

    async def refuse_task(self, task: ForeignTask, *, words: str) -> None:
        message = aio_pika.Message(task.body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, headers={REASON: words})
        await self._ask(lambda link: link.publish(DEAD_TASKS, message))
        await self.acknowledge_task(task)

    async def dead_tasks(self, *, limit: int = MAX_BATCH) -> tuple[DeadTask, ...]:
        async def work(link: _Link) -> tuple[DeadTask, ...]:
            seen = await _look(await link.queue(DEAD_TASKS), limit)
            return tuple(DeadTask(each.body[:SHOWN_BYTES].decode(errors="replace"), _reason(each)) for each in seen)

        return await self._ask(work)

    async def close(self) -> None:
        async with self._lock:
            await self._drop(self._link)

    async def _ask(self, work: Callable[[_Link], Awaitable[T]]) -> T:
        link = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                link = await self._connected()
                return await work(link)
        except _FAILURES as exc:
            async with self._lock:
                await self._drop(link)
            raise self._unavailable(exc) from exc

    async def _settle(self, answer: Awaitable[None]) -> None:
        """Wait for an answer to a message, whose channel may have gone with an earlier connection."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await answer
        except _FAILURES as exc:
            raise self._unavailable(exc) from exc

    async def _connected(self) -> _Link:
        async with self._lock:
            if self._link is None or self._link.connection.is_closed:
                connection = await aio_pika.connect(self._url)
                try:
                    publishing = await connection.channel(publisher_confirms=True, on_return_raises=True)
                    link = _Link(connection, publishing, await connection.channel(publisher_confirms=False))
                    await link.queue(DEAD)
                except BaseException:
                    await connection.close()
                    raise
                self._link = link
            return self._link

    async def _drop(self, link: _Link | None) -> None:
        """Forget a link that failed, unless there is a newer one by now."""
        if link is None:
            return
        if link is self._link:
            self._link = None
        with contextlib.suppress(*_FAILURES):
            async with asyncio.timeout(TIMEOUT_S):
                await link.connection.close()

    def _unavailable(self, exc: BaseException) -> UnavailableError:
        words = " ".join(str(exc).split())[:200] or type(exc).__name__
        return UnavailableError(f"{SETTING}: {self._who} cannot be used ({words}); jobs are kept until it can")


async def _next(queue: AbstractQueue) -> AbstractIncomingMessage | None:
    # Without the library's own timeout: it waits by `asyncio.wait_for`, which in Python 3.11 swallows a cancel that
    # comes together with the answer, and then no stop would ever reach the loop that asked.
    return await queue.get(fail=False, timeout=None)


def _name(queue: str, *, vip: bool) -> str:
    return f"{PREFIX}{queue}.vip" if vip else f"{PREFIX}{queue}"


async def _send(link: _Link, name: str, job: JobId, words: str = "") -> None:
    message = aio_pika.Message(
        job.encode(),
        content_type="text/plain",
        message_id=job,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={REASON: words} if words else None,
    )
    await link.publish(name, message)


async def _look(dead: AbstractQueue, limit: int) -> list[AbstractIncomingMessage]:
    """Return what lies in a queue, and leave it there."""
    seen: list[AbstractIncomingMessage] = []
    while len(seen) < limit and (message := await _next(dead)) is not None:
        seen.append(message)
    for message in seen:
        await message.nack(requeue=True)
    return seen


def _message(taken: Delivery | ForeignTask) -> AbstractIncomingMessage:
    assert isinstance(taken.tag, AbstractIncomingMessage)  # noqa: S101 - we made it
    return taken.tag


def _reason(message: AbstractIncomingMessage) -> str:
    if REASON in message.headers:
        return str(message.headers[REASON])
    deaths = message.headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else {}
    why = first.get("reason") if isinstance(first, dict) else None
    return f"the broker gave it up ({why})" if isinstance(why, str) else "the broker gave it up"
