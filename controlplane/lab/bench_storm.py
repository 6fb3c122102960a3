"""All clients drop and return at once: how long until every one is in sync again, and does the memory come back?

The same server and clients as `bench fanout`. The clients' processes die as far as the server can see: connections are
reset, and those that come are fresh and ask for everything. A few rounds, since one would not show what stays behind.
"""

import dataclasses
import datetime as dt
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from controlplane.clock import Clock, SystemClock
from controlplane.errors import UnavailableError
from controlplane.lab.bench_fanout import AT_ONCE, WARM_UPS, Bench, Plan, Transport, running_bench, track
from controlplane.lab.fanout_client import Mode
from controlplane.lab.program import EndedEarlyError, console, run_program

SYNC_LIMIT_S = 10.0
RSS_GROWTH_LIMIT = 0.10

SETTLE = dt.timedelta(seconds=2)
SETTLE_TURNS = 15
"""How often memory is looked at until it is back; connections that were reset are cleared away in the background."""


@dataclasses.dataclass(frozen=True, slots=True)
class Storm:
    """One storm: seconds until all were in sync again, memory before it and after it, streams that were lost."""

    seconds: float
    rss_kib_before: float
    rss_kib_after: float
    lost: int

    @property
    def growth(self) -> float:
        """How much more memory there is than before, as a fraction."""
        return self.rss_kib_after / self.rss_kib_before - 1

    def holds(self) -> bool:
        """Whether it was over in time and left nothing behind."""
        return self.seconds <= SYNC_LIMIT_S and self.growth <= RSS_GROWTH_LIMIT and self.lost == 0


async def run_storms(plan: Plan, *, rounds: int, directory: Path, clock: Clock) -> tuple[Storm, ...]:
    """Let *rounds* storms happen to a server in use.

    Raises:
        ControlPlaneError: The server or the clients failed, or some clients were not served again.
    """
    storms = []
    async with running_bench(directory, transport=plan.transport, clock=clock) as bench:
        await bench.prepare(plan.size, plan.kinds)
        version = (await bench.connect(plan, at_once=AT_ONCE))["version"]
        for _ in range(WARM_UPS):
            _, version, _ = await bench.change(version, plan.streams)
        before = (await bench.wait_rest())["rss_kib"]
        for _ in track(range(rounds), "storms"):
            await bench.drop()
            returned = await bench.connect(plan, at_once=plan.streams)
            if returned["version"] != version:
                raise UnavailableError("the clients came back to other routes than they left")
            after = await _wait_calm(bench, plan.streams, before, clock)
            storms.append(Storm(returned["seconds"], before, after["rss_kib"], plan.streams - after["streams"]))
    return tuple(storms)


async def _wait_calm(bench: Bench, streams: int, before: float, clock: Clock) -> dict[str, Any]:
    seen = await bench.wait_rest()
    for _ in range(SETTLE_TURNS):
        if seen["streams"] == streams and seen["rss_kib"] <= before * (1 + RSS_GROWTH_LIMIT):
            break
        await clock.sleep(SETTLE)
        seen = await bench.wait_rest()
    return seen


def main(
    *,
    streams: int = 1_000,
    rounds: int = 3,
    mode: Mode = "sotw",
    transport: Transport = "lean",
    json_file: Path | None = None,
) -> int:
    """Run the bench, print its table, and return 0 if everything holds."""
    directory = Path(tempfile.mkdtemp(prefix="hueshift-bench-storm-"))
    plan = Plan(streams, 0, mode, "small", "rds", transport)
    try:
        storms = run_program(run_storms(plan, rounds=rounds, directory=directory, clock=SystemClock()))
    except EndedEarlyError as exc:
        print(f"bench storm: {exc} (logs: {directory})", file=sys.stderr)
        return exc.code
    table = Table("", *(f"storm {number}" for number in range(1, rounds + 1)), "bound")
    table.add_row("all in sync again, s", *(f"{storm.seconds:.2f}" for storm in storms), f"{SYNC_LIMIT_S:g}")
    table.add_row("memory before, MiB", *(f"{storm.rss_kib_before / 1024:.1f}" for storm in storms), "")
    table.add_row("memory after, MiB", *(f"{storm.rss_kib_after / 1024:.1f}" for storm in storms), "+10 %")
    table.add_row("lost", *(str(storm.lost) for storm in storms), "0")
    console().print(table)
    good = all(storm.holds() for storm in storms)
    print("holds" if good else f"FAILS; logs: {directory}")
    if json_file is not None:
        rows = [{**dataclasses.asdict(storm), "growth": round(storm.growth, 4)} for storm in storms]
        json_file.write_text(
            json.dumps({"streams": streams, "mode": mode, "storms": rows, "holds": good}, indent=2) + "\n"
        )
    return 0 if good else 1
