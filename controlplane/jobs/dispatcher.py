"""Takes jobs as there is room for them, has them coloured behind Envoy, and stores what came of it.

The order of things makes a kill at any line harmless: claim (a row, fenced by the attempt's number), work, store the
picture under the attempt's own key, then the row, and only then is the wake-up acknowledged.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import random
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError, InvalidInputError, NotFoundError, UnavailableError
from controlplane.jobs.desk import picture_of
from controlplane.jobs.model import (
    Again,
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
from controlplane.jobs.ports import BlobStore, Delivery, JobQueue, JobStore, PhotoSource, Workers
from controlplane.wake import Wake

log = structlog.get_logger()

BACK_OFF: Final = dt.timedelta(seconds=1)
LEASE: Final = dt.timedelta(seconds=30)
"""A dispatcher silent for longer has lost its jobs: they run again elsewhere."""
BEAT: Final = dt.timedelta(seconds=5)


@dataclasses.dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Runs up to *slots* jobs at once. A stop cuts them off, and they run again elsewhere."""

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
    _kinds: Mapping[str, JobKind] = dataclasses.field(default_factory=dict)
    _held: dict[Claim, asyncio.Timeout] = dataclasses.field(default_factory=dict)
    _busy: int = 0

    async def run(self) -> None:
        """Take jobs and run them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_leases(), name="job-leases")
            while True:
                taken = await self._take()
                for delivery in taken:
                    self._busy += 1
                    tasks.create_task(self._run_one(delivery), name=f"job-{delivery.wake_up.job}")
                if not taken:
                    await self.wake.wait(self.interval)

    async def _take(self) -> tuple[Delivery, ...]:
        room = self.slots - self._busy
        if room <= 0:
            return ()
        try:
            self._kinds = {kind.name: kind for kind in await self.store.list_kinds()}
            queues = sorted({kind.queue for kind in self._kinds.values()})
            return await self.queue.take(queues, limit=room) if queues else ()
        except ControlPlaneError as exc:
            log.warning("jobs.queue_not_read", error=str(exc))
            await self.clock.sleep(BACK_OFF)
            return ()

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
            self._busy -= 1
            self.wake.set()

    async def work(self, delivery: Delivery) -> None:
        """Look after one job.

        Raises:
            ControlPlaneError: The database or the queue does not answer: the lease runs out, and the job runs again.
        """
        now = self.clock.now()
        job = await self.store.claim_job(delivery.wake_up.job, holder=self.holder, until=now + LEASE, now=now)
        if job is None:  # a repetition, or a job that has ended
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
        with contextlib.suppress(ControlPlaneError):
            await self.store.retry_job(claim, words="its process was stopped", counts=False, due=self.clock.now())

    async def _attempt(self, claim: Claim, job: Job) -> str | None:
        """Run an attempt and store what it came to; say why, when the job is dead now."""
        kind = self._kinds.get(job.kind) or {k.name: k for k in await self.store.list_kinds()}[job.kind]
        outcome = await self._colour(claim, job, kind)
        trouble = await self._finish(claim, job, outcome) if isinstance(outcome, Coloured) else outcome
        if trouble is None:
            return None
        match after_failure(trouble, job, kind, luck=self.luck()):
            case Again(words, pause, counts):
                due = self.clock.now() + pause
                await self.store.retry_job(claim, words=words, counts=counts, due=due)
                log.info("job.waits_again", job=job.id, attempt=claim.attempt, because=words)
                return None
            case GiveUp(words):
                buried = await self.store.bury_job(claim, words=words, now=self.clock.now())
                log.warning("job.died", job=job.id, attempt=claim.attempt, because=words)
                return words if buried else None

    async def _colour(self, claim: Claim, job: Job, kind: JobKind) -> Coloured | Refused | Away | Failed:
        if job.photo is None:
            fetched = await self._fetch(claim, job)
            if not isinstance(fetched, tuple):
                return fetched
            job, photo = fetched
        else:
            try:
                photo = await self.blobs.get_blob(job.photo.key)
            except NotFoundError:
                return Refused("its photo is not in the blob store any more")
            except UnavailableError as exc:
                return Away(str(exc))
        return await self.workers.colour(job, kind, photo)

    async def _fetch(self, claim: Claim, job: Job) -> tuple[Job, bytes] | Refused | Away | Failed:
        """Fetch a photo and keep it, so that the next attempt need not."""
        try:
            photo = await self.source.fetch(job.image_url)
            picture = picture_of(photo_key(job.id), photo)
        except InvalidInputError as exc:
            return Refused(str(exc))
        except UnavailableError as exc:
            return Failed(str(exc))
        try:
            await self.blobs.put_blob(picture.key, photo)
        except UnavailableError as exc:
            return Away(str(exc))
        if not await self.store.attach_photo(claim, picture):
            await self.blobs.delete_blob(picture.key)
            return Away("it was taken from whoever ran it")
        return dataclasses.replace(job, photo=picture), photo

    async def _finish(self, claim: Claim, job: Job, coloured: Coloured) -> Away | Failed | None:
        """Store a picture; return what went wrong, if something did."""
        key = result_key(job.id, claim.attempt)
        try:
            picture = picture_of(key, coloured.content)
        except InvalidInputError:
            return Failed(f"version {coloured.version or 'unknown'} answered with something that is no picture")
        try:
            await self.blobs.put_blob(key, coloured.content)
        except UnavailableError as exc:
            return Away(str(exc))
        if await self.store.finish_job(claim, picture, version=coloured.version, now=self.clock.now()):
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
