"""What each Envoy runs against what it should run, resource by resource: one answer for everybody who asks.

It is made of rows alone, so any replica answers for the whole fleet. An Envoy's row says which version of each type it
has acknowledged; the snapshots say what is in that version.
"""

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.controller.fleet import wanted_version
from controlplane.controller.groups import load_newest_groups
from controlplane.errors import InvalidInputError
from controlplane.ports import NAMED, ConfigReader, ConfigResource, NodeStatus, SnapshotRecord, Store, TypeStatus

log = structlog.get_logger()

TYPES: Final = ("cds", "eds", "lds", "rds")
"""The types that are always shown; further ones where an Envoy or its snapshot has them."""

PRIVATE: Final = "sds"
"""The type whose content is in no snapshot row: private keys."""

ONE_BY_ONE: Final = ("Error adding/updating cluster(s) ", "Error adding/updating listener(s) ")
"""How the refusal of a response begins whose good resources Envoy runs all the same."""

MAX_REMEMBERED: Final = 256
"""Versions of a type whose resources are kept in memory: what a version stands for never changes."""


class Sync(enum.StrEnum):
    """How an Envoy is with one type. `NACKED` is about what it was sent last; it still runs what it had before."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    NACKED = "NACKED"
    NOT_SENT = "NOT SENT"


def sync_of(status: TypeStatus, wanted: str) -> Sync:
    """Say how an Envoy is with a type of which it should run version *wanted*, "" where there is nothing to run."""
    if not status.sent:
        return Sync.NOT_SENT
    if status.nacked and status.nacked == status.sent and status.acked != status.sent:
        return Sync.NACKED
    if status.acked == status.sent and status.acked == (wanted or status.acked):
        return Sync.SYNCED
    return Sync.STALE


def is_in_sync(node: NodeStatus, wanted: Mapping[str, str]) -> bool:
    """Whether an Envoy runs all that it should."""
    for kind in kinds_of(node, wanted):
        status = node.types.get(kind, TypeStatus())
        version = wanted_version(wanted, kind, status.sent)
        if version and sync_of(status, version) is not Sync.SYNCED:
            return False
    return True


def kinds_of(node: NodeStatus, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the types to show for an Envoy, those that every Envoy has first."""
    return (*TYPES, *sorted({*node.types, *(key.removesuffix(NAMED) for key in wanted)} - set(TYPES)))


@dataclasses.dataclass(frozen=True, slots=True)
class HeldResource:
    """One resource at one Envoy: the one it *runs*, the one it should run, and the one it refused since.

    *taken* says that what it runs came in a response that it refused for other resources in it.
    """

    name: str
    runs: ConfigResource | None
    wanted: ConfigResource | None
    refused: ConfigResource | None = None
    taken: bool = False

    @property
    def sync(self) -> Sync:
        """How the Envoy is with it."""
        if self.refused is not None:
            return Sync.NACKED
        if self.runs is None:
            return Sync.NOT_SENT
        return Sync.SYNCED if self.wanted is not None and self.runs.version == self.wanted.version else Sync.STALE


@dataclasses.dataclass(frozen=True, slots=True)
class TypeConfig:
    """One type at one Envoy. *lost* says that what it runs is no longer stored, so that nobody can say what that is."""

    kind: str
    sync: Sync
    status: TypeStatus
    wanted: str
    resources: tuple[HeldResource, ...]
    lost: bool


@dataclasses.dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything about one Envoy. *snapshot* is what it should run; None before there is one."""

    node: NodeStatus
    snapshot: SnapshotRecord | None
    types: tuple[TypeConfig, ...]


@dataclasses.dataclass(slots=True, kw_only=True)
class Inspector:
    """Puts rows of Envoys and contents of snapshots together."""

    store: Store
    reader: ConfigReader
    clock: Clock
    _known: dict[tuple[str, str], Mapping[str, ConfigResource]] = dataclasses.field(default_factory=dict)

    async def wanted(self, nodes: Sequence[NodeStatus]) -> Mapping[str, SnapshotRecord]:
        """Return what each of *nodes* should run, by its id; those for which there is nothing yet are absent."""
        _groups, who = await load_newest_groups(self.store, now=self.clock.now())
        keys = {node.node: who.of(node.node, node.group) for node in nodes}
        newest = {key: await self.store.load_newest_snapshot(key) for key in dict.fromkeys(keys.values())}
        return {node: snapshot for node, key in keys.items() if (snapshot := newest[key]) is not None}

    async def inspect(self, nodes: Sequence[NodeStatus]) -> tuple[NodeConfig, ...]:
        """Return what *nodes* run and should run.

        Raises:
            UnavailableError: The store does not answer.
        """
        wanted = await self.wanted(nodes)
        for snapshot in {(snapshot.group, snapshot.version): snapshot for snapshot in wanted.values()}.values():
            self._remember(snapshot)
        return tuple([await self._inspect(node, wanted.get(node.node)) for node in nodes])

    async def _inspect(self, node: NodeStatus, snapshot: SnapshotRecord | None) -> NodeConfig:
        versions = {} if snapshot is None else snapshot.versions
        types = []
        for kind in kinds_of(node, versions):
            status = node.types.get(kind, TypeStatus())
            version = wanted_version(versions, kind, status.sent)
            sync = sync_of(status, version)
            if kind == PRIVATE:
                listeners = await self._resources("lds", node.types.get("lds", TypeStatus()).acked)
                resources: tuple[HeldResource, ...] | None = _secrets(listeners or {}, status, sync)
            else:
                resources = await self._held(kind, status, sync, version)
            types.append(
                TypeConfig(
                    kind=kind,
                    sync=sync,
                    status=status,
                    wanted=version,
                    resources=resources or (),
                    lost=resources is None,
                )
            )
        return NodeConfig(node, snapshot, tuple(types))

    async def _held(self, kind: str, status: TypeStatus, sync: Sync, version: str) -> tuple[HeldResource, ...] | None:
        runs = await self._resources(kind, status.acked)
        if runs is None:
            return None
        refused = await self._resources(kind, status.nacked) if sync is Sync.NACKED else None
        wanted = await self._resources(kind, version) or {}
        return _compare(runs, wanted, refused or {}, status.words)

    async def _resources(self, kind: str, version: str) -> Mapping[str, ConfigResource] | None:
        """Return the resources of a version: none for "", None for one that is not stored or readable any more."""
        if not version:
            return {}
        if (kind, version) not in self._known:
            snapshot = await self.store.find_config(kind, version)
            if snapshot is not None:
                self._remember(snapshot)
        return self._known.get((kind, version))

    def _remember(self, snapshot: SnapshotRecord) -> None:
        versions = {key: version for key, version in snapshot.versions.items() if version}
        if all((key.removesuffix(NAMED), version) in self._known for key, version in versions.items()):
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        try:
            resources = self.reader.read(snapshot.content)
        except InvalidInputError:
            log.warning("snapshot.unreadable", version=snapshot.version, exc_info=True)
            return
        for key, version in versions.items():
            kind = key.removesuffix(NAMED)
            self._known[kind, version] = {
                name: resource
                for name, resource in resources.get(kind, {}).items()
                if key.endswith(NAMED) or not resource.by_name
            }


def since(status: TypeStatus, sync: Sync, node: NodeStatus, snapshot: SnapshotRecord | None) -> dt.datetime:
    """Return since when an Envoy has been like this with a type; the best that is known where nobody wrote it down."""
    match sync:
        case Sync.SYNCED:
            return status.acked_at or node.connected_at
        case Sync.NACKED:
            return status.nacked_at or status.acked_at or node.connected_at
        case Sync.NOT_SENT:
            return node.connected_at
        case Sync.STALE:
            # It became stale when something else was to be served, and not before it ran what it runs.
            begun = (node.connected_at, status.acked_at, snapshot.at if snapshot is not None else None)
            return max(moment for moment in begun if moment is not None)


def _compare(
    runs: Mapping[str, ConfigResource],
    wanted: Mapping[str, ConfigResource],
    refused: Mapping[str, ConfigResource],
    words: str,
) -> tuple[HeldResource, ...]:
    held = []
    for name in sorted({*runs, *wanted, *refused}):
        new = _if_new(refused.get(name), runs.get(name))
        if new is not None and _was_taken(name, words):
            held.append(HeldResource(name, new, wanted.get(name), taken=True))
        else:
            held.append(HeldResource(name, runs.get(name), wanted.get(name), new))
    return tuple(held)


def _was_taken(name: str, words: str) -> bool:
    """Whether Envoy runs a new resource of a response that it refused: with these words it names all that it did not.

    Measured: clusters and listeners are taken one by one, and the refusal is about the bad ones only.
    """
    return words.startswith(ONE_BY_ONE) and f" {name}: " not in words


def _secrets(listeners: Mapping[str, ConfigResource], status: TypeStatus, sync: Sync) -> tuple[HeldResource, ...]:
    """Return the secrets that the listeners of an Envoy name. Their content is in no row: the version is the type's."""
    refused = status.nacked if sync is Sync.NACKED else ""
    return tuple(
        HeldResource(name, _secret(name, status.acked), _secret(name, status.sent), _secret(name, refused))
        for name in sorted({name for listener in listeners.values() for name in listener.secrets})
    )


def _secret(name: str, version: str) -> ConfigResource | None:
    return ConfigResource(name, version, None) if version else None


def _if_new(refused: ConfigResource | None, runs: ConfigResource | None) -> ConfigResource | None:
    """Return the resource of a refused response, unless the Envoy has that very one already."""
    return None if refused is None or (runs is not None and runs.version == refused.version) else refused
