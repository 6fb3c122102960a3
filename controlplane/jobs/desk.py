"""The counter where jobs are handed in and collected: checks first, the photo second, the row and its wake-up last."""

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Sequence

import structlog

from controlplane.clock import Clock
from controlplane.errors import (
    ConflictError,
    GoneError,
    InvalidInputError,
    NotFoundError,
    OverQuotaError,
    UnavailableError,
)
from controlplane.jobs.model import (
    Job,
    JobId,
    JobState,
    Order,
    Picture,
    SoundOrder,
    check_order,
    photo_key,
    removed_words,
    results_prefix,
)
from controlplane.jobs.owners import DEFAULT_QUOTAS, JobUsage, Quotas, check_quotas, room_for
from controlplane.jobs.photos import Kept, keep_photo
from controlplane.jobs.ports import BlobStore, JobStore, NewJob, PhotoSource

log = structlog.get_logger()


@dataclasses.dataclass(slots=True, kw_only=True)
class JobDesk:
    """What owners may do with their jobs; *owner* is the name of their API key."""

    store: JobStore
    blobs: BlobStore
    source: PhotoSource
    clock: Clock
    quotas: Quotas = DEFAULT_QUOTAS
    """What holds for owners with whom nothing else was agreed."""

    async def check(self, order: Order) -> SoundOrder:
        """Hold an order against the kinds there are.

        Raises:
            InvalidInputError: It is not sound; nothing was stored.
        """
        return check_order(order, {kind.workflow: kind for kind in await self.store.list_kinds()})

    async def submit(self, order: Order, photo: bytes | None, *, owner: str, key: str | None) -> Job:
        """Take a job in; the same *key* or task_id again gives the first one. An *image_url* is fetched later.

        Raises:
            InvalidInputError: The order or the photo is not sound; nothing was stored.
            ConflictError: The key or the task_id was used for another job.
            OverQuotaError: It would be more than its owner may have; nothing was stored.
            UnavailableError: The photo or the row cannot be stored now.
        """
        sound = await self.check(order)
        if order.image_url is not None and photo is not None:
            raise InvalidInputError("image_url", "is given beside a photo", "send one of them")
        job = JobId(uuid.uuid4().hex)
        kept: Kept | None = None
        if photo is not None:
            kept = await keep_photo(photo, is_stripped=sound.kind.strip_metadata)
        elif order.image_url is not None:
            self.source.check(order.image_url)
        else:
            raise InvalidInputError("image", "is missing", "send the photo as the form field image, or as raw body")
        picture = None if kept is None else kept.at(photo_key(job))
        new = NewJob(
            id=job,
            owner=owner,
            task_id=order.task_id or job,
            kind=sound.kind.name,
            workflow=order.workflow,
            model=sound.model,
            size=sound.size,
            vip=order.vip,
            photo=picture,
            image_url=order.image_url or "",
            request=_digest(order, sound, photo),
        )
        if kept is not None:  # which is not stored for nothing
            first = await self.store.admit(new, key=key, now=self.clock.now(), quotas=self.quotas)
            if first is not None:
                return first
            await self.blobs.put_blob(photo_key(job), kept.content)
        try:
            made = await self.store.submit(new, key=key, now=self.clock.now(), quotas=self.quotas)
        except (ConflictError, InvalidInputError, OverQuotaError):  # after any other error the row may well be there
            await self._drop(picture)
            raise
        if made.id != job:
            await self._drop(picture)
        return made

    async def look_up(self, owner: str) -> tuple[Quotas, JobUsage]:
        """Return the quotas that hold for an owner, and what is used of them."""
        agreed = await self.store.find_owner(owner)
        quotas = self.quotas if agreed is None else agreed.quotas(self.quotas)
        return quotas, await self.store.load_usage(owner, quotas=quotas, now=self.clock.now())

    async def room(self, owner: str) -> int:
        """Return how many jobs an owner may submit now, at least one.

        Raises:
            OverQuotaError: It is none.
        """
        quotas, usage = await self.look_up(owner)
        check_quotas(owner, quotas, usage, photo_bytes=0, now=self.clock.now())
        return room_for(quotas, usage)

    async def result(self, job: JobId, *, owner: str) -> tuple[Job, bytes]:
        """Return a job and its result.

        Raises:
            NotFoundError: There is no such job of this owner.
            ConflictError: It is not done.
            GoneError: It was done, and its time is over.
        """
        found = await self.store.load_job(job, owner=owner)
        if found.state is JobState.DONE and found.swept_at is not None:
            raise GoneError(f"job {job} is done, but {removed_words(found.swept_at)}")
        if found.result is None:
            ended = f": {found.words}" if found.state is JobState.DEAD else ""
            raise ConflictError(f"job {job} is {found.state}{ended}; only one that is done has a result")
        try:
            return found, await self.blobs.get_blob(found.result.key)
        except NotFoundError as exc:
            raise GoneError(f"job {job} is done, but its result is not in the blob store any more") from exc

    async def delete(self, job: JobId, *, owner: str) -> None:
        """Forget a job and its pictures. Where the blobs cannot be reached, `sweep` removes them later.

        Raises:
            NotFoundError: There is no such job of this owner.
        """
        await self.store.delete_job(job, owner=owner, now=self.clock.now())
        try:
            await self._remove([job])
        except UnavailableError:
            log.warning("job.pictures_not_deleted", job=job, exc_info=True)

    async def sweep(self) -> int:
        """Remove the pictures of some jobs that were deleted, or whose time is over; return of how many.

        Raises:
            UnavailableError: The blobs or the rows cannot be reached; some may be gone.
        """
        over = await self.store.load_removable(now=self.clock.now())
        if over:
            await self._remove(over)
            log.info("jobs.pictures_removed", jobs=len(over))
        return len(over)

    async def _remove(self, jobs: Sequence[JobId]) -> None:
        for job in jobs:
            await self.blobs.delete_blob(photo_key(job))
            while stored := await self.blobs.list_blobs(results_prefix(job)):  # of attempts that did not count, too
                for each in stored:
                    await self.blobs.delete_blob(each.key)
        await self.store.forget_pictures(jobs, now=self.clock.now())

    async def _drop(self, picture: Picture | None) -> None:
        if picture is None:
            return
        try:
            await self.blobs.delete_blob(picture.key)
        except UnavailableError:
            log.warning("job.photo_left_behind", key=picture.key, exc_info=True)


def _digest(order: Order, sound: SoundOrder, photo: bytes | None) -> str:
    """Tell a repetition from another request, by what was sent, whatever is stored of it."""
    asked = [
        order.task_id,
        order.workflow,
        sound.model,
        sound.size,
        order.vip,
        order.image_url if photo is None else hashlib.sha256(photo).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
