"""Tells others what happened: takes notices out of an outbox as there is room, sends them, notes what came of it.

The order of things makes a kill at any line harmless: a notice is taken for a while (its row becomes due again), sent,
and then settled, by a write that counts only if nobody has taken it since. So it is sent at least once.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import random
from collections.abc import Callable, Collection, Mapping
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import structlog

from controlplane.clock import Clock
from controlplane.courier.model import GivenUp, Heard, Later, Parcel, Unheard, after_try
from controlplane.courier.senders import Senders
from controlplane.errors import ControlPlaneError
from controlplane.wake import Wake

log = structlog.get_logger()

Sent = TypeVar("Sent", bound=Parcel)
Outcome: TypeAlias = Heard | Later | GivenUp

BACK_OFF: Final = dt.timedelta(seconds=1)
TAKEN_FOR: Final = dt.timedelta(seconds=45)
"""Longer than any sender takes."""
SLOTS: Final = 64
HOST_SLOTS: Final = 4
TROUBLED_SLOTS: Final = 32
"""What all hosts that did not take their last notice may use together: they never block those that do."""
MAX_TROUBLED: Final = 1_000


class Outbox(Protocol[Sent]):
    """Notices that wait to be told."""

    async def take_notices(
        self, *, until: dt.datetime, now: dt.datetime, room: Mapping[str, int], each: int, limit: int
    ) -> tuple[Sent, ...]:
        """Take up to *limit* notices that are due, oldest first; nobody else gets them before *until*.

        Args:
            until: When whoever took them must have died.
            now: The present moment.
            room: How many may be taken for these hosts.
            each: How many for every other.
            limit: How many at all.
        """

    async def settle_notice(self, notice: Sent, outcome: Outcome, *, now: dt.datetime) -> bool:
        """Write down what became of a notice. False when somebody else has taken it since; then nothing has changed."""


def _ignore(notice: Parcel, outcome: Outcome) -> None:
    """Count nothing."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Courier(Generic[Sent]):
    """Delivers notices, up to `SLOTS` at once and *host_slots* to a host. Several may run at once.

    *ended* hears of what came of each try.
    """

    store: Outbox[Sent]
    senders: Senders
    clock: Clock
    wake: Wake
    interval: dt.timedelta
    patience: dt.timedelta
    luck: Callable[[], float] = random.random
    host_slots: int = HOST_SLOTS
    ended: Callable[[Sent, Outcome], None] = _ignore
    _running: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    _troubled: set[str] = dataclasses.field(default_factory=set)

    async def run(self) -> None:
        """Take notices and send them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                taken = await self._take()
                for notice in taken:
                    self._running[notice.host] += 1
                    tasks.create_task(self._send_one(notice), name=f"notice-{notice.number}")
                if not taken:
                    await self.wake.wait(self.interval)

    async def _take(self) -> tuple[Sent, ...]:
        free = SLOTS - self._running.total()
        if free <= 0:
            return ()
        healthy, troubled = rooms(self._running, self._troubled, each=self.host_slots)
        left = TROUBLED_SLOTS - sum(self._running[host] for host in self._troubled)
        now = self.clock.now()
        until = now + TAKEN_FOR
        try:
            taken = await self.store.take_notices(until=until, now=now, room=healthy, each=self.host_slots, limit=free)
            left = min(left, free - len(taken))
            if troubled and left > 0:
                taken += await self.store.take_notices(until=until, now=now, room=troubled, each=0, limit=left)
        except ControlPlaneError as exc:
            log.warning("notices.not_taken", error=str(exc))
            await self.clock.sleep(BACK_OFF)
            return ()
        return taken

    async def _send_one(self, notice: Sent) -> None:
        try:
            await self.deliver(notice)
        except ControlPlaneError as exc:
            log.warning("notice.left", **notice.known, error=str(exc))
        except Exception:  # a bug that one notice meets must not stop the others
            log.exception("notice.crashed", **notice.known)
        finally:
            self._running[notice.host] -= 1
            if not self._running[notice.host]:
                del self._running[notice.host]
            self.wake.set()

    async def deliver(self, notice: Sent) -> None:
        """Send one notice and write down what came of it.

        Raises:
            ControlPlaneError: The database does not answer: the notice comes again.
        """
        outcome = await self._try(notice)
        now = self.clock.now()
        settled: Outcome
        if isinstance(outcome, Unheard):
            settled = after_try(notice, outcome, patience=self.patience, now=now, luck=self.luck())
        else:
            settled = outcome
        known = notice.known
        if not await self.store.settle_notice(notice, settled, now=now):
            log.info("notice.taken_by_others", **known)
            return
        self.ended(notice, settled)
        match settled:
            case Heard():
                self._troubled.discard(notice.host)
                log.info("notice.delivered", **known)
            case Later(words):
                self._mark(notice.host)
                log.info("notice.waits_again", because=words, **known)
            case GivenUp(words):
                self._mark(notice.host)
                log.warning("notice.given_up", because=words, **known)

    async def _try(self, notice: Sent) -> Heard | Unheard:
        if notice.undeliverable:
            return Unheard(notice.undeliverable, gone=True)
        sender = self.senders.of(notice.address)
        return await sender.send(notice.address, notice.message, secrets=notice.secrets, now=self.clock.now())

    def _mark(self, host: str) -> None:
        if len(self._troubled) >= MAX_TROUBLED:
            self._troubled.clear()
        self._troubled.add(host)


def rooms(
    running: Mapping[str, int], troubled: Collection[str], *, each: int = HOST_SLOTS
) -> tuple[dict[str, int], dict[str, int]]:
    """Say how many more notices may be sent to hosts that may not be sent *each*.

    A host that did not take its last notice is asked apart from the others, and for one at a time.

    Returns:
        For hosts that are well, and 0 for those in trouble; for hosts in trouble.
    """
    healthy = {host: each - count for host, count in running.items()} | dict.fromkeys(troubled, 0)
    return healthy, {host: 1 for host in troubled if not running.get(host)}
