"""How much memory runs of the network take and may take; the process's own, unless a backend brings its device's."""

import os
import threading
from pathlib import Path
from typing import Final, Protocol, Self, runtime_checkable

from inference_worker.errors import QueueFullError

PROC: Final = Path("/proc/self")
CGROUPS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
SHARE: Final = 0.6
"""Of the container's or machine's memory, what a worker may hold when no flag says so: it has neighbours."""


class MemoryMeter(Protocol):
    """Reads memory that grows with the pixels of a run."""

    def reset_peak(self) -> None:
        """Forget the highest reading so far."""
        ...

    def read_peak_bytes(self) -> int:
        """The most that was held since `reset_peak`; 0 if that cannot be told."""
        ...

    def read_limit_bytes(self) -> int:
        """The most that may be held."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A backend that can tell of its device's memory has this."""

    @property
    def meter(self) -> MemoryMeter | None:
        """Its device's; None where that is the process's own."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A backend that cannot, and may have its model on a GPU, has this."""

    @property
    def is_on_gpu(self) -> bool: ...


class ProcessMemory:
    """Resident memory of this process, from Linux' /proc; elsewhere nothing can be told."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes

    def reset_peak(self) -> None:
        try:
            (PROC / "clear_refs").write_text("5")
        except OSError:
            return  # the peak then covers the whole life: a smaller budget, never a larger one

    def read_peak_bytes(self) -> int:
        try:
            status = (PROC / "status").read_text()
        except OSError:
            return 0
        found = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(found[0].split()[1]) * 1024 if found else 0

    def read_limit_bytes(self) -> int:
        return self._limit_bytes or int(SHARE * min(_read_machine_bytes(), *_read_cgroup_bytes()))


def _read_machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_cgroup_bytes() -> list[int]:
    limits = [_read_machine_bytes()]
    for file in CGROUPS:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        limits += [int(text)] if text.isdecimal() else []  # "max" is no limit
    return limits


class Capped:
    """A device's meter, with a limit that a flag set."""

    def __init__(self, meter: MemoryMeter, limit_bytes: int) -> None:
        self._meter = meter
        self._limit_bytes = limit_bytes

    def reset_peak(self) -> None:
        self._meter.reset_peak()

    def read_peak_bytes(self) -> int:
        return self._meter.read_peak_bytes()

    def read_limit_bytes(self) -> int:
        return min(self._limit_bytes, self._meter.read_limit_bytes())


class NoMeter:
    """Where nobody can tell, nothing is bounded before memory has run out once."""

    def reset_peak(self) -> None:
        pass

    def read_peak_bytes(self) -> int:
        return 0

    def read_limit_bytes(self) -> int:
        return 0


def choose_meter(predictor: object, *, gpu: MemoryMeter | None, limit_bytes: int | None) -> MemoryMeter:
    """What to measure a model's runs with: its backend's own meter, the GPU's if it runs there, else the process's.

    Args:
        predictor: The loaded model.
        gpu: Of this worker's GPU, where that can be told.
        limit_bytes: The most that may be held; None leaves it to the meter.
    """
    meter = predictor.meter if isinstance(predictor, Metered) else None
    if meter is None and isinstance(predictor, Placed) and predictor.is_on_gpu:
        meter = gpu or NoMeter()
    if meter is None:
        return ProcessMemory(limit_bytes)
    return meter if limit_bytes is None else Capped(meter, limit_bytes)


class Room:
    """A bound on something that all requests together hold: bytes of bodies, pixels of photos. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Hold *amount* more; the first holder is never refused, however much it is.

        Raises:
            QueueFullError: The others leave too little.
        """
        with self._lock:
            if self.held and self.held + amount > self.limit:
                raise QueueFullError("there is no room for another photo")
            self.held += amount

    def give(self, amount: int) -> None:
        """Hold *amount* less."""
        with self._lock:
            self.held -= amount


class Share:
    """What one request holds of a room: `with Share(room) as share`. After the block it takes no more."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0
        self._is_over = False
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Hold *amount* more, unless the request has ended: a thread may notice that late.

        Raises:
            QueueFullError: The room is full.
        """
        with self._lock:
            if not self._is_over:
                self._room.take(amount)
                self._held += amount

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_over = True
            self._room.give(self._held)
