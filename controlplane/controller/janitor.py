"""Keeps the tables from growing for ever: telemetry beyond its retention goes, a little at a time."""

import dataclasses
import datetime as dt

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.ports import TelemetryStore

log = structlog.get_logger()


@dataclasses.dataclass(slots=True, kw_only=True)
class Janitor:
    """Prunes once per *interval*; late is harmless."""

    store: TelemetryStore
    clock: Clock
    retention: dt.timedelta
    interval: dt.timedelta = dt.timedelta(minutes=1)

    async def run(self) -> None:
        """Prune, wait, for ever."""
        while True:
            await self.clock.sleep(self.interval)
            try:
                await self.prune()
            except ControlPlaneError:
                log.warning("telemetry.not_pruned", exc_info=True)

    async def prune(self) -> None:
        """Delete ticks that are older than the retention."""
        oldest = self.clock.now() - self.retention
        await self.store.prune_telemetry(before_tick=int(oldest.timestamp()))
