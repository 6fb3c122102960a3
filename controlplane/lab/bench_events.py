"""What the event stream costs: so many events a second to so many readers, some of which do not read.

The whole control plane in one process on one core, all readers in another; what happens are rows of SQLite. The
server's CPU time is measured twice, with the same events and without readers, so that the readers' own share is known;
what is judged is all of it, the making of the events included.
"""

import dataclasses
import datetime as dt
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from controlplane.clock import Clock, SystemClock
from controlplane.lab.child import START_WITHIN, JsonChild
from controlplane.lab.program import EndedEarlyError, console, run_program

MAX_CPU: Final = 0.5
SERVICES: Final = 20
READERS_PER_KEY: Final = 25
ALONE_S: Final = 5.0
WITHIN_S: Final = 30.0
CUT_WITHIN: Final = dt.timedelta(seconds=30)
POLL: Final = dt.timedelta(milliseconds=500)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    rate: int
    readers: int
    slow: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What was measured. CPU is a fraction of one core; *lost* counts events that a quick reader did not get.

    *alone_cpu* is the server's with the same events and without readers. Latencies are of the oldest event in each
    piece that came, from just before its commit.
    """

    plan: Plan
    events: int
    per_second: float
    cpu: float
    alone_cpu: float
    latencies_ms: tuple[float, ...]
    lost: int
    dropped: int
    cut_counted: int
    rss_kib_before: int
    rss_kib: int
    mib_per_second: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row."""
        p50, p99 = np.percentile(self.latencies_ms, [50, 99])
        return {
            **dataclasses.asdict(self.plan),
            "events": self.events,
            "events_per_s": round(self.per_second, 1),
            "cpu": round(self.cpu, 4),
            "cpu_without_readers": round(self.alone_cpu, 4),
            "p50_ms": round(float(p50), 1),
            "p99_ms": round(float(p99), 1),
            "max_ms": round(max(self.latencies_ms), 1),
            "lost": self.lost,
            "slow_readers_dropped": self.dropped,
            "cut_counter": self.cut_counted,
            "rss_kib_before": self.rss_kib_before,
            "rss_kib": self.rss_kib,
            "mib_per_s": round(self.mib_per_second, 1),
        }

    def holds(self) -> bool:
        """Whether it was cheap enough, no quick reader missed anything, and every slow one was dropped."""
        return self.cpu <= MAX_CPU and self.lost == 0 and self.dropped == self.cut_counted == self.plan.slow


async def run_plan(plan: Plan, *, directory: Path, clock: Clock) -> Result:
    """Measure *plan*.

    Raises:
        ControlPlaneError: The server or the readers failed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    program = [sys.executable, "-m"]
    server = JsonChild(
        [*program, "controlplane.lab.events_server", "--core", str(cores[0]), "--directory", str(directory)],
        log_file=directory / "server.log",
    )
    client = JsonChild(
        [*program, "controlplane.lab.events_client", "--core", str(cores[-1])], log_file=directory / "client.log"
    )
    async with server, client:
        port = (await server.wait_line(at_most=START_WITHIN))["port"]
        readers = plan.readers + plan.slow
        keys = (await _tell(server, "prepare", services=SERVICES, keys=-(-readers // READERS_PER_KEY)))["keys"]
        alone = await _alone(server, plan.rate)
        before = await _tell(server, "measure")
        await _tell(client, "connect", port=port, keys=keys, readers=plan.readers, slow=plan.slow)
        begun = await _tell(server, "measure")
        made = int((await _tell(server, "happen", rate=plan.rate, seconds=plan.seconds))["made"])
        got = await _tell(client, "wait", events=made, within_s=WITHIN_S)
        ended = await _tell(server, "measure")
        seconds = ended["at"] - begun["at"]
        after = await _wait_cut(server, plan.slow, clock)
        seen = await _tell(client, "report")
    return Result(
        plan=plan,
        events=made,
        per_second=made / seconds,
        cpu=(ended["cpu_s"] - begun["cpu_s"]) / seconds,
        alone_cpu=alone,
        latencies_ms=tuple(latency * 1_000 for latency in seen["latencies_s"]),
        lost=(made - got["least"]) + max(0, got["most"] - made),
        dropped=seen["closed_slow"],
        cut_counted=int(after["cut"]),
        rss_kib_before=before["rss_kib"],
        rss_kib=after["rss_kib"],
        mib_per_second=seen["bytes"] / seconds / 1024**2,
    )


async def _alone(server: JsonChild, rate: int) -> float:
    """Let things happen that nobody follows; return what part of a core that takes."""
    before = await _tell(server, "measure")
    await _tell(server, "happen", rate=rate, seconds=ALONE_S)
    after = await _tell(server, "measure")
    return float((after["cpu_s"] - before["cpu_s"]) / (after["at"] - before["at"]))


async def _wait_cut(server: JsonChild, slow: int, clock: Clock) -> dict[str, Any]:
    """Wait until the slow readers were cut off; whether they were is for the result to say."""
    give_up = clock.steady() + CUT_WITHIN.total_seconds()
    while True:
        seen = await _tell(server, "measure")
        if seen["cut"] >= slow or clock.steady() >= give_up:
            return seen
        await clock.sleep(POLL)


async def _tell(child: JsonChild, what: str, **order: Any) -> dict[str, Any]:
    await child.tell({"do": what, **order})
    return await child.wait_line(at_most=dt.timedelta(seconds=700))


def main(
    *, rate: int = 1_000, readers: int = 100, slow: int = 5, seconds: float = 30.0, json_file: Path | None = None
) -> int:
    """Run the bench, print its table, and return 0 if everything holds."""
    directory = Path(tempfile.mkdtemp(prefix="hueshift-bench-events-"))
    plan = Plan(rate, readers, slow, seconds)
    try:
        result = run_program(run_plan(plan, directory=directory, clock=SystemClock()))
    except EndedEarlyError as exc:
        print(f"bench events: {exc} (logs: {directory})", file=sys.stderr)
        return exc.code
    row = result.to_json()
    table = Table("", f"{rate} events/s, {readers} readers, {slow} that do not read", "bound")
    for words, key, bound in (
        ("events", "events", ""),
        ("events a second", "events_per_s", ""),
        ("server CPU, of a core", "cpu", f"{MAX_CPU:g}"),
        ("the same events without readers", "cpu_without_readers", ""),
        ("commit to reader, p50 ms", "p50_ms", ""),
        ("commit to reader, p99 ms", "p99_ms", ""),
        ("commit to reader, max ms", "max_ms", ""),
        ("sent, MiB/s", "mib_per_s", ""),
        ("events that a reader missed", "lost", "0"),
        ("slow readers dropped", "slow_readers_dropped", str(slow)),
        ("memory before, KiB", "rss_kib_before", ""),
        ("memory after, KiB", "rss_kib", ""),
    ):
        table.add_row(words, str(row[key]), bound)
    console().print(table)
    good = result.holds()
    print("holds" if good else f"FAILS; logs: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps({**row, "holds": good}, indent=2) + "\n")
    return 0 if good else 1
