"""What the stream is made of: events with a place in the log, and levels, of which only the newest counts.

Context: a page or a program follows everything, goes away and comes back, to this replica or another one. Choice: what
*happened* is read from rows that only grow, and carries its place among them (the cursor); how things *stand* is told
whole, to begin with and whenever it changes, without a place. Consequence: whoever comes back with the last cursor
misses nothing of the first kind, gets nothing of it twice, and has the present state of the second.
"""

import dataclasses
import enum
import json
from collections.abc import Collection, Hashable, Mapping
from typing import Any, Final, Self

from controlplane.events.sentences import measured, sentence
from controlplane.ports import LoggedEntry

MAX_WORDS: Final = 2_000
"""Characters of words in an event: an Envoy may quote a whole configuration."""


class EventType(enum.StrEnum):
    """What an event is about. The last ones are levels: the newest replaces what was told before."""

    ROLLOUT = "rollout"
    """A rollout changed its state."""
    COMMAND = "command"
    """Somebody asked a rollout to start, pause, resume, promote, abort, ..."""
    REFUSED = "refused"
    """The controller refused to."""
    APPLY = "apply"
    """A service was declared."""
    SPLIT = "split"
    """Weights were set by hand."""
    REVISION = "revision"
    """The fleet refused a declaration, or its configuration canary is over."""
    FREEZE = "freeze"
    """A service, or everything, was frozen, or is not any more."""
    PICTURES = "pictures"
    """A verdict on a version's pictures."""
    STATE = "state"
    """How a service and its newest rollout stand."""
    WEIGHTS = "weights"
    """Which weights are asked for, and which all Envoys have acknowledged."""
    EVIDENCE = "evidence"
    """What the judge has seen, as odds per objective; once a second."""
    SERIES = "series"
    """The newest second of a service's versions; only for services that were asked for by name."""


LEVELS: Final = frozenset({EventType.STATE, EventType.WEIGHTS, EventType.EVIDENCE, EventType.SERIES})
BEGIN: Final = "begin"
"""The first event of a stream: where it begins, and that the present state follows."""
RESET: Final = "reset"
"""Instead of `BEGIN`: the place to go on from is too far back, so forget what you know."""

_OF_AUDIT: Final[Mapping[str, EventType]] = {
    "apply": EventType.APPLY,
    "set-split": EventType.SPLIT,
    "compare": EventType.PICTURES,
    "freeze": EventType.FREEZE,
    "unfreeze": EventType.FREEZE,
}


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the log: all up to here was seen."""

    history: int = 0

    def __str__(self) -> str:
        return str(self.history)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read it back; None for what is none."""
        return cls(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """One event as it goes over the wire. *service* is None where it concerns more than one or none."""

    cursor: Cursor
    type: EventType
    service: str | None
    wire: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What one reader wants and may see.

    *services* and *types* are None for all. *sees* are the services that the reader may see, None for all.
    """

    services: frozenset[str] | None = None
    types: frozenset[EventType] | None = None
    sees: frozenset[str] | None = None

    @property
    def key(self) -> Hashable:
        """What two readers have in common who get the same."""
        return self.services, self.types, self.sees

    def has(self, kind: EventType, service: str | None) -> bool:
        """Whether an event is for this reader."""
        return (self.types is None or kind in self.types) and _is_in(service, self.services) and self.may_see(service)

    def may_see(self, service: str | None) -> bool:
        """Whether the reader may know of something about *service*."""
        return _is_in(service, self.sees)


def type_of(logged: LoggedEntry) -> EventType:
    """Say what an entry of the history is about."""
    entry = logged.entry
    match entry.kind:
        case "refused":
            return EventType.REFUSED
        case "audit":
            return _OF_AUDIT.get(entry.what, EventType.COMMAND)
        case _:
            return EventType.ROLLOUT if entry.rollout or entry.after == "Dropped" else EventType.REVISION


def told(logged: LoggedEntry) -> Told:
    """Write an entry of the history down as an event, once for all its readers."""
    entry, kind, cursor = logged.entry, type_of(logged), Cursor(logged.entry.number)
    found = measured(logged.outcome or entry.words)
    data = {
        "cursor": str(cursor),
        "at": entry.at.isoformat(),
        "service": entry.service,
        "rollout": entry.rollout,
        "what": entry.what,
        "by": entry.by,
        "before": entry.before,
        "after": entry.after,
        "sentence": sentence(logged)[:MAX_WORDS],
        "measured": None if found is None else dataclasses.asdict(found),
    }
    return Told(cursor, kind, entry.service, encode(kind, data, cursor))


def encode(name: str, data: Mapping[str, Any], cursor: Cursor | None = None) -> bytes:
    """Write an event as server-sent events go over the wire; JSON has no line ends of its own."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    place = "" if cursor is None else f"id: {cursor}\n"
    return f"event: {name}\ndata: {text}\n{place}\n".encode()


def _is_in(service: str | None, services: Collection[str] | None) -> bool:
    return services is None or service in services
