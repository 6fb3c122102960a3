"""Tells those who look on what happens, as it happens: one loop per process reads rows once for all of them.

Context: a hundred pages follow five hundred services through any replica, and nobody may be made to wait for a slow
reader. Choice: the loop reads the log from where it stands when a commit wakes it (or, for what other processes do,
after an interval), encodes each event once, and each reader is a place in what is encoded (`ring`); it takes what has
come since, at most every `PAUSE`, joined with what others like it take. Consequence: a reader costs one write per
pause, a slow one costs nothing and is let go when the ring has passed it, and nobody looking on costs nothing.
"""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Final

from controlplane.audience import Audience
from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.events.model import BEGIN, LIVE, RESET, Cursor, EventType, Wanted, encode, place_of, told
from controlplane.events.ring import Levels, Ring
from controlplane.events.standing import Standing
from controlplane.ports import Store
from controlplane.wake import Wake

PAUSE: Final = dt.timedelta(milliseconds=100)
"""Between two looks at least; as long as the last one took, where that is longer."""
PAGE: Final = 1_000
STANDING_S: Final = 0.5
"""How long after a look at how things stand the next one comes, if there is reason to."""
STANDING_AT_LATEST_S: Final = 2.0
EVIDENCE_S: Final = 1.0
"""Between two looks at what the judge saw, and at the newest seconds of services that were asked for by name."""


class FellBehindError(ControlPlaneError):
    """A reader took so long that what it had not read yet is gone."""


class Follower:
    """One who looks on: a place in the log, and one among the levels."""

    def __init__(self, feed: "EventFeed", wanted: Wanted, *, since: str | None, last: int) -> None:
        self.wanted = wanted
        self._since = since
        self._last = last
        self.is_closed = False
        """Nothing more will come."""
        self.is_new = True
        """It was told nothing yet."""
        self.is_live = False
        """It was told all that was before it."""
        self.wake = Wake()
        self._feed = feed
        self._opening = b""
        self._place = 0
        self._level = 0
        self._cursor = Cursor()

    def begin(self) -> None:
        """Take a place: behind what this reader knows already, or at the present."""
        ring = self._feed.ring
        known = Cursor.parse(self._since) if self._since else None
        place = None if known is None else ring.place_after(known)
        name = RESET if self._since and place is None else BEGIN
        self._place = ring.place_of_last(self._last, self.wanted) if place is None else place
        self._cursor = known if known is not None and place is not None else ring.cursor_before(self._place)
        self._opening = encode(name, {"cursor": str(self._cursor), "newest": str(ring.newest)}, self._cursor)
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
            if not self.is_live:
                news += encode(LIVE, {"cursor": str(self._cursor)}, self._cursor)
                self.is_live = True
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
    _audience: Audience[Follower] = dataclasses.field(init=False)
    _standing: Standing | None = None
    _standing_at: float = -1e9
    _evidence_at: float = -1e9
    _has_changed: bool = False
    """How things stand has changed since it was read last, too soon after that to be read again."""

    def __post_init__(self) -> None:
        self._audience = Audience(self.clock)

    @contextlib.contextmanager
    def follow(self, wanted: Wanted, *, since: str | None = None, last: int = 0) -> Iterator[Follower]:
        """Look on while this is open.

        Args:
            wanted: At what.
            since: The cursor to go on from; None for the present.
            last: How many past events to begin with where there is no such cursor.
        """
        with self._audience.join(Follower(self, wanted, since=since, last=last)) as follower:
            self.wake.set()
            yield follower

    async def run(self) -> None:
        """Look for as long as somebody looks on; at the end, tell them that it is the end.

        The log's end is read before, so that the first who looks on need not wait for it.
        """
        with contextlib.suppress(ControlPlaneError):  # then it is read when somebody looks on
            await self._start()
        await self._audience.attend(self.look, self._rest, trouble="events.not_looked_at")

    async def _rest(self, took: dt.timedelta) -> None:
        await self.clock.sleep(max(PAUSE, took))
        if not self._has_changed:
            await self.wake.wait(self.interval)

    async def look(self) -> None:
        """Read what is new, once, and wake everyone.

        Raises:
            UnavailableError: The database does not answer.
        """
        followers = self._audience.members
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

    def _is_wanted(self, kind: EventType) -> bool:
        return any(follower.wanted.wants(kind) for follower in self._audience.members)

    def _named(self) -> frozenset[str]:
        """Return the services whose seconds somebody wants."""
        wishes = [follower.wanted for follower in self._audience.members]
        found = [wish.services for wish in wishes if wish.services and wish.wants(EventType.SERIES)]
        return frozenset().union(*found)

    async def _start(self) -> None:
        """Begin anew: what was known of levels is of another time, and so is the log's end unless little came since.

        To tell the end of a year's log anew takes half a second, in which nobody else is answered.
        """
        if self._standing is None or await self._has_missed_much():
            limit = self.ring.max_events
            newest = await self.store.load_log_end(limit=limit)
            self.ring.restart(Cursor(place_of(newest[0]) - 1) if len(newest) == limit else Cursor())
            self.ring.append(map(told, newest))
        self._standing = Standing(store=self.store, clock=self.clock, levels=self.levels)
        self._standing_at = self._evidence_at = -1e9

    async def _has_missed_much(self) -> bool:
        end = await self.store.load_log_end(limit=1)
        return bool(end) and place_of(end[0]) - self.ring.newest.history > PAGE

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
        age, named = now - self._standing_at, self._named()
        if is_first or age >= STANDING_AT_LATEST_S or (age >= STANDING_S and self._has_changed):
            self._standing_at, self._has_changed = now, False
            if named or self._is_wanted(EventType.STATE) or self._is_wanted(EventType.WEIGHTS):
                news |= await standing.read()
        if is_first or now - self._evidence_at >= EVIDENCE_S:
            self._evidence_at = now
            if self._is_wanted(EventType.EVIDENCE):
                news |= await standing.read_evidence()
            if named:
                news |= await standing.read_series(named)
        return news
