"""Who may wait for the device, and which waiting requests share one run of the network.

The queue is bounded at the door: a request that finds every place taken is refused at once and told to come back.
Nothing waits for a batch to fill: a free device takes what is there. On a CPU a batch gains almost nothing for this
network, so the default is one picture a run.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from inference_worker.errors import QueueFullError
from inference_worker.imaging import Floats

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One picture's way through the network; a cancelled answer means that nobody waits any more."""

    lightness: Floats
    answer: asyncio.Future[Floats]


def choose_batch(waiting: Sequence[Job], *, max_batch: int) -> list[Job]:
    """The jobs of the next run: the oldest that is still wanted, and those of its shape, in order of arrival."""
    wanted = [job for job in waiting if not job.answer.done()]
    if not wanted:
        return []
    shape = wanted[0].lightness.shape
    return [job for job in wanted if job.lightness.shape == shape][:max_batch]


class Gate:
    """Counts the requests inside the worker, from a read body to an answer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            QueueFullError: Every place is taken.
        """
        if self.inside >= self.limit:
            raise QueueFullError(self.limit)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class DeviceQueue:
    """Feeds one device from one thread; bounded by the `Gate` in front of it."""

    def __init__(self, predict: Callable[[Floats], Floats], *, max_batch: int, observe: Callable[[int], None]) -> None:
        """Prepare an empty queue; `run` serves it.

        Args:
            predict: Runs the network on a batch; called in the device's thread.
            max_batch: Most pictures in one run.
            observe: Told the size of every batch.
        """
        self._predict = predict
        self._max_batch = max_batch
        self._observe = observe
        self._waiting: deque[Job] = deque()
        self._arrived = asyncio.Event()

    @property
    def depth(self) -> int:
        """Jobs that wait for the device."""
        return len(self._waiting)

    async def submit(self, lightness: Floats) -> Floats:
        """The network's answer for one picture (1, 1, h, w); cancelling gives the place up."""
        job = Job(lightness, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return await job.answer

    async def run(self) -> None:
        """Serve jobs until cancelled."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="device") as device:
            while True:
                batch = choose_batch(self._waiting, max_batch=self._max_batch)
                taken = set(map(id, batch))
                self._waiting = deque(j for j in self._waiting if id(j) not in taken and not j.answer.done())
                if batch:
                    await self._run_batch(batch, device)
                else:
                    self._arrived.clear()
                    await self._arrived.wait()

    async def _run_batch(self, batch: list[Job], device: ThreadPoolExecutor) -> None:
        self._observe(len(batch))
        stack = np.concatenate([job.lightness for job in batch])
        try:
            planes = await asyncio.get_running_loop().run_in_executor(device, self._predict, stack)
        except Exception as exc:  # one bad batch must not stop the device
            log.exception("batch.failed", extra={"fields": {"size": len(batch)}})
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(exc)
            return
        for job, ab in zip(batch, planes, strict=True):
            if not job.answer.done():
                job.answer.set_result(ab)
