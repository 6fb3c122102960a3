"""What a gate of a plan is: somebody else's program that is asked whether a rollout may go on. Pure.

Context: tests, change calendars and people's tools decide, too, and are away, slow and restarted. Choice: they are
asked again and again while a rollout could go on, and the newest answer is a row. Consequence: an answer holds back
the next step and nothing else, silence holds it back as well, and a rollback never waits for either.
"""

import dataclasses
import datetime as dt
import enum
import urllib.parse
from typing import Final

from controlplane.errors import InvalidInputError

MAX_URL_CHARS: Final = 2_000
INTERVALS: Final = (dt.timedelta(seconds=1), dt.timedelta(hours=1))
TIMEOUTS: Final = (dt.timedelta(seconds=1), dt.timedelta(days=7))
GRACE: Final = dt.timedelta(seconds=15)
"""An answer is too old after two intervals and this: asking may take as long."""


class Before(enum.StrEnum):
    """What a gate stands before."""

    STEP = "step"
    PROMOTION = "promotion"


class OnTimeout(enum.StrEnum):
    """What becomes of a rollout whose gate does not open in time."""

    WAIT = "wait"
    PAUSE = "pause"
    ABORT = "abort"


class Decision(enum.StrEnum):
    """What a gate says."""

    OPEN = "open"
    CLOSED = "closed"
    ABORT = "abort"
    SILENT = "silent"
    """Nothing: it cannot be reached, or what it says cannot be understood."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    """Who is asked.

    Args:
        url: An http or https address; what may be shown of it is its host.
        before: Before the step's traffic, or (of the last step) before the promotion.
        timeout: How long it may keep the rollout waiting, from when it was first asked.
        interval: Pause between questions.
        on_timeout: What happens then.
    """

    url: str = dataclasses.field(repr=False)
    before: Before = Before.STEP
    timeout: dt.timedelta = dt.timedelta(seconds=30)
    interval: dt.timedelta = dt.timedelta(seconds=10)
    on_timeout: OnTimeout = OnTimeout.WAIT

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
        except ValueError:
            good = False
        if not good or len(self.url) > MAX_URL_CHARS or not self.url.isprintable():
            raise InvalidInputError("gate.webhook", "is no http or https URL", "write it like https://HOST/PATH")
        for name, span, (low, high) in (("timeout", self.timeout, TIMEOUTS), ("interval", self.interval, INTERVALS)):
            if not low <= span <= high:
                raise InvalidInputError(f"gate.{name}", f"{span} is out of range", f"use {low} to {high}")

    @property
    def host(self) -> str:
        """What may be said of where it is."""
        return urllib.parse.urlsplit(self.url).hostname or ""


@dataclasses.dataclass(frozen=True, slots=True)
class GateAnswer:
    """The newest answer at one visit to a gate: *step* and *before* say which gate, *since* is the state's.

    *began_at* is when it was first asked at this visit. *by* is who said so, "" for the gate itself; what somebody has
    said holds for the whole visit, and the gate is asked no more.
    """

    step: int
    before: Before
    since: dt.datetime
    began_at: dt.datetime
    asked_at: dt.datetime
    decision: Decision
    words: str
    by: str = ""
