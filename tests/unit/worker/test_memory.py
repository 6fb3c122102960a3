import dataclasses
import subprocess
import sys
import threading

import pytest

from inference_worker.calibrating import Trial, measure
from inference_worker.crafts import Colorizing, Transforming
from inference_worker.errors import ModelError, QueueFullError
from inference_worker.imaging import Floats
from inference_worker.memory import ProcessMemory, Room, Share, choose_meter


class Steps:
    """A clock that a run moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read_s(self) -> float:
        return self.now_s

    def read_cpu_s(self) -> float:
        return self.now_s

    async def sleep(self, _: object) -> None:
        raise NotImplementedError


class Device:
    """Takes 1 s and 1 ms a pixel, holds 5,000 bytes and 20 a pixel; what is above *fits_px* runs out of memory."""

    def __init__(self, *, limit_bytes: int = 10**9, fits_px: int = 10**9) -> None:
        self.clock = Steps()
        self._limit_bytes = limit_bytes
        self._fits_px = fits_px
        self._peak_bytes = 0

    def predict(self, stack: Floats) -> Floats:
        pixels = stack.shape[0] * stack.shape[2] * stack.shape[3]
        if pixels > self._fits_px:
            raise ModelError("model: no") from MemoryError()
        self.clock.now_s += 1 + pixels / 1000
        self._peak_bytes = max(self._peak_bytes, 5000 + 20 * pixels)
        return stack

    def reset_peak(self) -> None:
        self._peak_bytes = 0

    def read_peak_bytes(self) -> int:
        return self._peak_bytes

    def read_limit_bytes(self) -> int:
        return self._limit_bytes


def make_trial(device: Device) -> Trial:
    craft = Colorizing(model="m", input_px=64)
    return Trial(craft=craft, predict=device.predict, meter=device, clock=device.clock)


def test_the_start_measures_time_and_memory() -> None:
    costs, budget = measure(make_trial(Device(limit_bytes=5000 + 20 * 10_000)), max_batch=8)
    assert costs.estimate_s(5000) == pytest.approx(6.0)
    assert budget.limit_px == 10_000
    assert measure(make_trial(Device()), max_batch=2)[1].limit_px == 2 * 64 * 64


def test_a_device_without_memory_for_the_usual_size_starts_small(caplog: pytest.LogCaptureFixture) -> None:
    costs, budget = measure(make_trial(Device(fits_px=2000)), max_batch=4)
    assert (budget.limit_px, budget.ceiling_px) == (32 * 32, 4 * 64 * 64)
    assert costs.estimate_s(1024) == pytest.approx(2.024)
    assert "memory.ran_out" in caplog.text


def test_a_device_without_memory_for_anything_cannot_start() -> None:
    with pytest.raises(ModelError):
        measure(make_trial(Device(fits_px=10)), max_batch=4)


def test_trials_are_inputs_of_their_kind() -> None:
    assert Transforming(model="t").make_trial(64).shape == (1, 3, 64, 64)
    assert Colorizing(model="c", input_px=32).list_trial_sizes() == (32, 32)


ALLOCATION = """
import numpy as np
from inference_worker.memory import ProcessMemory
meter = ProcessMemory()
meter.reset_peak()
before = meter.read_peak_bytes()
ballast = np.ones(60_000_000, np.uint8)
print(meter.read_peak_bytes() - before, ballast.size)
"""


def test_the_processs_own_memory_is_seen() -> None:
    # in a process without a past: not every kernel lets go of the highest reading, and this one's is other tests'
    run = subprocess.run([sys.executable, "-c", ALLOCATION], capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[0]) > 40_000_000
    assert ProcessMemory().read_limit_bytes() > 100_000_000
    assert ProcessMemory(123).read_limit_bytes() == 123


@dataclasses.dataclass
class Model:
    """A backend that says what it knows of its memory."""

    meter: Device | None = None
    is_on_gpu: bool = False


def test_a_devices_own_memory_is_the_one_that_counts() -> None:
    own, gpu = Device(), Device()
    assert choose_meter(Model(own), gpu=gpu, limit_bytes=None) is own
    assert choose_meter(Model(is_on_gpu=True), gpu=gpu, limit_bytes=None) is gpu
    assert isinstance(choose_meter(Model(), gpu=gpu, limit_bytes=None), ProcessMemory)
    assert isinstance(choose_meter(object(), gpu=gpu, limit_bytes=None), ProcessMemory)


def test_a_flag_limits_a_device_too() -> None:
    assert choose_meter(Model(Device(limit_bytes=1000)), gpu=None, limit_bytes=300).read_limit_bytes() == 300
    assert choose_meter(Model(Device(limit_bytes=100)), gpu=None, limit_bytes=300).read_limit_bytes() == 100


def test_a_gpu_that_nobody_can_measure_is_not_bounded_by_the_processs_memory() -> None:
    device = Device()
    meter = choose_meter(Model(is_on_gpu=True), gpu=None, limit_bytes=None)
    trial = dataclasses.replace(make_trial(device), meter=meter)
    assert measure(trial, max_batch=4)[1].limit_px == 4 * 64 * 64


def test_a_room_is_shared_and_given_back() -> None:
    room = Room(10)
    with Share(room) as first, Share(room) as second:
        first.take(25)  # who is alone is never refused
        with pytest.raises(QueueFullError):
            second.take(1)
        assert room.held == 25
    assert room.held == 0
    first.take(5)  # a thread that comes late takes nothing
    assert room.held == 0


def test_a_room_counts_right_among_threads() -> None:
    room = Room(10**9)

    def use() -> None:
        for _ in range(500):
            with Share(room) as share:
                share.take(3)
                share.take(4)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert room.held == 0
