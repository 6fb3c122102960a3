"""The control plane that `bench events` measures: all of the product in a process of its own, told what happens.

`wiring` builds and `running` runs it as `hueshift serve` does, on SQLite. What happens are real rows of the history,
committed a batch at a time as a busy fleet of rollouts would; after each commit the event feed is woken by its own
flag, as its topics do. No topic is announced, since nothing is to be projected or decided anew.
"""

import argparse
import asyncio
import datetime as dt
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from controlplane import running, wiring
from controlplane.api.documents import spec_from
from controlplane.api.reading import read_document
from controlplane.auth.keys import KeyRing
from controlplane.clock import Clock, SystemClock
from controlplane.errors import ControlPlaneError
from controlplane.lab.api_client import service_document
from controlplane.lab.child import read_lines, say
from controlplane.lab.fanout_client import use_core
from controlplane.lab.fanout_server import resident_kib
from controlplane.settings import read_settings
from controlplane.store.engine import Tx
from controlplane.store.queries import append_history, audit
from controlplane.xds.transport import bind_port

BATCH: Final = dt.timedelta(milliseconds=50)
MADE: Final = "made at "
"""Stands before the steady moment of its making in each event; another process of this machine may compare."""


class Server:
    """Does what it is told, one line after the other.

    Args:
        parts: The running product.
        clock: Dates events.
    """

    def __init__(self, parts: wiring.Parts, clock: Clock) -> None:
        self._parts = parts
        self._clock = clock
        self._services: list[str] = []

    async def obey(self, lines: "asyncio.Queue[bytes]") -> None:
        """Obey lines for ever."""
        while True:
            order = json.loads(await lines.get())
            match order.pop("do"):
                case "prepare":
                    say(await self._prepare(**order))
                case "happen":
                    say(await self._happen(**order))
                case "measure":
                    say(self._measure())
                case unknown:
                    say({"error": f"do: {unknown!r} is not known"})

    async def _prepare(self, *, services: int, keys: int) -> dict[str, Any]:
        store, now = self._parts.store, self._clock.now()
        for number in range(services):
            name = f"service-{number}"
            document = service_document(name, port=20_000 + number, endpoints={"v1": 1, "v2": 2})
            await store.apply(spec_from(read_document(document)), by="bench", why="events", now=now)
            self._services.append(name)
        ring = KeyRing(store=store, clock=self._clock)
        return {"keys": [await ring.create(f"reader-{number}") for number in range(keys)]}

    async def _happen(self, *, rate: int, seconds: float) -> dict[str, Any]:
        """Commit *rate* events a second, in batches; say how many there were and how long it took."""
        begun, made = self._clock.steady(), 0
        while (passed := self._clock.steady() - begun) < seconds:
            due = min(int(rate * (passed + BATCH.total_seconds())), int(rate * seconds)) - made
            await self._parts.store.database.write(functools.partial(self._append, count=due))
            made += due
            self._parts.events.wake.set()
            following = begun + (int(passed / BATCH.total_seconds()) + 1) * BATCH.total_seconds()
            await self._clock.sleep(dt.timedelta(seconds=max(0.0, following - self._clock.steady())))
        return {"made": made, "seconds": self._clock.steady() - begun}

    def _append(self, tx: Tx, *, count: int) -> None:
        now, moment = self._clock.now(), self._clock.steady()
        words = f"the split is now v1 95 %, v2 5 %: {MADE}{moment:.4f} by a bench that says as much as people do"
        append_history(
            tx.conn,
            [
                audit(self._services[number % len(self._services)], "set-split", by="bench", words=words, at=now)
                for number in range(count)
            ],
        )

    def _measure(self) -> dict[str, Any]:
        registry = self._parts.api.state.registry
        return {
            "at": self._clock.steady(),
            "cpu_s": time.process_time(),
            "rss_kib": resident_kib(),
            "streams": registry.get_sample_value("hueshift_api_event_streams"),
            "cut": registry.get_sample_value("hueshift_api_event_streams_cut_total"),
        }


async def run(directory: Path) -> None:
    """Run the control plane until standard input is closed.

    Raises:
        ControlPlaneError: It cannot start.
    """
    settings = read_settings(data_dir=directory, xds_port=0, telemetry_port=0, database_url="", log_level="warning")
    running.configure_logging(settings)
    with bind_port("127.0.0.1", 0, "HUESHIFT_API_PORT") as api_socket:
        async with wiring.build(settings) as parts:
            running.tune_collector()
            running.raise_file_limit()
            lines: asyncio.Queue[bytes] = asyncio.Queue()
            async with asyncio.TaskGroup() as tasks:
                jobs = [
                    tasks.create_task(running.run(parts, api_socket=api_socket, drain_s=1.0)),
                    tasks.create_task(Server(parts, SystemClock()).obey(lines)),
                ]
                say({"port": api_socket.getsockname()[1]})
                await read_lines(lines.put_nowait)
                for job in jobs:
                    job.cancel()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, required=True, help="the core to run on")
    parser.add_argument("--directory", type=Path, required=True, help="for the database and keys")
    options = parser.parse_args(argv)
    use_core(options.core)
    try:
        asyncio.run(run(options.directory))
    except ControlPlaneError as exc:
        say({"error": str(exc)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
