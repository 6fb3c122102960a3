"""The one place where the worker reads time and waits for it; tests pass a clock that does not wait."""

import asyncio
import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Spans of time within this process; never compared with another machine's clock."""

    def read_s(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...

    def read_cpu_s(self) -> float:
        """Seconds that the calling thread has kept a core busy."""
        ...

    async def sleep(self, delay: dt.timedelta) -> None:
        """Wait for *delay*; a zero or negative delay returns at once."""
        ...


class SystemClock:
    """The real clock."""

    def read_s(self) -> float:
        return time.perf_counter()

    def read_cpu_s(self) -> float:
        return time.thread_time()

    async def sleep(self, delay: dt.timedelta) -> None:
        await asyncio.sleep(max(0.0, delay.total_seconds()))  # noqa: TID251 - this is the worker's clock
