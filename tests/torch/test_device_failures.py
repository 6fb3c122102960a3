"""Torch's own exceptions on their way through backend and queue; a module raises them, which needs no GPU."""

import asyncio
import contextlib
import math
import weakref
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference_worker.backends.torch import CudaMemory, TorchColorizer
from inference_worker.batching import DeviceQueue
from inference_worker.clock import SystemClock
from inference_worker.costs import Budget, Costs
from inference_worker.ddcolor.network import DDColor
from inference_worker.errors import DeviceLostError, ModelError
from inference_worker.failures import is_device_lost, is_out_of_memory
from inference_worker.gpus import SHARE
from inference_worker.imaging import Floats
from inference_worker.metrics import Metrics
from inference_worker.scheduling import Bucket, Priority, Ticket

pytestmark = pytest.mark.torch

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 22.05 GiB"
BUCKET = Bucket("m", 32, 32)


class Failing(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Does half of the work, and then what *fail* does with the number of pictures."""

    def __init__(self, fail: Callable[[int], None]) -> None:
        super().__init__()
        self._fail = fail
        self.tensors: list[weakref.ref[Tensor]] = []

    def forward(self, lightness: Tensor) -> Tensor:
        half_done = lightness.repeat(1, 2, 1, 1)
        self.tensors.append(weakref.ref(half_done))
        self._fail(len(lightness))
        return half_done


@pytest.fixture
def make(folded: DDColor) -> Callable[[Callable[[int], None]], TorchColorizer]:
    def make_failing(fail: Callable[[int], None]) -> TorchColorizer:
        colorizer = TorchColorizer(folded, threads=1, device="cpu", is_half=False)
        colorizer._net = Failing(fail)
        return colorizer

    return make_failing


Make = Callable[[Callable[[int], None]], TorchColorizer]


@contextlib.asynccontextmanager
async def served(colorizer: TorchColorizer) -> AsyncIterator[DeviceQueue]:
    queue = DeviceQueue(lambda _, stack: colorizer.predict(stack), max_batch=8, clock=SystemClock(), metrics=Metrics())
    queue.set_capacity("m", Costs(), Budget(limit_px=8 * 1024, ceiling_px=8 * 1024))
    async with asyncio.TaskGroup() as tasks:
        device = tasks.create_task(queue.run())
        yield queue
        device.cancel()


async def submit(queue: DeviceQueue) -> Floats:
    ticket = Ticket(bucket=BUCKET, priority=Priority.INTERACTIVE, arrived_s=0, queued_s=0, deadline_s=math.inf)
    return await queue.submit(ticket, np.zeros((1, 1, 32, 32), np.float32))


async def test_torchs_lack_of_memory_splits_the_run_and_frees_what_it_held(make: Make) -> None:
    sizes: list[int] = []

    def fail(pictures: int) -> None:
        sizes.append(pictures)
        alive = [ref() for ref in net.tensors[:-1]]
        assert all(tensor is None for tensor in alive), "an earlier run's tensor still fills the device"
        if pictures > 2:
            raise torch.OutOfMemoryError(FULL)

    colorizer = make(fail)
    net = colorizer._net
    async with served(colorizer) as queue, asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(submit(queue)) for _ in range(5)]
    assert [task.result().shape for task in asked] == [(2, 32, 32)] * 5
    assert sizes == [5, 3, 2, 1, 2]
    assert queue.capacity["m"].budget.limit_px < 3 * 1024


async def test_torchs_lost_device_is_lost(make: Make) -> None:
    def fail(_: int) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    async with served(make(fail)) as queue:
        with pytest.raises(DeviceLostError):
            await submit(queue)
        assert queue.is_lost


def test_the_number_of_a_cuda_error_counts_whatever_its_words(make: Make) -> None:
    def fail(_: int) -> None:
        failure = torch.AcceleratorError("CUDA error: in words of another release")
        failure.error_code = 700  # so torch sets it
        raise failure

    with pytest.raises(ModelError) as caught:
        make(fail).predict(np.zeros((1, 1, 32, 32), np.float32))
    assert is_device_lost(caught.value)
    assert not is_out_of_memory(caught.value)


def test_both_names_of_torchs_lack_of_memory_are_one() -> None:
    assert torch.OutOfMemoryError is torch.cuda.OutOfMemoryError
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("no words"))


class FakeCuda:
    """Of torch.cuda what the meter asks; on a device of 1000 bytes of which others hold 100."""

    def __init__(self) -> None:
        self.peak = self.reserved = 300

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.reserved

    def max_memory_reserved(self) -> int:
        return self.peak

    def memory_reserved(self) -> int:
        return self.reserved

    def mem_get_info(self) -> tuple[int, int]:
        return 900 - self.reserved, 1000


def test_the_devices_memory_is_what_torch_says() -> None:
    cuda = FakeCuda()
    meter = CudaMemory(cuda)
    cuda.peak = 700
    assert meter.read_peak_bytes() == 700
    meter.reset_peak()
    assert (meter.read_peak_bytes(), meter.read_limit_bytes()) == (300, int(SHARE * 900))
    for name in ("reset_peak_memory_stats", "max_memory_reserved", "memory_reserved", "mem_get_info"):
        assert callable(getattr(torch.cuda, name))


def test_on_the_cpu_the_processs_memory_counts(make: Make) -> None:
    assert make(lambda _: None).meter is None
