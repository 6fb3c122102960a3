"""Tells those who look on what happens, as it happens: one loop per process reads rows once for all of them.

Context: a hundred pages follow five hundred services through any replica, and nobody may be made to wait for a slow
reader. Choice: the loop reads the log from where it stands when a commit wakes it (or, for what other processes do,
after an interval), encodes each event once, and each reader is a place in what is encoded (`ring`); it takes what has
come since, at most every `PAUSE`, joined with what others like it take. Consequence: a reader costs one write per
pause, a slow one costs nothing and is let go when the ring has passed it, and nobody looking on costs nothing.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.events.model import BEGIN, RESET, Cursor, Wanted, encode, told
from controlplane.events.ring import Levels, Ring
from controlplane.events.standing import Standing
from controlplane.ports import Store
from controlplane.wake import Wake

log = structlog.get_logger()

PAUSE: Final = dt.timedelta(milliseconds=100)
"""Between two looks at least; four times as long as the last one took, where that is longer."""
LONGEST_PAUSE: Final = dt.timedelta(seconds=5)
PAGE: Final = 1_000
STANDING_S: Final = 0.5
"""How long after a look at how things stand the next one comes, if there is reason to."""
STANDING_AT_LATEST_S: Final = 2.0
EVIDENCE_S: Final = 1.0


class FellBehindError(ControlPlaneError):
    """A reader took so long that what it had not read yet is gone."""


class Follower:
    """One who looks on: a place in the log, and one among the levels."""

    def __init__(self, feed: "EventFeed", wanted: Wanted, since: str | None) -> None:
        self.wanted = wanted
        self.since = since
        self.is_closed = False
        """Nothing more will come."""
        self.is_new = True
        """It was told nothing yet."""
        self.wake = Wake()
        self._feed = feed
        self._opening = b""
        self._place = 0
        self._level = 0
        self._cursor = Cursor()

    def begin(self) -> None:
        """Take a place: behind what this reader knows already, or at the present."""
        ring = self._feed.ring
        known = Cursor.parse(self.since) if self.since else None
        place = None if known is None else ring.place_after(known)
        name = RESET if self.since and place is None else BEGIN
        self._cursor = known if known is not None and place is not None else ring.newest
        self._place = ring.end if place is None else place
        data = {"cursor": str(self._cursor), "newest": str(ring.newest)}
        self._opening = encode(name, data, self._cursor)
        self.is_new = False

    def close(self) -> None:
        """Say that nothing more will come."""
        self.is_closed = True
        self.wake.set()

    async def wait_news(self, at_most: dt.timedelta) -> bytes | None:
        """Return what is new, as it goes over the wire; None when there is nothing after *at_most*, or for good.

        Raises:
            FellBehindError: What comes next is gone.
        """
        if not self.is_closed:
            await self.wake.wait(at_most)
        if self.is_new:
            return None
        ring, levels = self._feed.ring, self._feed.levels
        try:
            events, self._place = ring.read(self._place, self.wanted)
        except LookupError:
            raise FellBehindError("the reader took too long: what it had not read yet is gone") from None
        news = self._opening + events
        self._opening = b""
        if self._place < ring.end:
            self.wake.set()  # the rest in the next turn, so that the network takes this first
        else:
            self._cursor = ring.newest
            news += levels.read(self._level, self.wanted)
            self._level = levels.newest
        return news or None

    @property
    def heartbeat(self) -> bytes:
        """A sign of life that moves the reader's place on, although nothing of all that happened was for it."""
        return b": still here\n\n" if self.is_new else f": still here\nid: {self._cursor}\n\n".encode()


@dataclasses.dataclass(slots=True, kw_only=True)
class EventFeed:
    """The loop, and who looks on.

    *wake* is raised by whatever makes history, *standing_wake* by whatever changes how things stand.
    """

    store: Store
    clock: Clock
    wake: Wake
    standing_wake: Wake
    interval: dt.timedelta
    ring: Ring = dataclasses.field(default_factory=Ring)
    levels: Levels = dataclasses.field(default_factory=Levels)
    _followers: list[Follower] = dataclasses.field(default_factory=list)
    _someone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    _standing: Standing | None = None
    _standing_at: float = -1e9
    _evidence_at: float = -1e9
    _has_changed: bool = False
    """How things stand has changed since it was read last, too soon after that to be read again."""

    @contextlib.contextmanager
    def follow(self, wanted: Wanted, *, since: str | None = None) -> Iterator[Follower]:
        """Look on while this is open; *since* is the cursor to go on from, None for the present."""
        follower = Follower(self, wanted, since)
        self._followers.append(follower)
        self._someone.set()
        self.wake.set()
        try:
            yield follower
        finally:
            self._followers.remove(follower)
            if not self._followers:
                self._someone.clear()

    async def run(self) -> None:
        """Look for as long as somebody looks on; at the end, tell them that it is the end."""
        try:
            while True:
                await self._someone.wait()
                begun = self.clock.steady()
                try:
                    await self.look()
                except ControlPlaneError as exc:
                    log.warning("events.not_looked_at", error=str(exc))
                took = dt.timedelta(seconds=self.clock.steady() - begun)
                await self.clock.sleep(min(max(PAUSE, 4 * took), LONGEST_PAUSE))
                if not self._has_changed:
                    await self.wake.wait(self.interval)
        finally:
            for follower in self._followers:
                follower.close()

    async def look(self) -> None:
        """Read what is new, once, and wake everyone.

        Raises:
            UnavailableError: The database does not answer.
        """
        followers = tuple(self._followers)
        if all(follower.is_new for follower in followers):
            await self._start()
        news = await self._read_log()
        news |= await self._read_levels(is_first=any(follower.is_new for follower in followers))
        for follower in followers:
            if follower.is_new:
                follower.begin()
                follower.wake.set()
            elif news:
                follower.wake.set()

    async def _start(self) -> None:
        """Begin anew with the end of the log: what was known is of another time."""
        limit = self.ring.max_events
        newest = await self.store.load_log_end(limit=limit)
        self.ring.restart(Cursor(newest[0].entry.number - 1) if len(newest) == limit else Cursor())
        self.ring.append(map(told, newest))
        self._standing = Standing(store=self.store, clock=self.clock, levels=self.levels)
        self._standing_at = self._evidence_at = -1e9

    async def _read_log(self) -> bool:
        is_new = False
        while found := await self.store.load_log(after=self.ring.newest.history, limit=PAGE):
            self.ring.append(map(told, found))
            is_new = True
            if len(found) < PAGE:
                break
        return is_new

    async def _read_levels(self, *, is_first: bool) -> bool:
        standing, now = self._standing, self.clock.steady()
        if standing is None:
            return False
        news = False
        self._has_changed |= await self.standing_wake.wait(dt.timedelta(0))
        age = now - self._standing_at
        if is_first or age >= STANDING_AT_LATEST_S or (age >= STANDING_S and self._has_changed):
            self._standing_at, self._has_changed = now, False
            news |= await standing.read()
        if is_first or now - self._evidence_at >= EVIDENCE_S:
            self._evidence_at = now
            news |= await standing.read_evidence()
        return news
