"""Jobs and kinds for tests, and the fleet that colours them as a test says."""

import asyncio
import dataclasses
import datetime as dt
import hashlib
import uuid
from collections.abc import Awaitable, Callable

from controlplane.jobs.model import Away, Coloured, Failed, Job, JobId, JobKind, Picture, Refused, photo_key
from controlplane.jobs.ports import NewJob
from controlplane.jobs.sources import AllowedSources
from controlplane.pictures.inspection import label
from controlplane.pictures.labels import Label
from tests.small_pictures import SMALL_JPEG, make_png

PHOTO = SMALL_JPEG
PNG = make_png(b"coloured", channels=3)
WORKFLOW = "DDColor人物黑白修复.json"


def make_kind(name: str = "person", **changes: object) -> JobKind:
    """The article's kind, with *changes*."""
    kind = JobKind(
        name=name,
        workflow=WORKFLOW if name == "person" else f"{name}.json",
        models=("ddcolor-imagenet", "ddcolor-artistic"),
        min_px=460,
        max_px=680,
        default_px=640,
        queue="photos",
        path="/repair",
        headers={"x-model-type": "person"},
        timeout=dt.timedelta(seconds=300),
        attempts=3,
    )
    return dataclasses.replace(kind, **changes)  # type: ignore[arg-type] # passed through


def make_new_job(**changes: object) -> NewJob:
    """A job of ada's, with *changes*; its request is what tells it from others."""
    job = JobId(uuid.uuid4().hex)
    new = NewJob(
        id=job,
        owner="ada",
        task_id=job,
        kind="person",
        workflow=WORKFLOW,
        model="ddcolor-imagenet",
        size=640,
        vip=False,
        photo=make_picture(photo_key(job)),
        request="one",
    )
    return dataclasses.replace(new, **changes)  # type: ignore[arg-type] # passed through


def make_picture(key: str, content: bytes = PHOTO) -> Picture:
    """Describe *content* at *key*."""
    digest = hashlib.sha256(content).hexdigest()
    media_type = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
    return Picture(key=key, media_type=media_type, size_bytes=len(content), sha256=digest)


Outcome = Coloured | Refused | Away | Failed
COLOURED = Coloured(PNG, "image/png", "v1")
RESULT = label(PNG, Label("ddcolor-imagenet", "v1"))
"""What is stored of `COLOURED`."""


class FakePhotos:
    """A `PhotoSource` of one host, whose photos a test gives."""

    def __init__(self) -> None:
        self.sources = AllowedSources(("photos.example.org",))
        self.there: dict[str, bytes | Exception] = {}
        self.asked: list[str] = []

    def check(self, url: str) -> None:
        self.sources.check_url(url)

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        found = self.there[url]
        if isinstance(found, Exception):
            raise found
        return found


class FakeWorkers:
    """`Workers` that answer as a test says; what `answer` raises is a bug of theirs."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[Job] = []
        self.kinds: list[JobKind] = []
        self.answer: Callable[[Job], Outcome] = lambda _: self.outcomes.pop(0) if self.outcomes else COLOURED
        self.meanwhile: Callable[[], Awaitable[object]] | None = None
        """Happens while the next job is coloured, once."""
        self.crowd = 1
        """The first jobs wait for each other until there are so many."""
        self.running = 0
        self.most_running = 0
        self._crowded = asyncio.Event()

    async def colour(self, job: Job, kind: JobKind, photo: bytes) -> Outcome:
        del photo
        self.asked.append(job)
        self.kinds.append(kind)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                await meanwhile()
            if self.running >= self.crowd:
                self._crowded.set()
            await self._crowded.wait()
            return self.answer(job)
        finally:
            self.running -= 1
