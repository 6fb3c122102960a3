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
OUT_OF_MEMORY_WORDS: Final = (
    "out of memory",
    "failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "can't allocate memory",
)


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
    """A backend that knows its device's memory has this; for others the process's memory counts."""

    @property
    def meter(self) -> MemoryMeter: ...


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


def is_out_of_memory(exc: BaseException | None) -> bool:
    """Whether *exc*, or what caused it, is a device's or a process's way to say that memory ran out."""
    while exc is not None:
        if isinstance(exc, MemoryError) or any(words in str(exc).lower() for words in OUT_OF_MEMORY_WORDS):
            return True
        exc = exc.__cause__
    return False


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
