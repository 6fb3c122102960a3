"""Configuration canaries: which revisions were tried long enough on one Envoy of each group to go to everyone."""

import dataclasses
from collections.abc import Sequence

import structlog

from controlplane.clock import Clock
from controlplane.controller.desired import live_split
from controlplane.controller.fleet import unready_members
from controlplane.controller.groups import GroupView, carriers, nodes_of
from controlplane.ports import ClusterHealth, Desired, DesiredService, Store

log = structlog.get_logger()


@dataclasses.dataclass(slots=True, kw_only=True)
class Trials:
    """Ends them. How long one has been healthy is known to this process only: another leader counts anew."""

    store: Store
    clock: Clock
    _healthy_since: dict[tuple[str, int], float] = dataclasses.field(default_factory=dict)

    async def end(self, desired: Desired, groups: Sequence[GroupView], health: Sequence[ClusterHealth]) -> None:
        """Let the revisions that were tried long enough go to everyone."""
        now = self.clock.steady()
        trials = {
            (service.revision.spec.name, service.revision.number): service
            for service in desired.services
            if service.on_trial
        }
        self._healthy_since = {key: since for key, since in self._healthy_since.items() if key in trials}
        for (name, number), service in trials.items():
            first = [group for group in carriers(groups, name) if group.is_canary and group.level.expected]
            if not first or not all(self._is_well(group, service, health) for group in first):
                self._healthy_since.pop((name, number), None)
                continue
            since = self._healthy_since.setdefault((name, number), now)
            if now - since >= service.revision.spec.config_canary.total_seconds():
                envoys = ", ".join(node.node for node in nodes_of(first, now=self.clock.now()))
                words = f"ran on {envoys} for {now - since:.0f} s; now the others get it"
                await self.store.mark_tried({name: number}, words, now=self.clock.now())
                log.info("trial.passed", service=name, revision=number, envoys=envoys)

    def _is_well(self, group: GroupView, service: DesiredService, health: Sequence[ClusterHealth]) -> bool:
        """Whether the first Envoys run the revision on trial and find a worker of every version that has traffic."""
        if not group.level.settled:
            return False
        now = self.clock.now()
        spec = service.revision.spec
        clusters = [spec.version(share.version).cluster for share in live_split(service) if share.weight_bp]
        return not any(unready_members(group.nodes, health, cluster, now=now) for cluster in clusters)
