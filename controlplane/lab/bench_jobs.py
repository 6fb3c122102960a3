"""What a queue of jobs costs: CPU per job, jobs a second, and how soon a VIP's job starts behind a crowd.

One process runs what `hueshift serve` runs for jobs: rows, outbox, relay, queue, dispatcher and blobs. Its workers
answer at once, in the place of the calls to Envoy. Nobody hands jobs in meanwhile, so nothing waits for a client: the
crowd has its rows before the watch starts. The VIP's job comes when a tenth of the crowd is through; its wait counts
from its submission, with slots that become free every few milliseconds.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import logging
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import aio_pika

from controlplane import running
from controlplane.blobs.directory import DirectoryBlobs
from controlplane.broker.rabbitmq import PREFIX, RabbitQueue
from controlplane.clock import Clock, SystemClock
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.dispatcher import Dispatcher
from controlplane.jobs.model import Coloured, Job, JobId, JobKind, Picture
from controlplane.jobs.ports import JobQueue, NewJob
from controlplane.jobs.relay import OutboxRelay
from controlplane.lab.job_pictures import NONCE_BYTES, coloured, photo
from controlplane.lab.program import EndedEarlyError, console, run_program
from controlplane.lab.rabbitmq import running_rabbitmq
from controlplane.ports import Change
from controlplane.settings import read_settings
from controlplane.store import SqlStore, open_store
from controlplane.store.job_queue import SqlQueue
from controlplane.store.schema import upgrade
from controlplane.wake import Topic, Wake, WakeBoard

MAX_CPU_MS: Final = 5.0
MIN_RATE: Final = 100.0
MAX_VIP_WAIT_S: Final = 2.0

SLOTS: Final = 8
INTERVAL: Final = dt.timedelta(seconds=1)
OWNER: Final = "bench"
PHOTO: Final = photo(1)
PHOTO_KEY: Final = "photos/bench"
"""One photo for all: it is read for each job, as theirs would be."""
PICTURE: Final = Picture(
    key=PHOTO_KEY, media_type="image/png", size_bytes=len(PHOTO), sha256=hashlib.sha256(PHOTO).hexdigest()
)
ANSWER: Final = Coloured(coloured(PHOTO, bytes(NONCE_BYTES)), "image/png", "v1")


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One figure and its bound, which is the least allowed (*at_least*) or the most."""

    carrier: str
    name: str
    value: float
    unit: str
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure is within its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        """Return the figure on one line."""
        verdict = "holds" if self.holds else "does not hold"
        sign = ">=" if self.at_least else "<="
        return f"{self.carrier}: {self.name} {self.value:.3g} {self.unit}, bound {sign} {self.bound:g}: {verdict}"


class _TrivialWorkers:
    """Workers that answer at once and note when each job reached them."""

    def __init__(self, crowd: int, clock: Clock) -> None:
        self.started_at: dict[JobId, float] = {}
        self.are_warm = asyncio.Event()
        self.are_through = asyncio.Event()
        self._crowd = crowd
        self._clock = clock

    async def colour(self, job: Job, kind: JobKind, photo: bytes) -> Coloured:
        del kind, photo
        self.started_at[job.id] = self._clock.steady()
        if len(self.started_at) >= self._crowd // 10:
            self.are_warm.set()
        if len(self.started_at) == self._crowd + 1:
            self.are_through.set()
        return ANSWER


class _NoPhotos:
    """No job of the bench has an address."""

    def check(self, url: str) -> None:
        raise InvalidInputError("image_url", f"{url!r} is not fetched here", "send the photo")

    async def fetch(self, url: str) -> bytes:
        raise UnavailableError(f"{url!r} is not fetched here")


@dataclasses.dataclass(slots=True, kw_only=True)
class _Bench:
    """One database and one queue, and all that works on them."""

    carrier: str
    store: SqlStore
    queue: JobQueue
    board: WakeBoard
    kind: JobKind
    directory: Path
    clock: Clock

    async def measure(self, jobs: int) -> tuple[Figure, ...]:
        blobs = DirectoryBlobs(self.directory / "blobs")
        await blobs.put_blob(PHOTO_KEY, PHOTO)
        await self.store.apply_kind(self.kind, Change("bench", "", self.clock.now()))
        workers = _TrivialWorkers(jobs, self.clock)
        relay = OutboxRelay(
            store=self.store,
            queue=self.queue,
            clock=self.clock,
            board=self.board,
            wake=self._listening(),
            interval=INTERVAL,
        )
        dispatcher = Dispatcher(
            store=self.store,
            queue=self.queue,
            blobs=blobs,
            source=_NoPhotos(),
            workers=workers,
            clock=self.clock,
            wake=self._listening(),
            holder=OWNER,
            slots=SLOTS,
            interval=INTERVAL,
        )
        for _ in range(jobs):
            await self._submit(vip=False)
        begun, cpu = self.clock.steady(), time.process_time()
        while await relay.move():
            pass
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(relay.run()), tasks.create_task(dispatcher.run())]
            await workers.are_warm.wait()
            vip = await self._submit(vip=True)
            submitted = self.clock.steady()
            await workers.are_through.wait()
            took, cpu = self.clock.steady() - begun, time.process_time() - cpu
            for loop in loops:
                loop.cancel()
        waited = max(0.0, workers.started_at[vip] - submitted)
        return (
            Figure(self.carrier, "CPU per job", 1_000 * cpu / (jobs + 1), "ms", MAX_CPU_MS),
            Figure(self.carrier, "rate", (jobs + 1) / took, "jobs/s", MIN_RATE, at_least=True),
            Figure(self.carrier, f"VIP behind {jobs} jobs starts after", waited, "s", MAX_VIP_WAIT_S),
        )

    async def _submit(self, *, vip: bool) -> JobId:
        job = JobId(uuid.uuid4().hex)
        new = NewJob(
            id=job,
            owner=OWNER,
            task_id=job,
            kind=self.kind.name,
            workflow=self.kind.workflow,
            model=self.kind.models[0],
            size=self.kind.default_px,
            vip=vip,
            photo=PICTURE,
            request=job,
        )
        await self.store.submit(new, key=None, now=self.clock.now())
        return job

    def _listening(self) -> Wake:
        wake = Wake()
        self.board.listen(wake, Topic.JOBS)
        return wake


def _make_kind() -> JobKind:
    """Make a kind whose queue nobody else has: a broker may be in use."""
    name = f"bench-{secrets.token_hex(4)}"
    return JobKind(
        name=name,
        workflow=f"{name}.json",
        models=("bench",),
        min_px=64,
        max_px=64,
        default_px=64,
        queue=name,
        path="/repair",
        headers={},
        timeout=dt.timedelta(seconds=30),
        attempts=5,
        strip_metadata=False,
        label=False,
    )


async def run_bench(
    *,
    jobs: int,
    directory: Path,
    clock: Clock,
    queue_url: str = "",
    database_url: str = "",
    tell: Callable[[Figure], None] = lambda _: None,
) -> tuple[Figure, ...]:
    """Measure a queue on RabbitMQ, one on SQLite, and one on PostgreSQL where *database_url* names one.

    Args:
        jobs: How many are in the crowd.
        directory: For database and blobs.
        clock: Measures.
        queue_url: A RabbitMQ that runs; else one is started.
        database_url: A PostgreSQL for this bench alone.
        tell: Hears of each figure at once.

    Raises:
        UnavailableError: The broker or a database cannot be used.
        InvalidInputError: The database is in use by somebody else.
    """
    figures: list[Figure] = []
    async with contextlib.AsyncExitStack() as running:
        if not queue_url:
            queue_url = await (await running.enter_async_context(running_rabbitmq())).make_vhost()
        cases = [("rabbitmq", "", queue_url), ("sqlite", "", "")]
        if database_url:
            cases.append(("postgresql", database_url, ""))
        for carrier, database, broker in cases:
            async with _opened(carrier, database, broker, directory / carrier, clock) as bench:
                for figure in await bench.measure(jobs):
                    figures.append(figure)
                    tell(figure)
    return tuple(figures)


@contextlib.asynccontextmanager
async def _opened(
    carrier: str, database_url: str, queue_url: str, directory: Path, clock: Clock
) -> AsyncIterator[_Bench]:
    url = database_url or _file_url(directory)
    await upgrade(url)
    board, kind = WakeBoard(), _make_kind()
    async with await open_store(url, board=board, clock=clock) as store:
        if await store.list_kinds():
            raise InvalidInputError("--database-url", "has kinds of jobs in it", "name a database for this bench alone")
        queue = RabbitQueue(queue_url) if queue_url else SqlQueue(database=store.database, clock=clock)
        try:
            yield _Bench(
                carrier=carrier, store=store, queue=queue, board=board, kind=kind, directory=directory, clock=clock
            )
        finally:
            await queue.close()
            if queue_url:
                await _remove_queues(queue_url, kind)


def _file_url(directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{directory.absolute() / 'bench.sqlite3'}"


async def _remove_queues(url: str, kind: JobKind) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for name in (f"{PREFIX}{kind.queue}", f"{PREFIX}{kind.queue}.vip"):
            await channel.queue_delete(name)


def main(*, jobs: int = 5_000, queue_url: str = "", database_url: str = "", json_file: Path | None = None) -> int:
    """Run the bench, print a line per figure, and return 0 if all hold."""
    running.configure_logging(read_settings(log_level="error"))
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="hueshift-bench-jobs-", ignore_cleanup_errors=True) as name:
        try:
            figures = run_program(
                run_bench(
                    jobs=jobs,
                    directory=Path(name),
                    clock=SystemClock(),
                    queue_url=queue_url,
                    database_url=database_url,
                    tell=lambda figure: console().print(figure.line(), soft_wrap=True),
                )
            )
        except EndedEarlyError as exc:
            print(f"bench jobs: {exc}", file=sys.stderr)
            return exc.code
    good = all(figure.holds for figure in figures)
    if json_file is not None:
        rows: list[dict[str, Any]] = [{**dataclasses.asdict(each), "holds": each.holds} for each in figures]
        json_file.write_text(json.dumps({"jobs": jobs, "figures": rows, "holds": good}, indent=2) + "\n")
    return 0 if good else 1
