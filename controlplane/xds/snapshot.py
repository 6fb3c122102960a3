"""Everything that is served at one moment, immutable, named by the hash of its content, its references checked."""

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from controlplane.errors import InvalidInputError, InvalidInputsError
from controlplane.ports import NAMED, CompiledConfig
from controlplane.traffic.model import TrafficPlan
from controlplane.xds.kinds import SNAPSHOT_KINDS, Kind, find_kind
from controlplane.xds.pgv import FieldRules
from controlplane.xds.references import Links, check_references, is_api_listener, read_links
from controlplane.xds.translate import Piece, pack, translate

_MESSAGES = {
    Kind.CDS: cluster_pb2.Cluster,
    Kind.EDS: endpoint_pb2.ClusterLoadAssignment,
    Kind.LDS: listener_pb2.Listener,
    Kind.RDS: route_pb2.RouteConfiguration,
}

_FIELDS = {Kind.CDS: "cluster", Kind.EDS: "endpoints", Kind.LDS: "listener", Kind.RDS: "route_config"}
"""What the path of a field starts with."""


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it goes over the wire: *packed* is a serialised `Any`, *version* the hash of it.

    One that is *by_name* goes only to clients that name it: "everything" is everything but these.
    """

    name: str
    version: str
    packed: bytes = dataclasses.field(repr=False)  # of a secret, it holds a private key
    by_name: bool = False

    @classmethod
    def of(cls, name: str, wrapped: Any, *, by_name: bool = False) -> "Resource":
        """Return the resource that *wrapped* holds."""
        packed = wrapped.SerializeToString(deterministic=True)
        return cls(name, _digest(packed), packed, by_name)


Resources = Mapping[Kind, Mapping[str, Resource]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All resources of one moment. *versions* has a content hash per kind, "" for a kind without resources.

    Resources that are sent by name only are not in it, so that they change nothing for those who never see them; who
    names one of them is told the kind's *named_versions*, the hash of everything. Mostly both are the same.
    """

    resources: Resources
    versions: Mapping[Kind, str]
    named_versions: Mapping[Kind, str]
    version: str
    links: Links

    @classmethod
    def of(cls, pieces: Iterable[tuple[Kind, str, Message]]) -> "Snapshot":
        """Pack messages, given with their kinds and names, into a checked snapshot.

        Raises:
            InvalidInputError: A reference leads nowhere.
        """
        return cls._checked((kind, name, message, pack(message)) for kind, name, message in pieces)

    @classmethod
    def _checked(cls, pieces: Iterable[tuple[Kind, str, Message, Any]]) -> "Snapshot":
        messages: dict[Kind, dict[str, Message]] = {kind: {} for kind in Kind}
        resources: dict[Kind, dict[str, Resource]] = {kind: {} for kind in Kind}
        for kind, name, message, wrapped in sorted(pieces, key=lambda piece: piece[1]):
            messages[kind][name] = message
            by_name = kind is Kind.LDS and is_api_listener(message)
            resources[kind][name] = Resource.of(name, wrapped, by_name=by_name)
        links = read_links(messages)
        check_references(messages, links)
        return cls.joined(resources, links)

    @classmethod
    def joined(cls, resources: Resources, links: Links) -> "Snapshot":
        """Return the snapshot of *resources*, which are in the order of their names."""
        named = {kind: _digest_all(resources[kind].values()) for kind in SNAPSHOT_KINDS}
        versions = {
            kind: _digest_all(resource for resource in resources[kind].values() if not resource.by_name)
            for kind in SNAPSHOT_KINDS
        }
        whole = _digest("".join(f"{kind.value}={named[kind]};" for kind in SNAPSHOT_KINDS).encode())
        return cls(resources, versions, named, whole, links)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Snapshot":
        """Read what `to_bytes` wrote.

        Raises:
            InvalidInputError: It was not `to_bytes` that wrote it, or a reference leads nowhere.
        """
        return cls._checked(_read(content))

    def versions_by_name(self) -> dict[str, str]:
        """Return the versions as rows have them: by short type name, and once more where some go by name only."""
        versions = {kind.value: self.versions[kind] for kind in SNAPSHOT_KINDS}
        named = {
            f"{kind.value}{NAMED}": self.named_versions[kind]
            for kind in SNAPSHOT_KINDS
            if self.named_versions[kind] != self.versions[kind]
        }
        return versions | named

    def to_bytes(self) -> bytes:
        """Return all resources but secrets as one message, the same bytes for the same content."""
        whole = discovery_pb2.DeltaDiscoveryResponse(system_version_info=self.version)
        for kind in SNAPSHOT_KINDS:
            for resource in self.resources[kind].values():
                whole.resources.add(
                    name=resource.name, version=resource.version, resource=Any.FromString(resource.packed)
                )
        return bytes(whole.SerializeToString(deterministic=True))

    def with_secrets(self, secrets: Mapping[str, Resource]) -> "Snapshot":
        """Return this snapshot with those of *secrets* that its listeners refer to; its versions stay what they are."""
        found = {name: secrets[name] for name in sorted(self._wanted_secrets) if name in secrets}
        return dataclasses.replace(
            self,
            resources={**self.resources, Kind.SDS: found},
            named_versions={**self.named_versions, Kind.SDS: _digest_all(found.values())},
        )

    @property
    def missing_secrets(self) -> frozenset[str]:
        """Secrets that listeners refer to and that nobody has."""
        return self._wanted_secrets - self.resources[Kind.SDS].keys()

    @property
    def _wanted_secrets(self) -> frozenset[str]:
        return frozenset[str]().union(*self.links.secrets_of.values())

    def has_other_secrets(self, other: "Snapshot") -> bool:
        """Whether clients are given other secrets with this snapshot than with *other*."""
        return self.named_versions.get(Kind.SDS) != other.named_versions.get(Kind.SDS)

    def overlaid_on(self, past: Sequence["Snapshot"]) -> "Snapshot":
        """Return this snapshot and what only *past* ones (newest first) have: for Envoys that may still use it.

        Listeners are not taken from the past: that one is gone is the change itself. Nor are their secrets.
        """
        resources: dict[Kind, Mapping[str, Resource]] = {kind: self.resources[kind] for kind in (Kind.LDS, Kind.SDS)}
        extra = False
        for kind in (Kind.CDS, Kind.EDS, Kind.RDS):
            merged = dict(self.resources[kind])
            for snapshot in past:
                merged = {**snapshot.resources[kind], **merged}
            extra = extra or len(merged) > len(self.resources[kind])
            resources[kind] = {name: merged[name] for name in sorted(merged)}
        if not extra:
            return self
        links = self.links
        for snapshot in past:
            links = links.over(snapshot.links)
        return Snapshot.joined(resources, links)


KEPT_PLANS: Final = 16
"""As many groups of Envoys as there may be before plans are compiled anew at each look."""


class SnapshotCompiler:
    """Turns a plan into resources, and refuses what Envoy would refuse."""

    def __init__(self) -> None:
        self._rules = FieldRules()
        # Controller and projector ask several times a second, and mostly for what they asked for last: compiling some
        # hundred services takes a tenth of a second, comparing their plans a thousandth.
        self._known: collections.deque[tuple[TrafficPlan, CompiledConfig]] = collections.deque(maxlen=KEPT_PLANS)

    def compile(self, plan: TrafficPlan) -> CompiledConfig:
        """Return the resources of *plan*; equal plans give equal versions.

        Raises:
            InvalidInputsError: A message breaks a rule of Envoy's, a reference leads nowhere, or two services claim
                one name.
        """
        for known, compiled in self._known:
            if known == plan:
                return compiled
        compiled = self._compile(plan)
        self._known.appendleft((plan, compiled))
        return compiled

    def _compile(self, plan: TrafficPlan) -> CompiledConfig:
        pieces = translate(plan)
        problems = [*_claimed_names(pieces), *self._broken_rules(pieces)]
        if problems:
            raise InvalidInputsError(problems)
        snapshot = Snapshot.of((piece.kind, piece.name, piece.message) for piece in pieces)
        return CompiledConfig(
            version=snapshot.version,
            versions=snapshot.versions_by_name(),
            content=snapshot.to_bytes(),
        )

    def _broken_rules(self, pieces: Iterable[Piece]) -> Iterator[InvalidInputError]:
        for piece in pieces:
            for finding in self._rules.findings(piece.message):
                where = f"{_FIELDS[piece.kind]}.{piece.name}{finding.path}"
                yield InvalidInputError(where, finding.problem, finding.fix)


def read_messages(content: bytes) -> dict[Kind, dict[str, Message]]:
    """Return the messages in what `Snapshot.to_bytes` wrote, by name; raises as `Snapshot.from_bytes` does."""
    messages: dict[Kind, dict[str, Message]] = {kind: {} for kind in Kind}
    for kind, name, message, _ in _read(content):
        messages[kind][name] = message
    return messages


def _read(content: bytes) -> Iterator[tuple[Kind, str, Message, Any]]:
    try:
        for row in discovery_pb2.DeltaDiscoveryResponse.FromString(content).resources:
            kind = find_kind(row.resource.type_url)
            if kind not in SNAPSHOT_KINDS:
                raise InvalidInputError("snapshot", f"has a {row.resource.type_url!r}", "publish it anew")
            yield kind, row.name, _MESSAGES[kind].FromString(row.resource.value), row.resource
    except DecodeError as exc:
        raise InvalidInputError("snapshot", "is not readable", "publish it anew") from exc


def _claimed_names(pieces: Iterable[Piece]) -> Iterator[InvalidInputError]:
    claimed: set[tuple[Kind, str]] = set()
    for piece in pieces:
        if (piece.kind, piece.name) in claimed:
            yield InvalidInputError(piece.field, f"{piece.name!r} is taken by another service", "choose another")
        claimed.add((piece.kind, piece.name))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _digest_all(resources: Iterable[Resource]) -> str:
    whole = hashlib.sha256()
    empty = True
    for resource in resources:
        empty = False
        whole.update(f"{resource.name}={resource.version};".encode())
    return "" if empty else whole.hexdigest()[:16]
