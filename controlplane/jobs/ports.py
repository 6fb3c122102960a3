"""What jobs need from the outside, named by role. Each adapter passes the port's suite in tests/contract."""

import dataclasses
import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from controlplane.jobs.expected import Expected
from controlplane.jobs.lanes import Lane
from controlplane.jobs.model import (
    Again,
    AttemptOutcome,
    Away,
    Claim,
    Coloured,
    Failed,
    Job,
    JobId,
    JobKind,
    JobState,
    Picture,
    Refused,
)
from controlplane.jobs.owners import DEFAULT_QUOTAS, JobOwner, JobUsage, Quotas
from controlplane.ports import Change

MAX_BATCH: Final = 100
"""Wake-ups that move from the outbox to the queue at once, and the most that one look into a queue gives."""

MAX_OPEN: Final = 500
"""An owner's jobs that are followed at once; the others come after these anyway."""
MAX_PLACES: Final = 200
"""Jobs that are told their place in the queue."""


MAX_LISTED: Final = 1000
"""The most blobs that one look gives; what S3 gives at once."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be: all of it was checked, and its photo is in the blob store, or is to be fetched from *image_url*.

    *request* is a digest of all that was asked for: it tells a repetition from a mistake.
    """

    id: JobId
    owner: str
    task_id: str
    kind: str
    workflow: str
    model: str
    size: int
    vip: bool
    photo: Picture | None
    request: str
    image_url: str = ""
    callback_url: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class WakeUp:
    """A message of ours: which job to look at, in which queue; VIP queues are drained first."""

    job: JobId
    queue: str
    vip: bool


@dataclasses.dataclass(frozen=True, slots=True)
class EndedAttempt:
    """How an attempt ended, and the version that answered; "" when none did. *was_called*: whether one was asked."""

    outcome: AttemptOutcome
    words: str
    version: str = ""
    was_called: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a dispatcher works by."""

    kinds: Mapping[str, JobKind] = dataclasses.field(default_factory=dict)
    """All kinds, by name."""
    drained: frozenset[str] = frozenset()
    """The names of those of which no job is started now; `claim_job` knows by itself."""
    lanes: Mapping[str, Lane] = dataclasses.field(default_factory=dict)
    """How the services that kinds name are split, by their names; those that exist."""


@dataclasses.dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A wake-up that is to be in the queue, but may not be yet."""

    number: int
    wake_up: WakeUp


class OwnerStore(Protocol):
    """What was agreed with owners of jobs, and what they have."""

    async def apply_owner(self, owner: JobOwner, change: Change, *, expected: Expected[JobOwner] | None = None) -> bool:
        """Make *owner* what was agreed with whom its name means. Return whether that changed anything.

        Raises:
            PreconditionFailedError: What was agreed before is not what was *expected*.
        """

    async def list_owners(self, *, after: str = "", limit: int | None = None) -> tuple[JobOwner, ...]:
        """Return agreements, by name: with names later than *after*, all of them without a *limit*."""

    async def find_owner(self, name: str) -> JobOwner | None:
        """Return what was agreed with an owner; None where nothing was."""

    async def delete_owner(self, name: str, change: Change) -> None:
        """Have the defaults hold for an owner from now on. Raises NotFoundError where nothing else does."""

    async def load_usage(self, name: str, *, quotas: Quotas, now: dt.datetime) -> JobUsage:
        """Return what an owner has now; *quotas* are those that hold for them."""


class EndStore(Protocol):
    """What is left of jobs that have ended: pictures until their time is over, and rows until theirs is."""

    async def load_removable(self, *, now: dt.datetime, limit: int = MAX_BATCH) -> tuple[JobId, ...]:
        """Return jobs whose pictures are to go: they were deleted, or their time is over."""

    async def forget_pictures(self, jobs: Collection[JobId], *, now: dt.datetime) -> None:
        """The blobs of these jobs, which `load_removable` named, are gone; so are the addresses of their photos."""

    async def load_pictured(self, jobs: Collection[JobId]) -> Mapping[JobId, Job]:
        """Return those of *jobs*, deleted ones too, whose pictures nobody has removed."""

    async def date_pictures(self, *, limit: int = MAX_BATCH) -> int:
        """Say when pictures go of jobs that ended without it, under the release before; return of how many."""

    async def prune_jobs(self, *, before: dt.datetime, limit: int = MAX_BATCH) -> int:
        """Remove rows of jobs that ended *before*, with all that belongs to them, once their pictures are gone.

        Return how many. Their keys and task_ids may be used again from then on.
        """


class JobStore(OwnerStore, EndStore, Protocol):
    """Jobs, their kinds, and the outbox: a job and the wake-up for it are one transaction."""

    async def apply_kind(self, kind: JobKind, change: Change, *, expected: Expected[JobKind] | None = None) -> bool:
        """Make *kind* what its name means; jobs that wait follow it. Return whether that changed anything.

        Raises:
            PreconditionFailedError: The name does not mean what was *expected*.
            ConflictError: Another kind has its workflow.
        """

    async def list_kinds(self) -> tuple[JobKind, ...]:
        """Return all kinds, by name."""

    async def submit(self, new: NewJob, *, key: str | None, now: dt.datetime, quotas: Quotas = DEFAULT_QUOTAS) -> Job:
        """Insert a waiting job and its wake-up; the same *key*, or task_id of an owner, again gives the first one.

        *quotas* hold where nothing else was agreed with the owner. No two submissions are the last one.

        Raises:
            ConflictError: The key or the task_id was used for another request, or for a job that was deleted.
            OverQuotaError: It would be more than its owner may have.
            InvalidInputError: Its owner may not ask for its priority.
        """

    async def admit(
        self, new: NewJob, *, key: str | None, now: dt.datetime, quotas: Quotas = DEFAULT_QUOTAS
    ) -> Job | None:
        """Say what `submit` would, and store nothing: the first job, None where it would be one, or its errors."""

    async def load_job(self, job: JobId, *, owner: str | None = None) -> Job:
        """Return a job. Raises NotFoundError, also when it is not *owner*'s, or was deleted."""

    async def list_jobs(
        self, owner: str, *, state: JobState | None = None, before: JobId | None = None, limit: int = 50
    ) -> tuple[Job, ...]:
        """Return an owner's jobs, newest first; those submitted before the job *before*, which may be deleted."""

    async def cancel_job(self, job: JobId, *, owner: str, now: dt.datetime) -> Job:
        """End a job that has not ended; one that was cancelled before stays so.

        Raises:
            NotFoundError: As in `load_job`.
            ConflictError: It is done or dead.
        """

    async def delete_job(self, job: JobId, *, owner: str, now: dt.datetime) -> None:
        """Forget a job, in whatever state. Its figures stay without its pictures, which `load_removable` then names.

        Raises:
            NotFoundError: As in `load_job`.
        """

    async def load_outbox(self, *, now: dt.datetime, limit: int = MAX_BATCH) -> tuple[OutboxEntry, ...]:
        """Return wake-ups that are due, oldest first."""

    async def drop_outbox(self, numbers: Collection[int]) -> None:
        """Forget wake-ups that the queue has taken."""

    async def claim_job(self, job: JobId, *, holder: str, until: dt.datetime, now: dt.datetime) -> Job | None:
        """Start a waiting job: it runs from now on, one attempt more.

        None when it does not wait, is not there, or is of a kind that is drained.
        """

    async def renew_jobs(self, claims: Collection[Claim], *, until: dt.datetime) -> frozenset[Claim]:
        """Extend leases; return the claims that are still good."""

    async def attach_photo(self, claim: Claim, photo: Picture) -> bool:
        """Store what was fetched. False as in `finish_job`."""

    async def finish_job(self, claim: Claim, result: Picture, *, version: str, now: dt.datetime) -> bool:
        """Store the result. False when the claim is no longer good; then nothing has changed."""

    async def retry_job(self, claim: Claim, ended: EndedAttempt, *, again: Again, now: dt.datetime) -> bool:
        """Let the job wait again, with a wake-up after the pause of *again*. False as in `finish_job`."""

    async def bury_job(self, claim: Claim, ended: EndedAttempt, *, words: str, now: dt.datetime) -> bool:
        """Give the job up. False as in `finish_job`."""

    async def load_workload(self) -> Workload:
        """Return what jobs are run by now, as one picture."""

    async def reroute_jobs(self, *, now: dt.datetime) -> int:
        """Have jobs that a rollout's candidate failed run again, once that rollout went back; return how many.

        Dead ones wait again as if they had never failed, and waiting ones are due now. Each rollout is looked at once.
        """

    async def revive_jobs(self, *, lost_before: dt.datetime, now: dt.datetime) -> int:
        """Wake jobs that nobody will: whose lease is over, or that wait since *lost_before* with no wake-up due.

        Return how many.
        """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobsLook:
    """Jobs as they stood at one moment, oldest first.

    *places* are those of jobs that wait, in their queue: 1 is next. Only the first `MAX_PLACES` of all that wait have
    one. *newest* is the number of the last job that anybody has submitted, 0 where there is none.
    """

    jobs: tuple[Job, ...]
    places: Mapping[JobId, int]
    newest: int


class JobLooks(Protocol):
    """Jobs as those see them who look on while they move."""

    async def look_at_jobs(self, owners: Collection[str], *, known: Collection[JobId], after: int | None) -> JobsLook:
        """Return what owners may want to know, without what was deleted.

        That is: each one's jobs that wait or run, up to `MAX_OPEN`, those that come first first; theirs that have ended
        already although they were submitted after the one with the number *after*; and those of *known*, anybody's,
        whatever became of them.
        """

    async def load_ended(self, owner: str, *, since: dt.datetime, limit: int) -> tuple[Job, ...]:
        """Return an owner's jobs that ended at *since* or later, the newest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that is there, and since when, by the store's own clock."""

    key: str
    stored_at: dt.datetime


class BlobStore(Protocol):
    """Photos and results. A key is made of lower-case letters, digits, dashes, dots and slashes."""

    async def put_blob(self, key: str, content: bytes) -> None:
        """Store *content* so that it outlives us; what was there is replaced. Raises UnavailableError."""

    async def get_blob(self, key: str) -> bytes:
        """Return what was stored.

        Raises:
            NotFoundError: There is nothing.
            UnavailableError: The store does not answer.
        """

    async def has_blob(self, key: str) -> bool:
        """Say whether something is stored there. Raises UnavailableError."""

    async def delete_blob(self, key: str) -> None:
        """Remove it; nothing there is fine. Raises UnavailableError."""

    async def list_blobs(self, prefix: str, *, after: str = "", limit: int = MAX_LISTED) -> tuple[StoredBlob, ...]:
        """Return up to *limit* blobs whose keys begin with *prefix* and come after *after*, by key.

        Among them is what a kill has left half written, under a name of the store's own, which `delete_blob` takes.
        Raises UnavailableError.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """A wake-up out of the queue, ours until it is acknowledged, released or buried. *tag* is the queue's own."""

    wake_up: WakeUp
    tag: object


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """A wake-up of a job that was given up, and why."""

    job: JobId
    words: str


class JobQueue(Protocol):
    """Carries wake-ups to whoever has room. It may repeat them and lose none that it took; their order is a wish.

    Every method raises UnavailableError while the queue does not answer. What was taken and not acknowledged by then
    comes again.

    Attributes:
        sees_all: Whether a take that finds nothing means that there is nothing, for anybody, in these queues.
    """

    sees_all: bool

    async def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        """Return once all are where a crash does not lose them. On an error any of them may be there or not."""

    async def take(self, queues: Sequence[str], *, limit: int) -> tuple[Delivery, ...]:
        """Return up to *limit* wake-ups out of *queues*, those of VIPs first; none when there are none now."""

    async def acknowledge(self, delivery: Delivery) -> None:
        """The job was looked after."""

    async def release(self, delivery: Delivery) -> None:
        """Somebody else should look."""

    async def bury(self, delivery: Delivery, *, words: str) -> None:
        """The job was given up: put its wake-up among the dead letters, then acknowledge it."""

    async def dead_letters(self, *, limit: int = MAX_BATCH) -> tuple[DeadLetter, ...]:
        """Return dead letters, and leave them there."""

    async def close(self) -> None:
        """Let go of the queue."""


class PhotoSource(Protocol):
    """Fetches photos from addresses that strangers name."""

    def check(self, url: str) -> None:
        """Refuse an address that will never do, without asking anybody. Raises InvalidInputError."""

    async def fetch(self, url: str) -> bytes:
        """Return what is there.

        Raises:
            InvalidInputError: It may not be fetched, or is too large; no second try would change that.
            UnavailableError: It cannot be had now.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignTask:
    """A message of somebody else's, ours until it is acknowledged, released or refused. *tag* is the queue's own."""

    body: bytes
    tag: object


class ForeignTasks(Protocol):
    """The queue that producers who know nothing of us put their tasks on. Raises UnavailableError as `JobQueue`."""

    async def take_tasks(self, *, limit: int) -> tuple[ForeignTask, ...]:
        """Return up to *limit* tasks; none when there are none now."""

    async def acknowledge_task(self, task: ForeignTask) -> None:
        """It has become a job."""

    async def release_task(self, task: ForeignTask) -> None:
        """It should come again."""

    async def refuse_task(self, task: ForeignTask, *, words: str) -> None:
        """Put it among the dead letters of that queue, with the reason, then acknowledge it."""


class Workers(Protocol):
    """The fleet behind Envoy."""

    async def colour(self, job: Job, kind: JobKind, photo: bytes) -> Coloured | Refused | Away | Failed:
        """Have a photo coloured, by whichever version the weights say. What goes wrong is an outcome, not an error."""
