"""What an apply of documents starts from, and what it would do."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from controlplane.api.envelopes import AnyEnvelope
from controlplane.api.requests import StartRequest
from controlplane.ports import Rollout, ServiceRecord
from controlplane.traffic.declared import Declaration, DocumentKey
from controlplane.traffic.model import ServiceSpec

Raw: TypeAlias = dict[str, Any]
Action: TypeAlias = Literal["created", "configured", "unchanged", "started", "deleted", "refused"]


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """A document and the path that its fields have in errors. In the *bare* form there is no ``spec`` around them."""

    envelope: AnyEnvelope
    field: str
    bare: bool = False

    @property
    def body(self) -> str:
        """Return the path of what the document says."""
        return self.field if self.bare else f"{self.field}.spec"

    @property
    def name_field(self) -> str:
        """Return the path of its name."""
        return f"{self.field}.service" if self.bare else f"{self.field}.metadata.name"


@dataclasses.dataclass(frozen=True, slots=True)
class Present:
    """What is there: documents that were applied, services, and the rollouts that are active, by service."""

    declared: Mapping[DocumentKey, Declaration]
    services: Mapping[str, ServiceRecord]
    active: Mapping[str, Rollout]


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Whose documents these are, whether what is missing among them goes, and whether others' may be taken over."""

    owner: str = ""
    prune: bool = False
    adopt: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """A rollout to start, by the document *key*."""

    key: DocumentKey
    service: str
    request: StartRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one document. *before* and *after* are shown as a difference where they differ."""

    kind: str
    name: str
    service: str
    action: Action
    notes: tuple[str, ...] = ()
    before: Raw | None = None
    after: Raw | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Composition:
    """Everything that an apply would do."""

    specs: Mapping[str, ServiceSpec]
    """Those that change."""
    deleted: tuple[str, ...]
    starts: tuple[Start, ...]
    kept: tuple[AnyEnvelope, ...]
    removed: frozenset[DocumentKey]
    changes: tuple[Change, ...]
