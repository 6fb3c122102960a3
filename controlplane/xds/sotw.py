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
            channel.claimed = request.version_info
            channel.subscription = wanted
            return
        if wanted == channel.subscription:
            # The same names under an old nonce are no answer but a question: Envoy asks for endpoints again when it
            # warms a changed cluster, and waits.
            repeated = request.response_nonce in ("", f"{channel.last_number:x}")
            if repeated and not answered and channel.unanswered is None and not channel.kind.is_full_state:
                channel.owed |= wanted.names
            return
        channel.owed = frozenset(name for name in channel.owed if wanted.covers(name))
        self._resubscribe(channel, wanted)

    def _left_out(self, channel: Channel, view: Responses) -> frozenset[str]:
        if channel.greeted or channel.fresh:
            return super()._left_out(channel, view)
        # What a client has that comes back is known only if it has the newest; else it is sent all that it may have.
        known = self._served is not None and channel.claimed == self._served.target.version(channel.kind)
        return super()._left_out(channel, view) if known else frozenset()

    def _compose(self, channel: Channel, view: Responses) -> Parcel | None:
        subscription = channel.subscription or Subscription()
        selection = view.selection(channel.kind, subscription)
        change = view.change(channel.kind, subscription, channel.held)
        if channel.kind.is_full_state:
            channel.owed = frozenset()
            # An empty answer deletes everything, so a client of everything is told that there is nothing only if it has
            # nothing. One that names some may have what is gone, which only the absence from an answer tells it.
            there_are = bool(view.version(channel.kind, subscription.names))
            greets = not channel.greeted and (subscription.wildcard if channel.fresh else there_are)
            left_out = self._left_out(channel, view)
            send = change.send - left_out
            if not (send or change.removed or greets) or self._blocked(channel, view, send):
                return None
            if channel.refused and not send:
                return None  # a removal alone would say again what was refused
            names = frozenset(selection) - left_out
            return Parcel(
                view.sotw(channel.kind, names), names | change.removed, held_after(channel, selection, left_out)
            )
        asked = frozenset(name for name in channel.owed if name in selection)
        refused = asked & channel.doubtful  # an older version of it may be accepted
        blocked = self._blocked(channel, view, change.send | asked.difference(channel.accepted) | refused)
        channel.owed &= blocked
        names = (change.send | asked) - blocked
        if not names:
            if change.removed:  # cannot be said; should it come back, it is new
                channel.held = {name: version for name, version in channel.held.items() if name in selection}
            return None
        return Parcel(view.sotw(channel.kind, names), names, held_after(channel, selection, blocked))
