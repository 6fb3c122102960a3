"""One stream of the aggregated discovery service, without the stream: requests in, decisions and bytes out.

Nothing is queued here. A session knows what its client holds and asks, when its transport can send, what the newest
snapshot still owes it; so a slow client costs no memory and gets only the last of many changes. Per kind one response
may be unanswered at a time. What the variants share is the order of sending, what waits for what, and what a client has
acknowledged; `sotw` and `delta` add how each words its requests and responses.
"""

import abc
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

from controlplane.xds.channel import (
    Acked,
    Channel,
    Ignored,
    Level,
    Nacked,
    Node,
    Outgoing,
    Parcel,
    Reaction,
    Stale,
    Subscribed,
    Unanswered,
)
from controlplane.xds.kinds import Kind, ProtocolError, find_kind
from controlplane.xds.responses import Responses, Served, Subscription

Request = TypeVar("Request")
"""A `DiscoveryRequest` or `DeltaDiscoveryRequest` of xds-protos, which has no types."""

MAX_NAMES: Final = 100_000
"""Names that one client may subscribe to, per kind: its list is memory of ours."""

MAX_WORDS: Final = 4_000
"""Characters of a NACK that are kept: Envoy joins the errors of all bad resources."""

MAX_NODE_ID: Final = 256

WILDCARD: Final = "*"

GROUP_KEY: Final = "hueshift_group"
"""The key of a node's metadata that names its group; without it the node's cluster is its group."""


class Session(abc.ABC, Generic[Request]):
    """What one client was told, has said, and is owed."""

    variant: ClassVar[Literal["sotw", "delta"]]

    def __init__(self) -> None:
        self._node: Node | None = None
        self._served: Served | None = None
        self._channels = {kind: Channel(kind) for kind in Kind}
        self._settled = False
        self._opened_at = 0.0

    @property
    def node(self) -> Node | None:
        """Who the client is; None before its first request."""
        return self._node

    @property
    def settled(self) -> bool:
        """Whether the client needs nothing older than the target: its listeners and routes are the target's."""
        return not self._needs_past()

    def levels(self) -> Iterator[tuple[Kind, Level]]:
        """Return how far the client is with each kind that it asked for."""
        return ((kind, channel.level) for kind, channel in self._channels.items() if channel.subscription is not None)

    def oldest_unanswered(self, kinds: Iterable[Kind]) -> float | None:
        """Return when the oldest response of *kinds* was sent that has no answer yet, in steady seconds."""
        waiting = [channel.unanswered.sent_at for kind in kinds if (channel := self._channels[kind]).unanswered]
        return min(waiting, default=None)

    def update(self, served: Served) -> None:
        """Serve *served* from now on; ask `take` what that means for the client."""
        # The first offer leaves a client settled that came with nothing.
        self._settled = self._settled and self._served is None
        self._served = served

    def receive(self, request: Request, *, now: float) -> Reaction:
        """Take in a request; ask `take` what is to be sent then.

        Raises:
            ProtocolError: The client broke the protocol; end the stream.
        """
        message: Any = request
        first = self._node is None
        if first:
            self._node = identify(message.node)
            self._opened_at = now
        if not message.type_url:
            raise ProtocolError("type_url: is empty; name a resource type on the aggregated stream")
        kind = find_kind(message.type_url)
        if kind is None:
            return Ignored(message.type_url)
        channel = self._channels[kind]
        opening = channel.subscription is None
        reaction: Reaction = Subscribed(kind)
        # The nonce of a first request belongs to an earlier stream and means nothing here.
        if message.response_nonce and not opening:
            error = message.error_detail.message if message.HasField("error_detail") else None
            reaction = self._answered(channel, message.response_nonce, error, now=now)
        self._subscribe(channel, request, opening=opening, answered=not isinstance(reaction, Subscribed | Stale))
        if channel.subscription is not None and len(channel.subscription.names) > MAX_NAMES:
            raise ProtocolError(f"resource names: more than {MAX_NAMES} of {kind.value}; subscribe with *")
        if first and channel.fresh:
            self._settled = True  # a client that has nothing cannot still be using something old
        return reaction

    def take(self, *, now: float) -> Outgoing | None:
        """Return the next message to write, or None; call again after writing. It counts as sent."""
        served = self._served
        if served is None or self._node is None:
            return None  # nothing loaded: silence, never an empty answer
        while True:
            past = self._needs_past()
            for channel in self._channels.values():
                if channel.subscription is None or channel.unanswered is not None:
                    continue
                # Clusters, endpoints and routes of the past stay until the client has left them behind.
                view = served.transition if past and channel.kind is not Kind.LDS else served.target
                outgoing = self._due(channel, channel.subscription, view, served, now=now)
                if outgoing is not None:
                    return outgoing
            if self._settled or not self._has_settled(served.target):
                return None
            self._settled = True  # and now the removals

    # -- what the variants add -----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _subscribe(self, channel: Channel, request: Request, *, opening: bool, answered: bool) -> None:
        """Apply what *request* says about names; whatever it changes, the channel is idle no longer.

        *answered* says that the request was the first answer to the last response.
        """

    @abc.abstractmethod
    def _compose(self, channel: Channel, view: Responses) -> Parcel | None:
        """Return what the client should be sent of a kind now, or None."""

    def _may_imply_all(self, channel: Channel) -> bool:
        """Whether a request that names nothing, and is the first to do so, asks for everything."""
        return channel.kind.is_full_state and not (self._node is not None and self._node.names_all)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answered(self, channel: Channel, nonce: str, error: str | None, *, now: float) -> Reaction:
        sent = channel.unanswered
        if sent is None or nonce != sent.nonce:
            return Stale(channel.kind)
        channel.unanswered = None
        kind = channel.kind
        names = sent.subscription.names
        version = sent.target.version(kind, names)
        level = channel.level
        if error is not None:
            words = error[:MAX_WORDS] or "(no words)"
            seen = sent.view.version(kind, names)
            wanted = channel.subscription is not None and any(map(channel.subscription.covers, sent.touched))
            if not (version or seen or wanted):  # removals of what nobody serves and the client wants no more
                return Nacked(kind, version, words)
            # Which of its resources were taken is unknown: all go out again once something has changed, not before.
            # Nothing at all cannot have been refused: where the target has none, what was sent was of the past.
            channel.refused_versions = frozenset((version or seen, seen))
            channel.doubtful |= sent.touched
            # A client that asked for more of a version which it had said yes to, and refuses that, is not in step.
            acked = level.acked if level.acked != version else ""
            channel.level = Level(level.sent, acked, version, words)
            return Nacked(kind, version, words)
        channel.doubtful = frozenset(name for name in channel.doubtful - sent.touched if sent.subscription.covers(name))
        if channel.doubtful:  # something else of the same version was refused before, and still is
            channel.accepted = frozenset(channel.accepted) | (channel.held.keys() - channel.doubtful)
            return Acked(kind, version, now - sent.due_at)
        channel.accepted = channel.held.keys()
        channel.refused_versions = frozenset()
        channel.level = Level(level.sent, level.acked)
        if sent.complete and sent.subscription is channel.subscription:
            channel.idle_in = sent.view
            self._mark_acked(channel, sent.subscription, sent.view, sent.target)
        return Acked(kind, version, now - sent.due_at)

    def _mark_acked(self, channel: Channel, subscription: Subscription, view: Responses, target: Responses) -> None:
        version = target.version(channel.kind, subscription.names)
        if view.version(channel.kind, subscription.names) == version and self._has_all_routes(channel, target):
            channel.level = Level(channel.level.sent or version, version)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _due(
        self, channel: Channel, subscription: Subscription, view: Responses, served: Served, *, now: float
    ) -> Outgoing | None:
        if not channel.owed and self._stays_idle(channel, subscription, view, served.target):
            return None
        if channel.refused and self._is_news(channel, subscription, view, served.target):
            doubtful = (name for name in channel.doubtful if subscription.covers(name))
            channel.held = {**channel.held, **dict.fromkeys(doubtful, "")}
            channel.refused_versions, channel.doubtful = frozenset(), frozenset()
        asked = bool(channel.owed) or not channel.greeted
        parcel = self._compose(channel, view)
        if parcel is None:
            self._mark_level(channel, subscription, view, served.target)
            return None
        response = parcel.response
        if response.number <= channel.last_number:
            response = view.renewed(response)
        if channel.kind is Kind.CDS:
            self._repush_endpoints(channel, view, parcel)
            if any(name not in parcel.held_after for name in channel.accepted):
                channel.accepted = frozenset(name for name in channel.accepted if name in parcel.held_after)
        channel.unanswered = Unanswered(
            nonce=response.nonce,
            view=view,
            target=served.target,
            subscription=subscription,
            touched=parcel.touched,
            complete=not view.change(channel.kind, subscription, parcel.held_after),
            due_at=now if asked else max(served.published_at, self._opened_at),
            sent_at=now,
        )
        if view.change(channel.kind, subscription, channel.held):
            self._mark_behind(channel, subscription, served.target)
        channel.last_number = response.number
        channel.held = parcel.held_after
        channel.idle_in = None
        channel.greeted = True
        channel.level = channel.level._replace(sent=served.target.version(channel.kind, subscription.names))
        return Outgoing(channel.kind, response.data)

    def _is_news(self, channel: Channel, subscription: Subscription, view: Responses, target: Responses) -> bool:
        """Whether *view* may be acceptable to a client that refused one before.

        What only the past had comes into view and goes from it again: that alone makes nothing acceptable.
        """
        kind, names = channel.kind, subscription.names
        return channel.refused_versions.isdisjoint((view.version(kind, names), target.version(kind, names)))

    def _stays_idle(self, channel: Channel, subscription: Subscription, view: Responses, target: Responses) -> bool:
        """Whether the client, to whom nothing was due, is in step with *view* too: most kinds of most changes."""
        idle_in = channel.idle_in
        if idle_in is view:
            return True
        kind, names = channel.kind, subscription.names
        version = view.version(kind, names)
        if idle_in is None or idle_in.version(kind, names) != version or channel.level != (version, version, "", ""):
            return False
        if target.version(kind, names) != version or (kind is Kind.RDS and not self._has_all_routes(channel, target)):
            return False
        channel.idle_in = view
        return True

    def _mark_level(self, channel: Channel, subscription: Subscription, view: Responses, target: Responses) -> None:
        """Nothing can be sent: say that the client is where the target wants it, if it is."""
        if view.change(channel.kind, subscription, channel.held):
            self._mark_behind(channel, subscription, target)
            return  # something waits for another kind's acknowledgement
        channel.idle_in = view
        if channel.refused:
            self._mark_behind(channel, subscription, target)
            return
        channel.held = view.selection(channel.kind, subscription)  # equal, but shared with other streams
        channel.accepted = channel.held.keys()
        channel.level = channel.level._replace(sent=target.version(channel.kind, subscription.names))
        self._mark_acked(channel, subscription, view, target)

    def _resubscribe(self, channel: Channel, wanted: Subscription) -> None:
        """Note what the client wants from now on; to have said yes to a version means nothing of names that are new."""
        before = channel.subscription or Subscription()
        channel.subscription = wanted
        channel.idle_in = None
        if wanted.names - before.names or (wanted.wildcard and not before.wildcard):
            channel.level = channel.level._replace(acked="")
        if any(not wanted.covers(name) for name in channel.held):
            channel.held = {name: version for name, version in channel.held.items() if wanted.covers(name)}
        if any(not wanted.covers(name) for name in channel.accepted):
            channel.accepted = frozenset(name for name in channel.accepted if wanted.covers(name))

    def _mark_behind(self, channel: Channel, subscription: Subscription, target: Responses) -> None:
        """Note that the client lacks something of a version, even if it has said yes to that version before."""
        if channel.level.acked == target.version(channel.kind, subscription.names):
            channel.level = channel.level._replace(acked="")

    def _repush_endpoints(self, channel: Channel, view: Responses, parcel: Parcel) -> None:
        """A changed cluster warms until endpoints come again; an incremental Envoy does not even ask for them."""
        endpoints = self._channels[Kind.EDS]
        if endpoints.subscription is None:
            return
        links = view.snapshot.links.endpoints_of
        changed = (
            name
            for name in parcel.touched
            # What was refused is held in name only: the client may take it now.
            if name in channel.doubtful or channel.held.get(name) != parcel.held_after.get(name)
        )
        names = {links[name] for name in changed if name in links}
        endpoints.owed |= {name for name in names if name in endpoints.held}

    # -- what waits for what -------------------------------------------------------------------------------------------

    def _blocked(self, channel: Channel, view: Responses, names: frozenset[str]) -> frozenset[str]:
        """Return those *names* that lead to clusters which the client has not acknowledged: they must wait."""
        clusters = self._channels[Kind.CDS]
        if channel.kind not in (Kind.LDS, Kind.RDS) or clusters.subscription is None:
            return frozenset()
        covered = clusters.subscription.covers
        accepted = clusters.accepted
        return frozenset(
            name
            for name in names
            if any(
                covered(cluster) and cluster not in accepted
                for cluster in view.snapshot.links.clusters(channel.kind, name)
            )
        )

    def _left_out(self, channel: Channel, view: Responses) -> frozenset[str]:
        """Return the clusters that are only kept for clients which may use them, and that this one does not have.

        They are dropped again a moment later, and until then a client waits for them to be warm.
        """
        served = self._served
        if channel.kind is not Kind.CDS or served is None or view is served.target:
            return frozenset()
        return view.names_beyond(channel.kind, served.target) - channel.held.keys() - channel.owed

    def _needs_past(self) -> bool:
        """Whether the client may have routes to clusters that nobody else serves any more."""
        if self._settled:
            return False
        # An Envoy asks for clusters first; its listeners it names a moment later.
        return self._node is None or self._node.is_envoy or self._channels[Kind.LDS].subscription is not None

    def _has_settled(self, target: Responses) -> bool:
        listeners = self._channels[Kind.LDS]
        routes = self._channels[Kind.RDS]
        if self._channels[Kind.CDS].unanswered is not None:
            return False  # it may be warming clusters of the past, and ask for their endpoints
        if listeners.subscription is None or listeners.unanswered is not None or listeners.refused:
            return False
        if listeners.level.acked != target.version(Kind.LDS, listeners.subscription.names):
            return False
        if routes.unanswered is not None or routes.refused:
            return False
        return self._has_all_routes(routes, target)

    def _has_all_routes(self, channel: Channel, target: Responses) -> bool:
        """Whether the client holds the route configurations of the target's listeners, which it may yet ask for."""
        listeners = self._channels[Kind.LDS]
        if channel.kind is not Kind.RDS or listeners.subscription is None:
            return True
        routes_of = target.snapshot.links.routes_of
        wanted = target.snapshot.resources[Kind.RDS]
        for listener in target.selection(Kind.LDS, listeners.subscription):
            for name in routes_of[listener]:
                if channel.held.get(name) != wanted[name].version:
                    return False
        return True


def identify(node: Any) -> Node:
    """Return who *node*, of a first request, says that the client is.

    Raises:
        ProtocolError: It says nothing usable.
    """
    if not node.id:
        raise ProtocolError("node.id: is empty in the first request; set node.id in the client's bootstrap")
    if len(node.id) > MAX_NODE_ID:
        raise ProtocolError(f"node.id: is longer than {MAX_NODE_ID} characters; shorten it")
    declared = node.metadata.fields[GROUP_KEY].string_value if GROUP_KEY in node.metadata.fields else ""
    return Node(
        id=node.id,
        cluster=node.cluster[:MAX_NODE_ID],
        is_envoy=node.user_agent_name == "envoy",
        group=(declared or node.cluster)[:MAX_NODE_ID],
        user_agent=_user_agent(node)[:MAX_NODE_ID],
    )


def _user_agent(node: Any) -> str:
    build = node.user_agent_build_version.version
    numbers = (build.major_number, build.minor_number, build.patch)
    version = node.user_agent_version or (".".join(map(str, numbers)) if any(numbers) else "")
    return f"{node.user_agent_name} {version}".strip()
