"""What each group of Envoys is served, and the streams that are told of it."""

import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

import structlog

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.ports import SnapshotRecord, SnapshotStatus
from controlplane.traffic.groups import EVERYONE, Grouping, whole_group
from controlplane.xds.channel import Nacked, Node
from controlplane.xds.kinds import Kind
from controlplane.xds.responses import Responses, Served
from controlplane.xds.snapshot import Resource, Snapshot

log = structlog.get_logger()

MAX_PAST: Final = 16
"""Earlier snapshots whose clusters are kept for Envoys that have not left them behind. An Envoy that refused more than
this many changes in a row, each of which dropped a cluster, loses the oldest."""


PAST_KEPT: Final = dt.timedelta(minutes=10)
"""How long the clusters of an earlier snapshot are kept although every connected Envoy has left them behind: one that
was away meanwhile comes back with routes to them, and in the state-of-the-world variant cannot say so."""


class Listener(Protocol):
    """A stream, as the cache sees it."""

    @property
    def settled(self) -> bool:
        """Whether it needs nothing older than the target."""

    def offer(self, served: Served) -> None:
        """Take note of what is served now; must neither block nor raise."""


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """A snapshot that was followed by another one at *until*, in steady seconds."""

    snapshot: Snapshot
    until: float


@dataclasses.dataclass(slots=True, eq=False)
class Group:
    """What the Envoys of one group are served, and what only earlier snapshots had, for those that may still use it.

    While the snapshot is in *doubt*, because an Envoy of the group refused it and nobody has vouched for it, those that
    join are served nothing: the next snapshot follows at once.
    """

    key: str
    served: Served | None = None
    version: str = ""
    vouched: bool = False
    in_doubt: bool = False
    past: tuple[Past, ...] = ()
    missing: frozenset[str] = frozenset()
    # In the order of their coming, so that nobody is always the last to hear of a change.
    listeners: dict[Listener, Node] = dataclasses.field(default_factory=dict)

    @property
    def target(self) -> Snapshot | None:
        """The snapshot that its Envoys should run."""
        return None if self.served is None else self.served.target.snapshot

    def join(self, listener: Listener, node: Node) -> None:
        """Offer *listener* what is served, now and at every change."""
        self.listeners[listener] = node
        if self.served is not None and not self.in_doubt:
            listener.offer(self.served)

    def offer(self) -> None:
        """Offer every listener what is served."""
        if self.served is not None:
            for listener in self.listeners:
                listener.offer(self.served)


class SnapshotCache:
    """Serves one snapshot to the streams of each group.

    Args:
        clock: Stamps each publication.
        identifier: Whom Envoy's ``control_plane.identifier`` names: this replica.
    """

    def __init__(self, *, clock: Clock, identifier: str) -> None:
        self._clock = clock
        self._identifier = identifier
        self._nonces = itertools.count(1)
        self._grouping = Grouping()
        self._groups: dict[str, Group] = {}
        self._place: dict[Listener, Group] = {}
        self._secrets: Mapping[str, Resource] = {}

    @property
    def served_versions(self) -> Mapping[str, str]:
        """The version of the snapshot that each group is served now; a group without one is absent."""
        return {key: group.version for key, group in self._groups.items() if group.served is not None}

    @property
    def doubted(self) -> frozenset[str]:
        """Groups of which an Envoy has refused what is served; those that join are served nothing meanwhile."""
        return frozenset(key for key, group in self._groups.items() if group.in_doubt)

    def served(self, key: str = EVERYONE) -> Served | None:
        """Return what the streams of a group are offered now; None before its first snapshot."""
        return self._group(key).served

    def publish(self, snapshot: SnapshotRecord) -> None:
        """Serve *snapshot* from now on, to every Envoy of its group that is or will be connected.

        What only earlier snapshots have stays served to each Envoy until that Envoy has acknowledged the new listeners
        and routes. A process that starts should publish the last good snapshot before the newest, so that this holds
        for Envoys that were in between when the process before it ended.

        Raises:
            InvalidInputError: It has no listeners or no clusters while the one before it had some, or is not what its
                version says.
        """
        group = self._group(snapshot.group)
        good = snapshot.status is SnapshotStatus.GOOD
        if snapshot.version == group.version:
            if good:
                self.vouch(snapshot.group)
            return
        target = Snapshot.from_bytes(snapshot.content)
        if target.version != snapshot.version:
            raise InvalidInputError(
                "snapshot.version", f"{snapshot.version} is not that of its content", "publish it anew"
            )
        if group.target is not None:
            _check_not_emptied(group.target, target)
            group.past = self._still_needed(group, target)
        is_first = group.served is None
        self._serve(group, target)
        group.version, group.vouched, group.in_doubt = snapshot.version, good, False
        group.offer()
        if is_first:
            self._place_all()

    def serve_secrets(self, secrets: Mapping[str, Resource]) -> None:
        """Give out *secrets* from now on, each to those groups whose listeners refer to it."""
        self._secrets = secrets
        for group in self._groups.values():
            if group.target is not None and group.target.with_secrets(secrets).has_other_secrets(group.target):
                self._serve(group, group.target)
                if not group.in_doubt:  # else those that joined since would get what is in doubt
                    group.offer()

    def vouch(self, key: str) -> None:
        """What the group is served is good, whoever refuses it: those that join get it."""
        group = self._group(key)
        group.vouched = True
        if group.in_doubt:
            group.in_doubt = False
            group.offer()

    def assign(self, grouping: Grouping) -> None:
        """Serve each Envoy, present or to come, what its group is served; publish the groups' snapshots first.

        A group that is served nothing leaves its Envoys where they are: in doubt they keep what they have.
        """
        if grouping == self._grouping:
            return
        self._grouping = grouping
        self._place_all()
        wanted = {EVERYONE, *grouping.groups, *grouping.canaries.values()}
        for key in [key for key, group in self._groups.items() if key not in wanted and not group.listeners]:
            del self._groups[key]

    def register(self, listener: Listener, node: Node) -> None:
        """Offer *listener* what its *node* is served, now and at every change, until it is unregistered."""
        group = self._group_of(node)
        self._forget_old(group)
        self._place[listener] = group
        group.join(listener, node)

    def unregister(self, listener: Listener) -> None:
        """Forget *listener*."""
        group = self._place.pop(listener, None)
        if group is not None:
            del group.listeners[listener]

    def refused(self, listener: Listener, refusal: Nacked) -> None:
        """Keep what *listener*'s client refused from those that join, unless it is known to be good."""
        group = self._place.get(listener)
        if group is None or group.served is None or group.vouched:
            return
        if group.served.target.version(refusal.kind) == refusal.version:
            group.in_doubt = True

    # -- groups --------------------------------------------------------------------------------------------------------

    def _group(self, key: str) -> Group:
        return self._groups.setdefault(key, Group(key))

    def _group_of(self, node: Node) -> Group:
        """Return where *node* belongs; the part of a group that goes first counts only once it is served."""
        key = self._grouping.of(node.id, node.group)
        group = self._group(key)
        return group if group.served is not None else self._group(whole_group(key))

    def _forget_old(self, group: Group) -> None:
        kept = self._kept(group, self._clock.steady())
        if kept != group.past and group.target is not None:
            group.past = kept
            self._serve(group, group.target)

    def _place_all(self) -> None:
        for listener, group in tuple(self._place.items()):
            node = group.listeners[listener]
            self._move(listener, node, group, self._group_of(node))

    def _move(self, listener: Listener, node: Node, before: Group, after: Group) -> None:
        if before is after or (after.served is None and before.served is not None):
            return
        del before.listeners[listener]
        self._place[listener] = after
        if before.target is not None and after.target is not None:
            # Its routes may lead to clusters that only its old group knows.
            newest = Past(before.target, self._clock.steady())
            past = {one.snapshot: one for one in (*after.past, *before.past, newest)}
            after.past = tuple(_with_more(reversed(past.values()), after.target))[:MAX_PAST]
            self._serve(after, after.target)
        after.join(listener, node)

    def _still_needed(self, group: Group, target: Snapshot) -> tuple[Past, ...]:
        """Return the snapshots, newest first, that hold something which *target* lacks and an Envoy may still use."""
        now = self._clock.steady()
        before = () if group.target is None else (Past(group.target, now),)
        return tuple(_with_more((*before, *self._kept(group, now)), target))[:MAX_PAST]

    def _kept(self, group: Group, now: float) -> tuple[Past, ...]:
        if any(not listener.settled for listener in group.listeners):
            return group.past
        return tuple(past for past in group.past if now - past.until < PAST_KEPT.total_seconds())

    def _serve(self, group: Group, snapshot: Snapshot) -> None:
        target = snapshot.with_secrets(self._secrets)
        if target.missing_secrets - group.missing:
            # Envoy keeps such a listener aside until its certificate comes, and what ran before it running.
            log.warning("certificate.missing", group=group.key, certificates=sorted(target.missing_secrets))
        group.missing = target.missing_secrets
        responses = self._responses(target)
        overlay = target.overlaid_on([past.snapshot for past in group.past])
        group.served = Served(
            target=responses,
            transition=responses if overlay is target else self._responses(overlay),
            published_at=self._clock.steady(),
        )

    def _responses(self, snapshot: Snapshot) -> Responses:
        return Responses(snapshot, identifier=self._identifier, nonces=self._nonces)


def _with_more(past: Iterable[Past], target: Snapshot) -> Iterator[Past]:
    kinds = (Kind.CDS, Kind.EDS, Kind.RDS)
    return (
        one
        for one in past
        if any(one.snapshot.resources[kind].keys() - target.resources[kind].keys() for kind in kinds)
    )


def _check_not_emptied(before: Snapshot, target: Snapshot) -> None:
    for kind, what in ((Kind.LDS, "listeners"), (Kind.CDS, "clusters")):
        if before.versions[kind] and not target.versions[kind]:
            raise InvalidInputError(
                f"snapshot.{what}", "are all gone, which would cut off every client", f"keep at least one of the {what}"
            )
