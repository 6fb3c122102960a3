"""Twenty real Envoys: how long from a commit in SQL until the last one has acknowledged it, and until SQL knows?

The control plane runs inside this process (see `inside`); Envoys, workers and load are processes of their own. All
Envoys run one configuration, so all bind one port: Envoy sets SO_REUSEPORT, and the kernel spreads the load over them.
A change is `set_split` on a store. On PostgreSQL that store is a second one, with connections and wake-ups of its own:
the change comes from another replica, and its NOTIFY is in the figures.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import resource
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from controlplane import running
from controlplane.api.documents import spec_from
from controlplane.api.reading import read_document
from controlplane.clock import Clock, SystemClock
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.lab.api_client import service_document, wait_for_answer
from controlplane.lab.inside import control_plane_inside
from controlplane.lab.load import LoadPlan, LoadProcess
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, console, run_program
from controlplane.lab.stack import EnvoyServer, Ports
from controlplane.lab.upstream import ServerSpec, UpstreamProcess
from controlplane.settings import read_settings
from controlplane.store import SqlStore, open_store
from controlplane.store.schema import upgrade
from controlplane.traffic.model import Share, Split
from controlplane.wake import WakeBoard
from controlplane.xds.bootstrap import Variant

VARIANTS: tuple[Variant, ...] = ("sotw", "delta")
P50_LIMIT_MS = 100.0
P99_LIMIT_MS = 500.0
SERVICE = "envoys"
WARM_UP = 3
"""Changes before the clock runs: both versions' connections exist then, as they do in real life."""

EVERY = dt.timedelta(milliseconds=200)
"""From one change to the next, or until the fleet has taken the one before, whichever is later."""

START_WITHIN = dt.timedelta(seconds=120)
ACK_WITHIN = dt.timedelta(seconds=10)
ROWS_POLL = dt.timedelta(milliseconds=1)
RATE = 200.0


class FleetAcks:
    """Hears of every ACK and remembers each Envoy's newest one of routes."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self._newest = dict.fromkeys(nodes, ("", 0.0))
        self._changed = asyncio.Event()

    @property
    def version(self) -> str:
        """The routes that the whole fleet runs; "" while Envoys differ."""
        versions = {version for version, _ in self._newest.values()}
        return versions.pop() if len(versions) == 1 else ""

    def on_ack(self, node: str, kind: str, version: str, at: float) -> None:
        """Note an ACK; the signature is `AckHook`'s."""
        if kind == "rds" and node in self._newest and self._newest[node][0] != version:
            self._newest[node] = (version, at)
            self._changed.set()

    async def wait_other_than(self, version: str, *, at_most: dt.timedelta = ACK_WITHIN) -> tuple[float, ...]:
        """Wait until all run the same routes, other than *version*; return the steady moments of their ACKs, in order.

        Raises:
            UnavailableError: They do not in time; the text names those that lag.
        """
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                while self.version in {"", version}:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as exc:
            behind = [node for node, (newest, _) in self._newest.items() if newest in {"", version}]
            words = f"no ACK of new routes from {', '.join(behind) or 'all alike'} within {at_most.total_seconds():g} s"
            raise UnavailableError(words) from exc
        return tuple(sorted(at for _, at in self._newest.values()))


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change of the weights, in steady moments. *recorded* is when the rows said that every Envoy runs it."""

    called: float
    committed: float
    first_acked: float
    last_acked: float
    recorded: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """What one protocol variant reached. *cpu_s* is the control plane's own processor time, telemetry included."""

    variant: Variant
    database: str
    envoys: int
    changes: tuple[Change, ...]
    requests: int
    failures: dict[str, int]
    cpu_s: float
    seconds: float

    def milliseconds(self, since: str, until: str) -> npt.NDArray[np.float64]:
        """Return the spans between two moments of every change."""
        return np.array([(getattr(one, until) - getattr(one, since)) * 1_000 for one in self.changes])

    @property
    def commit_to_last_ack_ms(self) -> npt.NDArray[np.float64]:
        """Per change, from the commit to the last Envoy's ACK."""
        return self.milliseconds("committed", "last_acked")

    @property
    def holds(self) -> bool:
        """Whether the fleet was fast enough, and no request failed."""
        p50, p99 = np.percentile(self.commit_to_last_ack_ms, [50, 99])
        return float(p50) <= P50_LIMIT_MS and float(p99) <= P99_LIMIT_MS and not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row."""
        return {
            "variant": self.variant,
            "database": self.database,
            "envoys": self.envoys,
            "changes": len(self.changes),
            **_quantiles("commit_to_last_ack", self.commit_to_last_ack_ms),
            **_quantiles("commit_to_first_ack", self.milliseconds("committed", "first_acked")),
            **_quantiles("commit_to_rows", self.milliseconds("committed", "recorded")),
            **_quantiles("call_to_last_ack", self.milliseconds("called", "last_acked")),
            "requests": self.requests,
            "failed": sum(self.failures.values()),
            "failures": self.failures,
            "control_plane_cpu_share": round(self.cpu_s / self.seconds, 3),
            "holds": self.holds,
        }


def _quantiles(name: str, values: npt.NDArray[np.float64]) -> dict[str, float]:
    p50, p99, most = np.percentile(values, [50, 99, 100])
    return {
        f"{name}_p50_ms": round(float(p50), 2),
        f"{name}_p99_ms": round(float(p99), 2),
        f"{name}_max_ms": round(float(most), 2),
    }


def split_of(number: int) -> Split:
    """Return the weights of change *number*: no two in a row are the same, and both versions have traffic."""
    weight_bp = 100 * (1 + number % 99)
    return (Share("v1", 10_000 - weight_bp), Share("v2", weight_bp))


@dataclasses.dataclass(frozen=True, slots=True)
class _Fleet:
    """What changes are committed to, and where their ACKs are seen."""

    writer: SqlStore
    reader: SqlStore
    acks: FleetAcks
    nodes: frozenset[str]
    clock: Clock

    async def change(self, number: int) -> Change:
        """Commit one change and wait until the whole fleet runs it, and the rows say so."""
        before = self.acks.version
        now, called = self.clock.now(), self.clock.steady()
        await self.writer.set_split(SERVICE, split_of(number), by="bench", why=f"change {number}", now=now)
        committed = self.clock.steady()
        moments = await self.acks.wait_other_than(before)
        recorded = await self._wait_recorded(self.acks.version)
        return Change(called, committed, moments[0], moments[-1], recorded)

    async def _wait_recorded(self, version: str) -> float:
        """Wait until the rows of all Envoys say *version*; asked only when all have acknowledged, to disturb no ACK."""

        async def ask() -> float | None:
            rows = await self.reader.load_nodes()
            mine = [row.types["rds"].acked == version for row in rows if row.node in self.nodes and "rds" in row.types]
            return self.clock.steady() if sum(mine) == len(self.nodes) else None

        return await wait_for_answer(ask, what="rows", clock=self.clock, at_most=ACK_WITHIN, every=ROWS_POLL)


async def run_variant(
    variant: Variant, *, count: int, changes: int, rate: float, directory: Path, clock: Clock, database_url: str = ""
) -> VariantResult:
    """Run *changes* changes of the weights past *count* Envoys under *rate* requests per second.

    Raises:
        InvalidInputError: The database at *database_url* holds services of somebody else.
        UnavailableError: An Envoy did not start or did not acknowledge in time.
    """
    listener, xds, telemetry, *admins = free_ports(3 + count)
    ports = Ports(api=0, xds=xds, telemetry=telemetry, admins=tuple(admins))
    envoys = [
        EnvoyServer(f"{variant}-{number}", ports, admin, variant=variant, directory=directory)
        for number, admin in enumerate(admins, start=1)
    ]
    nodes = frozenset(f"{variant}-{number}" for number in range(1, count + 1))
    acks = FleetAcks(nodes)
    if database_url:
        await upgrade(database_url)
    async with contextlib.AsyncExitStack() as running:
        upstream = await running.enter_async_context(
            UpstreamProcess([ServerSpec(name, name) for name in ("v1", "v2")], seed=1)
        )
        parts = await running.enter_async_context(
            control_plane_inside(directory, ports, on_ack=acks.on_ack, database_url=database_url)
        )
        writer = await running.enter_async_context(_writer(parts.store, database_url, clock))
        await _refuse_foreign(parts.store)
        document = service_document(SERVICE, port=listener, endpoints=upstream.ports)
        await writer.apply(spec_from(read_document(document)), by="bench", why="envoys", now=clock.now())
        for envoy in envoys:
            running.push_async_callback(envoy.server.stop)
            await envoy.start()
        await acks.wait_other_than("", at_most=START_WITHIN)
        fleet = _Fleet(writer, parts.store, acks, nodes, clock)
        for number in range(WARM_UP):
            await fleet.change(number)
        plan = LoadPlan(
            port=listener,
            rate=rate,
            requests=int(rate * START_WITHIN.total_seconds() * 10),
            duration_s=START_WITHIN.total_seconds() * 10,
            connections=2 * count,
            timeout_s=10,
        )
        async with LoadProcess([plan], directory=directory / "load") as load:
            began, cpu_before = clock.steady(), _cpu_s()
            done: list[Change] = []
            for number in itertools.islice(itertools.count(WARM_UP), changes):
                due = began + len(done) * EVERY.total_seconds()
                await clock.sleep(dt.timedelta(seconds=max(0.0, due - clock.steady())))
                done.append(await fleet.change(number))
            seconds, cpu_s = clock.steady() - began, _cpu_s() - cpu_before
            load.stop()
            records = (await load.wait_records(at_most=dt.timedelta(seconds=30)))["load"]
        for envoy in envoys:
            envoy.server.check_alive()
    return VariantResult(
        variant=variant,
        database="postgresql" if database_url.startswith("postgres") else "sqlite",
        envoys=count,
        changes=tuple(done),
        requests=len(records),
        failures=records.failures(),
        cpu_s=cpu_s,
        seconds=seconds,
    )


@contextlib.asynccontextmanager
async def _writer(store: SqlStore, database_url: str, clock: Clock) -> AsyncIterator[SqlStore]:
    """Give the store that changes are committed through: on PostgreSQL another replica's."""
    if not database_url.startswith("postgres"):
        yield store  # the embedded database is one process's
        return
    async with await open_store(database_url, board=WakeBoard(), clock=clock) as other:
        yield other


async def _refuse_foreign(store: SqlStore) -> None:
    foreign = [service.name for service in await store.list_services() if service.name != SERVICE]
    if foreign:
        raise InvalidInputError(
            "--database-url", f"holds the services {', '.join(foreign)}", "name a database for this bench alone"
        )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(
    *,
    count: int = 20,
    changes: int = 100,
    rate: float = RATE,
    variants: Sequence[Variant] = VARIANTS,
    database_url: str = "",
    json_file: Path | None = None,
) -> int:
    """Run the bench, print its table, and return 0 if everything holds."""
    running.configure_logging(read_settings(log_level="warning"))
    directory = Path(tempfile.mkdtemp(prefix="hueshift-bench-envoys-"))
    clock = SystemClock()
    try:
        results = [
            run_program(
                run_variant(
                    variant,
                    count=count,
                    changes=changes,
                    rate=rate,
                    directory=directory / variant,
                    clock=clock,
                    database_url=database_url,
                )
            )
            for variant in variants
        ]
    except EndedEarlyError as exc:
        print(f"bench envoys: {exc} (logs: {directory})")
        return exc.code
    rows = [result.to_json() for result in results]
    console().print(_table(rows))
    good = all(result.holds for result in results)
    print(f"{'holds' if good else 'FAILS'}; logs and records: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps({"variants": rows, "holds": good}, indent=2) + "\n")
    return 0 if good else 1


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("", *(row["variant"] for row in rows), "bound")
    for words, key, bound in (
        ("database", "database", ""),
        ("Envoys", "envoys", ""),
        ("changes", "changes", ""),
        ("commit to last ACK, p50 ms", "commit_to_last_ack_p50_ms", f"{P50_LIMIT_MS:g}"),
        ("commit to last ACK, p99 ms", "commit_to_last_ack_p99_ms", f"{P99_LIMIT_MS:g}"),
        ("commit to last ACK, max ms", "commit_to_last_ack_max_ms", ""),
        ("commit to first ACK, p50 ms", "commit_to_first_ack_p50_ms", ""),
        ("commit to rows that say so, p50 ms", "commit_to_rows_p50_ms", ""),
        ("commit to rows that say so, p99 ms", "commit_to_rows_p99_ms", ""),
        ("requests", "requests", ""),
        ("failed", "failed", "0"),
        ("control plane, share of a core", "control_plane_cpu_share", ""),
    ):
        table.add_row(words, *(str(row[key]) for row in rows), bound)
    return table
