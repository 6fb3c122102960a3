"""A lean HTTP/1.1 load generator: raw bytes over kept-alive connections, every answer recorded in compact arrays.

Paced (open-loop) load sends at its rate whatever the answers do, so a slow server cannot hide by slowing the client;
requests that find no free connection wait, and their *due* time says since when. Every load is bounded in count, in
time and in connections. `LoadProcess` runs loads beside the program that measures, so that neither slows the other.
"""

import argparse
import asyncio
import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.clock import Clock, SystemClock
from controlplane.lab.child import START_WITHIN, JsonChild, read_lines, say
from controlplane.lab.pacing import Arrivals, LoadPlan
from controlplane.lab.records import Outcome, Records, summarise
from controlplane.lab.sender import Load

__all__ = ["Arrivals", "Load", "LoadPlan", "LoadProcess", "Outcome", "Records", "run_loads", "summarise"]


class LoadProcess:
    """Loads in a process of their own, for the program that runs a bench.

    Args:
        plans: The loads, told apart by their names; they start together.
        directory: Where the plans and the records are written.
    """

    def __init__(self, plans: Sequence[LoadPlan], *, directory: Path) -> None:
        if len({plan.name for plan in plans}) != len(plans):
            raise ValueError("each load needs its own name")
        self._plans = tuple(plans)
        self._directory = directory
        argv = [sys.executable, "-m", "controlplane.lab.load", "--plans", str(directory / "plans.json")]
        self._child = JsonChild([*argv, "--out", str(directory), "--attached"], log_file=directory / "load.log")
        self.started_at = 0.0
        """The steady moment of the first request."""

    async def __aenter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        plans = json.dumps([plan.to_json() for plan in self._plans])
        (self._directory / "plans.json").write_text(plans)
        await self._child.__aenter__()
        try:
            self.started_at = float((await self._child.wait_line(at_most=START_WITHIN))["started_at"])
        except BaseException:
            await self._child.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._child.__aexit__(kind, exc, trace)

    def stop(self) -> None:
        """Have the loads end now, once their last answers are in."""
        self._child.close_input()

    async def wait_records(self, *, at_most: dt.timedelta) -> dict[str, Records]:
        """Wait until all loads have ended; return their records by name."""
        await self._child.wait_line(at_most=at_most)
        return {plan.name: Records.read(self._directory / f"{plan.name}.npz") for plan in self._plans}


async def run_loads(plans: Sequence[LoadPlan], *, clock: Clock, attached: bool) -> dict[str, Records]:
    """Run *plans* side by side; *attached*: until standard input is closed, at the latest."""
    loads = [Load(plan, clock=clock) for plan in plans]

    async def obey_end_of_input() -> None:
        await read_lines(lambda _: None)
        for load in loads:
            load.stop()

    say({"started_at": clock.steady()})
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(obey_end_of_input()) if attached else None
        async with asyncio.TaskGroup() as running:
            results = [running.create_task(load.run(), name=load.plan.name) for load in loads]
        if watching is not None:
            watching.cancel()
    return {plan.name: result.result() for plan, result in zip(plans, results, strict=True)}


def _parse(argv: Sequence[str] | None) -> tuple[list[LoadPlan], Path | None, bool]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=Path, help="a JSON list of plans, instead of the options below")
    parser.add_argument("--port", type=int, help="where to send, on 127.0.0.1")
    parser.add_argument("--path", default="/")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--body", action="append", default=[], metavar="FILE")
    parser.add_argument("--rate", type=float, help="requests per second; without it, as fast as answers come")
    parser.add_argument("--arrivals", choices=[arrivals.value for arrivals in Arrivals], default="uniform")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, help="directory for NAME.npz")
    parser.add_argument("--attached", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(argv)
    if options.plans is not None:
        plans = [LoadPlan.from_json(raw) for raw in json.loads(options.plans.read_text())]
    elif options.port is not None:
        plans = [
            LoadPlan(
                port=options.port,
                path=options.path,
                method=options.method,
                headers=dict(line.split(":", 1) for line in options.header),
                body_files=tuple(options.body),
                rate=options.rate,
                arrivals=Arrivals(options.arrivals),
                connections=options.connections,
                requests=options.requests,
                duration_s=options.duration,
                timeout_s=options.timeout,
                seed=options.seed,
            )
        ]
    else:
        parser.error("name a --port or --plans")
    return plans, options.out, options.attached


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load and write what became of it."""
    plans, out, attached = _parse(argv)
    results = asyncio.run(run_loads(plans, clock=SystemClock(), attached=attached))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, records in results.items():
            records.save(out / f"{name}.npz")
    say({name: summarise(records) for name, records in results.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
