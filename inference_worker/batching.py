"""The loop between waiting requests and one device; what it does next is decided in `scheduling`.

The queue is bounded at the door: a request that finds every place taken is refused at once and told to come back. A
client that leaves takes its picture out of the queue. A run that finds no memory is done again in halves, and the next
ones are smaller; neither that nor any other failure of a run stops the loop. A device that fails for good is told of
once, whoever waits for it is sent away, and so is whoever comes.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np

from inference_worker.clock import Clock
from inference_worker.costs import Budget, Costs
from inference_worker.errors import DeadlineError, DeviceLostError, DeviceMemoryError, QueueFullError
from inference_worker.failures import forget_frames, is_device_lost, is_out_of_memory
from inference_worker.imaging import Floats
from inference_worker.metrics import Metrics
from inference_worker.scheduling import (
    Bucket,
    Capacity,
    Priority,
    Terms,
    Ticket,
    compute_hold_s,
    count_places,
    estimate_backlog_s,
    plan_run,
)

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job(Ticket):
    """One picture's way through the network; a cancelled answer means that nobody waits any more."""

    picture: Floats
    answer: asyncio.Future[Floats]


class Gate:
    """Counts the requests inside the worker, from a read body to an answer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0

    def check(self, priority: Priority, *, wait_s: float = 1.0) -> None:
        """Refuse if no place is left for *priority*.

        Raises:
            QueueFullError: Every place is taken; it names *wait_s* as the time after which to come again.
        """
        places = count_places(self.limit, priority)
        if self.inside >= places:
            raise QueueFullError(f"all {places} places are taken", wait_s=wait_s)

    @contextlib.contextmanager
    def enter(self, priority: Priority = Priority.INTERACTIVE, *, wait_s: float = 1.0) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            QueueFullError: As for `check`.
        """
        self.check(priority, wait_s=wait_s)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class DeviceQueue:
    """Feeds one device from one thread; bounded by the `Gate` in front of it."""

    def __init__(
        self,
        predict: Callable[[Bucket, Floats], Floats],
        *,
        max_batch: int,
        clock: Clock,
        metrics: Metrics,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare an empty queue; `run` serves it.

        Args:
            predict: Runs a network on a stack of pictures of one bucket; called in the device's thread.
            max_batch: Most pictures in one run.
            clock: The one by which tickets tell their moments.
            metrics: Where waits, batch sizes and refusals go.
            on_lost: Called once, in the loop, when the device has failed for good.
        """
        self.is_lost = False
        self.capacity: dict[str, Capacity] = {}
        self.finish_s = 0.0
        self._predict = predict
        self._max_batch = max_batch
        self._clock = clock
        self._metrics = metrics
        self._on_lost = on_lost
        self._waiting: dict[Job, None] = {}
        self._arrived = asyncio.Event()
        self._busy_until_s: float | None = None
        self._device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    @property
    def depth(self) -> int:
        """Jobs that wait for the device."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether the device works or something waits for it."""
        return self._busy_until_s is not None or bool(self._waiting)

    @property
    def terms(self) -> Terms:
        """What holds for the next run."""
        return Terms(capacity=self.capacity, max_batch=self._max_batch, finish_s=self.finish_s)

    def estimate_wait_s(self, ticket: Ticket, *, coming: int = 0) -> float:
        """How long until *ticket*'s run would end.

        Args:
            ticket: The request in question.
            coming: Requests of its bucket that are inside already and not yet in this queue.
        """
        running_s = 0.0 if self._busy_until_s is None else max(0.0, self._busy_until_s - self._clock.read_s())
        ahead: list[Ticket] = [job for job in self._waiting if job.rank_s <= ticket.rank_s]
        return running_s + estimate_backlog_s([*ahead, *[ticket] * (coming + 1)], self.terms)

    def doubt(self, model: str) -> None:
        """Trust the model's costs less: they refused a request, and no run was there to check them."""
        now = self.capacity[model]
        self.capacity[model] = dataclasses.replace(now, costs=now.costs.doubt())

    async def submit(self, ticket: Ticket, picture: Floats) -> Floats:
        """The network's answer for one picture (1, channels, h, w); cancelling gives the place up.

        Raises:
            DeadlineError: It could not be run in time.
            DeviceMemoryError: The device had no room for it, even alone.
            DeviceLostError: The device has failed for good.
        """
        if self.is_lost:
            raise DeviceLostError
        job = Job(
            bucket=ticket.bucket,
            priority=ticket.priority,
            arrived_s=ticket.arrived_s,
            queued_s=self._clock.read_s(),
            deadline_s=ticket.deadline_s,
            picture=picture,
            answer=asyncio.get_running_loop().create_future(),
        )
        self._waiting[job] = None
        self._arrived.set()
        try:
            return await job.answer
        finally:
            self._waiting.pop(job, None)

    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run *function* in the device's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._device, lambda: function(*args, **kwargs))

    async def run(self) -> None:
        """Serve jobs until cancelled."""
        was_idle = True
        with self._device:
            while True:
                now_s = self._clock.read_s()
                plan = plan_run(tuple(self._waiting), self.terms, now_s=now_s)
                self._drop(plan.late)
                if not plan.batch:
                    was_idle = True
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                hold_s = compute_hold_s(plan.batch, self.terms, was_idle=was_idle, now_s=now_s)
                if hold_s > 0:
                    self._arrived.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(hold_s):
                            await self._arrived.wait()
                    continue
                was_idle = False
                for job in plan.batch:
                    self._waiting.pop(job, None)
                    self._metrics.queue_wait.observe(max(0.0, now_s - job.queued_s))
                await self._serve(list(plan.batch))

    def _drop(self, late: tuple[Job, ...]) -> None:
        for job in late:
            self._waiting.pop(job, None)
            if not job.answer.done():
                job.answer.set_exception(DeadlineError(job.deadline_s - job.arrived_s))
            if self._busy_until_s is None:
                self.doubt(job.bucket.model)

    async def _serve(self, batch: list[Job]) -> None:
        """Run *batch*, in halves of halves if memory runs out."""
        parts = [batch]
        while parts:
            part = [job for job in parts.pop() if not job.answer.done()]
            if not part:
                continue
            failure = await self._attempt(part)
            if is_out_of_memory(failure) and len(part) == 1:
                await self.call(gc.collect)
                failure = await self._attempt(part)
            if failure is None:
                continue
            if is_device_lost(failure):
                log.critical("device.was_lost", exc_info=failure)
                self._lose_device([*part, *(job for waiting in parts for job in waiting)])
                return
            if is_out_of_memory(failure) and len(part) > 1:
                middle = (len(part) + 1) // 2
                parts += [part[middle:], part[:middle]]
                continue
            log.error("batch.failed", exc_info=failure, extra={"fields": {"size": len(part)}})
            for job in part:
                if not job.answer.done():
                    job.answer.set_exception(DeviceMemoryError() if is_out_of_memory(failure) else failure)

    def _lose_device(self, running: list[Job]) -> None:
        self.is_lost = True
        for job in (*running, *self._waiting):
            if not job.answer.done():
                job.answer.set_exception(DeviceLostError())
        self._waiting.clear()
        self._on_lost()

    async def _attempt(self, part: list[Job]) -> Exception | None:
        """Run the network once; what went wrong is returned."""
        bucket, pixels = part[0].bucket, part[0].bucket.pixels * len(part)
        capacity = self.capacity[bucket.model]
        started_s = self._clock.read_s()
        self._busy_until_s = started_s + capacity.costs.estimate_s(pixels)
        self._metrics.batches.observe(len(part))
        try:
            planes = await self.call(self._run_stacked, bucket, [job.picture for job in part])
        except Exception as exc:  # noqa: BLE001 - one bad run must not stop the device; the caller logs or mends it
            if is_out_of_memory(exc):
                self._metrics.out_of_memory.inc()
                self._set_budget(bucket.model, capacity.budget.shrink(pixels))
                log.warning("memory.ran_out", extra={"fields": {"pictures": len(part), "pixels": pixels}})
                forget_frames(exc)
            return exc
        finally:
            self._busy_until_s = None
        self.capacity[bucket.model] = Capacity(
            costs=capacity.costs.observe(pixels, max(1e-6, self._clock.read_s() - started_s)),
            budget=capacity.budget.prosper(pixels),
        )
        self._metrics.budget.labels(bucket.model).set(self.capacity[bucket.model].budget.limit_px)
        for job, made in zip(part, planes, strict=True):
            if not job.answer.done():
                job.answer.set_result(made)
        return None

    def _run_stacked(self, bucket: Bucket, pictures: list[Floats]) -> Floats:
        return self._predict(bucket, np.concatenate(pictures) if len(pictures) > 1 else pictures[0])

    def set_capacity(self, model: str, costs: Costs, budget: Budget) -> None:
        """Take what was measured before the first request."""
        self.capacity[model] = Capacity(costs=costs, budget=budget)
        self._metrics.budget.labels(model).set(budget.limit_px)

    def _set_budget(self, model: str, budget: Budget) -> None:
        self.set_capacity(model, self.capacity[model].costs, budget)
