"""Which version of a service a job is for, and how many jobs run at each.

Envoy decides which version answers, by its split and a draw. For a service with a ``draw_header`` the draw is ours: a
job's own number, the same each time, so that a weight that grows moves jobs in one direction only, and the version is
known before the call. The first shares of a split are the stable version's: the number 0 is its own as long as it has
any weight. A service without such a header leaves the draw to Envoy, and all its versions share their slots.
"""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Final

from controlplane.jobs.model import Job, JobId

DRAWS: Final = 10_000
"""Weights are basis points, and so are draws."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How the requests of *service* are split now.

    Args:
        service: Its name; "" is what jobs have whose kind names none.
        draw_header: The header that Envoy takes a draw from; "" for none.
        split: Versions and their weights in basis points, in Envoy's order.
        candidate: The version that a rollout is trying out; "" while none is.
    """

    service: str = ""
    draw_header: str = ""
    split: tuple[tuple[str, int], ...] = ()
    candidate: str = ""

    def version_of(self, number: int) -> str:
        """Return the version that a draw means; "" where that is left to Envoy."""
        if not self.draw_header:
            return ""
        reached = 0
        for version, weight_bp in self.split:
            reached += weight_bp
            if number < reached:
                return version
        return ""

    def headers_for(self, job: Job) -> Mapping[str, str]:
        """Return what tells Envoy the draw of *job*."""
        return {self.draw_header: str(0 if job.stable_only else draw(job.id))} if self.draw_header else {}

    def is_on_trial(self, version: str) -> bool:
        """Whether *version* is the one that a rollout is trying out."""
        return bool(version) and version == self.candidate

    @property
    def seats(self) -> int:
        """How many versions have slots of their own."""
        return max(1, sum(1 for _, weight_bp in self.split if weight_bp)) if self.draw_header else 1


NO_LANE: Final = Lane()


def draw(job: JobId) -> int:
    """Return a job's number, 0 to 9,999; ids are random, so it is as good as drawn."""
    return int(job[:8], 16) % DRAWS


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """A place at a version; *version* is "" where Envoy draws."""

    service: str
    version: str


class Seats:
    """Up to *slots* jobs at once at each version, and as many that wait here for the version that they are for."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken: collections.Counter[Seat] = collections.Counter()
        self._inside = 0
        self._changed = asyncio.Event()

    def room(self, lanes: Collection[Lane]) -> int:
        """Return how many more jobs may come in, to run or to wait for their version, when *lanes* are open."""
        seats = sum(lane.seats for lane in lanes)
        most = self._slots if seats <= 1 else 2 * seats * self._slots
        return max(0, most - self._inside)

    def enter(self) -> None:
        """A job comes in."""
        self._inside += 1

    def exit(self) -> None:
        """It has gone."""
        self._inside -= 1

    async def take(self, choose: Callable[[], Seat]) -> Seat:
        """Wait for a free place at the version that *choose* names, which is asked again whenever something changed."""
        while True:
            seat = choose()
            if self._taken[seat] < self._slots:
                self._taken[seat] += 1
                return seat
            await self._changed.wait()

    def leave(self, seat: Seat) -> None:
        """Give a place back."""
        self._taken[seat] -= 1
        self.rearrange()

    def rearrange(self) -> None:
        """Have all that wait choose again: a place is free, or a split has moved."""
        self._changed.set()
        self._changed = asyncio.Event()
