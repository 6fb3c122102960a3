"""The ways to tell somebody something, one port for all of them."""

import dataclasses
import datetime as dt
from collections.abc import Collection
from typing import Protocol

from controlplane.courier.addresses import is_webhook
from controlplane.courier.model import Heard, Letter, Unheard
from controlplane.errors import InvalidInputError


class Sender(Protocol):
    """Brings messages to the addresses of some schemes."""

    def check(self, address: str) -> None:
        """Refuse an address that will never do, without asking anybody. Raises InvalidInputError."""

    async def send(
        self, address: str, message: Letter, *, secrets: Collection[str], now: dt.datetime
    ) -> Heard | Unheard:
        """Send once, within a bounded time. What goes wrong is an outcome, not an error, and names no secret."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Senders:
    """Webhooks are sent by one sender, all else by another."""

    webhooks: Sender
    others: Sender

    def of(self, address: str) -> Sender:
        """Return whose *address* is."""
        return self.webhooks if is_webhook(address) else self.others


@dataclasses.dataclass(frozen=True, slots=True)
class NoSender:
    """The port `Sender` where mail and chat are not sent. *setting* names the one that allows them."""

    setting: str = "HUESHIFT_CALLBACK_SERVICES"

    def check(self, address: str) -> None:
        del address
        raise InvalidInputError(
            "address", "is no http or https URL, and no other is used here", f"have {self.setting} name it"
        )

    async def send(
        self, address: str, message: Letter, *, secrets: Collection[str], now: dt.datetime
    ) -> Heard | Unheard:
        del address, message, secrets, now
        return Unheard("mail and chat are not sent from here")
