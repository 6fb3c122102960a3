"""Clients without ADS: one node that talks in several conversations, which make-before-break needs together.

Without ADS, Envoy opens a stream (or polls) per type, and for routes and endpoints per name. Each of them subscribes,
acknowledges and refuses by itself, so each is a session of its own that knows one kind; what one of them may be sent
depends on what the others have acknowledged, so all of one node share a `Household`.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar

from envoy.service.discovery.v3 import discovery_pb2

from controlplane.xds.channel import Acked, Channel, Level, Node, Outgoing, Parcel, Reaction
from controlplane.xds.delta import DeltaSession
from controlplane.xds.fleet import Fleet, Link
from controlplane.xds.household import Household
from controlplane.xds.kinds import Kind, ProtocolError
from controlplane.xds.responses import Held, Responses, Served, Subscription
from controlplane.xds.session import Session, identify
from controlplane.xds.sotw import SotwSession
from controlplane.xds.sources import Source

Wake = Callable[[], None]


class Conversation(Session[Any]):
    """What a session of one kind adds to its variant: it asks its household what it would know by itself on ADS.

    Its *source* is how the client asks, and is to ask for what the resources refer to.

    Args:
        kind: The only type that is talked about.
        clients: Where its household is found, or begins.
        wake: Called when there may be something to take, because of what another conversation heard.
    """

    source: ClassVar[Source]

    def __init__(self, kind: Kind, clients: "Clients", wake: Wake) -> None:
        self._household: Household | None = None
        super().__init__()
        self._kind = kind
        self._wake = wake
        self._clients = clients
        self._channel: Channel = self._channels[kind]
        self._now = 0.0

    # -- what the household asks ---------------------------------------------------------------------------------------

    @property
    def kind(self) -> Kind:
        """The only type that is talked about."""
        return self._kind

    def wake(self) -> None:
        """See soon to what may be sent now, because of what another conversation heard."""
        self._wake()

    @property
    def subscription(self) -> Subscription:
        """What the client wants."""
        return self._channel.subscription or Subscription()

    @property
    def fresh(self) -> bool:
        """Whether the client had nothing when it came."""
        return self._channel.fresh

    @property
    def accepted(self) -> Collection[str]:
        """What the client has said yes to, and was not told to drop since."""
        return self._channel.accepted

    @property
    def held(self) -> Held:
        """What the client has, should it take all that it was sent."""
        return self._channel.held

    @property
    def awaits(self) -> bool:
        """Whether something was sent that has no answer yet."""
        return self._channel.unanswered is not None

    @property
    def refused(self) -> bool:
        """Whether the last answer was a refusal."""
        return self._channel.refused

    @property
    def level(self) -> Level:
        """How far the client is in this conversation."""
        return self._channel.level

    def is_at(self, target: Responses) -> bool:
        """Whether the client has acknowledged all that it wants of *target*."""
        version = target.version(self.kind, self.subscription.names)
        return not self.awaits and not self.refused and self.level.acked == version

    # -- what a session does, with the household in mind ---------------------------------------------------------------

    @property
    def link(self) -> Link | None:
        """The node, as the fleet sees it; None before the first request."""
        return None if self._household is None else self._household.link

    def levels(self) -> Iterator[tuple[Kind, Level]]:
        """Return how far the node is with each kind, in all its conversations together."""
        return iter(()) if self._household is None else self._household.levels()

    def update(self, served: Served) -> None:
        """Serve *served* from now on; the first request must have come."""
        self._serve(served.redirected(self.source))

    def receive(self, request: Any, *, now: float) -> Reaction:
        """Take in a request; its type may be left out, since the conversation has only one.

        Raises:
            ProtocolError: The client broke the protocol; end the stream.
        """
        if request.type_url not in ("", self.kind.type_url):
            raise ProtocolError(
                f"type_url: {request.type_url[:200]} is not served here; leave it out or name {self.kind.type_url}"
            )
        request.type_url = self.kind.type_url
        self._now = now
        begun = self._household is not None
        reaction = super().receive(request, now=now) if begun else self._enter(request, now=now)
        if isinstance(reaction, Acked):
            self._joined().acked(self, now=now)
        return reaction

    def take(self, *, now: float) -> Outgoing | None:
        """Return the next message to write, or None; call again after writing. It counts as sent."""
        self._now = now
        return super().take(now=now)

    def leave(self) -> None:
        """Note that the conversation is over."""
        if self._household is not None:
            self._clients.leave(self, self._household)

    def _enter(self, request: Any, *, now: float) -> Reaction:
        household = self._clients.enter(self, identify(request.node), starts=self._starts(request), now=now)
        self._household = household
        settled = household.settled
        reaction = super().receive(request, now=now)
        # A client that asks for clusters and has none has nothing at all; of other kinds that does not follow.
        household.settled = settled or (self.kind is Kind.CDS and self.fresh and len(household) == 1)
        household.opened(self, now=now)
        return reaction

    def _starts(self, request: Any) -> bool:
        """Whether *request* is that of a client which has just started."""
        return self.kind is Kind.CDS and not _has_something(request)

    def _serve(self, served: Served) -> None:
        household = self._joined()
        if household.target is not served.target:
            # The first offer leaves a client settled that came with nothing.
            household.settled = household.settled and household.target is None
            household.target = served.target
        self._served = served

    def _joined(self) -> Household:
        if self._household is None:
            raise ProtocolError("the conversation has not begun; send a first request")
        return self._household

    @property
    def _settled(self) -> bool:
        return self._household is not None and self._household.settled

    @_settled.setter
    def _settled(self, settled: bool) -> None:
        if self._household is None:
            return
        if settled and not self._household.settled:
            self._household.settle()
        self._household.settled = settled

    def _needs_past(self) -> bool:
        return self._household is None or self._household.needs_past()

    def _has_settled(self, target: Responses) -> bool:  # noqa: ARG002 - the household has the same one
        return self._household is not None and self._household.has_settled()

    def _has_all_routes(self, channel: Channel, target: Responses) -> bool:  # noqa: ARG002 - said of all together
        return True

    def _blocked(self, channel: Channel, view: Responses, names: frozenset[str]) -> frozenset[str]:
        return self._joined().blocked(channel.kind, view, names, now=self._now)

    def _repush_endpoints(self, channel: Channel, view: Responses, parcel: Parcel) -> None:
        """Do nothing: for a changed cluster Envoy opens a new conversation about its endpoints."""


class SotwConversation(Conversation, SotwSession):
    """A stream of one type, state of the world."""

    source = Source.SOTW


class DeltaConversation(Conversation, DeltaSession):
    """A stream of one type, incremental."""

    source = Source.DELTA


class Clients:
    """The households of a process, by node and variant.

    Args:
        fleet: Told who comes and goes.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._households: dict[tuple[str, Source], Household] = {}

    def enter(self, member: Conversation, node: Node, *, starts: bool, now: float) -> Household:
        """Return the household that *member* joins. A client that *starts* has nothing to do with one before it."""
        key = (node.id, member.source)
        household = self._households.get(key)
        if household is None or (starts and household.newest(Kind.CDS) is not None):
            household = Household(node, self._fleet.connected(node, variant=member.source.value), now=now)
            self._households[key] = household
        household.enter(member)
        return household

    def leave(self, member: Conversation, household: Household) -> None:
        """Forget *member*, and with the last one its household."""
        household.leave(member)
        if not household:
            key = (household.node.id, member.source)
            if self._households.get(key) is household:
                del self._households[key]
            self._fleet.disconnected(household.link)

    def wake_due(self, now: float) -> None:
        """Wake the conversations that waited for time to pass."""
        for household in tuple(self._households.values()):
            household.wake_due(now)


def _has_something(request: Any) -> bool:
    """Whether the client had resources before this, its first request."""
    if isinstance(request, discovery_pb2.DeltaDiscoveryRequest):
        return bool(request.initial_resource_versions)
    return bool(request.version_info)
