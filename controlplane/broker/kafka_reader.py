"""Reads one Kafka topic in the name of a group, in one thread; other threads may only answer what was taken.

Partitions come and go as processes do. Messages that were taken from one that has gone are somebody else's: answers to
them are dropped, and the next owner reads them again.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from controlplane.broker.offsets import Offsets

Options: TypeAlias = Mapping[str, Any]
"""Settings of the library, by its own names."""
Ends: TypeAlias = Mapping[tuple[str, int], int]
"""Where topics' partitions end: the offset of the next message there will be."""

BUSY_FOR_MS: Final = 30 * 60 * 1000
"""How long a process that is full need not ask for more; as RabbitMQ, which takes its messages back after that."""
SETTINGS: Final[Options] = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,  # how a reader learns where it stands in a partition without messages
    "partition.assignment.strategy": "cooperative-sticky",  # who has a partition keeps it if it can
    "heartbeat.interval.ms": 1_000,
    "max.poll.interval.ms": BUSY_FOR_MS,
    "queued.min.messages": 200,  # what lies here waits for this process
    "topic.metadata.refresh.interval.ms": 30_000,
}
_NO_NEWS: Final = frozenset(
    {KafkaError._MAX_POLL_EXCEEDED, KafkaError.UNKNOWN_TOPIC_OR_PART}  # noqa: SLF001 - the library's spelling
)
"""What is said before a group is joined again, or while a topic is being made."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A message, ours until it is acknowledged or `is_lost`."""

    reader: "Reader"
    offsets: Offsets
    offset: int
    body: bytes

    @property
    def is_lost(self) -> bool:
        """Whether somebody else will see to it."""
        return self.offsets.is_lost


class ConsumerMaker(Protocol):
    """Makes a consumer of one topic, with these settings beside the address of the brokers."""

    def __call__(self, settings: Options) -> Consumer:
        """Return a consumer that has not joined its group yet."""


class Reader:
    """One topic. It joins its group as it is read.

    Args:
        topic: Its name; it should exist.
        group: Whose members share the partitions.
        make: Makes the consumer.
    """

    def __init__(self, topic: str, *, group: str, make: ConsumerMaker) -> None:
        self.topic = topic
        self._parts: dict[int, Offsets] = {}
        self._has_joined = False
        self._answered: collections.deque[Taken] = collections.deque()
        self._put_back: collections.deque[Taken] = collections.deque()
        self._consumer = make({**SETTINGS, "group.id": group, "on_commit": self._see_committed})
        self._consumer.subscribe([topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lose)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that are ours now."""
        return tuple(self._parts)

    @property
    def is_settled(self) -> bool:
        """Whether the group was joined, and all that was there then is known of."""
        return self._has_joined and all(offsets.position is not None for offsets in self._parts.values())

    def is_behind(self, ends: Ends) -> bool:
        """Whether there is more to read than what was read; also, while that is not known."""
        return not self.is_settled or any(
            (offsets.position or 0) < ends.get((self.topic, number), 0) for number, offsets in self._parts.items()
        )

    def take(self, wait_s: float = 0) -> Taken | None:
        """Return the next message, None when there is none here within *wait_s* seconds.

        Raises:
            KafkaException: The topic cannot be read.
        """
        while self._put_back:
            returned = self._put_back.popleft()
            if not returned.is_lost:
                return returned
        while (message := self._consumer.poll(wait_s)) is not None:
            taken = self._look_at(message)
            if taken is not None:
                return taken
        return None

    def acknowledge(self, taken: Taken) -> None:
        """Note, in any thread, that a message was answered; the next `commit` says so to the brokers."""
        self._answered.append(taken)

    def put_back(self, taken: Taken) -> None:
        """Have a message come again, from any thread: it could not be answered."""
        self._put_back.append(taken)

    def commit(self) -> None:
        """Ask for what was answered to be committed, without waiting for it."""
        while self._answered:
            taken = self._answered.popleft()
            taken.offsets.finish(taken.offset)
        found = [(number, offsets.advance()) for number, offsets in self._parts.items()]
        moved = [TopicPartition(self.topic, number, low) for number, low in found if low is not None]
        if moved:
            self._consumer.commit(offsets=moved, asynchronous=True)

    def close(self) -> None:
        """Commit, and leave the group."""
        self.commit()
        self._consumer.close()  # waits for what is being committed

    def _look_at(self, message: Message) -> Taken | None:
        number, offset, error = message.partition(), message.offset(), message.error()
        if error is not None and error.code() in _NO_NEWS:
            return None
        if number is None or offset is None or (error is not None and error.code() != KafkaError._PARTITION_EOF):  # noqa: SLF001 - the library's spelling
            raise KafkaException(error)
        offsets = self._parts.get(number)
        if offsets is None:  # of a partition that has just gone
            return None
        if error is not None:
            offsets.reach(offset)
            return None
        offsets.take(offset)
        return Taken(self, offsets, offset, message.value() or b"")

    def _see_committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            if (error or each.error) is not None and each.partition in self._parts:
                self._parts[each.partition].retract()

    def _assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_joined = True
        self._lose(_, partitions)
        for each in partitions:
            self._parts[each.partition] = Offsets()

    def _revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            if each.partition in self._parts:  # what is on its way may be refused while the group is rebalanced
                self._parts[each.partition].retract()
        self.commit()
        self._lose(_, partitions)

    def _lose(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            offsets = self._parts.pop(each.partition, None)
            if offsets is not None:
                offsets.is_lost = True
