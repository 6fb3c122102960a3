"""Pure: who is told of rollouts, in which words, and with which links.

Context: chats, mail and programs are away or slow, and a rollout that goes to and fro could flood them. Choice: the
history is the outbox. What is to be told is in it by the very transaction that made it true; a sorter makes a row per
target of each entry, in the same transaction that moves its place in the history on. Consequence: a kill at any line
loses nothing, and each target has a queue of its own, in which what waits of one rollout is told together.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from controlplane.courier.addresses import host_of, is_webhook
from controlplane.courier.model import cloud_event
from controlplane.errors import InvalidInputError
from controlplane.events.sentences import measured, sentence
from controlplane.notify.kinds import PREFIX, NotifyKind, kind_of, type_of
from controlplane.ports import LoggedEntry
from controlplane.traffic.model import NAME

EVERY: Final = "*"
"""Instead of a service's name: all of them."""
GATE: Final = "gate"
"""The target that stands for the gate webhooks of a service's plans: it holds the secret that they are signed with."""
MAX_TARGETS: Final = 20
"""Of one service, and of all services together."""
MAX_ADDRESS_CHARS: Final = 2_000
MAX_FOLDED: Final = 50
"""Earlier entries that one message names."""
MAX_WORDS: Final = 2_000
TEST: Final = f"{PREFIX}.notification.test"
LINK_FOR: Final = dt.timedelta(hours=24)
"""How long the links of a message can be used, at most: they end with the gate."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is told of what.

    Args:
        service: The service, or `EVERY`.
        name: Its name; `GATE` is special.
        address: An http or https URL, or one of Apprise's; "" for `GATE`.
        kinds: What is told.
        links: Whether messages at gates carry links that approve and reject: whoever reads them may use them.
    """

    service: str
    name: str
    address: str = dataclasses.field(repr=False)
    kinds: frozenset[NotifyKind]
    links: bool = True

    def __post_init__(self) -> None:
        if self.service != EVERY and not NAME.fullmatch(self.service):
            raise InvalidInputError("service", f"{self.service[:40]!r} is no name", f"name a service, or {EVERY}")
        if not NAME.fullmatch(self.name):
            raise InvalidInputError("target", f"{self.name[:40]!r} is no name", "use lower-case letters, digits and -")
        if (self.name == GATE) is bool(self.address):
            fix = f"leave it out: {GATE} stands for what plans name" if self.address else "name a URL"
            raise InvalidInputError("address", "is given" if self.address else "is missing", fix)
        if len(self.address) > MAX_ADDRESS_CHARS:
            raise InvalidInputError(
                "address", f"has {len(self.address)} characters", f"use at most {MAX_ADDRESS_CHARS}"
            )
        if not self.kinds:
            raise InvalidInputError("kinds", "is empty", f"use some of: {', '.join(NotifyKind)}")

    @property
    def key(self) -> str:
        """Its name among all targets."""
        return f"{self.service}/{self.name}"

    @property
    def is_signed(self) -> bool:
        """Whether it has a secret: all but mail and chat."""
        return self.name == GATE or is_webhook(self.address)

    @property
    def host(self) -> str:
        """What may be said of where it leads."""
        return host_of(self.address)

    def wants(self, service: str, kind: NotifyKind) -> bool:
        """Whether it is told of *kind* of *service*."""
        return self.name != GATE and kind in self.kinds and self.service in {EVERY, service}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where this control plane is.

    *cluster* is what messages call it; *url* is where people reach it, without a slash at the end, "" for no links.
    """

    cluster: str = "hueshift"
    url: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """One entry of the history, as messages tell it: made once, and kept as it is."""

    history: int
    kind: NotifyKind
    service: str
    rollout: str
    baseline: str
    candidate: str
    at: dt.datetime
    by: str
    sentence: str
    what: str
    before: str
    after: str
    measured: Mapping[str, Any] | None

    @property
    def event(self) -> str:
        """What tells repetitions."""
        return f"evt_{self.history}"

    @property
    def type(self) -> str:
        """The CloudEvent's type."""
        return type_of(self.kind, of_rollout=bool(self.rollout))

    @property
    def brief(self) -> Mapping[str, Any]:
        """What a later message says of it."""
        return {"id": self.event, "type": self.type, "at": self.at.isoformat(), "sentence": self.sentence}

    def to_json(self) -> dict[str, Any]:
        """Write it down."""
        return {**dataclasses.asdict(self), "kind": self.kind.value, "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Telling":
        """Read it back."""
        return cls(**{**data, "kind": NotifyKind(data["kind"]), "at": dt.datetime.fromisoformat(data["at"])})


def telling_of(logged: LoggedEntry) -> Telling | None:
    """Return what is told of an entry; None for what nobody is told."""
    kind, entry = kind_of(logged), logged.entry
    if kind is None:
        return None
    found = measured(logged.outcome or entry.words)
    return Telling(
        history=entry.number,
        kind=kind,
        service=entry.service,
        rollout=entry.rollout or "",
        baseline=logged.baseline,
        candidate=logged.candidate,
        at=entry.at,
        by=entry.by,
        sentence=sentence(logged)[:MAX_WORDS],
        what=entry.what,
        before=entry.before,
        after=entry.after,
        measured=None if found is None else dataclasses.asdict(found),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The message about *telling*, with what happened *earlier* and was not told yet. The port `courier.model.Letter`.

    *approve* and *reject* are one-time links, "" where there are none.
    """

    telling: Telling
    place: Place
    earlier: Sequence[Telling] = ()
    approve: str = dataclasses.field(default="", repr=False)
    reject: str = dataclasses.field(default="", repr=False)

    @property
    def event(self) -> str:
        """What tells repetitions."""
        return self.telling.event

    @property
    def body(self) -> bytes:
        """The message as a CloudEvent 1.0 in structured mode."""
        told = self.telling
        data = {
            "cluster": self.place.cluster,
            "service": told.service,
            "rollout": told.rollout or None,
            "kind": told.kind.value,
            "baseline": told.baseline or None,
            "candidate": told.candidate or None,
            "sentence": told.sentence,
            "by": told.by,
            "what": told.what,
            "before": told.before,
            "after": told.after,
            "measured": told.measured,
            "page": self._page or None,
            "approve": self.approve or None,
            "reject": self.reject or None,
            "earlier": [each.brief for each in self.earlier[-MAX_FOLDED:]],
            "earlier_count": len(self.earlier),
        }
        source = f"{self.place.url}/v1/services/{told.service}"
        return cloud_event(
            self.event, told.type, source=source, subject=told.rollout or told.service, at=told.at, data=data
        )

    @property
    def title(self) -> str:
        """One line for people."""
        told = self.telling
        version = f"/{told.candidate}" if told.candidate else ""
        return f"{self.place.cluster}/{told.service}{version}: {told.kind.value.replace('_', ' ')}"

    @property
    def text(self) -> str:
        """Some lines for people."""
        told = self.telling
        lines = [told.sentence]
        if told.measured is not None:
            found = told.measured
            odds = f", odds {found['odds']}:1" if found["odds"] else ""
            counted = f"{found['bad']} of {found['total']} requests"
            lines.append(
                f"measured: {found['what']} {found['value']} {found['sign']} {found['bound']} ({counted}{odds})"
            )
        lines.append(f"by {told.by}, {told.at:%Y-%m-%d %H:%M:%S} UTC" + (f", {told.rollout}" if told.rollout else ""))
        if self.earlier:
            lines.append(f"before that, {len(self.earlier)} more:")
            lines += [f"- {each.at:%H:%M:%S} {each.sentence[:200]}" for each in self.earlier[-5:]]
        lines += [f"{what}: {url}" for what, url in self._links if url]
        return "\n".join(lines)

    @property
    def _page(self) -> str:
        if not self.place.url:
            return ""
        return f"{self.place.url}/services/{self.telling.service}"

    @property
    def _links(self) -> Sequence[tuple[str, str]]:
        return ("page", self._page), ("approve", self.approve), ("reject", self.reject)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The message that only shows whether a target is reached. The port `courier.model.Letter`."""

    event: str
    target: Target
    place: Place
    at: dt.datetime
    by: str

    @property
    def body(self) -> bytes:
        """The message as a CloudEvent."""
        data = {"cluster": self.place.cluster, "target": self.target.key, "by": self.by, "sentence": self.text}
        source = f"{self.place.url}/v1/notifications"
        return cloud_event(self.event, TEST, source=source, subject=self.target.key, at=self.at, data=data)

    @property
    def title(self) -> str:
        """One line for people."""
        return f"{self.place.cluster}: Hueshift can reach you"

    @property
    def text(self) -> str:
        """A line for people."""
        return f"{self.by} tests the notification target {self.target.key}."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What one target is to be told now. The port `courier.model.Parcel`.

    *rows* are those of `Delivery` that it settles, the first of which is *number*. *host* is the target's key.
    """

    number: int
    rows: tuple[int, ...]
    host: str
    tries: int
    made_at: dt.datetime
    message: Report
    wants_links: bool
    address: str = dataclasses.field(repr=False)
    secrets: tuple[str, ...] = dataclasses.field(repr=False)

    @property
    def undeliverable(self) -> str:
        """Why no try makes sense any more."""
        if not self.address:
            return "the target has been removed"
        return "the target has no secret to sign with" if is_webhook(self.address) and not self.secrets else ""

    @property
    def known(self) -> Mapping[str, object]:
        """What the log may say of it."""
        return {
            "target": self.host,
            "kind": self.message.telling.kind.value,
            "tries": self.tries,
            "number": self.number,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How far one entry is with one target. *ended_at* is when it was delivered, or else given up."""

    number: int
    service: str
    target: str
    kind: NotifyKind
    rollout: str
    event: str
    sentence: str
    tries: int
    words: str
    delivered: bool
    made_at: dt.datetime
    due_at: dt.datetime
    ended_at: dt.datetime | None
