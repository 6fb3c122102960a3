"""The xDS server: streams on a transport, watched for clients that are too slow."""

import datetime as dt
from typing import Final

from controlplane.clock import Clock
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.fleet import Fleet
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.streams import Streams, Transport

STALL_CHECK: Final = dt.timedelta(seconds=5)

DUE_CHECK: Final = dt.timedelta(milliseconds=250)
"""How late something may be sent that only waited for time to pass."""


class XdsServer:
    """Serves what is in the cache to every client that comes.

    Args:
        cache: What is served.
        fleet: Told who is connected and what they answer.
        clock: Steady time for limits.
        metrics: Streams, and why they end.
        transport: What carries the streams.
    """

    def __init__(
        self, *, cache: SnapshotCache, fleet: Fleet, clock: Clock, metrics: XdsMetrics, transport: Transport
    ) -> None:
        self.streams = Streams(cache=cache, fleet=fleet, clock=clock, metrics=metrics)
        self._clock = clock
        self._transport = transport
        self._started = False

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""
        return self._transport.port

    @property
    def stream_count(self) -> int:
        """How many streams are open."""
        return len(self.streams)

    async def start(self) -> None:
        """Bind the port and accept streams; `stop` must follow. No stream is answered before a first snapshot.

        Raises:
            UnavailableError: The port is taken.
        """
        await self._transport.start(self.streams)
        self._started = True

    async def run(self) -> None:
        """Serve until cancelled, then stop; starts the server unless that was done."""
        if not self._started:
            await self.start()
        try:
            while True:
                for _ in range(STALL_CHECK // DUE_CHECK):
                    await self._clock.sleep(DUE_CHECK)
                    self.streams.clients.wake_due(self._clock.steady())
                self.streams.drop_stalled()
                self._transport.tick()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End all streams and free the port; Envoys keep what they have and look for another server."""
        self._started = False
        self.streams.end_all()
        await self._transport.stop()
