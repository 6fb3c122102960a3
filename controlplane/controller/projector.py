"""Every replica: committed rows -> plan -> snapshot row -> streams. State is committed before it is projected."""

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping

import structlog

from controlplane.clock import Clock
from controlplane.controller.desired import grouping, served_revisions, traffic_plans
from controlplane.controller.fleet import expected_nodes
from controlplane.errors import ControlPlaneError, InvalidInputError
from controlplane.ports import (
    CompiledConfig,
    ConfigCheck,
    ConfigCompiler,
    Desired,
    Publisher,
    Revision,
    RevisionStatus,
    SnapshotRecord,
    SnapshotStatus,
    Store,
)
from controlplane.traffic.groups import EVERYONE, Grouping, is_canary
from controlplane.traffic.model import TrafficPlan
from controlplane.wake import Wake

log = structlog.get_logger()

KEEP_SNAPSHOTS = 50


@dataclasses.dataclass(slots=True, kw_only=True)
class Projector:
    """Publishes what the rows ask for; on anything it cannot publish, the fleet keeps its last good configuration.

    *check* is asked before a revision that no fleet has acknowledged is published; None where there is no Envoy to ask.
    """

    store: Store
    compiler: ConfigCompiler
    publisher: Publisher
    clock: Clock
    wake: Wake
    interval: dt.timedelta
    check: ConfigCheck | None = None

    async def run(self) -> None:
        """Project at every wake-up, and every *interval* as a fallback, for ever."""
        while True:
            try:
                await self.project()
            except ControlPlaneError:
                log.warning("projection.refused", exc_info=True)
            except Exception:  # a bug in one picture must not stop the next; Envoys keep what they have
                log.exception("projection.crashed")
            await self.wake.wait(self.interval)

    async def restore(self) -> None:
        """Serve what was served before this process started, so that no Envoy ever meets an empty answer.

        The last good snapshot goes first: Envoys that were between it and the newest one keep its clusters meanwhile.
        One that this release cannot read is left out; the rows are compiled anew before any Envoy is answered.
        """
        if self.publisher.served_versions:
            return
        groups = [group for group in await self.store.list_snapshot_groups() if not is_canary(group)]
        for group in groups:
            good = await self.store.load_last_good_snapshot(group)
            for snapshot in (good, await self.store.load_newest_snapshot(group)):
                if snapshot is not None and snapshot.version != self.publisher.served_versions.get(group):
                    self._restore(snapshot)
        self.publisher.assign(Grouping(frozenset(groups) - {EVERYONE}))
        try:
            await self.project()  # who goes first with a new revision is not in the snapshots
        except ControlPlaneError:
            log.warning("projection.refused", exc_info=True)

    def _restore(self, snapshot: SnapshotRecord) -> None:
        try:
            self.publisher.publish(snapshot)
        except InvalidInputError as refusal:
            log.warning("snapshot.not_restored", group=snapshot.group, version=snapshot.version, words=str(refusal))
        else:
            log.info("snapshot.restored", group=snapshot.group, version=snapshot.version, status=snapshot.status.value)

    async def project(self) -> None:
        """Publish each group's snapshot of the committed rows, unless the group refused exactly that one before.

        A group that cannot be served what the rows say keeps what it has, and stands in no other group's way.
        """
        desired = await self.store.load_desired()
        if not desired.services:
            return  # an Envoy that is told of nothing would drop everything; there is nothing to serve yet
        plans = traffic_plans(desired)
        refused: list[ControlPlaneError] = []
        for group, plan in plans.items():
            try:
                await self._project(group, plan, desired)
            except InvalidInputError as refusal:
                refused.append(refusal)
        # Only now: an Envoy that changes its group must find there what it is to have.
        self.publisher.assign(await self._grouping(desired, plans))
        if refused:
            raise refused[0]

    async def _project(self, group: str, plan: TrafficPlan, desired: Desired) -> None:
        unproven = _unproven(group, plan, desired)
        try:
            compiled = self.compiler.compile(plan)
        except InvalidInputError as problem:
            if not unproven:
                raise
            await self._refuse(unproven, str(problem))
            return
        serving = compiled.version == self.publisher.served_versions.get(group)
        if serving and group not in self.publisher.doubted:
            return
        known = await self.store.find_snapshot(group, compiled.version)
        if known is not None and known.status is SnapshotStatus.REJECTED:
            if await self.store.load_desired() != desired:
                # What was refused has been taken out of the rows since we read them. The last good snapshot would take
                # with it what is new and waits for its acknowledgements, so look again instead.
                self.wake.set()
                return
            await self._serve_last_good(group)
        elif serving:
            if known is not None and known.status is SnapshotStatus.GOOD:
                self.publisher.vouch(group)
        elif unproven and (words := await self._refusal(compiled)):
            await self._refuse(unproven, f"Envoy refuses it: {words}")
        else:
            snapshot = known or self._record(group, plan, compiled, desired)
            await self.store.propose_snapshot(snapshot)
            self.publisher.publish(snapshot)
            log.info("snapshot.published", group=group, version=snapshot.version, revisions=dict(snapshot.revisions))
            await self.store.prune_snapshots(keep=KEEP_SNAPSHOTS)

    async def _refusal(self, compiled: CompiledConfig) -> str | None:
        return None if self.check is None else await self.check.refusal(compiled)

    async def _refuse(self, unproven: Mapping[str, int], words: str) -> None:
        """Take revisions back before any Envoy has seen them, as if all had refused them."""
        log.error("revision.refused", revisions=dict(unproven), words=words)
        await self.store.mark_revisions(unproven, RevisionStatus.REJECTED, words, now=self.clock.now())
        self.wake.set()  # the rows have changed: what is to be published now?

    async def _grouping(self, desired: Desired, plans: Mapping[str, TrafficPlan]) -> Grouping:
        # Who is there matters only where one of them goes first; weights change too often to ask each time.
        nodes = await self.store.load_nodes() if any(map(is_canary, plans)) else ()
        return grouping(desired, plans, expected_nodes(nodes, now=self.clock.now()))

    async def _serve_last_good(self, group: str) -> None:
        good = await self.store.load_last_good_snapshot(group)
        if good is None:
            log.error("snapshot.none_good", group=group)
        elif good.version != self.publisher.served_versions.get(group):
            self.publisher.publish(good)
            log.warning("snapshot.reverted", group=group, version=good.version)

    def _record(self, group: str, plan: TrafficPlan, compiled: CompiledConfig, desired: Desired) -> SnapshotRecord:
        return SnapshotRecord(
            version=compiled.version,
            versions=compiled.versions,
            revisions={revision.spec.name: revision.number for revision in _revisions(group, plan, desired)},
            content=compiled.content,
            status=SnapshotStatus.PROPOSED,
            words="",
            at=self.clock.now(),
            group=group,
        )


def _revisions(group: str, plan: TrafficPlan, desired: Desired) -> Iterator[Revision]:
    """Yield the revisions that *plan* is made of."""
    served = {service.spec.name for service in plan.services}
    for _, revision in served_revisions(desired, trials=is_canary(group)):
        if revision.spec.name in served:
            yield revision


def _unproven(group: str, plan: TrafficPlan, desired: Desired) -> Mapping[str, int]:
    return {
        revision.spec.name: revision.number
        for revision in _revisions(group, plan, desired)
        if revision.status is RevisionStatus.PROPOSED
    }
