"""From committed rows to the plans of what is served: the projector publishes them, the controller waits for them."""

from collections.abc import Iterator, Mapping, Sequence

from controlplane.ports import Desired, DesiredService, NodeStatus, Revision
from controlplane.rollout.lifecycle import weight_bp
from controlplane.traffic.assemble import rollout_split
from controlplane.traffic.groups import EVERYONE, Grouping, canary_part
from controlplane.traffic.model import ServedService, ServiceSpec, Split, TrafficPlan


def traffic_plans(desired: Desired) -> Mapping[str, TrafficPlan]:
    """Return what each group of Envoys should serve; the same rows always give the same plans.

    A group without services is absent, and so is the part of a group that goes first where nothing is on trial.
    """
    plans: dict[str, TrafficPlan] = {}
    for group in (EVERYONE, *sorted(declared_groups(desired))):
        settled = _plan(desired, group, trials=False)
        newest = _plan(desired, group, trials=True)
        if settled.services:
            plans[group] = settled
        if newest != settled:
            plans[canary_part(group)] = newest
    return plans


def declared_groups(desired: Desired) -> frozenset[str]:
    """Return the groups that services name."""
    return frozenset(group for service in desired.services for spec in _specs(service) for group in spec.groups)


def grouping(desired: Desired, plans: Mapping[str, TrafficPlan], nodes: Sequence[NodeStatus]) -> Grouping:
    """Return which Envoy is served as what: where something is on trial, the first Envoy by name goes first.

    By name, because every replica must choose the same, whichever of them the Envoys are connected to. *nodes* are
    those that count, see `controller.fleet.expected_nodes`.
    """
    whole = Grouping(declared_groups(desired))
    canaries: dict[str, str] = {}
    for node in sorted((node for node in nodes if node.is_envoy), key=lambda node: node.node):
        part = canary_part(whole.of(node.node, node.group))
        if part in plans and part not in canaries.values():
            canaries[node.node] = part
    return Grouping(whole.groups, canaries)


def live_split(service: DesiredService) -> Split:
    """Return the service's split with its rollout's weight in it, where one moves traffic now."""
    rollout = service.rollout
    if rollout is None:
        return service.split
    candidate_bp = weight_bp(rollout.plan, rollout.state)
    if candidate_bp is None:
        return service.split
    return rollout_split(service.split, rollout.baseline, rollout.candidate, candidate_bp)


def served_revisions(desired: Desired, *, trials: bool) -> Iterator[tuple[DesiredService, Revision]]:
    """Yield the services that are served and in which revision: with *trials* where new revisions go first."""
    for service in desired.services:
        if trials or not service.on_trial:
            yield service, service.revision
        elif service.before is not None:
            yield service, service.before


def _plan(desired: Desired, group: str, *, trials: bool) -> TrafficPlan:
    return TrafficPlan(
        services=tuple(
            ServedService(revision.spec, live_split(service))
            for service, revision in served_revisions(desired, trials=trials)
            if not revision.spec.groups or group in revision.spec.groups
        ),
        addresses=desired.addresses,
    )


def _specs(service: DesiredService) -> Iterator[ServiceSpec]:
    yield service.revision.spec
    if service.before is not None:
        yield service.before.spec
