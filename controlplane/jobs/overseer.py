"""For whoever runs the jobs: a look at everything, figures, drains, and another chance for jobs that died."""

import dataclasses
import datetime as dt
from typing import Protocol

import structlog

from controlplane.clock import Clock
from controlplane.errors import ConflictError, UnavailableError
from controlplane.jobs.figures import FigureStore, KindFigures, figures_of
from controlplane.jobs.meter import JobMeter, TotalStore
from controlplane.jobs.model import Job, JobId, JobState
from controlplane.jobs.operations import DeadTasks, Letters, QueueReport, count_reasons
from controlplane.jobs.ports import MAX_BATCH, BlobStore, JobQueue, JobStore

log = structlog.get_logger()


class OverseerStore(JobStore, TotalStore, FigureStore, Protocol):
    """The store as the overseer sees it."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Overseer:
    """Looks at rows and at the queue, and changes rows.

    *tasks* is None where no foreign producers are.
    """

    store: OverseerStore
    queue: JobQueue
    tasks: DeadTasks | None
    blobs: BlobStore
    clock: Clock
    meter: JobMeter

    async def retry(self, job: JobId, *, owner: str) -> Job:
        """Let a dead or cancelled job wait again, as if it had never failed; one that waits or runs stays so.

        Raises:
            NotFoundError: There is no such job of this owner.
            ConflictError: It is done, or its photo is gone and was not fetched from anywhere.
            UnavailableError: The rows or the blobs cannot be reached.
        """
        found = await self.store.load_job(job, owner=owner)
        refetch = False
        if found.state in {JobState.DEAD, JobState.CANCELLED}:
            there = found.photo is not None and await self.blobs.has_blob(found.photo.key)
            if not there and not found.image_url:
                raise ConflictError(f"job {job} cannot be run again: its photo is gone; hand the photo in anew")
            refetch = not there
        again = await self.store.retry_dead(job, owner=owner, refetch=refetch, now=self.clock.now())
        if again.state is not found.state:
            log.info("job.retried", job=job, by=owner)
        return again

    async def figures(self, kind: str | None, *, since: dt.datetime, until: dt.datetime) -> tuple[KindFigures, ...]:
        """Return the figures of one kind or of all.

        Raises:
            UnavailableError: The database does not answer.
        """
        return figures_of(await self.store.load_sums(kind, since=since, until=until))

    async def report(self) -> QueueReport:
        """Return where everything stands; a queue that does not answer is said, not raised.

        Letters of jobs that were run again since do not count.

        Raises:
            UnavailableError: The database does not answer.
        """
        standing = await self.store.load_standing(now=self.clock.now())
        drains = tuple(drain for drain in await self.store.load_drains() if drain.ended_at is None)
        try:
            letters = await self.queue.dead_letters()
            tasks = () if self.tasks is None else await self.tasks.dead_tasks()
        except UnavailableError as exc:
            nothing = Letters()
            return QueueReport(standing=standing, drains=drains, letters=nothing, tasks=nothing, trouble=str(exc))
        states = await self.store.load_states([letter.job for letter in letters])
        still = [letter.words for letter in letters if states.get(letter.job, JobState.DEAD) is JobState.DEAD]
        return QueueReport(
            standing=standing,
            drains=drains,
            letters=count_reasons(still, more=len(letters) >= MAX_BATCH),
            tasks=count_reasons([task.words for task in tasks], more=len(tasks) >= MAX_BATCH),
        )
