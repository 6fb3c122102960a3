"""Stand-ins for what tests must not have: a clock that passes only when told to."""

import asyncio
import datetime as dt

from tests import builders


class ManualClock:
    """A `Clock` that stands still unless someone sleeps on it or moves it."""

    def __init__(self, now: dt.datetime = builders.NOW) -> None:
        self._now = now
        self._steady = 1000.0

    def now(self) -> dt.datetime:
        return self._now

    def steady(self) -> float:
        return self._steady

    async def sleep(self, delay: dt.timedelta) -> None:
        self.move(delay)
        await asyncio.sleep(0)  # noqa: TID251 - lets others run; takes no time

    def move(self, delay: dt.timedelta) -> None:
        self._now += delay
        self._steady += delay.total_seconds()
