"""The newest part of the log, encoded, for all readers of a process together.

A reader is no more than a place in it. One that falls behind its beginning has read too slowly and is let go: nothing
is kept for a single reader.
"""

import bisect
import collections
from collections.abc import Hashable, Iterable
from typing import Final

from controlplane.events.model import Cursor, EventType, Told, Wanted

MAX_EVENTS: Final = 10_000
MAX_BYTES: Final = 16 * 1024 * 1024
MAX_CHUNK: Final = 256 * 1024
"""Bytes that a reader is given at once."""


class Ring:
    """Events in the order of the log, of which the oldest go as new ones come. Places are counted from the start."""

    def __init__(self, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._events: collections.deque[Told] = collections.deque()
        self.max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._gone = 0
        self._joined: dict[Hashable, tuple[bytes, int]] = {}
        self.floor = Cursor()
        """Who has seen all up to here can go on from the ring."""
        self.newest = Cursor()

    @property
    def end(self) -> int:
        """The place behind the newest event."""
        return self._gone + len(self._events)

    @property
    def begin(self) -> int:
        """The place of the oldest event that is here."""
        return self._gone

    def restart(self, floor: Cursor) -> None:
        """Forget everything: the next event is the first one after *floor*."""
        self._gone = self.end
        self._events.clear()
        self._bytes = 0
        self.floor = self.newest = floor

    def append(self, events: Iterable[Told]) -> None:
        """Add events that are later than all that are here."""
        for event in events:
            self._events.append(event)
            self._bytes += len(event.wire)
            self.newest = event.cursor
        while len(self._events) > self.max_events or (self._bytes > self._max_bytes and self._events):
            gone = self._events.popleft()
            self._bytes -= len(gone.wire)
            self._gone += 1
            self.floor = gone.cursor
        self._joined.clear()

    def place_after(self, cursor: Cursor) -> int | None:
        """Return where to go on for who has seen all up to *cursor*; None: it is too far back, or none of ours."""
        if not self.floor <= cursor <= self.newest:
            return None
        return self._gone + bisect.bisect_right(self._events, cursor, key=lambda event: event.cursor)

    def read(self, place: int, wanted: Wanted) -> tuple[bytes, int]:
        """Return what *wanted* has from *place* on, at most `MAX_CHUNK` or one event, and the place behind it.

        Raises:
            LookupError: The event at *place* is gone.
        """
        if place < self._gone:
            raise LookupError(place)
        key = (place, wanted.key)
        if key not in self._joined:
            self._joined[key] = self._join(place, wanted)
        return self._joined[key]

    def _join(self, place: int, wanted: Wanted) -> tuple[bytes, int]:
        found: list[bytes] = []
        size = 0
        for index in range(place - self._gone, len(self._events)):
            event = self._events[index]
            if wanted.has(event.type, event.service):
                size += len(event.wire)
                if found and size > MAX_CHUNK:
                    return b"".join(found), self._gone + index
                found.append(event.wire)
        return b"".join(found), self.end


class Levels:
    """How things stand: the newest of each kind and service, in the order in which they changed."""

    def __init__(self) -> None:
        self._levels: dict[tuple[EventType, str], tuple[int, bytes]] = {}
        self._joined: dict[Hashable, bytes] = {}
        self.newest = 0

    def put(self, kind: EventType, service: str, wire: bytes) -> bool:
        """Note how something stands; return whether that is news."""
        known = self._levels.pop((kind, service), None)
        if known is not None and known[1] == wire:
            self._levels[kind, service] = known  # its place in the order does not matter: its number does
            return False
        self.newest += 1
        self._levels[kind, service] = (self.newest, wire)
        self._joined.clear()
        return True

    def forget(self, keep: frozenset[str], *kinds: EventType) -> None:
        """Drop the levels of *kinds* whose services are not among *keep*."""
        for key in [key for key in self._levels if key[0] in kinds and key[1] not in keep]:
            del self._levels[key]

    def read(self, after: int, wanted: Wanted) -> bytes:
        """Return what *wanted* has that changed after *after*."""
        key = (after, wanted.key)
        if key not in self._joined:
            news = [
                (number, wire)
                for (kind, service), (number, wire) in self._levels.items()
                if number > after and wanted.has(kind, service)
            ]
            self._joined[key] = b"".join(wire for _, wire in sorted(news))
        return self._joined[key]
