"""Pure: who is told that a job has ended, and in which words.

Context: receivers are strangers' programs, which are away, slow and restarted. Choice: a notice is a row, written in
the transaction that ends the job, with all that it will say; its *event* id is the same each time it is sent, and the
same for all whom the owner wants told. Consequence: a receiver hears of every end at least once, and knows repetitions.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from controlplane.courier.addresses import is_webhook
from controlplane.courier.model import cloud_event, written
from controlplane.errors import InvalidInputError
from controlplane.jobs.model import NAME, Job, JobId, JobState

EVENTS: Final = (JobState.DONE, JobState.DEAD, JobState.CANCELLED)
OWN: Final = "task"
"""The callback that stands for the address that a task itself names: it holds the secret that such calls are signed
with, and which ends they are made at."""
MAX_CALLBACKS: Final = 20
"""Of one owner."""
MAX_ADDRESS_CHARS: Final = 2_000
SOURCE: Final = "/v1/jobs"
TYPE: Final = "dev.hueshift.job"
TEST: Final = "dev.hueshift.callback.test"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """Whom an owner wants told.

    Args:
        owner: The name of an API key.
        name: The owner's name for it; `OWN` is special.
        address: An http or https URL, or an address of Apprise's (``mailto://…``, ``slack://…``); "" for `OWN`.
        events: The ends that are told.
    """

    owner: str
    name: str
    address: str = dataclasses.field(repr=False)
    events: frozenset[JobState]

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InvalidInputError(
                "callback", f"{self.name[:40]!r} is no name", "use lower-case letters, digits and dashes"
            )
        if (self.name == OWN) is bool(self.address):
            fix = f"leave it out: {OWN} stands for what each task names" if self.address else "name a URL"
            raise InvalidInputError("address", "is given" if self.address else "is missing", fix)
        if len(self.address) > MAX_ADDRESS_CHARS:
            raise InvalidInputError(
                "address", f"has {len(self.address)} characters", f"use at most {MAX_ADDRESS_CHARS}"
            )
        if not self.events or not self.events <= set(EVENTS):
            raise InvalidInputError("events", "are not known", f"use some of: {', '.join(EVENTS)}")

    @property
    def is_signed(self) -> bool:
        """Whether it has a secret: all but mail and chat."""
        return self.name == OWN or is_webhook(self.address)


# -- what is said ------------------------------------------------------------------------------------------------------


def facts_of(job: Job) -> dict[str, Any]:
    """Return what is told of a job that has ended: no picture, no address, nothing of anybody's secrets."""
    return {
        "id": job.id,
        "task_id": job.task_id,
        "kind": job.kind,
        "state": job.state.value,
        "words": job.words,
        "version": job.version,
        "attempts": job.attempts,
        "wait_s": _seconds(job.submitted_at, job.first_started_at),
        "run_s": _seconds(job.started_at, job.finished_at),
        "finished_at": None if job.finished_at is None else written(job.finished_at),
        "result": f"{SOURCE}/{job.id}/result" if job.state is JobState.DONE else None,
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a receiver is sent. *event* tells repetitions; *facts* are JSON."""

    event: str
    type: str
    subject: str
    at: dt.datetime
    facts: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """The message as a CloudEvent 1.0 in structured mode: the same bytes each time."""
        return cloud_event(self.event, self.type, source=SOURCE, subject=self.subject, at=self.at, data=self.facts)

    @property
    def title(self) -> str:
        """One line for people."""
        if self.type == TEST:
            return "Hueshift can reach you"
        return f"Job {self.facts['task_id']} is {self.facts['state']}"

    @property
    def text(self) -> str:
        """Some lines for people."""
        if self.type == TEST:
            return f"This is a test of the callback {self.facts.get('callback')}."
        facts = self.facts
        lines = [f"kind {facts['kind']}, job {facts['id']}, {facts['attempts']} attempts"]
        if facts["version"]:
            lines.append(f"coloured by version {facts['version']}")
        lines += [f"{what} {facts[key]:g} s" for what, key in (("waited", "wait_s"), ("ran", "run_s")) if facts[key]]
        lines += [str(facts[key]) for key in ("words", "result") if facts[key]]
        return "\n".join(lines)


def _seconds(start: dt.datetime | None, end: dt.datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


# -- notices -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One receiver who is to hear of one end.

    *tries* counts them, the one that is under way included, and fences what it writes. *address* is "", and *secrets*
    are none, where the owner has taken them away since. *host* is `host_of` the address.
    """

    number: int
    job: JobId
    callback: str
    host: str
    tries: int
    made_at: dt.datetime
    message: Message
    address: str = dataclasses.field(repr=False)
    secrets: tuple[str, ...] = dataclasses.field(repr=False)

    @property
    def undeliverable(self) -> str:
        """Why no try makes sense any more."""
        if not self.address:
            return "its owner has deleted the callback"
        if is_webhook(self.address) and not self.secrets:
            return "its owner has deleted the secret"
        return ""

    @property
    def known(self) -> Mapping[str, object]:
        """What the log may say of it."""
        return {"job": self.job, "callback": self.callback, "host": self.host, "tries": self.tries}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoticeState:
    """How far a notice is, for the job's owner. *ended_at* is when it was delivered, or else given up."""

    callback: str
    event: str
    state: JobState
    host: str
    tries: int
    words: str
    delivered: bool
    made_at: dt.datetime
    due_at: dt.datetime
    ended_at: dt.datetime | None
