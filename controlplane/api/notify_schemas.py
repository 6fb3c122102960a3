"""What goes over the wire about messages: a target's document, and answers that tell no secret but a new one."""

import datetime as dt

from pydantic import Field

from controlplane.api.answering import Page, View
from controlplane.api.schemas import Document
from controlplane.courier.addresses import shown
from controlplane.errors import InvalidInputError
from controlplane.notify.kinds import NotifyKind
from controlplane.notify.model import Delivery, Target

ALL_KINDS = tuple(kind.value for kind in NotifyKind)


class TargetDocument(Document):
    """Who is told: *address* is an http or https URL, or one of Apprise's (``mailto://…``, ``slack://…``).

    The target ``gate`` has none: it stands for the webhooks that plans name as gates. *secret* signs webhooks,
    ``whsec_`` and base64; without one it is made, and answered this once. *links*: messages at gates carry one-time
    links that approve and reject; whoever reads them may use them.
    """

    address: str = ""
    kinds: list[str] = Field(default_factory=lambda: list(ALL_KINDS))
    links: bool = True
    secret: str | None = None

    def target(self, service: str, name: str) -> Target:
        """Return it as the core knows it. Raises InvalidInputError."""
        for kind in self.kinds:
            if kind not in ALL_KINDS:
                raise InvalidInputError("kinds", f"{kind[:40]!r} is not known", f"use some of: {', '.join(ALL_KINDS)}")
        kinds = frozenset(NotifyKind(kind) for kind in self.kinds)
        return Target(service=service, name=name, address=self.address, kinds=kinds, links=self.links)


class TargetView(View):
    """A target: what of its address is no secret, and what it is told."""

    service: str
    target: str
    address: str
    kinds: list[str]
    links: bool
    signed: bool


class TargetPage(Page[TargetView]):
    """Targets, by service and name."""


def target_view(target: Target) -> TargetView:
    """Show a target."""
    return TargetView(
        service=target.service,
        target=target.name,
        address=shown(target.address),
        kinds=[kind.value for kind in NotifyKind if kind in target.kinds],
        links=target.links,
        signed=target.is_signed,
    )


class TargetAppliedView(View):
    """What applying a target did. *secret* is there once, when it was made."""

    service: str
    target: str
    changed: bool
    secret: str | None
    words: str


class TargetSecretView(View):
    """A new secret; the one before signs, too, for a day."""

    service: str
    target: str
    secret: str


class TargetTestView(View):
    """What came of a test."""

    target: str
    delivered: bool
    words: str


class DeliveryView(View):
    """One thing that happened, and how far its target was told of it; *next_at* is when it is tried again."""

    number: int
    kind: str
    rollout: str
    event: str
    sentence: str
    delivered: bool
    tries: int
    words: str
    made_at: dt.datetime
    next_at: dt.datetime | None
    ended_at: dt.datetime | None


class DeliveryPage(Page[DeliveryView]):
    """What a target was or is to be told, newest first."""


def delivery_view(delivery: Delivery) -> DeliveryView:
    """Show a delivery."""
    return DeliveryView(
        number=delivery.number,
        kind=delivery.kind.value,
        rollout=delivery.rollout,
        event=delivery.event,
        sentence=delivery.sentence,
        delivered=delivery.delivered,
        tries=delivery.tries,
        words=delivery.words,
        made_at=delivery.made_at,
        next_at=delivery.due_at if delivery.ended_at is None else None,
        ended_at=delivery.ended_at,
    )
