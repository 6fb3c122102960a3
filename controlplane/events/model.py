"""What the stream is made of: events with a place in the log, and levels, of which only the newest counts.

Context: a page or a program follows everything, goes away and comes back, to this replica or another one. Choice: what
*happened* is read from rows that only grow, and carries its place among them (the cursor); how things *stand* is told
whole, to begin with and whenever it changes, without a place. Consequence: whoever comes back with the last cursor
misses nothing of the first kind, gets nothing of it twice, and has the present state of the second.
"""

import dataclasses
import enum
import json
from collections.abc import Hashable, Mapping
from typing import Any, Final, Self

from controlplane.events.sentences import answer_sentence, measured, sentence
from controlplane.ports import Logged, LoggedAnswer, LoggedEntry

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
    DELETE = "delete"
    """A service was deleted."""
    SPLIT = "split"
    """Weights were set by hand."""
    REVISION = "revision"
    """The fleet refused a declaration, or its configuration canary is over."""
    FREEZE = "freeze"
    """A service, or everything, was frozen, or is not any more."""
    PICTURES = "pictures"
    """A verdict on a version's pictures."""
    ACK = "ack"
    """Envoys acknowledged something."""
    NACK = "nack"
    """Envoys refused something; the sentence has their words."""
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
"""The first event of a stream: where it begins; what was asked for of the past, and the present state, follow."""
LIVE: Final = "live"
"""All that had happened when the stream began, as far as it was asked for, and the present state are told."""
RESET: Final = "reset"
"""Instead of `BEGIN`: the place to go on from is too far back, so forget what you know."""

_OF_AUDIT: Final[Mapping[str, EventType]] = {
    "apply": EventType.APPLY,
    "delete": EventType.DELETE,
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
    """One event as it goes over the wire. *services* are those that it concerns, None where nobody knows which."""

    cursor: Cursor
    type: EventType
    services: frozenset[str] | None
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

    def wants(self, kind: EventType) -> bool:
        """Whether events of this type were asked for."""
        return self.types is None or kind in self.types

    def has(self, kind: EventType, services: frozenset[str] | None) -> bool:
        """Whether something about *services* is for this reader; what concerns nobody knows what only for who sees all.

        An event about several is for whoever may see one of them: it does not say which others it concerns.
        """
        if not self.wants(kind) or (kind is EventType.SERIES and self.services is None):
            return False
        wished = self.services if self.sees is None else self.sees & (self.services or self.sees)
        return wished is None or (services is not None and not wished.isdisjoint(services))


def type_of(logged: Logged) -> EventType:
    """Say what something in the log is about."""
    if isinstance(logged, LoggedAnswer):
        return EventType.ACK if logged.answer.acked else EventType.NACK
    entry = logged.entry
    match entry.kind:
        case "refused":
            return EventType.REFUSED
        case "audit":
            return _OF_AUDIT.get(entry.what, EventType.COMMAND)
        case _:
            return EventType.ROLLOUT if entry.rollout or entry.after == "Dropped" else EventType.REVISION


def place_of(logged: Logged) -> int:
    """Return the number that something has in the log."""
    return logged.number if isinstance(logged, LoggedAnswer) else logged.entry.number


def told(logged: Logged) -> Told:
    """Write something of the log down as an event, once for all its readers."""
    return _told_answer(logged) if isinstance(logged, LoggedAnswer) else _told_entry(logged)


def _told_answer(logged: LoggedAnswer) -> Told:
    answer, kind, cursor = logged.answer, type_of(logged), Cursor(logged.number)
    data = {
        "cursor": str(cursor),
        "at": answer.at.isoformat(),
        "service": None,
        "rollout": None,
        "resource": answer.kind,
        "version": answer.version,
        "nodes": answer.nodes,
        "count": answer.count,
        "sentence": answer_sentence(answer)[:MAX_WORDS],
    }
    services = None if logged.services is None else frozenset(logged.services)
    return Told(cursor, kind, services, encode(kind, data, cursor))


def _told_entry(logged: LoggedEntry) -> Told:
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
        "weights": entry.weights,
        "sentence": sentence(logged)[:MAX_WORDS],
        "measured": None if found is None else dataclasses.asdict(found),
    }
    return Told(cursor, kind, frozenset((entry.service,)), encode(kind, data, cursor))


def encode(name: str, data: Mapping[str, Any], cursor: Cursor | None = None) -> bytes:
    """Write an event as server-sent events go over the wire; JSON has no line ends of its own."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    place = "" if cursor is None else f"id: {cursor}\n"
    return f"event: {name}\ndata: {text}\n{place}\n".encode()
