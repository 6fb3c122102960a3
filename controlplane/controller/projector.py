"""Every replica: committed rows -> plan -> snapshot row -> streams. State is committed before it is projected."""

import dataclasses
import datetime as dt

import structlog

from controlplane.clock import Clock
from controlplane.controller.desired import traffic_plan
from controlplane.errors import ControlPlaneError, InvalidInputError
from controlplane.ports import (
    CompiledConfig,
    ConfigCompiler,
    Desired,
    Publisher,
    SnapshotRecord,
    SnapshotStatus,
    Store,
)
from controlplane.wake import Wake

log = structlog.get_logger()

KEEP_SNAPSHOTS = 50


@dataclasses.dataclass(slots=True, kw_only=True)
class Projector:
    """Publishes what the rows ask for; on anything it cannot publish, the fleet keeps its last good configuration."""

    store: Store
    compiler: ConfigCompiler
    publisher: Publisher
    clock: Clock
    wake: Wake
    interval: dt.timedelta

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
        if self.publisher.served_version:
            return
        for snapshot in (await self.store.load_last_good_snapshot(), await self.store.load_newest_snapshot()):
            if snapshot is None or snapshot.version == self.publisher.served_version:
                continue
            try:
                self.publisher.publish(snapshot)
            except InvalidInputError as refusal:
                log.warning("snapshot.not_restored", version=snapshot.version, words=str(refusal))
            else:
                log.info("snapshot.restored", version=snapshot.version, status=snapshot.status.value)

    async def project(self) -> None:
        """Publish the snapshot of the committed rows, unless the fleet refused exactly that one before."""
        desired = await self.store.load_desired()
        if not desired.services:
            return  # an Envoy that is told of nothing would drop everything; there is nothing to serve yet
        compiled = self.compiler.compile(traffic_plan(desired))
        if compiled.version == self.publisher.served_version:
            return
        known = await self.store.find_snapshot(compiled.version)
        if known is not None and known.status is SnapshotStatus.REJECTED:
            await self._serve_last_good()
            return
        snapshot = self._record(compiled, desired)
        await self.store.propose_snapshot(snapshot)
        self.publisher.publish(snapshot)
        log.info("snapshot.published", version=snapshot.version, revisions=dict(snapshot.revisions))
        await self.store.prune_snapshots(keep=KEEP_SNAPSHOTS)

    async def _serve_last_good(self) -> None:
        good = await self.store.load_last_good_snapshot()
        if good is None:
            log.error("snapshot.none_good")
        elif good.version != self.publisher.served_version:
            self.publisher.publish(good)
            log.warning("snapshot.reverted", version=good.version)

    def _record(self, compiled: CompiledConfig, desired: Desired) -> SnapshotRecord:
        return SnapshotRecord(
            version=compiled.version,
            versions=compiled.versions,
            revisions={service.revision.spec.name: service.revision.number for service in desired.services},
            content=compiled.content,
            status=SnapshotStatus.PROPOSED,
            words="",
            at=self.clock.now(),
        )
