"""Pure: who is told that a job has ended, in which words, signed how, and when it is tried again.

Context: receivers are strangers' programs, which are away, slow and restarted. Choice: a notice is a row, written in
the transaction that ends the job, with all that it will say; its *event* id is the same each time it is sent, and the
same for all whom the owner wants told. Consequence: a receiver hears of every end at least once, and knows repetitions.
"""

import base64
import binascii
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import secrets
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from controlplane.errors import InvalidInputError
from controlplane.jobs.model import NAME, Job, JobId, JobState

EVENTS: Final = (JobState.DONE, JobState.DEAD, JobState.CANCELLED)
OWN: Final = "task"
"""The callback that stands for the address that a task itself names: it holds the secret that such calls are signed
with, and which ends they are made at."""
MAX_CALLBACKS: Final = 20
"""Of one owner."""
MAX_ADDRESS_CHARS: Final = 2_000
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the specification's
SECRET_BYTES: Final = (24, 64)
OLD_SECRET_FOR: Final = dt.timedelta(days=1)
"""How long calls are also signed with the secret before, so that receivers can change to the new one."""

SOURCE: Final = "/v1/jobs"
TYPE: Final = "dev.hueshift.job"
TEST: Final = "dev.hueshift.callback.test"

FIRST_PAUSE: Final = dt.timedelta(seconds=5)
LONGEST_PAUSE: Final = dt.timedelta(hours=1)


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


def is_webhook(address: str) -> bool:
    """Whether *address* is called by us, and not by Apprise."""
    return address.partition("://")[0].lower() in {"http", "https"}


def host_of(address: str) -> str:
    """Return whom *address* leads to: what may be logged of it, and what calls are bounded by.

    That is the host, with its port, or the service's name where that is all: others' tokens stand in the host's place.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError:
        return "unknown"
    if parts.scheme not in {"http", "https", "json", "jsons", "mailto", "mailtos", "workflow", "workflows"}:
        return parts.scheme
    host = dict(urllib.parse.parse_qsl(parts.query)).get("smtp") or parts.hostname or ""
    return f"{host}:{port}" if port else host


def shown(address: str) -> str:
    """Return *address* without what may be a secret: its path, its query, a password."""
    if not address:
        return ""
    scheme, host = address.partition("://")[0], host_of(address)
    return f"{scheme}://…" if host == scheme else f"{scheme}://{host}/…"


# -- signatures --------------------------------------------------------------------------------------------------------


def new_secret() -> str:
    """Make a secret as the Standard Webhooks specification writes them."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(text: str) -> None:
    """Refuse what is no such secret. Raises InvalidInputError, whose text does not repeat it."""
    low, high = SECRET_BYTES
    with_prefix = text.startswith(SECRET_PREFIX)
    try:
        length = len(base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not with_prefix or not low <= length <= high:
        raise InvalidInputError(
            "secret", "is none", f"write {SECRET_PREFIX} and {low} to {high} bytes in base64, or leave it out"
        )


def signature(known: Sequence[str], event: str, at: dt.datetime, body: bytes) -> str:
    """Sign as the Standard Webhooks specification says: the value of the header ``webhook-signature``.

    Args:
        known: Secrets, each of which makes a signature.
        event: The header ``webhook-id``.
        at: The header ``webhook-timestamp``.
        body: What is sent, to the byte.
    """
    signed = f"{event}.{int(at.timestamp())}.".encode() + body
    made = []
    for secret in known:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
        made.append("v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode())
    return " ".join(made)


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
        "finished_at": None if job.finished_at is None else _written(job.finished_at),
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
        document = {
            "specversion": "1.0",
            "id": self.event,
            "source": SOURCE,
            "type": self.type,
            "subject": self.subject,
            "time": _written(self.at),
            "datacontenttype": "application/json",
            "data": dict(self.facts),
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()

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


def _written(at: dt.datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


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


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """The receiver has it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unheard:
    """The receiver does not have it, or it is not known; *pause* is what it asked for, *gone* that it wants no more."""

    words: str
    pause: dt.timedelta | None = None
    gone: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """Try again at *due*."""

    words: str
    due: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class GivenUp:
    """Try no more."""

    words: str


def after_try(
    notice: Notice, trouble: Unheard, *, patience: dt.timedelta, now: dt.datetime, luck: float
) -> Later | GivenUp:
    """Say what becomes of a notice that was not heard.

    Args:
        notice: As it was while it was tried.
        trouble: What happened.
        patience: How long after the job's end it is tried.
        now: The present moment.
        luck: A random number, 0 to 1, so that notices that failed together do not come back together.
    """
    if trouble.gone:
        return GivenUp(trouble.words)
    whole = min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(notice.tries - 1, 12)))
    pause = max(whole * (0.75 + luck / 2), min(LONGEST_PAUSE, trouble.pause or dt.timedelta(0)))
    if now + pause > notice.made_at + patience:
        return GivenUp(f"{trouble.words} (given up after {notice.tries} tries)")
    return Later(trouble.words, now + pause)
