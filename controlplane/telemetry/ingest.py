"""Moves what Envoys report into SQL, a few times a second: the ledger's I/O.

A report is booked the moment it arrives; the loop writes what changed at most four times a second, and once more when
a second is over, so that the judge may peek at the current tick and finds the last one closed without delay. While the
database is unreachable the same batch is offered again and everything newer waits behind it, in bounded memory; what
was never written is told anew by the Envoys' own counters, after a restart too.
"""

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import Callable, Collection
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.pb import envoy_metrics_pb2 as pb
from controlplane.ports import TelemetryStore
from controlplane.telemetry.fleet import Line, Moment
from controlplane.telemetry.ledger import Ledger
from controlplane.telemetry.metrics import TelemetryMetrics
from controlplane.telemetry.reports import parse
from controlplane.wake import Topic, Wake, WakeBoard

log = structlog.get_logger()

WRITE_INTERVAL: Final = dt.timedelta(milliseconds=250)

LAST_WRITE_S: Final = 3.0
"""How long the end of the process waits for the database."""

MAX_NODE_ID_CHARS: Final = 256


class TelemetryIngest:
    """Takes the reports of any number of Envoys and keeps SQL up to date with them."""

    def __init__(
        self,
        *,
        store: TelemetryStore,
        clock: Clock,
        board: WakeBoard,
        source: str | None = None,
        settle: dt.timedelta = dt.timedelta(0),
        write_interval: dt.timedelta = WRITE_INTERVAL,
        connected: Callable[[], Collection[str]] = frozenset,
        metrics: TelemetryMetrics | None = None,
    ) -> None:
        """Begin with nothing heard; nothing is counted before SQL was read.

        Args:
            store: Where counts go, and where the counters booked by the process before come from.
            clock: For ticks and spans.
            board: Is told `Topic.FLEET` when what Envoys find healthy has changed; of counts, the store tells itself.
            source: The name of our rows, which no other process may ever have used; a fresh one by default.
            settle: Zero when this is the only process that receives telemetry for the database. Several replicas give
                a second or so: the time in which another replica writes the last that it heard of an Envoy.
            write_interval: The least time between two writes, the end of a second excepted.
            connected: The ids of the Envoys whose xDS streams are open in this process.
            metrics: Our own; into a registry of nobody's by default.
        """
        self._store = store
        self._clock = clock
        self._board = board
        self._interval_s = write_interval.total_seconds()
        self._metrics = metrics or TelemetryMetrics(CollectorRegistry())
        self._wake = Wake()
        self._failing = False
        self._ledger = Ledger(
            source=source or uuid.uuid4().hex,
            at=self._moment(),
            settle_s=settle.total_seconds(),
            connected=connected,
        )

    def open(self, node: str) -> Line:
        """Begin a stream of the Envoy with this node id."""
        return self._ledger.open(node, at=self._moment())

    def take(self, line: Line, message: pb.StreamMetricsMessage) -> None:
        """Book one flush."""
        self._ledger.take(line, parse(message), at=self._moment())
        self._metrics.reports.inc()
        self._say()
        self._wake.set()

    def close(self, line: Line) -> None:
        """End a stream."""
        self._ledger.close(line, at=self._moment())
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled; then close the tick, so that nobody waits for what we will not add to it."""
        try:
            while True:
                await self._wake.wait(dt.timedelta(seconds=self._until_next_second()))
                written = self._clock.steady()
                await self.write()
                pause = min(written + self._interval_s - self._clock.steady(), self._until_next_second())
                if pause > 0:
                    await self._clock.sleep(dt.timedelta(seconds=pause))
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WRITE_S):
                    await self.finish()

    async def finish(self) -> None:
        """Write what is left and close the current tick. Envoys tell again whatever arrives later."""
        if await self.write() or await self.write():
            self._ledger.finish(at=self._moment())
            await self.write()

    async def write(self) -> bool:
        """Bring SQL up to date; return whether it is. An unreachable database leaves the rest for the next time."""
        try:
            if self._ledger.wants_bases(at=self._moment()):
                self._ledger.learn(await self._store.load_bases(), at=self._moment())
            complete = await self._write_batch()
            if gone := self._ledger.take_gone():
                await self._store.forget_health(gone)
        except ControlPlaneError as exc:
            self._metrics.write_failures.inc()
            if not self._failing:
                log.warning("telemetry.write_failed", problem=str(exc))
            self._failing = True
            return False
        if self._failing:
            log.info("telemetry.write_resumed")
        self._failing = False
        if not complete:
            self._wake.set()
        return complete

    async def _write_batch(self) -> bool:
        """Write one batch; return whether nothing was left behind it."""
        retried = self._ledger.is_unconfirmed
        batch = self._ledger.batch(at=self._moment())
        heard = self._ledger.heard(at=self._moment())
        self._metrics.reporting.set(heard.reporting)
        self._metrics.silent.set(heard.silent)
        self._say()
        if batch is None:
            return True
        with self._metrics.write_seconds.time():
            await self._store.record(batch)
        self._ledger.confirm()
        self._metrics.gaps.inc(len(batch.gaps))
        if batch.health:
            self._board.announce(Topic.FLEET)
        return not retried

    def _say(self) -> None:
        for notice in self._ledger.notices:
            self._metrics.refused.labels(event=notice.event).inc()
            log.warning(notice.event, **notice.fields)
        self._ledger.notices.clear()

    def _moment(self) -> Moment:
        return Moment(now=self._clock.now(), steady=self._clock.steady())

    def _until_next_second(self) -> float:
        return 1.0 - self._clock.now().timestamp() % 1.0
