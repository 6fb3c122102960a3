"""The counter where jobs are handed in and collected: checks first, the photo second, the row and its wake-up last."""

import dataclasses
import hashlib
import json
import uuid

import structlog

from controlplane.clock import Clock
from controlplane.errors import ConflictError, InvalidInputError, UnavailableError
from controlplane.jobs.model import Job, JobId, JobState, Order, Picture, SoundOrder, check_order, photo_key, result_key
from controlplane.jobs.photos import media_type_of
from controlplane.jobs.ports import BlobStore, JobStore, NewJob, PhotoSource

log = structlog.get_logger()


@dataclasses.dataclass(slots=True, kw_only=True)
class JobDesk:
    """What owners may do with their jobs; *owner* is the name of their API key."""

    store: JobStore
    blobs: BlobStore
    source: PhotoSource
    clock: Clock

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
            UnavailableError: The photo or the row cannot be stored now.
        """
        sound = await self.check(order)
        if order.image_url is not None and photo is not None:
            raise InvalidInputError("image_url", "is given beside a photo", "send one of them")
        job = JobId(uuid.uuid4().hex)
        picture = None
        if photo is not None:
            picture = picture_of(photo_key(job), photo)
        elif order.image_url is not None:
            self.source.check(order.image_url)
        else:
            raise InvalidInputError("image", "is missing", "send the photo as the form field image, or as raw body")
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
            request=_digest(order, sound, picture),
        )
        if photo is not None:
            await self.blobs.put_blob(photo_key(job), photo)
        try:
            made = await self.store.submit(new, key=key, now=self.clock.now())
        except (ConflictError, InvalidInputError):  # after any other error the row may well be there
            await self._drop(picture)
            raise
        if made.id != job:
            await self._drop(picture)
        return made

    async def result(self, job: JobId, *, owner: str) -> tuple[Job, bytes]:
        """Return a job and its result.

        Raises:
            NotFoundError: There is no such job of this owner.
            ConflictError: It is not done.
        """
        found = await self.store.load_job(job, owner=owner)
        if found.result is None:
            ended = f": {found.words}" if found.state is JobState.DEAD else ""
            raise ConflictError(f"job {job} is {found.state}{ended}; only one that is done has a result")
        return found, await self.blobs.get_blob(found.result.key)

    async def photo(self, job: JobId, *, owner: str) -> tuple[Job, bytes]:
        """Return a job and its photo, as it is kept.

        Raises:
            NotFoundError: There is no such job of this owner.
            ConflictError: Its photo was not fetched yet.
        """
        found = await self.store.load_job(job, owner=owner)
        if found.photo is None:
            raise ConflictError(f"job {job} is {found.state}; its photo was not fetched from its address yet")
        return found, await self.blobs.get_blob(found.photo.key)

    async def delete(self, job: JobId, *, owner: str) -> None:
        """Forget a job and its pictures. Where the blobs cannot be reached, `sweep` removes them later.

        Raises:
            NotFoundError: There is no such job of this owner.
        """
        await self.store.delete_job(job, owner=owner, now=self.clock.now())
        try:
            await self.sweep()
        except UnavailableError:
            log.warning("job.pictures_not_deleted", job=job, exc_info=True)

    async def sweep(self) -> int:
        """Remove the pictures of deleted jobs; return of how many.

        Raises:
            UnavailableError: The blobs or the rows cannot be reached; some may be gone.
        """
        deleted = await self.store.load_deleted()
        for job, attempts in deleted.items():
            await self.blobs.delete_blob(photo_key(job))
            for attempt in range(1, attempts + 1):
                await self.blobs.delete_blob(result_key(job, attempt))
        if deleted:
            await self.store.forget_pictures(deleted.keys(), now=self.clock.now())
        return len(deleted)

    async def _drop(self, picture: Picture | None) -> None:
        if picture is None:
            return
        try:
            await self.blobs.delete_blob(picture.key)
        except UnavailableError:
            log.warning("job.photo_left_behind", key=picture.key, exc_info=True)


def picture_of(key: str, content: bytes) -> Picture:
    """Describe a photo.

    Raises:
        InvalidInputError: It is none that workers read.
    """
    return Picture(
        key=key,
        media_type=media_type_of(content),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _digest(order: Order, sound: SoundOrder, photo: Picture | None) -> str:
    """Tell a repetition from another request."""
    asked = [
        order.task_id,
        order.workflow,
        sound.model,
        sound.size,
        order.vip,
        photo.sha256 if photo else order.image_url,
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
