"""The control plane that `bench fanout` measures: all of the product in a process of its own, told when to commit.

`wiring` builds and runs it as `hueshift serve` does, without the REST port; a change is `set_split` on its store. So a
change goes from SQL through projector, snapshot and cache to the streams, and what they answer becomes rows again.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controlplane import running, wiring
from controlplane.api.documents import spec_from
from controlplane.api.reading import read_document
from controlplane.clock import Clock, SystemClock
from controlplane.errors import ControlPlaneError
from controlplane.lab.child import read_lines, say
from controlplane.lab.fanout_client import raise_file_limit, use_core
from controlplane.settings import read_settings
from controlplane.traffic.model import Share

MAX_STREAMS = 20_000
START_POLL = dt.timedelta(milliseconds=20)


def resident_kib() -> int:
    """Return this process's memory in KiB, as the kernel counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4


class Server:
    """Does what it is told, one line after the other.

    Args:
        parts: The running product.
        clock: Dates commits; steady time is the machine's, so another process may compare.
    """

    def __init__(self, parts: wiring.Parts, clock: Clock) -> None:
        self._parts = parts
        self._clock = clock

    async def obey(self, lines: "asyncio.Queue[bytes]") -> None:
        """Obey lines for ever."""
        while True:
            order = json.loads(await lines.get())
            match order.pop("do"):
                case "apply":
                    say(await self._apply(**order))
                case "change":
                    say(await self._change(**order))
                case "measure":
                    say(self._measure())
                case unknown:
                    say({"error": f"do: {unknown!r} is not known"})

    async def _apply(self, *, document: dict[str, Any]) -> dict[str, Any]:
        spec = spec_from(read_document(document))
        await self._parts.store.apply(spec, by="bench", why="fan-out", now=self._clock.now())
        return {}

    async def _change(self, *, service: str, weights: dict[str, int]) -> dict[str, Any]:
        split = tuple(Share(version, weight_bp) for version, weight_bp in weights.items())
        called = self._clock.steady()
        await self._parts.store.set_split(service, split, by="bench", why="fan-out", now=self._clock.now())
        return {"called": called, "committed": self._clock.steady()}

    def _measure(self) -> dict[str, Any]:
        served = self._parts.xds.server.streams.cache.served()
        return {
            "at": self._clock.steady(),
            "cpu_s": time.process_time(),
            "rss_kib": resident_kib(),
            "streams": self._parts.xds.server.stream_count,
            "published": served.published_at if served is not None else 0.0,
        }


async def run(directory: Path, transport: str) -> None:
    """Run the control plane until standard input is closed.

    Raises:
        ControlPlaneError: It cannot start.
    """
    settings = read_settings(
        data_dir=directory,
        xds_port=0,
        xds_transport=transport,
        telemetry_port=0,
        database_url="",
        log_level="warning",
    )
    running.configure_logging(settings)
    async with wiring.build(settings) as parts:
        running.tune_collector()
        clock = SystemClock()
        server = Server(parts, clock)
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            jobs = [tasks.create_task(running.run(parts, api_socket=None)), tasks.create_task(server.obey(lines))]
            while not parts.xds.server.port:
                await clock.sleep(START_POLL)
            say({"port": parts.xds.server.port})
            await read_lines(lines.put_nowait)
            for job in jobs:
                job.cancel()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, required=True, help="the core to run on")
    parser.add_argument("--transport", required=True, help="what carries the streams, see HUESHIFT_XDS_TRANSPORT")
    parser.add_argument("--directory", type=Path, required=True, help="for the database and keys")
    options = parser.parse_args(argv)
    use_core(options.core)
    with contextlib.suppress(ValueError):  # the client says so if it is too low
        raise_file_limit(MAX_STREAMS)
    try:
        asyncio.run(run(options.directory, options.transport))
    except ControlPlaneError as exc:
        say({"error": str(exc)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
