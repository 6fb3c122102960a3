"""The fleet by groups: what each group should run, who is in it, and how far they are."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

from controlplane.controller.desired import grouping, traffic_plans
from controlplane.controller.fleet import FleetLevel, expected_nodes, fleet_level
from controlplane.ports import NodeStatus, SnapshotRecord, SnapshotStatus, Store
from controlplane.traffic.groups import Grouping, is_canary
from controlplane.traffic.model import TrafficPlan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One group: the *snapshot* of its *plan*, None before it is published, and the Envoys that should run that."""

    key: str
    plan: TrafficPlan
    snapshot: SnapshotRecord | None
    nodes: tuple[NodeStatus, ...]
    level: FleetLevel

    @property
    def is_canary(self) -> bool:
        """Whether this is the part of a group that goes first."""
        return is_canary(self.key)

    def carries(self, service: str) -> bool:
        """Whether these Envoys serve *service*."""
        return any(served.spec.name == service for served in self.plan.services)


def view_groups(
    plans: Mapping[str, TrafficPlan],
    snapshots: Mapping[str, SnapshotRecord | None],
    who: Grouping,
    nodes: Sequence[NodeStatus],
    *,
    now: dt.datetime,
) -> tuple[GroupView, ...]:
    """Put the groups of *plans* together from what was read."""
    members: dict[str, list[NodeStatus]] = {}
    for node in nodes:
        members.setdefault(who.of(node.node, node.group), []).append(node)
    views = []
    for key, plan in plans.items():
        snapshot = snapshots.get(key)
        live = snapshot is not None and snapshot.status is not SnapshotStatus.REJECTED
        found = tuple(members.get(key, ()))
        level = fleet_level(found, snapshot.versions if snapshot is not None and live else None, now=now)
        views.append(GroupView(key=key, plan=plan, snapshot=snapshot, nodes=found, level=level))
    return tuple(views)


async def load_newest_groups(store: Store, *, now: dt.datetime) -> tuple[tuple[GroupView, ...], Grouping]:
    """Read the fleet against each group's newest snapshot, for those who only look."""
    desired = await store.load_desired()
    plans = traffic_plans(desired)
    nodes = await store.load_nodes()
    who = grouping(desired, plans, expected_nodes(nodes, now=now))
    snapshots = {key: await store.load_newest_snapshot(key) for key in plans}
    return view_groups(plans, snapshots, who, nodes, now=now), who


def carriers(groups: Iterable[GroupView], service: str) -> Iterator[GroupView]:
    """Yield the groups that serve *service*."""
    return (group for group in groups if group.carries(service))


def level_of(groups: Iterable[GroupView]) -> FleetLevel:
    """Return how far all Envoys of *groups* are."""
    return sum((group.level for group in groups), FleetLevel())


def nodes_of(groups: Iterable[GroupView], *, now: dt.datetime) -> tuple[NodeStatus, ...]:
    """Return the Envoys of *groups* that count."""
    return expected_nodes([node for group in groups for node in group.nodes], now=now)
