"""What a change costs when many clients follow it: from a commit in SQL to every stream, CPU and memory of the server.

Context: a gRPC client in Python costs more than the server, and a bare cache is not the product. Choice: the whole
control plane in one process, all streams in another, framed by hand, each pinned to a core of its own; a change is one
commit of a split, and changes one route configuration. CPU is the server's between moments of rest, so it includes
reading the commit, building the snapshot, all writes and answers, and the rows that the answers become; what it uses
without any change is measured first, and reported by itself.
Consequence: the figures compare with those of a bare cache only where there are so many streams that what they share
does not count.
"""

import contextlib
import dataclasses
import datetime as dt
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from rich.progress import track as rich_track
from rich.table import Table

from controlplane.clock import Clock, SystemClock
from controlplane.errors import UnavailableError
from controlplane.lab.api_client import service_document
from controlplane.lab.child import START_WITHIN, JsonChild
from controlplane.lab.fanout_client import Mode
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, console, run_program

Size: TypeAlias = Literal["small", "medium"]
Kinds: TypeAlias = Literal["rds", "all"]
Transport: TypeAlias = Literal["lean", "grpc"]

SERVICE = "fan"
ROUTES: Mapping[Size, int] = {"small": 1, "medium": 66}
"""Routes of the service: 66 of them are 4 kB of route configuration."""

CPU_LIMIT_US = 170.0
RSS_LIMIT_KIB = 55_000 / 1024

JUDGED_FROM = 1_000
"""Streams from which on the bounds are judged; with fewer, the cost of what all share is most of the figure."""

WARM_UPS = 3
AT_ONCE = 250
"""Connections that are opened together; `bench storm` opens all at once."""

REST_POLL = dt.timedelta(milliseconds=100)
REST_CPU_S = 0.004
"""A server that used less CPU than this between two looks is at rest: what is left are its once-a-second loops."""

REST_WITHIN_S = 20.0
STANDING = dt.timedelta(seconds=5)
"""How long the server is watched without any change."""

CHANGE_WITHIN_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    streams: int
    changes: int
    mode: Mode
    size: Size
    kinds: Kinds
    transport: Transport


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change: steady moments, *at* that of each stream's."""

    committed: float
    published: float
    at: tuple[float, ...]
    bytes: int

    @property
    def latencies_ms(self) -> tuple[float, ...]:
        """From the commit to each stream."""
        return tuple((at - self.committed) * 1_000 for at in self.at)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What was measured. *lost* counts streams that ended, and changes that did not come to a stream.

    *standing_cpu* is what the server uses without any change, as a fraction of a core: its once-a-second loops look at
    every node. *cpu_s* is beyond that.
    """

    plan: Plan
    changes: tuple[Change, ...]
    cpu_s: float
    standing_cpu: float
    rss_kib_before: float
    rss_kib: float
    connect_s: float
    lost: int

    @property
    def cpu_us_per_stream_and_change(self) -> float:
        """The server's CPU time for one stream's share of one change."""
        return self.cpu_s * 1e6 / len(self.changes) / self.plan.streams

    @property
    def rss_kib_per_stream(self) -> float:
        """The server's memory for one idle stream in sync."""
        return (self.rss_kib - self.rss_kib_before) / self.plan.streams

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row."""
        quantiles = np.array([np.percentile(change.latencies_ms, [50, 99]) for change in self.changes])
        p50, p99 = np.median(quantiles, axis=0)
        lasts = [max(change.at) for change in self.changes]
        return {
            **dataclasses.asdict(self.plan),
            "changes": len(self.changes),
            "bytes": self.changes[-1].bytes,
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "max_ms": round(max(max(change.latencies_ms) for change in self.changes), 2),
            "last_from_publish_ms": _median_ms(lasts, [change.published for change in self.changes]),
            "last_from_commit_ms": _median_ms(lasts, [change.committed for change in self.changes]),
            "cpu_seconds_per_change": round(self.cpu_s / len(self.changes), 4),
            "cpu_us_per_stream_and_change": round(self.cpu_us_per_stream_and_change, 1),
            "rss_kib_per_stream": round(self.rss_kib_per_stream, 1),
            "standing_cpu": round(self.standing_cpu, 4),
            "rss_kib_before": round(self.rss_kib_before),
            "connect_s": round(self.connect_s, 2),
            "lost": self.lost,
        }

    def holds(self) -> bool:
        """Whether nothing was lost and the server was as cheap as it should be."""
        cheap = self.cpu_us_per_stream_and_change <= CPU_LIMIT_US and self.rss_kib_per_stream <= RSS_LIMIT_KIB
        return self.lost == 0 and (cheap or self.plan.streams < JUDGED_FROM)


def _median_ms(ends: Sequence[float], starts: Sequence[float]) -> float:
    return round(statistics.median(end - start for start, end in zip(starts, ends, strict=True)) * 1_000, 2)


class Bench:
    """A server and a crowd of clients, and a service whose split can be changed.

    Args:
        server: A `fanout_server`.
        client: A `fanout_client`.
        clock: For waiting.
    """

    def __init__(self, server: JsonChild, client: JsonChild, *, clock: Clock) -> None:
        self._server = server
        self._client = client
        self._clock = clock
        self._weight_bp = 0
        self._port = 0
        self._names: dict[str, list[str]] = {}

    async def prepare(self, size: Size, kinds: Kinds) -> None:
        """Declare the service."""
        self._port = int((await self._server.wait_line(at_most=START_WITHIN))["port"])
        listener, *backends = free_ports(3)
        versions = ("v1", "v2")
        document = service_document(SERVICE, port=listener, endpoints=dict(zip(versions, backends, strict=True)))
        document["route_config"] = SERVICE
        document["routes"] = [
            {"name": f"r{number}", "match": {"prefix": "/" if number == 0 else f"/{number}"}, "split": True}
            for number in reversed(range(ROUTES[size]))
        ]
        clusters = [f"{SERVICE}-{version}" for version in versions]
        for version, cluster in zip(document["versions"], clusters, strict=True):
            version["cluster"] = cluster
        self._names = {"rds": [SERVICE]}
        if kinds == "all":
            self._names = {"cds": [], "eds": clusters, "lds": [], **self._names}
        await self._tell_server("apply", document=document)
        await self.wait_rest()

    async def connect(self, plan: Plan, *, at_once: int) -> dict[str, Any]:
        """Open all streams and wait until each has routes.

        Raises:
            UnavailableError: Some did not get them.
        """
        answer = await self._tell_client(
            "connect",
            port=self._port,
            streams=plan.streams,
            mode=plan.mode,
            names=self._names,
            at_once=at_once,
            within_s=CHANGE_WITHIN_S,
        )
        if answer["synchronised"] < plan.streams:
            words = f" ({answer['words']})" if answer["words"] else ""
            raise UnavailableError(f"only {answer['synchronised']} of {plan.streams} streams got routes{words}")
        return answer

    async def drop(self) -> None:
        """Have all clients go at once."""
        await self._tell_client("drop")

    async def change(self, version: str, streams: int) -> tuple[Change, str, int]:
        """Change the split; return what came of it, the new version of the routes and how many did not get it."""
        self._weight_bp = self._weight_bp % 9_000 + 1
        weights = {"v1": 10_000 - self._weight_bp, "v2": self._weight_bp}
        committed = (await self._tell_server("change", service=SERVICE, weights=weights))["committed"]
        seen = await self._tell_client("wait", other_than=version, streams=streams, within_s=CHANGE_WITHIN_S)
        if not seen["at"]:
            raise UnavailableError(f"a change reached no stream ({seen['words'] or 'no stream ended'})")
        published = (await self.measure())["published"]
        change = Change(committed, published, tuple(seen["at"]), seen["bytes"])
        return change, seen["version"], streams - len(seen["at"])

    async def stop_reading(self, streams: int) -> None:
        """Have that many clients read nothing from now on."""
        await self._tell_client("stop_reading", streams=streams)

    async def measure(self) -> dict[str, Any]:
        """Return what the server says about itself."""
        return await self._tell_server("measure")

    async def wait_rest(self) -> dict[str, Any]:
        """Wait until the server does nothing more; return what it says then."""
        deadline = self._clock.steady() + REST_WITHIN_S
        before = await self.measure()
        while True:
            await self._clock.sleep(REST_POLL)
            now = await self.measure()
            if now["cpu_s"] - before["cpu_s"] < REST_CPU_S or self._clock.steady() > deadline:
                return now
            before = now

    async def _tell_server(self, what: str, **order: Any) -> dict[str, Any]:
        await self._server.tell({"do": what, **order})
        return await self._server.wait_line(at_most=dt.timedelta(seconds=CHANGE_WITHIN_S * 2))

    async def _tell_client(self, what: str, **order: Any) -> dict[str, Any]:
        await self._client.tell({"do": what, **order})
        return await self._client.wait_line(at_most=dt.timedelta(seconds=CHANGE_WITHIN_S * 3))


@contextlib.asynccontextmanager
async def running_bench(directory: Path, *, transport: Transport, clock: Clock) -> AsyncIterator[Bench]:
    """Run a server on the first core and clients on the last, which is also ours."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    program = [sys.executable, "-m"]
    server = JsonChild(
        [
            *(*program, "controlplane.lab.fanout_server", "--core", str(cores[0])),
            *("--transport", transport, "--directory", str(directory)),
        ],
        log_file=directory / "server.log",
    )
    client = JsonChild(
        [*program, "controlplane.lab.fanout_client", "--core", str(cores[-1])], log_file=directory / "client.log"
    )
    async with server, client:
        yield Bench(server, client, clock=clock)


async def run_plan(plan: Plan, *, directory: Path, clock: Clock) -> Result:
    """Measure *plan*.

    Raises:
        ControlPlaneError: The server or the clients failed.
    """
    async with running_bench(directory, transport=plan.transport, clock=clock) as bench:
        await bench.prepare(plan.size, plan.kinds)
        empty = await bench.wait_rest()
        connected = await bench.connect(plan, at_once=AT_ONCE)
        full = await bench.wait_rest()
        version, missed = connected["version"], 0
        for _ in range(WARM_UPS):
            _, version, _ = await bench.change(version, plan.streams)
        idle = await bench.wait_rest()
        await clock.sleep(STANDING)
        begun = await bench.measure()
        standing = (begun["cpu_s"] - idle["cpu_s"]) / (begun["at"] - idle["at"])
        changes = []
        ended = begun
        for _ in track(range(plan.changes), "changes"):
            change, version, short = await bench.change(version, plan.streams)
            changes.append(change)
            missed += short
            ended = await bench.wait_rest()
    return Result(
        plan,
        tuple(changes),
        ended["cpu_s"] - begun["cpu_s"] - standing * (ended["at"] - begun["at"]),
        standing,
        empty["rss_kib"],
        full["rss_kib"],
        connected["seconds"],
        max(missed, plan.streams - ended["streams"]),
    )


def track(numbers: range, words: str) -> Iterable[int]:
    """Return *numbers*; on a terminal, show how far they are."""
    return rich_track(numbers, words, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def main(
    *,
    streams: int = 1_000,
    changes: int = 20,
    mode: Mode = "sotw",
    size: Size = "small",
    kinds: Kinds = "rds",
    transport: Transport = "lean",
    json_file: Path | None = None,
) -> int:
    """Run the bench, print its table, and return 0 if everything holds."""
    directory = Path(tempfile.mkdtemp(prefix="hueshift-bench-fanout-"))
    plan = Plan(streams, changes, mode, size, kinds, transport)
    try:
        result = run_program(run_plan(plan, directory=directory, clock=SystemClock()))
    except EndedEarlyError as exc:
        print(f"bench fanout: {exc} (logs: {directory})", file=sys.stderr)
        return exc.code
    row = result.to_json()
    table = Table("", f"{streams} streams, {mode}, {size}, {transport}", "bound")
    for words, key, bound in (
        ("bytes of a response", "bytes", ""),
        ("commit to stream, p50 ms", "p50_ms", ""),
        ("commit to stream, p99 ms", "p99_ms", ""),
        ("commit to last stream, ms", "last_from_commit_ms", ""),
        ("publication to last stream, ms", "last_from_publish_ms", ""),
        ("commit to stream, max ms", "max_ms", ""),
        ("server CPU per change, s", "cpu_seconds_per_change", ""),
        ("server CPU per stream and change, us", "cpu_us_per_stream_and_change", f"{CPU_LIMIT_US:g}"),
        ("server CPU without any change, of a core", "standing_cpu", ""),
        ("server memory per stream, KiB", "rss_kib_per_stream", f"{RSS_LIMIT_KIB:.1f}"),
        ("lost", "lost", "0"),
    ):
        table.add_row(words, str(row[key]), bound)
    console().print(table)
    good = result.holds()
    print("holds" if good else f"FAILS; logs: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps({**row, "holds": good}, indent=2) + "\n")
    return 0 if good else 1
