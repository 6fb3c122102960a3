"""What a snapshot says to whom, worked out and serialised once and shared by every stream that is in the same place.

Streams that hold the same resources under the same subscription ask the same questions, so the answers are kept by
(kind, subscription, what the stream holds) and the bytes by (kind, resources). Nothing here belongs to one stream.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any

from controlplane.xds.kinds import Kind
from controlplane.xds.snapshot import Resource, Snapshot
from controlplane.xds.sources import Source, redirect

Held = Mapping[str, str]
"""Which version of which resource a client has; "" for a version that nobody knows."""


class SharedHeld(dict[str, str]):
    """A `Held` that many streams share, and that nobody changes: answers to it are worth keeping."""

    __slots__ = ()


NOTHING: Final[Held] = SharedHeld()

MAX_REMEMBERED: Final = 4096
"""Entries per cache of a snapshot. A client with odd subscriptions empties it, and costs work instead of memory."""

MAX_PART_BYTES: Final = 1024 * 1024
"""Resources in one incremental response, which can be split as others cannot: gRPC clients take 4 MiB by default."""

_NONCE_TAG: Final = b"\x2a"
"""Field 5, length-delimited: the nonce in a response of either variant. Fields may stand in any order."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Subscription(NamedTuple):
    """What a client wants of one kind: everything, some names, or both."""

    wildcard: bool = False
    names: frozenset[str] = frozenset()

    def covers(self, name: str) -> bool:
        """Whether the client wants the resource called *name*, if that is not one which is sent by name only."""
        return self.wildcard or name in self.names


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What separates a client from a snapshot: what it lacks or has in another version, and what it has to drop."""

    send: frozenset[str]
    removed: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.send or self.removed)


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """A serialised response, for any number of streams: *data* is *body* with the nonce of *number* added."""

    body: bytes = dataclasses.field(repr=False)
    number: int
    data: bytes = dataclasses.field(repr=False)

    @property
    def nonce(self) -> str:
        """What the client answers with."""
        return f"{self.number:x}"


class Responses:
    """A snapshot as streams see it.

    Args:
        snapshot: What is served.
        identifier: Whom Envoy's ``control_plane.identifier`` names.
        nonces: Shared by all snapshots of a process, so that two responses never have the same nonce by chance.
    """

    def __init__(self, snapshot: Snapshot, *, identifier: str, nonces: Iterator[int]) -> None:
        self.snapshot = snapshot
        self._identifier = identifier
        self._nonces = nonces
        self._wildcards: dict[Kind, Held] = {
            kind: SharedHeld(
                (name, resource.version) for name, resource in snapshot.resources[kind].items() if not resource.by_name
            )
            for kind in Kind
        }
        self._by_name: dict[Kind, frozenset[str]] = {
            kind: frozenset(snapshot.resources[kind].keys() - self._wildcards[kind].keys()) for kind in Kind
        }
        self._parts: dict[tuple[Kind, frozenset[str]], frozenset[str]] = {}
        self._beyond: dict[Kind, frozenset[str]] = {}
        self._selections: dict[tuple[Kind, Subscription], Held] = {}
        self._changes: dict[tuple[Kind, Subscription, int], tuple[Held, Change]] = {}
        self._responses: dict[tuple[Kind, frozenset[str], frozenset[str] | None], Response] = {}
        self._json: dict[tuple[Kind, frozenset[str], str], bytes] = {}
        self._redirected: dict[Source, Responses] = {}

    def redirected(self, source: Source) -> "Responses":
        """Return the same for clients without ADS that ask as *source* says."""
        found = self._redirected.get(source)
        if found is None:
            found = Responses(redirect(self.snapshot, source), identifier=self._identifier, nonces=self._nonces)
            self._redirected[source] = found
        return found

    def version(self, kind: Kind, names: frozenset[str] = frozenset()) -> str:
        """Return the hash of everything of *kind* that a client which names *names* may see."""
        hidden = self._by_name[kind]
        if hidden and not hidden.isdisjoint(names):
            return self.snapshot.named_versions[kind]
        return self.snapshot.versions.get(kind, "")

    def has(self, kind: Kind, name: str) -> bool:
        """Whether there is a resource of that name."""
        return name in self.snapshot.resources[kind]

    def names_beyond(self, kind: Kind, target: "Responses") -> frozenset[str]:
        """Return the names that *target*, over which these are laid, does not have."""
        found = self._beyond.get(kind)
        if found is None:
            found = self._beyond[kind] = frozenset(
                name for name in self.snapshot.resources[kind] if not target.has(kind, name)
            )
        return found

    def selection(self, kind: Kind, subscription: Subscription) -> Held:
        """Return what a client with *subscription* has when it has everything."""
        wildcard = self._wildcards[kind]
        if subscription.wildcard and self._by_name[kind].isdisjoint(subscription.names):
            return wildcard
        key = (kind, subscription)
        found = self._selections.get(key)
        if found is None:
            known = self.snapshot.resources[kind]
            names = subscription.names & known.keys()
            if subscription.wildcard:
                names |= wildcard.keys()
            found = SharedHeld((name, known[name].version) for name in sorted(names))
            _remember(self._selections, key, found)
        return found

    def change(self, kind: Kind, subscription: Subscription, held: Held) -> Change:
        """Return what a client that has *held* must be told. *held* must not be changed afterwards."""
        if not isinstance(held, SharedHeld):
            return self._compare(kind, subscription, held)
        # By identity: streams in lock-step share one mapping. The entry holds it, so that its id stays its own.
        key = (kind, subscription, id(held))
        known = self._changes.get(key)
        if known is None:
            known = (held, self._compare(kind, subscription, held))
            _remember(self._changes, key, known)
        return known[1]

    def _compare(self, kind: Kind, subscription: Subscription, held: Held) -> Change:
        wanted = self.selection(kind, subscription)
        return Change(
            send=frozenset(name for name, version in wanted.items() if held.get(name) != version),
            removed=frozenset(name for name in held if name not in wanted),
        )

    def sotw(self, kind: Kind, names: frozenset[str]) -> Response:
        """Return the state-of-the-world response with the resources of these names."""
        return self._response(kind, names, None)

    def delta(self, kind: Kind, names: frozenset[str], removed: frozenset[str]) -> Response:
        """Return the incremental response with these resources and removals."""
        return self._response(kind, names, removed)

    def first_part(self, kind: Kind, names: frozenset[str]) -> frozenset[str]:
        """Return those of *names*, in their order, that fit into one incremental response: one of them at least."""
        found = self._parts.get((kind, names))
        if found is None:
            room = MAX_PART_BYTES
            part: list[str] = []
            for name in sorted(names):
                room -= len(self.snapshot.resources[kind][name].packed) + len(name)
                if room < 0 and part:
                    break
                part.append(name)
            found = names if len(part) == len(names) else frozenset(part)
            _remember(self._parts, (kind, names), found)
        return found

    def json(self, kind: Kind, names: frozenset[str], version: str) -> bytes:
        """Return the state-of-the-world response with the resources of these names as JSON, called *version*."""
        key = (kind, names, version)
        found = self._json.get(key)
        if found is None:
            resources = self.snapshot.resources[kind]
            chosen = [resources[name] for name in sorted(names) if name in resources]
            message = discovery_pb2.DiscoveryResponse.FromString(self._sotw_body(kind, version, chosen))
            found = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()
            _remember(self._json, key, found)
        return found

    def renewed(self, response: Response) -> Response:
        """Return *response* under a new nonce, for a stream that has seen its number or a later one."""
        return self._stamped(response.body)

    def _response(self, kind: Kind, names: frozenset[str], removed: frozenset[str] | None) -> Response:
        key = (kind, names, removed)
        found = self._responses.get(key)
        if found is None:
            chosen = [self.snapshot.resources[kind][name] for name in sorted(names)]
            version = self.version(kind, names)
            found = self._stamped(
                self._sotw_body(kind, version, chosen)
                if removed is None
                else self._delta_body(kind, version, chosen, removed)
            )
            _remember(self._responses, key, found)
        return found

    def _sotw_body(self, kind: Kind, version: str, resources: list[Resource]) -> bytes:
        message = discovery_pb2.DiscoveryResponse(
            version_info=version,
            type_url=kind.type_url,
            resources=[Any.FromString(resource.packed) for resource in resources],
            control_plane=base_pb2.ControlPlane(identifier=self._identifier),
        )
        return bytes(message.SerializeToString())

    def _delta_body(self, kind: Kind, version: str, resources: list[Resource], removed: frozenset[str]) -> bytes:
        message = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=version,
            type_url=kind.type_url,
            resources=[
                discovery_pb2.Resource(
                    name=resource.name, version=resource.version, resource=Any.FromString(resource.packed)
                )
                for resource in resources
            ],
            removed_resources=sorted(removed),
            control_plane=base_pb2.ControlPlane(identifier=self._identifier),
        )
        return bytes(message.SerializeToString())

    def _stamped(self, body: bytes) -> Response:
        number = next(self._nonces)
        nonce = f"{number:x}".encode()
        return Response(body, number, body + _NONCE_TAG + bytes((len(nonce),)) + nonce)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served since *published_at* (steady seconds).

    *target* is where every Envoy should be; *transition* also has the clusters, endpoints and route configurations of
    earlier targets, for an Envoy that has not acknowledged the new listeners and routes yet. Both are one object where
    nothing was dropped.
    """

    target: Responses
    transition: Responses
    published_at: float

    def redirected(self, source: Source) -> "Served":
        """Return the same for clients without ADS that ask as *source* says."""
        return Served(
            target=self.target.redirected(source),
            transition=self.transition.redirected(source),
            published_at=self.published_at,
        )


def _remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(cache) >= MAX_REMEMBERED:
        cache.clear()
    cache[key] = value
