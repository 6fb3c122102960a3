"""The state-of-the-world variant: a request lists all names, a response of a full-state kind all resources."""

from typing import Any, ClassVar, Literal

from controlplane.xds.channel import Channel, Parcel, held_after
from controlplane.xds.kinds import Kind
from controlplane.xds.responses import Responses, Subscription
from controlplane.xds.session import WILDCARD, Session


class SotwSession(Session[Any]):
    """A client of StreamAggregatedResources; requests are `DiscoveryRequest`."""

    variant: ClassVar[Literal["sotw", "delta"]] = "sotw"

    def __init__(self) -> None:
        super().__init__()
        self._named: set[Kind] = set()

    def _subscribe(self, channel: Channel, request: Any, *, opening: bool, answered: bool) -> None:
        listed = frozenset(request.resource_names)
        if listed:
            self._named.add(channel.kind)
        # Empty means everything only to a client that has never named anything on this stream; later it means nothing.
        implied = not listed and channel.kind not in self._named and self._may_imply_all(channel)
        wanted = Subscription(implied or WILDCARD in listed, listed - {WILDCARD})
        if opening:
            channel.fresh = not request.version_info
            channel.subscription = wanted
            return
        if wanted == channel.subscription:
            # The same names under an old nonce are no answer but a question: Envoy asks for endpoints again when it
            # warms a changed cluster, and waits.
            repeated = request.response_nonce in ("", f"{channel.last_number:x}")
            if repeated and not answered and channel.unanswered is None and not channel.kind.is_full_state:
                channel.owed |= wanted.names
            return
        channel.subscription = wanted
        channel.idle_in = None
        channel.owed = frozenset(name for name in channel.owed if wanted.covers(name))
        if any(not wanted.covers(name) for name in channel.held):
            channel.held = {name: version for name, version in channel.held.items() if wanted.covers(name)}

    def _compose(self, channel: Channel, view: Responses) -> Parcel | None:
        subscription = channel.subscription or Subscription()
        selection = view.selection(channel.kind, subscription)
        change = view.change(channel.kind, subscription, channel.held)
        if channel.kind.is_full_state:
            channel.owed = frozenset()
            # An empty answer deletes everything, so only a client that has nothing is told that there is nothing.
            greets = not channel.greeted and channel.fresh and subscription.wildcard
            if not (change or greets) or self._blocked(channel, view, change.send):
                return None
            names = frozenset(selection)
            return Parcel(view.sotw(channel.kind, names), names | change.removed, selection)
        asked = frozenset(name for name in channel.owed if name in selection)
        blocked = self._blocked(channel, view, change.send)
        channel.owed &= blocked
        names = (change.send | asked) - blocked
        if not names:
            if change.removed:  # cannot be said; should it come back, it is new
                channel.held = {name: version for name, version in channel.held.items() if name in selection}
            return None
        return Parcel(view.sotw(channel.kind, names), names, held_after(channel, selection, blocked))
