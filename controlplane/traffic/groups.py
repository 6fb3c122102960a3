"""Which Envoys are served alike: groups by name, and in each at most one Envoy that tries a new revision first."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final

EVERYONE: Final = ""
"""The group of the Envoys whose own group no service names."""

CANARY: Final = "+canary"
"""Added to a group's name: the part of it that tries a new revision first. No service can name such a group."""


@dataclasses.dataclass(frozen=True, slots=True)
class Grouping:
    """Which group each Envoy is served as.

    *groups* are those that services name; *canaries* maps the id of an Envoy that goes first to its part of the group.
    """

    groups: frozenset[str] = frozenset()
    canaries: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of(self, node: str, group: str) -> str:
        """Return what the Envoy called *node*, which says that it belongs to *group*, is served as."""
        return self.canaries.get(node) or (group if group in self.groups else EVERYONE)

    def members(self, key: str, nodes: Iterable[tuple[str, str]]) -> frozenset[str]:
        """Return which of *nodes*, ids with the groups they name, are served as *key*."""
        return frozenset(node for node, group in nodes if self.of(node, group) == key)


def canary_part(group: str) -> str:
    """Return the name of the part of *group* that goes first."""
    return group + CANARY


def whole_group(key: str) -> str:
    """Return the group that *key* is, or is a part of."""
    return key.removesuffix(CANARY)


def is_canary(key: str) -> bool:
    """Whether *key* is the part of a group that goes first."""
    return key.endswith(CANARY)
