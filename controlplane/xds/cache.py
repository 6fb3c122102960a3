"""The newest snapshot, and the streams that are told of it."""

import itertools
from collections.abc import Iterable
from typing import Final, Protocol

import structlog

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.ports import SnapshotRecord
from controlplane.xds.kinds import Kind
from controlplane.xds.responses import Responses, Served
from controlplane.xds.snapshot import Snapshot

log = structlog.get_logger()

MAX_PAST: Final = 16
"""Earlier snapshots whose clusters are kept for Envoys that have not left them behind. An Envoy that refused more than
this many changes in a row, each of which dropped a cluster, loses the oldest."""


class Listener(Protocol):
    """A stream, as the cache sees it."""

    @property
    def settled(self) -> bool:
        """Whether it needs nothing older than the target."""

    def offer(self, served: Served) -> None:
        """Take note of what is served now; must neither block nor raise."""


class SnapshotCache:
    """Serves one snapshot to every stream, and what only earlier ones had to those that may still use it.

    Args:
        clock: Stamps each publication.
        identifier: Whom Envoy's ``control_plane.identifier`` names: this replica.
    """

    def __init__(self, *, clock: Clock, identifier: str) -> None:
        self._clock = clock
        self._identifier = identifier
        self._nonces = itertools.count(1)
        self._served: Served | None = None
        self._version = ""
        self._past: tuple[Snapshot, ...] = ()
        # In the order of their coming, so that nobody is always the last to hear of a change.
        self._listeners: dict[Listener, None] = {}

    @property
    def served_version(self) -> str:
        """The version of the snapshot that is served now; "" before the first."""
        return self._version

    @property
    def served(self) -> Served | None:
        """What streams are offered now; None before the first snapshot."""
        return self._served

    def publish(self, snapshot: SnapshotRecord) -> None:
        """Serve *snapshot* from now on, to every Envoy that is or will be connected.

        What only earlier snapshots have stays served to each Envoy until that Envoy has acknowledged the new listeners
        and routes. A process that starts should publish the last good snapshot before the newest, so that this holds
        for Envoys that were in between when the process before it ended.

        Raises:
            InvalidInputError: It has no listeners or no clusters while the one before it had some, or is not what its
                version says.
        """
        if snapshot.version == self._version:
            return
        target = Snapshot.from_bytes(snapshot.content)
        if target.version != snapshot.version:
            raise InvalidInputError(
                "snapshot.version", f"{snapshot.version} is not that of its content", "publish it anew"
            )
        if self._served is not None:
            before = self._served.target.snapshot
            _check_not_emptied(before, target)
            self._past = self._still_needed(before, target)
        responses = self._responses(target)
        overlay = target.overlaid_on(self._past)
        self._served = Served(
            target=responses,
            transition=responses if overlay is target else self._responses(overlay),
            published_at=self._clock.steady(),
        )
        self._version = snapshot.version
        for listener in self._listeners:
            listener.offer(self._served)

    def register(self, listener: Listener) -> None:
        """Offer *listener* what is served, now and at every change, until it is unregistered."""
        self._listeners[listener] = None
        if self._served is not None:
            listener.offer(self._served)

    def unregister(self, listener: Listener) -> None:
        """Forget *listener*."""
        self._listeners.pop(listener, None)

    def _responses(self, snapshot: Snapshot) -> Responses:
        return Responses(snapshot, identifier=self._identifier, nonces=self._nonces)

    def _still_needed(self, before: Snapshot, target: Snapshot) -> tuple[Snapshot, ...]:
        """Return the snapshots, newest first, that hold something which *target* lacks and an Envoy may still use."""
        older: Iterable[Snapshot] = self._past
        if self._listeners and all(listener.settled for listener in self._listeners):
            older = ()
        return tuple(past for past in (before, *older) if _has_more(past, target))[:MAX_PAST]


def _has_more(past: Snapshot, target: Snapshot) -> bool:
    return any(past.resources[kind].keys() - target.resources[kind].keys() for kind in (Kind.CDS, Kind.EDS, Kind.RDS))


def _check_not_emptied(before: Snapshot, target: Snapshot) -> None:
    for kind, what in ((Kind.LDS, "listeners"), (Kind.CDS, "clusters")):
        if before.versions[kind] and not target.versions[kind]:
            raise InvalidInputError(
                f"snapshot.{what}", "are all gone, which would cut off every client", f"keep at least one of the {what}"
            )
