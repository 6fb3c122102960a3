"""Pure: which waiting requests share the next run of the network, which are dropped, and how long a new one would wait.

The rules, each for a reason:

* A run holds pictures of one model and one size, because that is what a device can stack.
* A free device takes what is there. Only a device that has just worked holds back a run that is not full, and never
  longer than 5 ms after the first of its pictures was ready: that fills batches, and an idle worker adds nothing.
* A request whose answer would come after its caller has given up is dropped before it costs the device anything, and
  a picture joins a run only if the run, made longer by it, still ends in time for all in it.
* Bulk work stands in line as if it had come 5 s later: people go first, and bulk work is still never starved.
"""

import dataclasses
import enum
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from inference_worker.costs import Budget, Costs

MAX_HOLD_S: Final = 0.005
BULK_YIELD_S: Final = 5.0


class Priority(enum.StrEnum):
    """Who waits for the answer."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """Pictures that can be stacked: one model, one size of its input, pixels."""

    model: str
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ticket:
    """One request's place in line; moments in seconds of one clock."""

    bucket: Bucket
    priority: Priority
    arrived_s: float
    """When the request got in; the line is by this."""
    queued_s: float
    """When its picture was ready for the device."""
    deadline_s: float

    @property
    def rank_s(self) -> float:
        """The line is sorted by this; smaller goes first."""
        return self.arrived_s + (BULK_YIELD_S if self.priority is Priority.BULK else 0.0)


T = TypeVar("T", bound=Ticket)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the device can do with one model."""

    costs: Costs
    budget: Budget


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for every run."""

    capacity: Mapping[str, Capacity]
    max_batch: int
    finish_s: float = 0.0
    """From the end of a run to the answer: putting colours back and writing the file."""

    def estimate_run_s(self, bucket: Bucket, count: int) -> float:
        """How long a run of *count* pictures takes."""
        return self.capacity[bucket.model].costs.estimate_s(count * bucket.pixels)

    def count_fitting(self, bucket: Bucket) -> int:
        """How many pictures of *bucket* one run may hold."""
        return max(1, min(self.max_batch, self.capacity[bucket.model].budget.limit_px // bucket.pixels))


@dataclasses.dataclass(frozen=True, slots=True)
class Run(Generic[T]):
    """What the device does next, and who need not wait any longer; the others stay."""

    batch: tuple[T, ...]
    late: tuple[T, ...]


def plan_run(waiting: Sequence[T], terms: Terms, *, now_s: float) -> Run[T]:
    """Choose the next run: the first in line, and those of its bucket that fit, in order of their places."""
    late: list[T] = []
    able: list[T] = []
    for ticket in waiting:
        in_time = now_s + terms.estimate_run_s(ticket.bucket, 1) + terms.finish_s <= ticket.deadline_s
        (able if in_time else late).append(ticket)
    able.sort(key=lambda ticket: ticket.rank_s)
    batch: list[T] = []
    due_s = math.inf
    for ticket in able:
        if batch and ticket.bucket != batch[0].bucket:
            continue
        if batch and len(batch) >= terms.count_fitting(ticket.bucket):
            break
        ends_s = now_s + terms.estimate_run_s(ticket.bucket, len(batch) + 1) + terms.finish_s
        if ends_s <= min(due_s, ticket.deadline_s):
            batch.append(ticket)
            due_s = min(due_s, ticket.deadline_s)
    return Run(tuple(batch), tuple(late))


def compute_hold_s(batch: Sequence[Ticket], terms: Terms, *, was_idle: bool, now_s: float) -> float:
    """How long to wait for a fuller run; zero or less means to start."""
    if was_idle or not batch or len(batch) >= terms.count_fitting(batch[0].bucket):
        return 0.0
    held_until_s = min(ticket.queued_s for ticket in batch) + MAX_HOLD_S
    needed_s = terms.estimate_run_s(batch[0].bucket, len(batch)) + terms.finish_s
    return min(held_until_s, min(ticket.deadline_s for ticket in batch) - needed_s) - now_s


def estimate_backlog_s(ahead: Iterable[Ticket], terms: Terms) -> float:
    """How long the device needs for the tickets *ahead*, full runs per bucket."""
    total_s = 0.0
    for bucket, count in Counter(ticket.bucket for ticket in ahead).items():
        full, rest = divmod(count, terms.count_fitting(bucket))
        total_s += full * terms.estimate_run_s(bucket, terms.count_fitting(bucket))
        total_s += terms.estimate_run_s(bucket, rest) if rest else 0.0
    return total_s


def count_places(limit: int, priority: Priority) -> int:
    """How many places a request of *priority* may find taken and still get in; a quarter is kept free of bulk work."""
    return limit if priority is Priority.INTERACTIVE or limit == 1 else limit - max(1, limit // 4)
