"""How far the fleet is with a snapshot: a weight is live when every connected Envoy has acknowledged it, not before."""

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

from controlplane.ports import NAMED, ClusterHealth, NodeStatus

RECONNECT_GRACE = dt.timedelta(seconds=10)
"""How long an Envoy that left is still waited for. A restart of ours must not make a weight live on nobody's word."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """An Envoy's NACK of the present configuration, in its own words."""

    node: str
    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.node} refused {self.kind.upper()}: {self.words}"


@dataclasses.dataclass(frozen=True, slots=True)
class FleetLevel:
    """Who runs a snapshot: *acked* of *expected* Envoys; *waiting* names the others."""

    expected: int = 0
    waiting: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def acked(self) -> int:
        """How many Envoys run it."""
        return self.expected - len(self.waiting)

    @property
    def settled(self) -> bool:
        """Whether all of at least one Envoy run it."""
        return self.expected > 0 and not self.waiting

    def __add__(self, other: "FleetLevel") -> "FleetLevel":
        """Return the level of both fleets together."""
        return FleetLevel(self.expected + other.expected, self.waiting + other.waiting, self.refusals + other.refusals)


def expected_nodes(nodes: Sequence[NodeStatus], *, now: dt.datetime) -> tuple[NodeStatus, ...]:
    """Return the clients that count: the connected ones, and the Envoys that left less than the grace ago.

    A client of another kind comes and goes as it likes, and counts once it has asked for something.
    """
    return tuple(node for node in nodes if _counts(node, now=now))


def fleet_level(nodes: Sequence[NodeStatus], versions: Mapping[str, str] | None, *, now: dt.datetime) -> FleetLevel:
    """Compare what Envoys acknowledged with *versions* (a content hash per type; types without resources are empty).

    None is a snapshot that is not published, or never to be: nobody runs it.
    """
    expected = expected_nodes(nodes, now=now)
    if versions is None:
        return FleetLevel(len(expected), tuple(node.node for node in expected))
    waiting: list[str] = []
    refusals: list[Refusal] = []
    # Nodes in step share one object of what they said, so that a large fleet is a few comparisons.
    known: dict[tuple[int, bool], tuple[bool, tuple[tuple[str, str], ...]]] = {}
    for node in expected:
        key = (id(node.types), node.is_envoy)
        found = known.get(key)
        if found is None:
            found = known[key] = (_runs(node, versions), tuple(_refused(node, versions)))
        runs, refused = found
        if not runs or node.disconnected_at is not None:
            waiting.append(node.node)
        refusals.extend(Refusal(node.node, kind, words) for kind, words in refused)
    return FleetLevel(len(expected), tuple(waiting), tuple(refusals))


def wanted_version(versions: Mapping[str, str], kind: str, has: str) -> str:
    """Return the version of *kind* in *versions* that a client which says it *has* one should have; "" for none.

    One that names what is sent by name only speaks of the hash of everything, the others of that of the rest.
    """
    named = versions.get(f"{kind}{NAMED}", "")
    return named if named and has == named else versions.get(kind, "")


def unready_members(
    nodes: Sequence[NodeStatus], health: Sequence[ClusterHealth], cluster: str, *, now: dt.datetime
) -> tuple[str, ...]:
    """Say for which Envoys *cluster* has no healthy member yet, one phrase each; empty when all have one."""
    reported = {row.node: row for row in health if row.cluster == cluster}
    phrases = []
    for node in expected_nodes(nodes, now=now):
        if not node.is_envoy:
            continue  # other clients do not report
        row = reported.get(node.node)
        if row is None:
            phrases.append(f"{node.node} has not reported on {cluster} yet")
        elif row.healthy < 1:
            phrases.append(f"{node.node} finds {row.healthy} of {row.total} workers of {cluster} healthy")
    return tuple(phrases)


def _counts(node: NodeStatus, *, now: dt.datetime) -> bool:
    if node.disconnected_at is None:
        return node.is_envoy or bool(node.types)
    return node.is_envoy and now - node.disconnected_at < RECONNECT_GRACE


def _refused(node: NodeStatus, versions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for kind, status in sorted(node.types.items()):
        if status.nacked and status.nacked == wanted_version(versions, kind, status.nacked):
            yield kind, status.words


def _runs(node: NodeStatus, versions: Mapping[str, str]) -> bool:
    """Whether *node*, if it is connected, runs *versions*."""
    # An Envoy asks for everything; other clients ask for what they use, and are waited for only there.
    asked = [kind for kind, version in versions.items() if version and not kind.endswith(NAMED)]
    if not node.is_envoy:
        asked = [kind for kind in asked if kind in node.types]
    return all(
        kind in node.types and node.types[kind].acked == wanted_version(versions, kind, node.types[kind].acked)
        for kind in asked
    )
