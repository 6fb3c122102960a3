"""Pure: what a courier carries, what comes of a try, and when it is tried again.

Context: receivers are strangers' programs, which are away, slow and restarted. Choice: whatever is to be said is a row,
written in the transaction that makes it true; a courier tries until it is heard or patience ends. Consequence: a
receiver hears of everything at least once, and knows repetitions by their event's id.
"""

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, Final, Protocol

FIRST_PAUSE: Final = dt.timedelta(seconds=5)
LONGEST_PAUSE: Final = dt.timedelta(hours=1)


class Letter(Protocol):
    """What a receiver is sent; *event* tells repetitions."""

    @property
    def event(self) -> str:
        """What tells repetitions."""

    @property
    def body(self) -> bytes:
        """What programs are sent: a CloudEvent."""

    @property
    def title(self) -> str:
        """One line for people."""

    @property
    def text(self) -> str:
        """Some lines for people."""


class Parcel(Protocol):
    """A letter to one receiver.

    *tries* counts them, the one that is under way included, and fences what it writes. *host* is what calls are bounded
    by. *undeliverable* says, where it is so, why no try makes sense.
    """

    @property
    def number(self) -> int:
        """Its row's."""

    @property
    def host(self) -> str:
        """Whom it goes to, as far as calls are bounded."""

    @property
    def tries(self) -> int:
        """How often it was tried, this time included."""

    @property
    def made_at(self) -> dt.datetime:
        """When what it says happened."""

    @property
    def message(self) -> Letter:
        """What is sent."""

    @property
    def address(self) -> str:
        """Where to."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What a webhook is signed with."""

    @property
    def undeliverable(self) -> str:
        """Why no try makes sense; "" where one does."""

    @property
    def known(self) -> Mapping[str, object]:
        """What the log may say of it."""


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
    notice: Parcel, trouble: Unheard, *, patience: dt.timedelta, now: dt.datetime, luck: float
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


def cloud_event(event: str, kind: str, *, source: str, subject: str, at: dt.datetime, data: Mapping[str, Any]) -> bytes:
    """Write a CloudEvent 1.0 in structured mode: the same bytes each time."""
    document = {
        "specversion": "1.0",
        "id": event,
        "source": source,
        "type": kind,
        "subject": subject,
        "time": written(at),
        "datacontenttype": "application/json",
        "data": dict(data),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def written(at: dt.datetime) -> str:
    """Write a moment as CloudEvents do."""
    return at.isoformat().replace("+00:00", "Z")
