"""Starts that wait: for their hour, for the rollout before them, or for a freeze to end. Pure.

Context: a newer version arrives while an older one is on its way. Choice: such a start is a row of its own that waits
in its service's line, under the id that its rollout will have; what becomes of it follows from levels alone: the hour,
the line, the rollout that runs, freezes. Plan and objectives are those that the service declares when the rollout
begins, unless the request brought a plan: what is declared meanwhile counts, what is declared later does not.
Consequence: a controller that dies in between loses nothing, and a rollout begins once, with its row.
"""

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable
from typing import TypeAlias

from controlplane.rollout.model import Plan

MAX_WAITING = 10
"""How many starts of one service may wait: more than that is a pipeline that nobody looks at."""


class WaitingEnd(enum.Enum):
    """How a wait ended."""

    STARTED = "started"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    """The controller gave it up; its words say why."""


@dataclasses.dataclass(frozen=True, slots=True)
class WaitingStart:
    """A start that waits. *id* is that of the rollout to come; *after* is what stood in front of it when it came.

    *plan* is None where the service's own is to count, and *baseline* "" where only one version has traffic to give.
    *not_before* is its hour, if it has one. *words* say why its wait *ended*.
    """

    id: str
    service: str
    candidate: str
    baseline: str
    plan: Plan | None
    supersede: bool
    only_after_success: bool
    again: bool
    after: str
    not_before: dt.datetime | None
    by: str
    why: str
    at: dt.datetime
    end: WaitingEnd | None = None
    ended_at: dt.datetime | None = None
    words: str = ""

    @property
    def due_at(self) -> dt.datetime:
        """Since when it stands in the line."""
        return self.at if self.not_before is None else max(self.at, self.not_before)

    def is_due(self, now: dt.datetime) -> bool:
        """Whether its hour has come."""
        return self.due_at <= now


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What is true for a waiting start now.

    *ahead* stands before it in the line, "" if it is the first; *active* is the service's rollout that has not ended;
    it is *leaving* when it gives its traffic back already, or is an undo, which nothing supersedes. *frozen* says which
    freeze forbids a start. *failed* says how the candidate failed since the start was asked for. *unsuccessful* says
    how the one before it ended, where that was not a promotion.
    """

    ahead: str = ""
    active: str = ""
    leaving: bool = False
    frozen: str = ""
    failed: str = ""
    unsuccessful: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Stay:
    """It waits on; *words* say for what."""

    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Begin:
    """Its rollout begins."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replace:
    """The *rollout* that runs is to give its traffic back first."""

    rollout: str


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """It is given up; *words* say why."""

    words: str


Move: TypeAlias = Stay | Begin | Replace | Drop


def decide(waiting: WaitingStart, place: Place, *, now: dt.datetime) -> Move:
    """Say what becomes of a waiting start now."""
    if not waiting.is_due(now):
        return Stay(f"scheduled for {waiting.due_at:%Y-%m-%d %H:%M:%S} UTC")
    if place.ahead:
        return Stay(f"queued behind {place.ahead}")
    if place.failed and not waiting.again:
        return Drop(f"{place.failed}; start it with --again if it is to run all the same")
    if place.frozen:
        return Stay(place.frozen)
    if place.active and waiting.supersede and not place.leaving:
        return Replace(place.active)
    if place.active:
        return Stay(f"queued behind rollout {place.active}")
    if waiting.only_after_success and place.unsuccessful:
        return Drop(f"{place.unsuccessful}, and it was to start only after success")
    return Begin()


def in_line(waiting: Iterable[WaitingStart], *, now: dt.datetime) -> list[WaitingStart]:
    """Return those whose hour has come, in the order in which they start."""
    return sorted((each for each in waiting if each.is_due(now)), key=lambda each: (each.due_at, each.at, each.id))


def ahead_of(waiting: WaitingStart, line: Iterable[WaitingStart], *, now: dt.datetime) -> str:
    """Return which one of *line* stands right before *waiting*; "" where none does."""
    due = [each.id for each in in_line(line, now=now)]
    place = due.index(waiting.id) if waiting.id in due else 0
    return due[place - 1] if place else ""
