"""Those who look on at something, and the loop that looks for all of them at once.

Nobody looking on costs nothing; a thousand who do cost one look.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, Protocol, TypeVar

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError

log = structlog.get_logger()


class Onlooking(Protocol):
    """One who looks on."""

    def close(self) -> None:
        """Hear that nothing more will come."""


Member = TypeVar("Member", bound=Onlooking)


class Audience(Generic[Member]):
    """Everyone who looks on, in the order in which they came.

    Args:
        clock: For how long a look takes.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._members: list[Member] = []
        self._someone = asyncio.Event()

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is here now."""
        return tuple(self._members)

    @contextlib.contextmanager
    def join(self, member: Member) -> Iterator[Member]:
        """Be one of them while this is open."""
        self._members.append(member)
        self._someone.set()
        try:
            yield member
        finally:
            self._members.remove(member)
            if not self._members:
                self._someone.clear()

    async def attend(
        self, look: Callable[[], Awaitable[None]], rest: Callable[[dt.timedelta], Awaitable[None]], *, trouble: str
    ) -> None:
        """Look for as long as somebody looks on, until cancelled; then tell them that it is the end.

        Args:
            look: Looks once, and tells everyone. What it cannot read it will read the next time.
            rest: Waits until the next look, given how long the last one took.
            trouble: What a look that failed is called in the log.
        """
        try:
            while True:
                await self._someone.wait()
                begun = self._clock.steady()
                try:
                    await look()
                except ControlPlaneError as exc:
                    log.warning(trouble, error=str(exc))
                await rest(dt.timedelta(seconds=self._clock.steady() - begun))
        finally:
            for member in self._members:
                member.close()
