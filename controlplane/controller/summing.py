"""Sums telemetry up, so that a service's past can be drawn when its seconds are gone, and drawn fast before that.

Minutes are made of ticks and hours of minutes, some time after they are over: what comes later still is in the ticks
alone. The lease holder does it; who does it twice writes the same rows.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.ports import TelemetryStore

log = structlog.get_logger()

MINUTE_S: Final = 60
HOUR_S: Final = 3600
GRACE_S: Final = {MINUTE_S: 60, HOUR_S: 240}
"""How long after its end a span is summed up: an hour after its last minute."""
MINUTES_KEPT: Final = dt.timedelta(days=14)
HOURS_KEPT: Final = dt.timedelta(days=400)
AT_ONCE: Final = 60
"""Spans in one turn: a process that was away for long catches up by and by."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Summing:
    """Sums up what is over, once per *interval*, and forgets what is too old."""

    store: TelemetryStore
    clock: Clock
    leads: Callable[[], bool]
    interval: dt.timedelta = dt.timedelta(seconds=20)

    async def run(self) -> None:
        """Sum up, wait, for ever."""
        while True:
            await self.clock.sleep(self.interval)
            try:
                if self.leads():
                    await self.turn()
            except ControlPlaneError:
                log.warning("telemetry.not_summed_up", exc_info=True)

    async def turn(self) -> None:
        """Sum up what is over.

        Raises:
            UnavailableError: The store does not answer.
        """
        now = int(self.clock.now().timestamp())
        done = 0
        for span_s in (MINUTE_S, HOUR_S):
            for _ in range(AT_ONCE):
                if not await self.store.sum_up(span_s, until=now - GRACE_S[span_s]):
                    break
                done += 1
        for span_s, kept in ((MINUTE_S, MINUTES_KEPT), (HOUR_S, HOURS_KEPT)) if done else ():
            await self.store.prune_sums(span_s, before=now - int(kept.total_seconds()))
