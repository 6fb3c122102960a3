"""Colours the photos of a plan, several at once: each is handed in, waited for and written by one thread.

Doing anything twice is harmless: a photo's task_id follows from its content, so that the control plane knows it again.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import threading
from collections.abc import Callable, Generator
from typing import Final, TypeVar

from controlplane.api.job_schemas import JobView
from controlplane.cli.batch_journal import Journal, Record
from controlplane.cli.batch_plan import MAX_BYTES, Options, Photo
from controlplane.cli.client import Client, RefusalError
from controlplane.cli.surroundings import Surroundings
from controlplane.errors import ControlPlaneError, InvalidInputError, UnavailableError
from controlplane.jobs.photos import ending_of

T = TypeVar("T")

PATIENCE_S: Final = 600.0
"""How long the control plane may be away before the batch gives up; the same command goes on later."""
FIRST_POLL_S: Final = 0.2
LONGEST_POLL_S: Final = 2.0
SLICE_S: Final = 0.5
"""Waits are cut into these, so that a stop need not wait for them."""
OVER_QUOTA: Final = 429
OVER_QUOTA_S: Final = 10.0
"""Before the next try, where the answer does not say."""
FATAL: Final = frozenset({401, 403})
CONFLICT: Final = 409
MAX_TURNS: Final = 100
GONE: Final = frozenset({404, 409, 410})
ENDED: Final = frozenset({"done", "dead", "cancelled"})


class _StoppedError(Exception):
    """The batch is being stopped."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a photo ended; *skipped* says that its result was there already."""

    record: Record
    skipped: bool = False
    version: str = ""


@dataclasses.dataclass(slots=True, kw_only=True)
class Batch:
    """One run over a plan's photos.

    Args:
        client: Used by several threads at once.
        surroundings: For waiting.
        options: What is asked for each photo.
        journal: Open.
        retry_failed: Whether jobs that are dead or cancelled run again.
        say: Hears what the batch waits for, from any thread; "" when it goes on.
    """

    client: Client
    surroundings: Surroundings
    options: Options
    journal: Journal
    retry_failed: bool
    say: Callable[[str], None]
    _stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self, photos: tuple[Photo, ...], *, parallel: int) -> Generator[Ending, None, None]:
        """Give each photo's end as it comes, with *parallel* of them under way.

        Raises:
            ControlPlaneError: The key is not accepted, the control plane is away for too long, or the disk is full.
        """
        pool = concurrent.futures.ThreadPoolExecutor(parallel, thread_name_prefix="batch")
        try:
            running = [pool.submit(self._one, photo) for photo in photos]
            for ended in concurrent.futures.as_completed(running):
                yield ended.result()
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _one(self, photo: Photo) -> Ending:
        try:
            content = _read(photo)
        except InvalidInputError as exc:
            return self._failed(Record(name=photo.name, task_id="", words=f"{exc.problem}; {exc.fix}"))
        task = self.options.task_id(content)
        known = self.journal.records.get(photo.name)
        if known is None or known.task_id != task:
            known = Record(name=photo.name, task_id=task)
        elif known.file and self.journal.is_written(known):
            return Ending(record=known, skipped=True)
        start = dataclasses.replace(known, file="", sha256="", words="")
        try:
            return self._colour(photo, content, start)
        except RefusalError as exc:
            if exc.status in FATAL or exc.status >= 500:
                raise
            return self._failed(dataclasses.replace(start, words="; ".join(exc.lines)))

    def _colour(self, photo: Photo, content: bytes, record: Record) -> Ending:
        found = self._find(record)
        job, record = self._submit(content, record) if found is None else (found, record)
        if self.retry_failed and job.state in {"dead", "cancelled"}:
            job, record = self._again(job, content, record)
        return self._collect(self._wait_ended(job), photo, content, record)

    def _collect(self, job: JobView, photo: Photo, content: bytes, record: Record) -> Ending:
        """Write the result of a job that has ended."""
        record = dataclasses.replace(record, job=job.id)
        if job.state != "done":
            return self._failed(dataclasses.replace(record, words=job.words or f"it was {job.state}"))
        try:
            result = self._ask(lambda: self.client.get_bytes("jobs", job.id, "result"))
        except RefusalError as exc:
            if exc.status not in GONE:
                raise
            if not self.retry_failed:
                words = f"{exc.lines[0]}; --retry-failed colours it again"
                return self._failed(dataclasses.replace(record, words=words))
            job, record = self._submit(content, dataclasses.replace(record, turn=record.turn + 1))
            return self._collect(self._wait_ended(job), photo, content, record)
        digest = hashlib.sha256(result).hexdigest()
        ending = ending_of(job.result.media_type if job.result else "")
        done = dataclasses.replace(record, file=f"{photo.target}.{ending}", sha256=digest)
        self.journal.add_result(done, result)
        return Ending(record=done, version=job.version)

    def _find(self, record: Record) -> JobView | None:
        """Look for the job of an earlier run, which saves sending the photo again."""
        if not record.job:
            return None
        try:
            return self._ask(lambda: self.client.get(JobView, "jobs", record.job))
        except RefusalError as exc:
            if exc.status not in GONE:
                raise
            return None

    def _submit(self, content: bytes, record: Record) -> tuple[JobView, Record]:
        """Hand a photo in; where that turn's job was deleted and another chance is wanted, as the next turn."""
        for turn in range(record.turn, MAX_TURNS):
            fields = {
                "workflow_type": self.options.workflow,
                "model": self.options.model,
                "size": str(self.options.size),
                "task_id": record.task_id if turn == 1 else f"{record.task_id}-{turn}",
            }
            try:
                upload = functools.partial(self.client.post_bytes, JobView, "jobs", content=content, **fields)
                job = self._ask(upload)
            except RefusalError as exc:
                if exc.status != CONFLICT or not self.retry_failed:
                    raise
                continue
            return job, dataclasses.replace(record, turn=turn)
        raise RefusalError(CONFLICT, (f"{MAX_TURNS} jobs of this photo are gone",), code="conflict")

    def _again(self, job: JobView, content: bytes, record: Record) -> tuple[JobView, Record]:
        """Run a job again, or where that cannot be, a new one of the same photo."""
        try:
            return self._ask(lambda: self.client.post(JobView, "jobs", job.id, "retry", body={})), record
        except RefusalError as exc:
            if exc.status not in GONE:
                raise
        return self._submit(content, dataclasses.replace(record, turn=record.turn + 1))

    def _wait_ended(self, job: JobView) -> JobView:
        pause = FIRST_POLL_S
        while job.state not in ENDED:
            self._pause(pause)
            pause = min(LONGEST_POLL_S, 1.5 * pause)
            job = self._ask(functools.partial(self.client.get, JobView, "jobs", job.id))
        return job

    def _failed(self, record: Record) -> Ending:
        self.journal.add(record)
        return Ending(record=record)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _ask(self, call: Callable[[], T]) -> T:
        """Ask until there is an answer: quotas and restarts are waited for."""
        begun = self.surroundings.steady()
        pause = 1.0
        while True:
            try:
                answer = call()
            except RefusalError as exc:
                if exc.status == OVER_QUOTA:
                    begun = self.surroundings.steady()  # somebody answers
                    self._wait_for(exc, exc.retry_after_s or OVER_QUOTA_S)
                    continue
                if exc.status < 500:
                    raise
                trouble: ControlPlaneError = exc
            except UnavailableError as exc:
                trouble = exc
            else:
                self.say("")
                return answer
            if self.surroundings.steady() - begun > PATIENCE_S:
                raise trouble
            self._wait_for(trouble, getattr(trouble, "retry_after_s", None) or pause)
            pause = min(10.0, 2 * pause)

    def _wait_for(self, trouble: ControlPlaneError, seconds: float) -> None:
        self.say(str(trouble))
        self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        while seconds > 0:
            if self._stop.is_set():
                raise _StoppedError
            self.surroundings.sleep(min(SLICE_S, seconds))
            seconds -= SLICE_S


def _read(photo: Photo) -> bytes:
    try:
        size = photo.path.stat().st_size
        if size > MAX_BYTES:
            raise InvalidInputError("photo", f"it has {size} bytes", f"at most {MAX_BYTES} are read")
        return photo.path.read_bytes()
    except OSError as exc:
        raise InvalidInputError("photo", f"it cannot be read ({exc.strerror})", "make it readable") from exc
