"""Takes jobs as there is room for them, has them coloured behind Envoy, and stores what came of it.

The order of things makes a kill at any line harmless: claim (a row, fenced by the attempt's number), work, store the
picture under the attempt's own key, then the row, and only then is the wake-up acknowledged.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import random
from collections.abc import Callable
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError, InvalidInputError, NotFoundError, UnavailableError
from controlplane.jobs.lanes import NO_LANE, Lane, Seat, Seats, draw
from controlplane.jobs.model import (
    Again,
    AttemptOutcome,
    Away,
    Claim,
    Coloured,
    Failed,
    GiveUp,
    Job,
    JobKind,
    JobState,
    Refused,
    after_failure,
    photo_key,
    result_key,
)
from controlplane.jobs.photos import keep_photo, keep_result
from controlplane.jobs.ports import (
    BlobStore,
    Delivery,
    EndedAttempt,
    JobQueue,
    JobStore,
    PhotoSource,
    WakeUp,
    Workers,
    Workload,
)
from controlplane.pictures.labels import Label
from controlplane.wake import Wake

log = structlog.get_logger()

BACK_OFF: Final = dt.timedelta(seconds=1)
LEASE: Final = dt.timedelta(seconds=30)
"""A dispatcher silent for longer has lost its jobs: they run again elsewhere."""
BEAT: Final = dt.timedelta(seconds=5)
KNOWN_FOR_S: Final = 0.25
"""How long kinds and splits are believed. Envoy has the last word on which version answers, whatever we believe."""

_OUTCOMES: Final = {
    Refused: AttemptOutcome.REFUSED,
    Failed: AttemptOutcome.FAILED,
    Away: AttemptOutcome.AWAY,
}


@dataclasses.dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Runs up to *slots* jobs at once at each version. A stop cuts them off, and they run again elsewhere."""

    store: JobStore
    queue: JobQueue
    blobs: BlobStore
    source: PhotoSource
    workers: Workers
    clock: Clock
    wake: Wake
    holder: str
    slots: int
    interval: dt.timedelta
    luck: Callable[[], float] = random.random
    dry_since: float | None = dataclasses.field(default=None, init=False)
    """Since when each take has found all queues empty, by the steady clock; None while one does not or is not known."""
    _known: Workload = dataclasses.field(default_factory=Workload)
    _known_at: float = float("-inf")
    _held: dict[Claim, asyncio.Timeout] = dataclasses.field(default_factory=dict)
    _seats: Seats = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._seats = Seats(self.slots)

    async def run(self) -> None:
        """Take jobs and run them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_leases(), name="job-leases")
            while True:
                taken = await self._take()
                for delivery in taken:
                    self._seats.enter()
                    tasks.create_task(self._run_one(delivery), name=f"job-{delivery.wake_up.job}")
                if not taken:
                    await self.wake.wait(self.interval)

    async def _take(self) -> tuple[Delivery, ...]:
        before, self.dry_since = self.dry_since, None
        try:
            await self._look()
            room = self._seats.room({self._lane(kind) for kind in self._known.kinds.values()})
            queues = sorted({kind.queue for kind in self._known.kinds.values() if kind.name not in self._known.drained})
            if not queues or not room:
                return ()
            taken = await self.queue.take(queues, limit=room)
        except ControlPlaneError as exc:
            log.warning("jobs.queue_not_read", error=str(exc))
            await self.clock.sleep(BACK_OFF)
            return ()
        if not taken and self.queue.sees_all:
            self.dry_since = self.clock.steady() if before is None else before
        return taken

    async def _look(self) -> None:
        """Read anew what kinds there are, which are drained and how services are split, when that was long ago."""
        now = self.clock.steady()
        if now - self._known_at < KNOWN_FOR_S:
            return
        before, self._known_at = self._known_at, now  # first, so that the others do not all look, too
        try:
            known = await self.store.load_workload()
        except BaseException:
            self._known_at = before
            raise
        is_split_anew = known.lanes != self._known.lanes
        self._known = known
        if is_split_anew:
            self._seats.rearrange()

    def _lane(self, kind: JobKind) -> Lane:
        return self._known.lanes.get(kind.service, NO_LANE)

    def _seat(self, wake_up: WakeUp) -> Seat:
        """Choose a place before the job is read: its queue tells the service, unless kinds of several share it."""
        lanes = {self._lane(kind) for kind in self._known.kinds.values() if kind.queue == wake_up.queue}
        lane = lanes.pop() if len(lanes) == 1 else NO_LANE
        return Seat(lane.service, lane.version_of(draw(wake_up.job)))

    async def _run_one(self, delivery: Delivery) -> None:
        try:
            await self.work(delivery)
        except ControlPlaneError as exc:
            log.warning("job.left", job=delivery.wake_up.job, error=str(exc))
            with contextlib.suppress(ControlPlaneError):
                await self.queue.release(delivery)
        except Exception:  # a bug that one job meets must not stop the others
            log.exception("job.crashed", job=delivery.wake_up.job)
        finally:
            self._seats.exit()
            self.wake.set()

    async def work(self, delivery: Delivery) -> None:
        """Look after one job, when there is room at its version.

        Raises:
            ControlPlaneError: The database or the queue does not answer: the lease runs out, and the job runs again.
        """
        await self._look()
        try:
            seat = await self._seats.take(lambda: self._seat(delivery.wake_up))
        except asyncio.CancelledError:
            with contextlib.suppress(ControlPlaneError):
                await self.queue.release(delivery)
            raise
        try:
            await self._work(delivery)
        finally:
            self._seats.leave(seat)

    async def _work(self, delivery: Delivery) -> None:
        now = self.clock.now()
        job = await self.store.claim_job(delivery.wake_up.job, holder=self.holder, until=now + LEASE, now=now)
        if job is None:  # a repetition, a job that has ended, or one of a kind that is drained, whose end wakes it
            await self._set_aside(delivery)
            return
        claim = Claim(job.id, job.attempts)
        with contextlib.suppress(TimeoutError):  # the lease was lost
            async with asyncio.timeout(None) as scope:
                self._held[claim] = scope
                try:
                    words = await self._attempt(claim, job)
                except asyncio.CancelledError:
                    self._held.pop(claim, None)
                    await self._give_back(claim)
                    raise
                finally:
                    self._held.pop(claim, None)
                if words is not None:
                    await self.queue.bury(delivery, words=words)
                    return
        await self.queue.acknowledge(delivery)

    async def _set_aside(self, delivery: Delivery) -> None:
        """Answer a wake-up with which nothing is to be done.

        A job that died may be missing among the dead letters, when a kill came between its row and them: better twice
        there than never.
        """
        with contextlib.suppress(NotFoundError):  # deleted
            job = await self.store.load_job(delivery.wake_up.job)
            if job.state is JobState.DEAD:
                await self.queue.bury(delivery, words=job.words)
                return
        await self.queue.acknowledge(delivery)

    async def _give_back(self, claim: Claim) -> None:
        """Let somebody else begin at once, when this process stops, instead of when the lease is over."""
        words = "its process was stopped"
        ended = EndedAttempt(AttemptOutcome.LOST, words)
        again = Again(words, dt.timedelta(0), counts=False)
        with contextlib.suppress(ControlPlaneError):
            await self.store.retry_job(claim, ended, again=again, now=self.clock.now())

    async def _attempt(self, claim: Claim, job: Job) -> str | None:
        """Run an attempt and store what it came to; say why, when the job is dead now."""
        kind = self._known.kinds.get(job.kind) or {k.name: k for k in await self.store.list_kinds()}[job.kind]
        found = await self._photo_of(claim, job, kind)
        if not isinstance(found, tuple):
            return await self._settle(claim, job, kind, found)
        lane = self._lane(kind)
        number = 0 if job.stable_only else draw(job.id)
        headers = {**kind.headers, **lane.headers_for(number)}
        outcome = await self.workers.colour(found[0], dataclasses.replace(kind, headers=headers), found[1])
        if not outcome.version and not isinstance(outcome, Away):
            outcome = dataclasses.replace(outcome, version=lane.version_of(number))
        trouble = await self._finish(claim, job, kind, outcome) if isinstance(outcome, Coloured) else outcome
        return None if trouble is None else await self._settle(claim, job, kind, trouble, asked=lane)

    async def _settle(
        self, claim: Claim, job: Job, kind: JobKind, trouble: Refused | Away | Failed, *, asked: Lane | None = None
    ) -> str | None:
        """Store what became of an attempt that gave no picture; *asked* is None where no worker was. As `_attempt`."""
        ended = EndedAttempt(_OUTCOMES[type(trouble)], trouble.words, trouble.version, was_called=asked is not None)
        on_trial = asked is not None and asked.is_on_trial(trouble.version)
        match after_failure(trouble, job, kind, luck=self.luck(), on_trial=on_trial):
            case Again(words) as again:
                await self.store.retry_job(claim, ended, again=again, now=self.clock.now())
                log.info("job.waits_again", job=job.id, attempt=claim.attempt, because=words)
                return None
            case GiveUp(words):
                buried = await self.store.bury_job(claim, ended, words=words, now=self.clock.now())
                log.warning("job.died", job=job.id, attempt=claim.attempt, because=words)
                return words if buried else None

    async def _photo_of(self, claim: Claim, job: Job, kind: JobKind) -> tuple[Job, bytes] | Refused | Away | Failed:
        if job.photo is None:
            return await self._fetch(claim, job, kind)
        try:
            return job, await self.blobs.get_blob(job.photo.key)
        except NotFoundError:
            return Refused("its photo is not in the blob store any more")
        except UnavailableError as exc:
            return Away(str(exc))

    async def _fetch(self, claim: Claim, job: Job, kind: JobKind) -> tuple[Job, bytes] | Refused | Away | Failed:
        """Fetch a photo and keep it, so that the next attempt need not."""
        try:
            fetched = await self.source.fetch(job.image_url)
            kept = await keep_photo(fetched, is_stripped=kind.strip_metadata)
        except InvalidInputError as exc:
            return Refused(str(exc))
        except UnavailableError as exc:
            return Failed(str(exc))
        picture = kept.at(photo_key(job.id))
        try:
            await self.blobs.put_blob(picture.key, kept.content)
        except UnavailableError as exc:
            return Away(str(exc))
        if not await self.store.attach_photo(claim, picture):
            await self.blobs.delete_blob(picture.key)
            return Away("it was taken from whoever ran it")
        return dataclasses.replace(job, photo=picture), kept.content

    async def _finish(self, claim: Claim, job: Job, kind: JobKind, coloured: Coloured) -> Away | Failed | None:
        """Store a picture; return what went wrong, if something did."""
        key = result_key(job.id, claim.attempt)
        label = Label(job.model, coloured.version) if kind.label else None
        try:
            kept = await keep_result(coloured.content, is_stripped=kind.strip_metadata, words=label)
        except InvalidInputError:
            words = f"version {coloured.version or 'unknown'} answered with something that is no picture"
            return Failed(words, coloured.version)
        try:
            await self.blobs.put_blob(key, kept.content)
        except UnavailableError as exc:
            return Away(str(exc))
        if await self.store.finish_job(claim, kept.at(key), version=coloured.version, now=self.clock.now()):
            log.info("job.done", job=job.id, attempt=claim.attempt, version=coloured.version)
        else:  # cancelled, deleted, or run by somebody else meanwhile
            await self.blobs.delete_blob(key)
        return None

    async def _keep_leases(self) -> None:
        while True:
            await self.clock.sleep(BEAT)
            claims = tuple(self._held)
            if not claims:
                continue
            try:
                good = await self.store.renew_jobs(claims, until=self.clock.now() + LEASE)
            except ControlPlaneError as exc:
                log.warning("jobs.leases_not_renewed", error=str(exc))
                continue
            for claim in claims:
                # Out of what is held, since a scope may be cut off once only, and its work may take a while to end.
                scope = self._held.pop(claim, None) if claim not in good else None
                if scope is not None:
                    scope.reschedule(0.0)  # long ago, that is now
