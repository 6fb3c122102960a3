"""From committed rows to the plan of what is served: the projector publishes it, the controller waits for it."""

from controlplane.ports import Desired, DesiredService
from controlplane.rollout.lifecycle import weight_bp
from controlplane.traffic.assemble import rollout_split
from controlplane.traffic.model import ServedService, Split, TrafficPlan


def traffic_plan(desired: Desired) -> TrafficPlan:
    """Return what every Envoy should serve; the same rows always give the same plan."""
    return TrafficPlan(
        services=tuple(ServedService(service.revision.spec, live_split(service)) for service in desired.services),
        addresses=desired.addresses,
    )


def live_split(service: DesiredService) -> Split:
    """Return the service's split with its rollout's weight in it, where one moves traffic now."""
    rollout = service.rollout
    if rollout is None:
        return service.split
    candidate_bp = weight_bp(rollout.plan, rollout.state)
    if candidate_bp is None:
        return service.split
    return rollout_split(rollout.baseline, rollout.candidate, candidate_bp)
