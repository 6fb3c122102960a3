"""Jobs and kinds for tests, and the fleet that colours them as a test says."""

import asyncio
import dataclasses
import datetime as dt
import hashlib
import itertools
import uuid
from collections.abc import Awaitable, Callable, Collection

from controlplane.clock import Clock
from controlplane.jobs.callback_desk import CallbackDesk, NoSender, Senders
from controlplane.jobs.callback_ports import CallbackStore
from controlplane.jobs.callbacks import Heard, Message, Unheard
from controlplane.jobs.meter import JobMeter
from controlplane.jobs.model import Away, Coloured, Failed, Job, JobId, JobKind, Picture, Refused, photo_key
from controlplane.jobs.operations import DeadTasks
from controlplane.jobs.overseer import Overseer
from controlplane.jobs.ports import BlobStore, Delivery, JobQueue, NewJob, WakeUp
from controlplane.jobs.sources import AllowedSources, read_callback_sources
from controlplane.pictures.inspection import label
from controlplane.pictures.labels import Label
from controlplane.store import SqlStore
from controlplane.store.job_queue import SqlQueue
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


_numbers = itertools.count()


def make_wake_up(queue: str = "photos", *, vip: bool = False) -> WakeUp:
    """A wake-up like no other."""
    return WakeUp(JobId(f"{next(_numbers):032x}"), queue, vip)


async def take_wake_ups(queue: JobQueue, *names: str, limit: int = 100) -> list[WakeUp]:
    """Take wake-ups once, and acknowledge them."""
    taken = await queue.take(names or ("photos",), limit=limit)
    for delivery in taken:
        await queue.acknowledge(delivery)
    return [delivery.wake_up for delivery in taken]


async def take_all(count: int, *queues: JobQueue, limit: int = 100) -> list[WakeUp]:
    """Take *count* wake-ups as several processes do, whichever gets which, and acknowledge them."""
    found: list[WakeUp] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            for queue in queues:
                found += await take_wake_ups(queue, limit=limit)
    return found


async def take_one(queue: JobQueue) -> Delivery:
    """Take a wake-up that is known to be there."""
    (delivery,) = await queue.take(["photos"], limit=1)
    return delivery


def make_overseer(
    store: SqlStore,
    blobs: BlobStore,
    clock: Clock,
    *,
    queue: JobQueue | None = None,
    tasks: DeadTasks | None = None,
) -> Overseer:
    """An overseer of *store*."""
    return Overseer(
        store=store,
        queue=queue or SqlQueue(database=store.database, clock=clock),
        tasks=tasks,
        blobs=blobs,
        clock=clock,
        meter=JobMeter(store=store, clock=clock),
    )


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


class FakeSender:
    """A `Sender` to the hosts of a list, whose receivers do as a test says."""

    def __init__(self) -> None:
        self.sources = read_callback_sources("shop.example.org, *.example.net", "")
        self.answers: dict[str, list[Heard | Unheard]] = {}
        """By address; one that has none left takes everything."""
        self.hanging: dict[str, asyncio.Event] = {}
        """Addresses that answer when the event is set."""
        self.sent: list[tuple[str, Message]] = []
        self.secrets: list[tuple[str, ...]] = []

    def check(self, address: str) -> None:
        self.sources.check_url(address)

    async def send(
        self, address: str, message: Message, *, secrets: Collection[str], now: dt.datetime
    ) -> Heard | Unheard:
        del now
        self.sent.append((address, message))
        self.secrets.append(tuple(secrets))
        if address in self.hanging:
            await self.hanging[address].wait()
        left = self.answers.get(address)
        return left.pop(0) if left else Heard()


def make_callback_desk(store: CallbackStore, clock: Clock, sender: FakeSender | None = None) -> CallbackDesk:
    """A desk whose receivers are fakes."""
    senders = Senders(webhooks=sender or FakeSender(), others=NoSender())
    return CallbackDesk(store=store, senders=senders, clock=clock)
