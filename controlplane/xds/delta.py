"""The incremental variant: requests change the subscription, responses carry what changed and what is gone."""

from typing import Any, ClassVar, Literal

from controlplane.xds.channel import Channel, Parcel, held_after
from controlplane.xds.kinds import Kind
from controlplane.xds.responses import NOTHING, Responses, Subscription
from controlplane.xds.session import WILDCARD, Session


class DeltaSession(Session[Any]):
    """A client of DeltaAggregatedResources; requests are `DeltaDiscoveryRequest`."""

    variant: ClassVar[Literal["sotw", "delta"]] = "delta"

    def _subscribe(self, channel: Channel, request: Any, *, opening: bool, answered: bool) -> None:  # noqa: ARG002
        added = frozenset(request.resource_names_subscribe)
        dropped = frozenset(request.resource_names_unsubscribe)
        before = channel.subscription or Subscription()
        implied = opening and not added and not dropped and self._may_imply_all(channel)
        wildcard = (before.wildcard or implied or WILDCARD in added) and WILDCARD not in dropped
        names = (before.names | added) - dropped - {WILDCARD}
        wanted = Subscription(wildcard, names)
        owed = (channel.owed | added) - {WILDCARD}
        if opening:
            versions = request.initial_resource_versions
            channel.held = {name: version for name, version in versions.items() if wanted.covers(name)} or NOTHING
            channel.accepted = channel.held.keys()
            channel.fresh = not versions
            owed -= channel.held.keys()  # it has them; what changed or is gone shows by comparison
        elif wildcard:
            owed |= dropped & before.names  # still covered by the wildcard, so it must hear whether it exists
        channel.owed = frozenset(name for name in owed if wanted.covers(name))
        if opening or wanted != before:
            self._resubscribe(channel, wanted)

    def _compose(self, channel: Channel, view: Responses) -> Parcel | None:
        subscription = channel.subscription or Subscription()
        selection = view.selection(channel.kind, subscription)
        change = view.change(channel.kind, subscription, channel.held)
        asked = frozenset(name for name in channel.owed if name in selection)
        blocked = self._blocked(channel, view, change.send | asked) or self._left_out(channel, view)
        names = (change.send | asked) - blocked
        kept = self._kept(channel, view, change.removed) - channel.owed
        removed = (change.removed - kept) | (channel.owed - selection.keys())
        if len(names) > 1:
            part = view.first_part(channel.kind, names)
            blocked, names = blocked | (names - part), part  # the rest follows when this is answered
        if channel.kind is Kind.SDS:
            # Envoy takes "there is none" for an answer, and a listener without its certificate for ready: it would take
            # the place of the one that runs, and cut off every client. So one that is missing is waited for in silence.
            kept, removed = change.removed, frozenset()
        channel.owed &= blocked
        greets = not channel.greeted and channel.fresh and subscription.wildcard and not selection
        if not names and not removed and not greets:
            return None
        return Parcel(
            view.delta(channel.kind, names, removed), names | removed, held_after(channel, selection, blocked, kept)
        )

    def _kept(self, channel: Channel, view: Responses, removed: frozenset[str]) -> frozenset[str]:
        """Return what the client must not be told to drop yet."""
        if channel.kind.is_full_state and not view.snapshot.resources[channel.kind]:
            return removed  # a server without anything to serve has lost something; its clients have not
        if channel.kind in (Kind.CDS, Kind.EDS) and self._needs_past():
            return removed
        return frozenset()
