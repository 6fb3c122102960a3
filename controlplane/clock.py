"""The one place that reads a clock or waits for time to pass; everything else is told the time."""

import asyncio
import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Wall-clock moments for records, a steady counter for spans, and waiting."""

    def now(self) -> dt.datetime:
        """Return the present moment, aware, in UTC."""

    def steady(self) -> float:
        """Return seconds on a clock that never jumps; only differences mean anything."""

    async def sleep(self, delay: dt.timedelta) -> None:
        """Wait for *delay*."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> dt.datetime:
        """Return the present moment, aware, in UTC."""
        return dt.datetime.now(dt.UTC)

    def steady(self) -> float:
        """Return seconds on the monotonic clock."""
        return time.monotonic()

    async def sleep(self, delay: dt.timedelta) -> None:
        """Wait for *delay*."""
        await asyncio.sleep(delay.total_seconds())
