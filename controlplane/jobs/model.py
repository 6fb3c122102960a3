"""Pure: what a job and its kind are, which orders are sound, and what an attempt's end means for the job.

Context: a queue's message may come twice, late or never, and any process may die at any line. Choice: the job's row is
the truth, a message is a wake-up with an id; each start of a job counts *attempts* up, and that number fences all that
the attempt writes later. Consequence: a duplicate finds nothing to start, and one job has one result.
"""

import dataclasses
import datetime as dt
import enum
import re
from collections.abc import Mapping
from typing import Final, NewType

from controlplane.errors import InvalidInputError

JobId = NewType("JobId", str)
"""32 hex digits, chosen by us; the producer's own name for it is the *task_id*."""

NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
SERVICE: Final = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
HEADER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MAX_TEXT_CHARS: Final = 200
SIZES_PX: Final = (32, 4096)
ATTEMPTS: Final = (1, 20)
KEEP: Final = (dt.timedelta(minutes=1), dt.timedelta(days=3650))
DEFAULT_KEEP: Final = dt.timedelta(days=7)
TIMEOUTS: Final = (dt.timedelta(seconds=1), dt.timedelta(hours=1))

FIRST_PAUSE: Final = dt.timedelta(seconds=1)
LONGEST_PAUSE: Final = dt.timedelta(minutes=1)


class JobState(enum.StrEnum):
    """Where a job stands. The last three are final."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


FINAL: Final = frozenset({JobState.DONE, JobState.DEAD, JobState.CANCELLED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobKind:
    """What to do with the tasks of one workflow: a row, so that a new kind needs no code.

    Args:
        name: Lower-case letters, digits and dashes.
        workflow: The ``workflow_type`` of its tasks; no two kinds share one.
        models: The models that a task may ask for; the first one is meant where a task names none.
        min_px: The least ``size`` that a task may ask for, in pixels.
        max_px: The largest.
        default_px: Meant where a task names none.
        queue: The queue that its jobs wait in; kinds may share one.
        path: Where its photos are posted to, behind Envoy.
        headers: Sent along, so that Envoy's routes and workers can tell kinds apart; names in lower case.
        timeout: The longest that one attempt may take.
        attempts: How many attempts may fail by themselves before the job is given up.
        service: The service that its route leads to, so that its rollouts cover these jobs; "" when nobody said.
        keep: How long photo and result stay after the job has ended.
        strip_metadata: Whether what a photo says beside its pixels, places and names, is removed before it is stored.
        label: Whether results say in their metadata which model coloured them.
    """

    name: str
    workflow: str
    models: tuple[str, ...]
    min_px: int
    max_px: int
    default_px: int
    queue: str
    path: str
    headers: Mapping[str, str]
    timeout: dt.timedelta
    attempts: int
    service: str = ""
    keep: dt.timedelta = DEFAULT_KEEP
    strip_metadata: bool = True
    label: bool = True

    def __post_init__(self) -> None:
        for field, value in (("kind", self.name), ("queue", self.queue)):
            if not NAME.fullmatch(value):
                raise InvalidInputError(field, f"{value!r} is no name", "use lower-case letters, digits and dashes")
        check_text("workflow", self.workflow)
        if not self.models:
            raise InvalidInputError("models", "is empty", "name at least one model")
        for number, model in enumerate(self.models, start=1):
            check_text(f"models[{number}]", model)
        low, high = SIZES_PX
        if not low <= self.min_px <= self.default_px <= self.max_px <= high:
            raise InvalidInputError(
                "sizes",
                f"{self.min_px} to {self.max_px} px, {self.default_px} by default, is no range",
                f"write {low} <= min <= default <= max <= {high}",
            )
        if not self.path.startswith("/") or not self.path.isprintable() or any(char in self.path for char in " ?#"):
            raise InvalidInputError("route.path", f"{self.path!r} is no path", "write it like /repair")
        for name, text in self.headers.items():
            if not HEADER_NAME.fullmatch(name):
                raise InvalidInputError(
                    f"route.headers.{name}", "is no header's name", "use lower-case letters, digits and dashes"
                )
            if not text.isascii() or not text.isprintable():
                raise InvalidInputError(f"route.headers.{name}", f"{text!r} is no header's value", "use plain ASCII")
        if not TIMEOUTS[0] <= self.timeout <= TIMEOUTS[1]:
            raise InvalidInputError("timeout", f"{self.timeout} is out of range", "use 1s to 1h")
        if not ATTEMPTS[0] <= self.attempts <= ATTEMPTS[1]:
            raise InvalidInputError(
                "attempts", f"{self.attempts} is out of range", f"use {ATTEMPTS[0]} to {ATTEMPTS[1]}"
            )
        if self.service and not SERVICE.fullmatch(self.service):
            raise InvalidInputError("service", f"{self.service!r} is no service", "name it as hueshift get does")
        if not KEEP[0] <= self.keep <= KEEP[1]:
            raise InvalidInputError("keep", f"{self.keep} is out of range", "use 1m to 3650d")


def check_text(field: str, text: str) -> None:
    """Refuse what cannot be shown on one line.

    Raises:
        InvalidInputError: *text* is empty, too long, or has control characters.
    """
    if not text.strip() or len(text) > MAX_TEXT_CHARS or not text.isprintable():
        raise InvalidInputError(field, f"{text[:40]!r} is no name", f"use 1 to {MAX_TEXT_CHARS} printable characters")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A task as its producer wrote it; what is None was left out."""

    workflow: str
    task_id: str | None = None
    model: str | None = None
    size: int | None = None
    vip: bool = False
    image_url: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SoundOrder:
    """An order that its kind allows, with all that was left out filled in."""

    kind: JobKind
    model: str
    size: int


def check_order(order: Order, kinds: Mapping[str, JobKind]) -> SoundOrder:
    """Find the kind of *order* and hold the order against it.

    Args:
        order: What a producer asks for.
        kinds: All kinds, by their workflow.

    Raises:
        InvalidInputError: The workflow or the model is not known, or the size is outside the kind's range.
    """
    kind = kinds.get(order.workflow)
    if kind is None:
        known = ", ".join(sorted(kinds)) or "none yet: hueshift jobs kinds apply"
        raise InvalidInputError("workflow_type", f"{order.workflow[:80]!r} is not known", f"use one of: {known}")
    if order.task_id is not None:
        check_text("task_id", order.task_id)
    model = kind.models[0] if order.model is None else order.model
    if model not in kind.models:
        raise InvalidInputError(
            "parameters.model",
            f"{model[:80]!r} is none of {kind.workflow}'s",
            f"use one of: {', '.join(kind.models)}",
        )
    size = kind.default_px if order.size is None else order.size
    if not kind.min_px <= size <= kind.max_px:
        raise InvalidInputError(
            "parameters.size", f"{size} px is outside {kind.workflow}'s range", f"use {kind.min_px} to {kind.max_px}"
        )
    return SoundOrder(kind=kind, model=model, size=size)


def photo_key(job: JobId) -> str:
    """Return where a job's photo lies in the blob store."""
    return f"photos/{job}"


def result_key(job: JobId, attempt: int) -> str:
    """Return where an attempt puts its result: no two write to the same place."""
    return f"{results_prefix(job)}{attempt}"


def results_prefix(job: JobId) -> str:
    """Return what the places of all attempts at a job begin with."""
    return f"results/{job}/"


def removed_words(at: dt.datetime) -> str:
    """Say that a job's pictures are gone since *at*."""
    return f"its pictures were removed on {at:%Y-%m-%d}, when their time was over"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A photo or a result in the blob store: *key* is its place there; *sha256* in hex."""

    key: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One task and how far it is.

    *attempts* counts starts and fences them; *failures* counts those that failed by themselves, as opposed to workers
    that were away or busy. *words* say why it failed last, or died. *version* is the model version that made the
    result, as the worker said. *number* orders jobs by their submission. *photo* is None until it was fetched from
    *image_url*, which is "" where the photo itself was handed in. *started_at* is its last start, *first_started_at*
    the end of its wait. *stable_only*: a candidate failed it, so that it runs at the stable version from now on. Its
    pictures go at *expires_at*, which is None until it has ended; since *swept_at* they are gone, and *photo* and
    *result* None.
    """

    number: int
    id: JobId
    owner: str
    task_id: str
    kind: str
    workflow: str
    model: str
    size: int
    vip: bool
    state: JobState
    attempts: int
    failures: int
    words: str
    version: str
    image_url: str
    photo: Picture | None
    result: Picture | None
    submitted_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    first_started_at: dt.datetime | None = None
    stable_only: bool = False
    expires_at: dt.datetime | None = None
    swept_at: dt.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one attempt of a job, for as long as the lease is renewed."""

    job: JobId
    attempt: int


class AttemptOutcome(enum.StrEnum):
    """How an attempt ended, as its row says."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    AWAY = "away"
    LOST = "lost"
    """Its process stopped or died."""
    THROWN = "thrown"
    """Its job was cancelled or deleted meanwhile."""


# -- what an attempt came to -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Coloured:
    """A worker gave a picture. In all outcomes *version* is the one that answered; "" when that is not known."""

    content: bytes
    media_type: str
    version: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A worker said that this photo will never do; trying again would be the same."""

    words: str
    version: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Away:
    """No worker could take it now, which is not the job's fault; *pause* is what the worker asked for, if it did."""

    words: str
    pause: dt.timedelta | None = None
    version: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed; another version, or the same one later, may do better."""

    words: str
    version: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Again:
    """Run the job again after *pause*.

    *counts* says whether the failure is the job's own; *stable*, that it runs at the stable version from now on.
    """

    words: str
    pause: dt.timedelta
    counts: bool
    stable: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class GiveUp:
    """The job is dead."""

    words: str


def after_failure(
    outcome: Refused | Away | Failed, job: Job, kind: JobKind, *, luck: float, on_trial: bool = False
) -> Again | GiveUp:
    """Say what becomes of *job* after an attempt that gave no picture.

    The pause doubles with each attempt and has jitter, so that jobs that failed together do not come back together.
    What fails at a version on trial, even a photo that it calls unfit, is that version's failure, not the job's.

    Args:
        outcome: What the attempt came to.
        job: As it was while it ran.
        kind: Its kind.
        luck: A random number, 0 to 1.
        on_trial: Whether a rollout is trying out the version that answered.
    """
    match outcome:
        case Refused(words) | Failed(words) if on_trial:
            return Again(words, _pause(job.attempts, luck), counts=False, stable=True)
        case Refused(words):
            return GiveUp(words)
        case Away(words, pause):
            return Again(words, max(pause or dt.timedelta(0), _pause(job.attempts, luck)), counts=False)
        case Failed(words) if job.failures + 1 >= kind.attempts:
            return GiveUp(f"{words} (failed {job.failures + 1} times)")
        case Failed(words):
            return Again(words, _pause(job.failures + 1, luck), counts=True)


def _pause(tries: int, luck: float) -> dt.timedelta:
    """Double from a second to a minute, and take three quarters to five quarters of it."""
    whole: dt.timedelta = min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(tries - 1, 10)))
    return whole * (0.75 + luck / 2)
