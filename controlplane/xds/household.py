"""What the conversations of one node without ADS have in common, and what one of them waits for in another.

Two things differ from ADS, measured with Envoy 1.40. It acknowledges clusters at once instead of when they are warm,
and takes a route to a cluster that is not: 503 until it is. So here a route waits, after the acknowledgement of a new
cluster and of its endpoints, until the first round of health checks must be over. And conversations come back in any
order, so that listeners and routes wait a moment for the conversation about clusters before they do without.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Protocol

from controlplane.xds.channel import Level, Node
from controlplane.xds.fleet import Link
from controlplane.xds.kinds import Kind
from controlplane.xds.references import Links
from controlplane.xds.responses import Held, Responses, Subscription

WARM_MARGIN: Final = dt.timedelta(milliseconds=500)
"""Added to the timeout of the health check: Envoy starts the check a moment after it has acknowledged the endpoints."""

CLUSTERS_WITHIN: Final = dt.timedelta(seconds=10)
"""For so long listeners and routes wait for the conversation about clusters. An Envoy opens that one first when it
starts, but after a restart of ours they come in any order."""


class Member(Protocol):
    """One conversation, as its household sees it."""

    @property
    def kind(self) -> Kind:
        """The only type that is talked about."""

    @property
    def subscription(self) -> Subscription:
        """What the client wants."""

    @property
    def fresh(self) -> bool:
        """Whether the client had nothing when it came."""

    @property
    def accepted(self) -> Collection[str]:
        """What the client has said yes to, and was not told to drop since."""

    @property
    def held(self) -> Held:
        """What the client has, should it take all that it was sent."""

    @property
    def awaits(self) -> bool:
        """Whether something was sent that has no answer yet."""

    @property
    def refused(self) -> bool:
        """Whether the last answer was a refusal."""

    @property
    def level(self) -> Level:
        """How far the client is in this conversation."""

    def is_at(self, target: Responses) -> bool:
        """Whether the client has acknowledged all that it wants of *target*."""

    def wake(self) -> None:
        """See soon to what may be sent now, because of what another conversation heard."""


class Household:
    """All conversations of one node in one variant: what they have in common, and what one waits for in another."""

    def __init__(self, node: Node, link: Link, *, now: float) -> None:
        self.node = node
        self.link = link
        self.target: Responses | None = None
        self.settled = False
        self._members: dict[Kind, dict[Member, None]] = {kind: {} for kind in Kind}
        self._levels: dict[Kind, Level] = {}
        self._clusters_by = now + CLUSTERS_WITHIN.total_seconds()
        self._ready_at: dict[str, float] = {}
        self._warm: frozenset[str] | None = None
        self._waits_for_endpoints = False
        self._due_at: float | None = None

    def __iter__(self) -> Iterator[Member]:
        return (member for members in self._members.values() for member in members)

    def enter(self, member: Member) -> None:
        """Take in a conversation of this node."""
        self._members[member.kind][member] = None

    def leave(self, member: Member) -> None:
        """Forget one that is over."""
        self._members[member.kind].pop(member, None)

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))

    # -- what the conversations know of each other ---------------------------------------------------------------------

    def newest(self, kind: Kind) -> Member | None:
        """Return the conversation of *kind* that was opened last: of types that are asked for as a whole, the one."""
        return next(reversed(self._members[kind]), None)

    def needs_past(self) -> bool:
        """Whether the client may have routes to clusters that nobody else serves any more."""
        return not self.settled and (self.node.is_envoy or self.newest(Kind.LDS) is not None)

    def has_settled(self) -> bool:
        """Whether the client runs the target's listeners and routes."""
        target, listeners = self.target, self.newest(Kind.LDS)
        if target is None or listeners is None or not listeners.is_at(target):
            return False
        routes = self._relevant(Kind.RDS, target)
        return all(not member.awaits and not member.refused for member in routes) and self._has_all_routes(target)

    def blocked(self, kind: Kind, view: Responses, names: frozenset[str], *, now: float) -> frozenset[str]:
        """Return those *names* that must wait: they lead to clusters that the client does not have yet, or not warm."""
        if kind not in (Kind.LDS, Kind.RDS):
            return frozenset()
        links = view.snapshot.links
        wanted = {name: frozenset(links.clusters(kind, name)) for name in names}
        # Each one is looked at, so that the one that takes longest is known.
        unready = {one for one in frozenset().union(*wanted.values()) if not self._is_ready(one, now=now)}
        return frozenset(name for name, clusters in wanted.items() if not unready.isdisjoint(clusters))

    def opened(self, member: Member, *, now: float) -> None:
        """Note the first request of *member*."""
        if member.kind is Kind.LDS and self._warm is None:
            # A starting Envoy asks for listeners when the clusters that it got first are warm.
            clusters = self.newest(Kind.CDS)
            starting = member.fresh and clusters is not None and clusters.fresh
            self._warm = frozenset(clusters.held) if starting and clusters is not None else frozenset()
        if member.kind is Kind.CDS:
            self._wake(Kind.LDS, Kind.RDS)
        if member.accepted:
            self.acked(member, now=now)  # it came with what it has, and will not be asked to say so again

    def acked(self, member: Member, *, now: float) -> None:
        """Note that *member* took what it was sent: others may have waited for that."""
        if member.kind not in (Kind.CDS, Kind.EDS):
            return
        clusters = self.newest(Kind.CDS)
        known = frozenset(clusters.accepted) if clusters is not None else frozenset()
        if member.kind is Kind.CDS:
            self._warm = None if self._warm is None else self._warm & known
            self._ready_at = {name: at for name, at in self._ready_at.items() if name in known}
        self._start_timers(known, (member,) if member.kind is Kind.EDS else self._members[Kind.EDS], now=now)
        if member.kind is Kind.CDS or self._waits_for_endpoints:
            self._waits_for_endpoints = False
            self._wake(Kind.LDS, Kind.RDS)

    def settle(self) -> None:
        """Note that the client has left the past behind; now come the removals."""
        self.settled = True
        self._wake(Kind.CDS, Kind.EDS)

    def wake_due(self, now: float) -> None:
        """Wake what waited for a cluster to get warm, if that must be over."""
        if self._due_at is not None and now >= self._due_at:
            self._due_at = None
            self._wake(Kind.LDS, Kind.RDS)

    def levels(self) -> Iterator[tuple[Kind, Level]]:
        """Return how far the node is with each kind: acknowledged is what all conversations about it are at."""
        target = self.target
        for kind, members in self._members.items():
            if target is not None and members:
                level = self._level(kind, target)
                if self._levels.get(kind) != level:
                    self._levels[kind] = level
        return iter(self._levels.items())

    def _level(self, kind: Kind, target: Responses) -> Level:
        members = tuple(self._relevant(kind, target))
        before = self._levels.get(kind, Level())
        version = target.version(kind, frozenset[str]().union(*(member.subscription.names for member in members)))
        found = [member.level for member in members]
        complete = all(level.acked == version for level in found)
        if kind is Kind.RDS:
            complete = complete and self._has_all_routes(target)
        refused = next((level for level in found if level.nacked), Level())
        return Level(
            sent=version if any(level.sent == version for level in found) else before.sent,
            acked=version if complete else before.acked,
            nacked=refused.nacked,
            words=refused.words,
        )

    def _relevant(self, kind: Kind, target: Responses) -> Iterable[Member]:
        """Return the conversations about what there still is: a name that is gone is not polled for any more."""
        if kind.is_full_state:
            newest = self.newest(kind)
            return () if newest is None else (newest,)
        members = self._members[kind]
        found = [member for member in members if target.selection(kind, member.subscription)]
        return found or members

    def _has_all_routes(self, target: Responses) -> bool:
        listeners = self.newest(Kind.LDS)
        if listeners is None:
            return True
        links = target.snapshot.links.routes_of
        wanted = target.snapshot.resources[Kind.RDS]
        names = {name for one in target.selection(Kind.LDS, listeners.subscription) for name in links[one]}
        held = [member.held for member in self._members[Kind.RDS]]
        return all(any(has.get(name) == wanted[name].version for has in held) for name in names)

    def _is_ready(self, cluster: str, *, now: float) -> bool:
        clusters = self.newest(Kind.CDS)
        if clusters is None:
            # Perhaps it has its clusters from elsewhere; perhaps that conversation is on its way.
            if not self.node.is_envoy or now >= self._clusters_by:
                return True
            self._look_again(self._clusters_by)
            return False
        if not clusters.subscription.covers(cluster):
            return True
        if cluster not in clusters.accepted:
            return False
        if not self.node.is_envoy or cluster in (self._warm or ()):
            return True
        ready_at = self._ready_at.get(cluster)
        if ready_at is None:
            self._start_timers((cluster,), self._members[Kind.EDS], now=now)
            ready_at = self._ready_at.get(cluster)
        if ready_at is None:
            self._waits_for_endpoints = True
            return False
        if now < ready_at:
            self._look_again(ready_at)
        return now >= ready_at

    def _start_timers(self, clusters: Iterable[str], members: Iterable[Member], *, now: float) -> None:
        """Give those *clusters* the time to get warm whose endpoints one of *members* has taken."""
        links = self._links
        if links is None:
            return
        taken = frozenset().union(*(member.accepted for member in members))
        for cluster in clusters:
            endpoints = links.endpoints_of.get(cluster)
            if cluster not in self._ready_at and (endpoints is None or endpoints in taken):
                warm_after = links.warm_after.get(cluster, 0.0) + WARM_MARGIN.total_seconds()
                self._ready_at[cluster] = now + warm_after

    @property
    def _links(self) -> Links | None:
        return None if self.target is None else self.target.snapshot.links

    def _look_again(self, at: float) -> None:
        self._due_at = at if self._due_at is None else min(at, self._due_at)

    def _wake(self, *kinds: Kind) -> None:
        for kind in kinds:
            for member in self._members[kind]:
                member.wake()
