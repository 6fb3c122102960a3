"""Tells those who look on what becomes of jobs, as it happens.

Context: a page or a program follows an owner's jobs, or one of them, and nobody may be made to wait for a slow reader.
Choice: one loop for all of a process's onlookers reads how jobs stand, when a commit wakes it or, for what other
processes do, after an interval, and tells each what is new to it. What an onlooker has not read yet is replaced by what
is newer, so it misses moments in between, never the last one. Consequence: a thousand commits cost one read, an
onlooker who sleeps costs one entry per job, and nobody looking on costs nothing.
"""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from controlplane.audience import Audience
from controlplane.clock import Clock
from controlplane.jobs.model import FINAL, Job, JobId
from controlplane.jobs.ports import JobLooks, JobStore
from controlplane.wake import Wake

PAUSE: Final = dt.timedelta(milliseconds=250)
"""Between two looks at least; four times as long as the last one took, where that is longer."""
LONGEST_PAUSE: Final = dt.timedelta(seconds=5)
RECENT: Final = 50
"""Jobs that have ended, or not, that an onlooker is told of to begin with."""
MAX_CAUGHT_UP: Final = 500
OVERLAP: Final = 100
"""Numbers are given before their commits: a lower one may still appear."""
CLOCKS_APART: Final = dt.timedelta(minutes=1)
"""How much the clocks of those who end jobs may differ."""
MAX_KNOWN: Final = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class Sighting:
    """How a job stood; *place* is its place in the queue, if it waits and is near enough to its turn."""

    job: Job
    place: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What is new to an onlooker. With *first*, it is all there is to begin with, and replaces what was known.

    *places* are of jobs of which nothing else is new; *gone* were deleted.
    """

    first: bool
    sightings: tuple[Sighting, ...]
    places: Mapping[JobId, int | None]
    gone: tuple[JobId, ...]


class FeedStore(JobStore, JobLooks, Protocol):
    """What the feed reads."""


class Onlooker:
    """One who looks on: at all jobs of *owner*, or at *only* one. Knows what it was not told yet."""

    def __init__(self, owner: str, *, only: JobId | None, since: dt.datetime | None) -> None:
        self.owner = owner
        self.only = only
        self.since = since
        self.is_new = True
        """It was told nothing yet."""
        self.is_closed = False
        """Nothing more will come."""
        self._wake = Wake()
        self._first = False
        self._unread: dict[JobId, tuple[Sighting | None, bool]] = {}

    def concerns(self, job: Job) -> bool:
        """Whether a job is one that this onlooker looks at."""
        return job.id == self.only if self.only is not None else job.owner == self.owner

    def begin(self, sightings: Sequence[Sighting]) -> None:
        """Tell all that there is to begin with."""
        self.is_new, self._first = False, True
        self._unread = {sighting.job.id: (sighting, True) for sighting in sightings}
        self._wake.set()

    def tell(self, job: JobId, sighting: Sighting | None, *, whole: bool) -> None:
        """Tell how a job stands, None when it is gone; without *whole* only its place is news."""
        unread = self._unread.get(job)
        self._unread[job] = (sighting, whole or (unread is not None and unread[1]))
        self._wake.set()

    def close(self) -> None:
        """Say that nothing more will come."""
        self.is_closed = True
        self._wake.set()

    async def wait_news(self, at_most: dt.timedelta) -> News | None:
        """Return what is unread; None when there is nothing after *at_most*, or for good (`is_closed`)."""
        if not self.is_closed:
            await self._wake.wait(at_most)
        if not self._unread and not self._first:
            return None
        unread, self._unread = self._unread, {}
        first, self._first = self._first, False
        told = [(job, sighting, whole) for job, (sighting, whole) in unread.items()]
        return News(
            first=first,
            sightings=tuple(sighting for _, sighting, whole in told if sighting is not None and whole),
            places={job: sighting.place for job, sighting, whole in told if sighting is not None and not whole},
            gone=tuple(job for job, sighting, _ in told if sighting is None),
        )


@dataclasses.dataclass(slots=True, kw_only=True)
class JobFeed:
    """The loop, and who looks on."""

    store: FeedStore
    clock: Clock
    wake: Wake
    interval: dt.timedelta
    _audience: Audience[Onlooker] = dataclasses.field(init=False)
    _seen: dict[JobId, Sighting] = dataclasses.field(default_factory=dict)
    _newest: int | None = None

    def __post_init__(self) -> None:
        self._audience = Audience(self.clock)

    @contextlib.contextmanager
    def follow(self, owner: str, *, only: JobId | None = None, since: dt.datetime | None = None) -> Iterator[Onlooker]:
        """Look on while this is open.

        Args:
            owner: Whose jobs. Whether *only* is one of them is for the caller to know.
            only: The one job to look at; all by default.
            since: Begin with what has ended since then, too, beside what is open or recent.
        """
        with self._audience.join(Onlooker(owner, only=only, since=since)) as onlooker:
            self.wake.set()
            yield onlooker

    async def run(self) -> None:
        """Look for as long as somebody looks on; at the end, tell them that it is the end."""
        await self._audience.attend(self.look, self._rest, trouble="jobs.not_looked_at")

    async def _rest(self, took: dt.timedelta) -> None:
        await self.clock.sleep(min(max(PAUSE, 4 * took), LONGEST_PAUSE))
        await self.wake.wait(self.interval)

    async def look(self) -> None:
        """Look once, and tell everyone what is new to them.

        Raises:
            UnavailableError: The database does not answer.
        """
        onlookers = self._audience.members
        if all(onlooker.is_new for onlooker in onlookers):
            self._seen, self._newest = {}, None  # of another time
        followed = {onlooker.owner for onlooker in onlookers if onlooker.only is None}
        known = self._known(onlookers)
        after = None if self._newest is None else self._newest - OVERLAP
        found = await self.store.look_at_jobs(followed, known=known, after=after)
        now = {job.id: Sighting(job, found.places.get(job.id)) for job in found.jobs}
        for onlooker in onlookers:
            if not onlooker.is_new:
                self._tell_changes(onlooker, now, gone=known - now.keys())
        told: dict[JobId, Sighting] = {}
        for onlooker in onlookers:
            if onlooker.is_new:
                beginning = await self._beginning(onlooker, now)
                onlooker.begin(beginning)
                told |= {sighting.job.id: sighting for sighting in beginning if sighting.job.state in FINAL}
        self._newest = found.newest
        self._seen = {
            job: sighting
            for job, sighting in (told | now).items()
            if sighting.job.state not in FINAL or sighting.job.number > found.newest - OVERLAP
        }

    def _known(self, onlookers: tuple[Onlooker, ...]) -> set[JobId]:
        """Name the jobs whose fate must be known, though they may be open no more."""
        mine = {onlooker.only for onlooker in onlookers if onlooker.only is not None}
        open_ones = [job for job, sighting in self._seen.items() if sighting.job.state not in FINAL]
        return mine | set(open_ones[:MAX_KNOWN])  # the oldest

    def _tell_changes(self, onlooker: Onlooker, now: Mapping[JobId, Sighting], *, gone: set[JobId]) -> None:
        for job, sighting in now.items():
            before = self._seen.get(job)
            if before != sighting and onlooker.concerns(sighting.job):
                whole = onlooker.only is not None or before is None or before.job != sighting.job
                onlooker.tell(job, sighting, whole=whole)
        for job in gone:
            before = self._seen.get(job)
            if job == onlooker.only or (before is not None and onlooker.concerns(before.job)):
                onlooker.tell(job, None, whole=True)

    async def _beginning(self, onlooker: Onlooker, now: Mapping[JobId, Sighting]) -> Sequence[Sighting]:
        if onlooker.only is not None:
            return [now[onlooker.only]] if onlooker.only in now else []
        recent = await self.store.list_jobs(onlooker.owner, limit=RECENT)
        if onlooker.since is not None:
            since = onlooker.since - CLOCKS_APART
            recent += await self.store.load_ended(onlooker.owner, since=since, limit=MAX_CAUGHT_UP)
        jobs = {job.id: Sighting(job, None) for job in recent}
        jobs |= {job: sighting for job, sighting in now.items() if onlooker.concerns(sighting.job)}
        return sorted(jobs.values(), key=lambda sighting: sighting.job.number)
