import asyncio
import contextlib
import dataclasses
import math
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from inference_worker.batching import DeviceQueue, Gate
from inference_worker.costs import Budget, Costs
from inference_worker.errors import DeadlineError, DeviceLostError, DeviceMemoryError, ModelError, QueueFullError
from inference_worker.imaging import Floats
from inference_worker.metrics import Metrics
from inference_worker.scheduling import Bucket, Priority, Ticket

SMALL = Bucket("m", 32, 32)
Predict: TypeAlias = Callable[[Bucket, Floats], Floats]


@dataclasses.dataclass
class StandingClock:
    """Moves only when told to."""

    now_s: float = 0.0

    def read_s(self) -> float:
        return self.now_s

    def read_cpu_s(self) -> float:
        return self.now_s

    async def sleep(self, _: object) -> None:
        raise NotImplementedError


def make_ticket(**changes: Any) -> Ticket:
    ticket = Ticket(bucket=SMALL, priority=Priority.INTERACTIVE, arrived_s=0.0, queued_s=0.0, deadline_s=math.inf)
    return dataclasses.replace(ticket, **changes)


def make_picture(value: float = 0.0) -> Floats:
    return np.full((1, 1, 32, 32), value, np.float32)


def make_queue(
    predict: Predict,
    *,
    max_batch: int = 8,
    clock: StandingClock | None = None,
    on_lost: Callable[[], None] = lambda: None,
) -> DeviceQueue:
    clock = clock or StandingClock()
    queue = DeviceQueue(predict, max_batch=max_batch, clock=clock, metrics=Metrics(), on_lost=on_lost)
    queue.set_capacity("m", Costs(), Budget(limit_px=8 * 1024, ceiling_px=8 * 1024))
    return queue


@contextlib.asynccontextmanager
async def served(queue: DeviceQueue) -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as tasks:
        device = tasks.create_task(queue.run())
        yield tasks
        device.cancel()


def test_a_full_gate_refuses_and_opens_again() -> None:
    gate = Gate(1)
    with gate.enter():
        with pytest.raises(QueueFullError, match="all 1 places"), gate.enter():
            pytest.fail("the second request got in")
        assert gate.inside == 1
    with gate.enter():
        assert gate.inside == 1
    assert gate.inside == 0


def test_a_quarter_of_the_gate_is_kept_from_bulk_work() -> None:
    gate = Gate(4)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(gate.enter(Priority.BULK))
        with pytest.raises(QueueFullError, match="all 3 places"):
            gate.check(Priority.BULK, wait_s=7)
        stack.enter_context(gate.enter(Priority.INTERACTIVE))
        with pytest.raises(QueueFullError, match="all 4 places"):
            gate.check(Priority.INTERACTIVE)


async def test_waiting_jobs_share_a_run_and_get_their_own_answers() -> None:
    sizes: list[int] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        sizes.append(len(stack))
        return stack * 2

    queue = make_queue(predict)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(queue.submit(make_ticket(), make_picture(n))) for n in range(5)]
        await asyncio.wait(asked, timeout=0)
        assert queue.depth == 5
        device = tasks.create_task(queue.run())
        await asyncio.wait(asked)
        device.cancel()
    assert [float(task.result().max()) for task in asked] == [0, 2, 4, 6, 8]
    assert sizes == [5]
    assert queue.depth == 0


async def test_a_failed_run_fails_its_jobs_and_not_the_device(caplog: pytest.LogCaptureFixture) -> None:
    def predict(_: Bucket, stack: Floats) -> Floats:
        if stack.max() > 0:
            raise ModelError("model: no")
        return stack

    queue = make_queue(predict, max_batch=1)
    async with served(queue):
        with pytest.raises(ModelError):
            await queue.submit(make_ticket(), make_picture(1))
        assert (await queue.submit(make_ticket(), make_picture(0))).shape == (1, 32, 32)
    assert "batch.failed" in caplog.text


async def test_interactive_work_overtakes_bulk_work() -> None:
    order: list[float] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        order.extend(stack[:, 0, 0, 0])
        return stack

    queue = make_queue(predict, max_batch=1)
    priorities = [Priority.BULK, Priority.BULK, Priority.INTERACTIVE]
    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(queue.submit(make_ticket(priority=priority, arrived_s=0.1 * n), make_picture(n)))
            for n, priority in enumerate(priorities)
        ]
        await asyncio.wait(asked, timeout=0)
        device = tasks.create_task(queue.run())
        await asyncio.wait(asked)
        device.cancel()
    assert order == [2, 0, 1]


async def test_a_client_that_leaves_takes_its_picture_out() -> None:
    seen: list[int] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        seen.append(len(stack))
        return stack

    queue = make_queue(predict)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(queue.submit(make_ticket(), make_picture(n))) for n in range(3)]
        await asyncio.wait(asked, timeout=0)
        asked[1].cancel()
        await asyncio.wait([asked[1]])
        assert queue.depth == 2
        device = tasks.create_task(queue.run())
        await asyncio.wait([asked[0], asked[2]])
        device.cancel()
    assert seen == [2]


async def test_a_hopeless_request_never_reaches_the_device() -> None:
    ran: list[int] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        ran.append(len(stack))
        return stack

    clock = StandingClock(now_s=10.0)
    queue = make_queue(predict, clock=clock)
    queue.set_capacity("m", Costs(base_s=0.5), Budget(limit_px=4096, ceiling_px=4096))
    async with served(queue):
        with pytest.raises(DeadlineError, match="within 10"):
            await queue.submit(make_ticket(deadline_s=10.4, arrived_s=0.4), make_picture())
        assert ran == []
        await queue.submit(make_ticket(deadline_s=10.6), make_picture())
    assert ran == [1]


async def test_an_estimate_that_refuses_on_an_idle_device_heals() -> None:
    queue = make_queue(lambda _, stack: stack)
    queue.set_capacity("m", Costs(base_s=3.0), Budget(limit_px=4096, ceiling_px=4096))
    refused = 0
    async with served(queue):
        for _ in range(1000):
            try:
                await queue.submit(make_ticket(deadline_s=1.0), make_picture())
                break
            except DeadlineError:
                refused += 1
    assert 20 < refused < 60


async def test_out_of_memory_splits_until_it_fits_and_the_next_runs_are_smaller() -> None:
    tried: list[int] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        tried.append(len(stack))
        if len(stack) > 2:
            raise ModelError("the runtime failed") from RuntimeError("CUDA error: out of memory")
        return stack + 1

    queue = make_queue(predict)
    async with served(queue) as tasks:
        first = [tasks.create_task(queue.submit(make_ticket(), make_picture(n))) for n in range(7)]
        await asyncio.wait(first)
        split, tried[:] = list(tried), []
        second = [tasks.create_task(queue.submit(make_ticket(), make_picture(n))) for n in range(4)]
        await asyncio.wait(second)
    assert split == [7, 4, 2, 2, 3, 2, 1]
    assert [float(task.result().max()) for task in first] == [1, 2, 3, 4, 5, 6, 7]
    assert max(tried) <= 2
    assert queue.capacity["m"].budget.limit_px < 3 * 1024


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("Failed to allocate memory for requested buffer")])
async def test_one_picture_alone_tries_twice_and_then_says_so(failure: Exception) -> None:
    tried: list[int] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        tried.append(len(stack))
        if len(tried) < 3:
            raise failure
        return stack

    queue = make_queue(predict)
    async with served(queue):
        with pytest.raises(DeviceMemoryError):
            await queue.submit(make_ticket(), make_picture())
        assert (await queue.submit(make_ticket(), make_picture())).shape == (1, 32, 32)
    assert tried == [1, 1, 1]


async def test_what_a_failed_run_held_is_free_before_the_next_attempt() -> None:
    tensors: list[weakref.ref[Floats]] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        if tensors:
            assert tensors[0]() is None, "the first attempt's tensor still fills the device"
            return stack
        half_done = stack * 2
        tensors.append(weakref.ref(half_done))
        raise ModelError("model: no") from RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    queue = make_queue(predict)
    async with served(queue):
        await queue.submit(make_ticket(), make_picture())
    assert len(tensors) == 1


async def test_a_lost_device_sends_everybody_away_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []
    lost: list[bool] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        ran.append(len(stack))
        raise ModelError("model: no") from RuntimeError("CUDA error: device-side assert triggered")

    queue = make_queue(predict, max_batch=2, on_lost=lambda: lost.append(True))
    async with served(queue) as tasks:
        asked = [tasks.create_task(expect_loss(queue)) for _ in range(5)]
        await asyncio.wait(asked)
        await expect_loss(queue)
    assert (ran, lost) == ([2], [True])
    assert queue.depth == 0
    assert "device.was_lost" in caplog.text


async def expect_loss(queue: DeviceQueue) -> None:
    with pytest.raises(DeviceLostError, match="starting anew"):
        await queue.submit(make_ticket(), make_picture())


async def test_a_device_lost_amid_halves_sends_the_other_halves_away_too() -> None:
    ran: list[int] = []

    def predict(_: Bucket, stack: Floats) -> Floats:
        ran.append(len(stack))
        why = "CUDA error: out of memory" if len(stack) > 2 else "CUDA error: an illegal memory access was encountered"
        raise ModelError("model: no") from RuntimeError(why)

    queue = make_queue(predict)
    async with served(queue) as tasks:
        await asyncio.wait([tasks.create_task(expect_loss(queue)) for _ in range(4)])
    assert ran == [4, 2]


async def test_a_run_that_is_not_full_waits_after_work_and_not_when_idle() -> None:
    sizes: list[int] = []
    free, entered = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def predict(_: Bucket, stack: Floats) -> Floats:
        sizes.append(len(stack))
        loop.call_soon_threadsafe(entered.set)
        if len(sizes) == 1:
            asyncio.run_coroutine_threadsafe(free.wait(), loop).result()
        return stack

    queue = make_queue(predict, max_batch=3)
    async with served(queue) as tasks:
        asked = [tasks.create_task(queue.submit(make_ticket(), make_picture()))]
        await entered.wait()  # the idle device did not wait for more
        asked += [tasks.create_task(queue.submit(make_ticket(), make_picture())) for _ in range(2)]
        await asyncio.wait(asked, timeout=0)
        free.set()
        await asyncio.wait(asked[:1])
        asked.append(tasks.create_task(queue.submit(make_ticket(), make_picture())))  # while the two are held back
        await asyncio.wait(asked)
    assert sizes == [1, 3]


async def test_the_backlog_counts_what_stands_ahead() -> None:
    clock = StandingClock()
    queue = make_queue(lambda _, stack: stack, max_batch=2, clock=clock)
    queue.set_capacity("m", Costs(base_s=1.0), Budget(limit_px=2048, ceiling_px=2048))
    async with asyncio.TaskGroup() as tasks:
        bulk = [make_ticket(priority=Priority.BULK)] * 4
        asked = [tasks.create_task(queue.submit(ticket, make_picture())) for ticket in bulk]
        await asyncio.wait(asked, timeout=0)
        assert queue.estimate_wait_s(make_ticket()) == 1.0
        assert queue.estimate_wait_s(make_ticket(priority=Priority.BULK)) == 3.0
        assert queue.estimate_wait_s(make_ticket(), coming=2) == 2.0
        for task in asked:
            task.cancel()
