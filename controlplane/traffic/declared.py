"""What was declared by documents: who brought which, so that whatever its owner takes out again can be found."""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any, TypeAlias

DocumentKey: TypeAlias = tuple[str, str]
"""A document's kind and name; what belongs to a service is called ``service/name``, as two services may have a v1."""


@dataclasses.dataclass(frozen=True, slots=True)
class Declaration:
    """A document as it was applied last.

    *owner* names the repository (or whatever it calls itself) that brings it, "" for nobody in particular.
    *generation* counts what it said, from 1; *rollout* is what a document of a rollout has started.
    """

    kind: str
    name: str
    service: str
    owner: str
    document: Mapping[str, Any]
    generation: int
    by: str
    at: dt.datetime
    rollout: str = ""

    @property
    def key(self) -> DocumentKey:
        """Return what there is only one of."""
        return self.kind, self.name
