"""What a session is made of: one channel per kind, the answers that clients give, and what is sent to them."""

import dataclasses
from collections.abc import Collection
from typing import Final, NamedTuple, TypeAlias

from controlplane.xds.kinds import Kind
from controlplane.xds.responses import NOTHING, Held, Response, Responses, Subscription


@dataclasses.dataclass(frozen=True, slots=True)
class Subscribed:
    """The client said what it wants, and nothing about what it got."""

    kind: Kind


@dataclasses.dataclass(frozen=True, slots=True)
class Acked:
    """The client runs what was sent. *waited_s* is how long that took from when it was due."""

    kind: Kind
    version: str
    waited_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Nacked:
    """The client refused what was sent, in its own *words*."""

    kind: Kind
    version: str
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stale:
    """The client answered a response that has been followed by another; only its subscription counts."""

    kind: Kind


@dataclasses.dataclass(frozen=True, slots=True)
class Ignored:
    """The client asked for a type that is not served."""

    type_url: str


Reaction: TypeAlias = Subscribed | Acked | Nacked | Stale | Ignored


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """Who the client says it is: its *group* decides what it is served, see `controlplane.traffic.groups`."""

    id: str
    cluster: str
    is_envoy: bool
    group: str = ""
    user_agent: str = ""

    @property
    def names_all(self) -> bool:
        """Whether the client is gRPC, which names all that it wants: when it names nothing, it wants nothing.

        After a reconnect some of them say so in a first request, where it would mean everything (grpc-go#7013).
        """
        return self.user_agent.startswith("gRPC")


class Level(NamedTuple):
    """How far a client is with one kind, in versions of targets: what the rows and `hueshift proxies` show."""

    sent: str = ""
    acked: str = ""
    nacked: str = ""
    words: str = ""


UNKNOWN: Final = Level()


class Unanswered(NamedTuple):
    """A response on its way. *touched* are the resources in it; *complete* says that nothing of *view* was left out."""

    nonce: str
    view: Responses
    target: Responses
    subscription: Subscription
    touched: frozenset[str]
    complete: bool
    due_at: float
    sent_at: float


class Parcel(NamedTuple):
    """What a variant wants to send of one kind. *held_after* is what the client has once it took it."""

    response: Response
    touched: frozenset[str]
    held_after: Held


@dataclasses.dataclass(slots=True)
class Channel:
    """One kind on one stream.

    A client that is not *fresh* had something before this stream; a state-of-the-world one *claimed* its version.
    *held* is what the client has, should it take all that was sent; *accepted* the names it has said yes to and was
    not told to drop since; *owed* what it must be sent even at a version that it holds. After a NACK the resources it
    was about are *doubtful* until neither view nor target has one of *refused_versions*. The view *idle_in* owes
    it nothing.
    """

    kind: Kind
    subscription: Subscription | None = None
    fresh: bool = True
    claimed: str = ""
    greeted: bool = False
    held: Held = dataclasses.field(default_factory=lambda: NOTHING)
    accepted: Collection[str] = ()
    owed: frozenset[str] = frozenset()
    unanswered: Unanswered | None = None
    last_number: int = 0
    refused_versions: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    idle_in: Responses | None = None
    level: Level = UNKNOWN

    @property
    def refused(self) -> bool:
        """Whether the last answer was a NACK."""
        return bool(self.refused_versions)


class Outgoing(NamedTuple):
    """Bytes to write to the stream now."""

    kind: Kind
    data: bytes


def held_after(channel: Channel, selection: Held, blocked: frozenset[str], kept: frozenset[str] = frozenset()) -> Held:
    """Return what the client has once it took *selection* but for what is *blocked*, and dropped nothing of *kept*."""
    if not blocked and not kept:
        return selection
    held = {name: version for name, version in selection.items() if name not in blocked}
    held.update((name, channel.held[name]) for name in blocked | kept if name in channel.held)
    return held
