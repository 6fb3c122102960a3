"""What a GPU says of itself, as metrics: read beside the event loop, at most once a second and one reading at a time.

A driver whose device is in trouble may not answer for seconds, or ever. Then there are no figures rather than old ones,
and neither the probes nor the end of the process waits for it.
"""

import asyncio
import contextlib
import dataclasses
import enum
import threading
from collections.abc import Iterator
from typing import Final, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from inference_worker.clock import Clock

EVERY_S: Final = 1.0
PATIENCE_S: Final = 0.5
SHARE: Final = 0.9
"""Of a device's memory, what runs may take: the worker has it to itself, but for fragments and the libraries' own."""


class Throttle(enum.StrEnum):
    """What holds the clocks below what the work asks for."""

    POWER_CAP = "power_cap"
    HARDWARE = "hardware"
    SYNC_BOOST = "sync_boost"
    THERMAL = "thermal"
    HARDWARE_THERMAL = "hardware_thermal"
    POWER_BRAKE = "power_brake"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One look at a GPU; None is what it does not tell."""

    busy_ratio: float | None = None
    """Share of the last moment, a sixth of a second to a second, in which a kernel ran: 0..1."""
    used_bytes: int | None = None
    """By all processes."""
    total_bytes: int | None = None
    temperature_c: int | None = None
    throttles: frozenset[Throttle] | None = None


class Gpu(Protocol):
    """The device of this worker."""

    @property
    def name(self) -> str:
        """Its product's name."""
        ...

    @property
    def uuid(self) -> str:
        """Its own name, the same after any restart and in any container."""
        ...

    def read(self) -> GpuReading:
        """Look at it; may block, never fails."""
        ...


class GpuMemory:
    """A meter for runtimes that keep what they once took: their peak is what the device holds now, with neighbours."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def reset_peak(self) -> None:
        pass  # the peak then covers the whole life: a smaller budget, never a larger one

    def read_peak_bytes(self) -> int:
        return self._gpu.read().used_bytes or 0

    def read_limit_bytes(self) -> int:
        return int(SHARE * (self._gpu.read().total_bytes or 0))


class GpuWatch(Collector):
    """The latest reading, for a registry."""

    def __init__(self, gpu: Gpu, *, clock: Clock, patience_s: float = PATIENCE_S) -> None:
        """Prepare to watch *gpu*.

        Args:
            gpu: The device.
            clock: Tells when a reading is old.
            patience_s: How long `refresh` waits for a reading.
        """
        self._gpu = gpu
        self._clock = clock
        self._patience_s = patience_s
        self._reading = GpuReading()
        self._began_s: float | None = None
        self._is_under_way = False

    async def refresh(self) -> None:
        """Have a new reading, if the latest is older than a second and no other is under way."""
        now_s = self._clock.read_s()
        if self._began_s is not None and now_s - self._began_s < EVERY_S:
            return
        if self._is_under_way:
            self._reading = GpuReading()
            return
        self._began_s, self._is_under_way = now_s, True
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def read() -> None:
            reading = self._gpu.read()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(take, reading)

        def take(reading: GpuReading) -> None:
            self._reading, self._is_under_way = reading, False
            done.set()

        # A daemon: an executor's thread would hold up the end of the process for as long as the driver is silent.
        threading.Thread(target=read, name="gpu", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await done.wait()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures that the device tells."""
        yield _gauge("info", "The GPU of this worker; always 1.", 1, {"name": self._gpu.name, "uuid": self._gpu.uuid})
        now = self._reading
        figures = (
            ("utilisation_ratio", "Share of the last moment in which the GPU was at work.", now.busy_ratio),
            ("memory_used_bytes", "Memory of the GPU that any process holds.", now.used_bytes),
            ("memory_total_bytes", "Memory of the GPU.", now.total_bytes),
            ("temperature_celsius", "Temperature of the GPU.", now.temperature_c),
        )
        for name, text, value in figures:
            if value is not None:
                yield _gauge(name, text, value)
        if now.throttles is not None:
            family = GaugeMetricFamily(f"{PREFIX}throttled", "1 where this holds the clocks back.", labels=("reason",))
            for reason in Throttle:
                family.add_metric((reason.value,), float(reason in now.throttles))
            yield family


PREFIX: Final = "hueshift_worker_gpu_"


def _gauge(name: str, text: str, value: float, labels: dict[str, str] | None = None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=tuple(labels or ()))
    family.add_metric(tuple((labels or {}).values()), value)
    return family
