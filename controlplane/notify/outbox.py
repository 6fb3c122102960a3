"""The outbox of messages for the courier, with links put into those of gates, and the loop that fills it."""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.courier.loop import Outcome
from controlplane.errors import ControlPlaneError
from controlplane.notify.kinds import NotifyKind
from controlplane.notify.links import PATH, Link, LinkAction, digest_of, gate_of, new_token
from controlplane.notify.model import LINK_FOR, Parcel, Place
from controlplane.notify.ports import NotifyStore
from controlplane.ports import RolloutId, RolloutStore
from controlplane.wake import Wake

log = structlog.get_logger()

BATCH: Final = 200
KEEP: Final = dt.timedelta(days=30)
"""How long what was told stays readable."""
PRUNE_EVERY: Final = dt.timedelta(minutes=10)
PRUNE_LIMIT: Final = 1_000


@dataclasses.dataclass(slots=True, kw_only=True)
class Messages:
    """The port `courier.loop.Outbox` on the store's rows; *place* is what messages say of this control plane.

    Links are made anew at each try, since only their digests are kept: those of an earlier try, which may have been
    heard, stay good, and the first that is used ends all of them.
    """

    store: NotifyStore
    rollouts: RolloutStore
    place: Place

    async def take_notices(
        self, *, until: dt.datetime, now: dt.datetime, room: Mapping[str, int], each: int, limit: int
    ) -> tuple[Parcel, ...]:
        taken = await self.store.take_messages(until=until, now=now, room=room, each=each, limit=limit)
        return tuple([await self._completed(parcel, now) for parcel in taken])

    async def settle_notice(self, notice: Parcel, outcome: Outcome, *, now: dt.datetime) -> bool:
        return await self.store.settle_message(notice, outcome, now=now)

    async def _completed(self, parcel: Parcel, now: dt.datetime) -> Parcel:
        report = dataclasses.replace(parcel.message, place=self.place)
        told = report.telling
        if told.kind is NotifyKind.GATE and self.place.url and parcel.wants_links:
            tokens = await self._links(parcel, now)
            if tokens:
                approve, reject = (f"{self.place.url}{PATH}{token}" for token in tokens)
                report = dataclasses.replace(report, approve=approve, reject=reject)
        return dataclasses.replace(parcel, message=report)

    async def _links(self, parcel: Parcel, now: dt.datetime) -> tuple[str, ...]:
        """Make the two links of a message; none where the gate is over."""
        told = parcel.message.telling
        gate = gate_of(await self.rollouts.load(RolloutId(told.rollout)))
        if gate is None or gate.since != told.at:
            return ()
        tokens = tuple(new_token() for _ in LinkAction)
        links = [
            Link(
                digest=digest_of(token),
                target=parcel.host,
                service=told.service,
                rollout=told.rollout,
                step=gate.step,
                since=gate.since,
                action=action,
                expires_at=now + LINK_FOR,
            )
            for token, action in zip(tokens, LinkAction, strict=True)
        ]
        return tokens if await self.store.keep_links(links) else ()


@dataclasses.dataclass(slots=True, kw_only=True)
class Sorter:
    """Moves along the history and makes rows for those who want to be told. Several may run at once."""

    store: NotifyStore
    clock: Clock
    wake: Wake
    outgoing: Wake
    interval: dt.timedelta
    _prunes_at: float = -1.0

    async def run(self) -> None:
        """Sort what is new, at every wake-up and every *interval*, until cancelled."""
        while True:
            try:
                await self.turn()
            except ControlPlaneError as exc:
                log.warning("notifications.not_sorted", error=str(exc))
            except Exception:  # a bug in one turn must not end the others; the next begins where the last one ended
                log.exception("notifications.sorting_crashed")
            await self.wake.wait(self.interval)

    async def turn(self) -> None:
        """Sort all that is new, and forget what is old."""
        while await self.store.sort_history(limit=BATCH, now=self.clock.now()) == BATCH:
            self.outgoing.set()
        self.outgoing.set()
        if self.clock.steady() >= self._prunes_at:
            self._prunes_at = self.clock.steady() + PRUNE_EVERY.total_seconds()
            await self.store.prune_deliveries(self.clock.now() - KEEP, limit=PRUNE_LIMIT)
