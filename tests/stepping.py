"""Tests of loops over real sockets in virtual time: time passes only when the test lets it, and only while all sleep.

I/O takes real time and no virtual one, so a test waits for states (`Bell`) and steps from one sleep to the next.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable
from typing import Final

LONG_S: Final = 20.0
"""Real seconds after which a test that waits for something is broken."""

AGAIN_S: Final = 0.02
"""Real seconds after which a state is looked at again though nobody rang."""


class Bell:
    """Rung at changes, so that a test can wait for a state instead of for a time."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait_until(self, is_so: Callable[[], bool], what: str = "a state") -> None:
        try:
            async with asyncio.timeout(LONG_S):
                while not is_so():
                    self._rung.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(AGAIN_S):
                            await self._rung.wait()
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what}") from None


class StepClock:
    """A worker's clock that stands still between steps."""

    def __init__(self, bell: Bell) -> None:
        self.now_s = 1000.0
        self.slept = 0
        """How many sleeps were begun so far."""
        self._bell = bell
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def read_s(self) -> float:
        return self.now_s

    def read_cpu_s(self) -> float:
        return self.now_s

    async def sleep(self, delay: dt.timedelta) -> None:
        if delay <= dt.timedelta(0):
            return
        sleeper = (self.now_s + delay.total_seconds(), asyncio.Event())
        self._sleepers.append(sleeper)
        self.slept += 1
        self._bell.ring()
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    async def pass_until(self, is_so: Callable[[], bool], what: str = "a state") -> None:
        """Step from sleep to sleep until *is_so*; after each step, whoever woke must sleep again or bring it about."""
        while not is_so():
            await self._bell.wait_until(lambda: is_so() or bool(self._sleepers), what)
            if is_so():
                return
            seen = self.slept
            self.now_s = max(self.now_s, min(due_s for due_s, _ in self._sleepers))
            for due_s, woken in self._sleepers:
                if due_s <= self.now_s:
                    woken.set()
            await self._bell.wait_until(lambda seen=seen: is_so() or self.slept > seen, what)  # type: ignore[misc] # mypy cannot infer a lambda with a default
