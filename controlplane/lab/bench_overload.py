"""A worker under ten times what it can do: is the rest refused at once, and are those that it takes answered in time?

A real worker process with the shipped model. First one client alone says what a request takes; then half as many as
there are places say what the worker can do; then 200 clients send ten times that, at an even pace whatever the answers
do; then again, and in their midst the worker is told to stop. A latency is from sending to the whole answer. The
clients' process shares the machine's cores with the worker, so those that are served also pay for the refusals.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from rich.table import Table

from controlplane import quality
from controlplane.clock import Clock, SystemClock
from controlplane.errors import UnavailableError
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.load import LoadPlan, LoadProcess, Records
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, console, run_program
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import program

CLIENTS: Final = 200
TIMES: Final = 10
GROWTH_LIMIT_MIB: Final = 150.0
DRAIN: Final = dt.timedelta(seconds=90)
EXPECTED: Final = frozenset({200, 429, 503})
PHOTOS: Final = Path(quality.__file__).parent / "photos"
"""The quality gate's: all grey, so that none is refused for its colours."""
_RSS: Final = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)
_STOPPED: Final = re.compile(r"worker\.stopped .*accepted=(\d+) answered=(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Overload:
    """What was measured: milliseconds, requests a second, MiB; counts of answers by status under overload."""

    alone_ms: float
    capacity_rps: float
    queue: int
    offered_rps: float
    p50_ms: float
    p99_ms: float
    served_rps: float
    answers: dict[str, int]
    failures: int
    rss_before_mib: float
    rss_peak_mib: float
    exit_code: int | None
    accepted: int
    answered: int

    @property
    def p99_limit_ms(self) -> float:
        """What the 99th percentile of those served may take: twice a full queue of requests one after the other."""
        return 2 * self.alone_ms * self.queue

    @property
    def growth_mib(self) -> float:
        """How much memory the overload took at most."""
        return self.rss_peak_mib - self.rss_before_mib

    def holds(self) -> bool:
        """Whether nothing crashed, grew, was late or was lost."""
        return (
            self.p99_ms <= self.p99_limit_ms
            and self.growth_mib <= GROWTH_LIMIT_MIB
            and self.failures == 0
            and self.exit_code == 0
            and self.accepted == self.answered
        )


class _Bench:
    def __init__(self, directory: Path, *, queue: int, clock: Clock) -> None:
        self.directory = directory
        self._clock = clock
        (self.port,) = free_ports(1)
        self.log = directory / "worker.log"
        command = [program("hueshift-worker"), "serve", "--model", "v1", "--port", str(self.port)]
        self.worker = ServerProcess([*command, "--queue", str(queue)], log_file=self.log)
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)
        self.peak = 0.0

    async def start(self) -> None:
        await self.worker.start()

        async def ask() -> bool | None:
            self.worker.check_alive()
            with contextlib.suppress(httpx.TransportError):
                return (await self._http.get("/readyz")).is_success or None
            return None

        await wait_for_answer(ask, what="the worker", clock=self._clock, at_most=dt.timedelta(minutes=2))

    async def close(self) -> None:
        await self._http.aclose()
        await self.worker.stop(within=DRAIN)

    def plan(self, name: str, seconds: float, *, connections: int, rate: float | None = None) -> LoadPlan:
        return LoadPlan(
            port=self.port,
            name=name,
            method="POST",
            path="/repair",
            headers={"content-type": "image/jpeg", "accept": "image/jpeg"},
            body_files=tuple(map(str, sorted(PHOTOS.glob("*.jpg")))),
            rate=rate,
            connections=connections,
            duration_s=seconds,
            timeout_s=60,
        )

    async def load(self, plan: LoadPlan) -> Records:
        async with LoadProcess([plan], directory=self.directory / plan.name) as running:
            records = await running.wait_records(at_most=dt.timedelta(seconds=plan.duration_s + 120))
        return records[plan.name]

    async def rss_mib(self) -> float:
        found = _RSS.search((await self._http.get("/metrics")).text)
        if found is None:
            raise UnavailableError("the worker's metrics do not say how much memory it has")
        return float(found[1]) / 2**20

    async def watch_memory(self) -> None:
        """Note the most memory that the worker has, once a second, until cancelled."""
        while True:
            with contextlib.suppress(httpx.HTTPError):
                self.peak = max(self.peak, await self.rss_mib())
            await self._clock.sleep(dt.timedelta(seconds=1))


async def measure(*, seconds: float, queue: int, directory: Path, clock: Clock) -> Overload:
    """Run the bench.

    Raises:
        ControlPlaneError: The worker did not start, or ended by itself.
    """
    bench = _Bench(directory, queue=queue, clock=clock)
    try:
        await bench.start()
        await bench.load(bench.plan("warm-up", 3, connections=2))
        alone = await bench.load(bench.plan("alone", max(3, seconds / 10), connections=1))
        full = await bench.load(bench.plan("capacity", max(3, seconds / 6), connections=max(2, queue // 2)))
        capacity = float(full.ok.sum() / (full.end.max() - full.start.min()))
        before = bench.peak = await bench.rss_mib()
        offered = TIMES * capacity
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(bench.watch_memory())
            found = await bench.load(bench.plan("overload", seconds, connections=CLIENTS, rate=offered))
            watching.cancel()
        bench.worker.check_alive()
        code = await _stop_under_load(bench, offered)
    finally:
        await bench.close()
    served = found.duration_ms[found.ok]
    stopped = _STOPPED.findall(bench.log.read_text())
    accepted, answered = map(int, stopped[-1]) if stopped else (0, -1)
    statuses, counts = np.unique(found.status, return_counts=True)
    expected = np.isin(found.status, list(EXPECTED)) & (found.outcome == 0)
    return Overload(
        alone_ms=float(np.mean(alone.duration_ms[alone.ok])),
        capacity_rps=capacity,
        queue=queue,
        offered_rps=offered,
        p50_ms=float(np.percentile(served, 50)),
        p99_ms=float(np.percentile(served, 99)),
        served_rps=float(found.ok.sum() / seconds),
        answers={str(status): int(count) for status, count in zip(statuses, counts, strict=True)},
        failures=int((~expected).sum()),
        rss_before_mib=before,
        rss_peak_mib=bench.peak,
        exit_code=code,
        accepted=accepted,
        answered=answered,
    )


async def _stop_under_load(bench: _Bench, offered: float) -> int | None:
    """Tell the worker to stop while it is overloaded; return its exit code."""
    plan = bench.plan("stop", 60, connections=CLIENTS, rate=offered)
    async with LoadProcess([plan], directory=bench.directory / plan.name) as running:
        await bench._clock.sleep(dt.timedelta(seconds=2))  # noqa: SLF001 - one module
        code = await bench.worker.stop(within=DRAIN)
        running.stop()
    return code


def main(*, seconds: float = 60.0, queue: int = 16, json_file: Path | None = None) -> int:
    """Run the bench, print its table, and return 0 if everything holds."""
    directory = Path(tempfile.mkdtemp(prefix="hueshift-bench-overload-"))
    try:
        found = run_program(measure(seconds=seconds, queue=queue, directory=directory, clock=SystemClock()))
    except EndedEarlyError as exc:
        print(f"bench overload: {exc} (logs: {directory})", file=sys.stderr)
        return exc.code
    answers = ", ".join(f"{count} with {status}" for status, count in found.answers.items())
    table = Table("", "measured", "bound")
    table.add_row("one client alone, ms a request", f"{found.alone_ms:.1f}", "")
    table.add_row("capacity, requests/s", f"{found.capacity_rps:.1f}", "")
    table.add_row(f"offered by {CLIENTS} clients, requests/s", f"{found.offered_rps:.0f}", "")
    table.add_row("answered", answers, "200, 429, 503")
    table.add_row("served, requests/s", f"{found.served_rps:.1f}", "")
    table.add_row("served: p50, ms", f"{found.p50_ms:.0f}", "")
    table.add_row("served: p99, ms", f"{found.p99_ms:.0f}", f"{found.p99_limit_ms:.0f}")
    table.add_row("other answers and failures", str(found.failures), "0")
    table.add_row("memory, MiB", f"{found.rss_before_mib:.0f} -> {found.rss_peak_mib:.0f}", f"+{GROWTH_LIMIT_MIB:g}")
    table.add_row("SIGTERM: accepted, answered", f"{found.accepted}, {found.answered}", "the same")
    table.add_row("exit code", str(found.exit_code), "0")
    console().print(table)
    print("holds" if found.holds() else f"FAILS; logs: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps(dataclasses.asdict(found) | {"holds": found.holds()}, indent=2) + "\n")
    return 0 if found.holds() else 1
