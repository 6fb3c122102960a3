"""What messages need from the outside: rows. They pass a suite in tests/contract."""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Protocol

from controlplane.courier.loop import Outcome
from controlplane.notify.links import Link
from controlplane.notify.model import Delivery, Parcel, Target
from controlplane.ports import Change, Rollout


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What applying a target did; *fresh* says that the secret offered for one without any was taken."""

    changed: bool
    fresh: bool


class NotifyStore(Protocol):
    """Targets, and what they are told: a row per target and entry of the history."""

    async def apply_target(self, target: Target, change: Change, *, secret: str | None, spare: str) -> Applied:
        """Make *target* what its name means. It is told what happens from now on.

        Args:
            target: What is meant.
            change: Who does it and when; the audit tells it.
            secret: The one to sign with from now on; None keeps the one there is.
            spare: Taken where there is none and none is given.

        Raises:
            ConflictError: There are too many of the service.
        """

    async def renew_target_secret(self, service: str, name: str, change: Change, *, secret: str) -> None:
        """Sign with *secret* from now on, and for `OLD_SECRET_FOR` with the one before, too.

        Raises:
            NotFoundError: There is no such target.
            ConflictError: It is not signed.
        """

    async def list_targets(self) -> tuple[Target, ...]:
        """Return all targets, by service and name."""

    async def load_target_secrets(self, service: str, name: str, *, now: dt.datetime) -> tuple[str, ...]:
        """Return what a target is signed with now; nothing where it is not, or not there."""

    async def delete_target(self, service: str, name: str, change: Change) -> None:
        """Forget a target and all that it was told. Raises NotFoundError."""

    async def sort_history(self, *, limit: int, now: dt.datetime) -> int:
        """Make rows of the next *limit* entries of the history for those who want them; return how many entries.

        The place in the history moves on in the same transaction. The first call of all begins at its end.
        """

    async def take_messages(
        self, *, until: dt.datetime, now: dt.datetime, room: Mapping[str, int], each: int, limit: int
    ) -> tuple[Parcel, ...]:
        """Do what `Outbox.take_notices` does: of each target and rollout in order, what waited together."""

    async def settle_message(self, message: Parcel, outcome: Outcome, *, now: dt.datetime) -> bool:
        """Do what `Outbox.settle_notice` does, for all that *message* told."""

    async def list_deliveries(
        self, service: str, name: str, *, before: int | None = None, limit: int
    ) -> tuple[Delivery, ...]:
        """Return what a target was or is to be told, newest first. Raises NotFoundError."""

    async def replay_delivery(self, service: str, name: str, number: int, *, now: dt.datetime) -> None:
        """Tell it again, however often it was.

        Raises:
            NotFoundError: The target was never to be told so.
        """

    async def prune_deliveries(self, before: dt.datetime, *, limit: int) -> int:
        """Delete up to *limit* rows that ended before, and links that expired before; return how many rows."""

    async def keep_links(self, links: Sequence[Link]) -> bool:
        """Keep links if the rollout still stands at their gate; return whether it does."""

    async def load_link(self, digest: str) -> tuple[Link, Rollout]:
        """Return a link and its rollout. Raises NotFoundError, which does not repeat the digest."""

    async def use_link(self, digest: str, *, why: str, now: dt.datetime) -> Link:
        """Use a link up, with all others of its gate, and have the rollout do what it says, in one transaction.

        Raises:
            NotFoundError: There is no such link.
            DeadLinkError: It opens nothing now.
        """
