"""All traffic to and fro under load: does any request fail, and how long from a commit in SQL to Envoy's ACK?

Context: the commit and the ACK must be dated by one steady clock, as close to both as can be. Choice: the control plane
runs inside this process, built by `wiring` like the real one (SQLite, projector, streams), without its API; a flip is
`set_split` on its store, an ACK is the fleet's hook. Load, upstreams and Envoy are processes of their own.
Consequence: the figures leave out REST, and share one core's event loop with nothing but the control plane. The moment
before the call is kept too: from there to the ACK is what an honest pessimist would call it.
"""

import asyncio
import dataclasses
import datetime as dt
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from controlplane import running, wiring
from controlplane.api.documents import spec_from
from controlplane.api.reading import read_document
from controlplane.clock import Clock, SystemClock
from controlplane.errors import UnavailableError
from controlplane.lab.api_client import service_document, wait_for_answer
from controlplane.lab.inside import control_plane_inside
from controlplane.lab.load import LoadPlan, LoadProcess, Records
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, console, run_program
from controlplane.lab.stack import EnvoyServer, Ports, is_listening
from controlplane.lab.upstream import ServerSpec, UpstreamProcess
from controlplane.settings import read_settings
from controlplane.traffic.model import Share, Split
from controlplane.xds.bootstrap import Variant

VARIANTS: tuple[Variant, ...] = ("sotw", "delta")
P50_LIMIT_MS = 50.0
P99_LIMIT_MS = 250.0
LEAST_RATE = 2_000.0
SERVICE = "flip"
ACK_WITHIN = dt.timedelta(seconds=10)
CONNECTIONS = 32


class RouteAcks:
    """Hears of every ACK and remembers the newest one of routes."""

    def __init__(self) -> None:
        self.version = ""
        self.at = 0.0
        self._changed = asyncio.Event()

    def on_ack(self, _node: str, kind: str, version: str, at: float) -> None:
        """Note an ACK; the signature is `AckHook`'s."""
        if kind == "rds" and version != self.version:
            self.version = version
            self.at = at
            self._changed.set()

    async def wait_other_than(self, version: str) -> float:
        """Wait until the Envoy runs other routes than *version*; return the steady moment of its ACK.

        Raises:
            UnavailableError: It does not in time.
        """
        try:
            async with asyncio.timeout(ACK_WITHIN.total_seconds()):
                while self.version == version:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as exc:
            raise UnavailableError(f"no ACK of new routes within {ACK_WITHIN.total_seconds():g} s") from exc
        return self.at


@dataclasses.dataclass(frozen=True, slots=True)
class Flip:
    """One change of all traffic to *version*; steady moments."""

    version: str
    called: float
    committed: float
    acked: float


@dataclasses.dataclass(frozen=True, slots=True)
class VariantResult:
    """What one protocol variant reached."""

    variant: Variant
    flips: tuple[Flip, ...]
    requests: int
    per_second: float
    failures: dict[str, int]
    stale_ms: npt.NDArray[np.float64]

    @property
    def commit_to_ack_ms(self) -> npt.NDArray[np.float64]:
        """Per flip, from the commit to the ACK."""
        return np.array([(flip.acked - flip.committed) * 1_000 for flip in self.flips])

    @property
    def call_to_ack_ms(self) -> npt.NDArray[np.float64]:
        """Per flip, from before the call that commits to the ACK."""
        return np.array([(flip.acked - flip.called) * 1_000 for flip in self.flips])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row."""
        return {
            "variant": self.variant,
            "flips": len(self.flips),
            "requests": self.requests,
            "requests_per_s": round(self.per_second, 1),
            "failed": sum(self.failures.values()),
            "failures": self.failures,
            **_quantiles("commit_to_ack", self.commit_to_ack_ms),
            **_quantiles("call_to_ack", self.call_to_ack_ms),
            **_quantiles("commit_to_last_on_old", self.stale_ms),
        }


def _quantiles(name: str, values: npt.NDArray[np.float64]) -> dict[str, float]:
    p50, p99, most = np.percentile(values, [50, 99, 100])
    return {
        f"{name}_p50_ms": round(float(p50), 2),
        f"{name}_p99_ms": round(float(p99), 2),
        f"{name}_max_ms": round(float(most), 2),
    }


def stale_ms(records: Records, flips: Sequence[Flip]) -> npt.NDArray[np.float64]:
    """Per flip, milliseconds from its commit to the start of the last request that still met the old version, or 0."""
    found = []
    ends = [*(flip.called for flip in flips[1:]), np.inf]
    for flip, end in zip(flips, ends, strict=True):
        # Answered before the next flip began: what it met can only have been this one's routes or the ones before.
        old = (records.start >= flip.committed) & (records.end < end) & ~records.has("x-version", flip.version)
        found.append(float(records.start[old].max() - flip.committed) * 1_000 if old.any() else 0.0)
    return np.array(found)


def _all_to(version: str) -> Split:
    return tuple(Share(name, 10_000 if name == version else 0) for name in ("v1", "v2"))


async def _flip(parts: wiring.Parts, acks: RouteAcks, *, flips: int, seconds: float, clock: Clock) -> tuple[Flip, ...]:
    """Flip *flips* times, evenly over *seconds*; a flip waits for the ACK of the one before."""
    done: list[Flip] = []
    begun = clock.steady()
    for number in range(flips):
        due = begun + (number + 0.5) * seconds / flips
        await clock.sleep(dt.timedelta(seconds=max(0.0, due - clock.steady())))
        version = "v1" if number % 2 else "v2"
        before = acks.version
        called = clock.steady()
        await parts.store.set_split(SERVICE, _all_to(version), by="bench", why=f"flip {number}", now=clock.now())
        committed = clock.steady()
        done.append(Flip(version, called, committed, await acks.wait_other_than(before)))
    return tuple(done)


async def run_variant(
    variant: Variant, *, flips: int, rate: float, requests: int, directory: Path, clock: Clock
) -> VariantResult:
    """Flip *flips* times under *requests* requests at *rate* per second."""
    listener, xds, telemetry, admin = free_ports(4)
    ports = Ports(api=0, xds=xds, telemetry=telemetry, admins=(admin,))
    acks = RouteAcks()
    envoy = EnvoyServer("envoy-1", ports, admin, variant=variant, directory=directory)
    async with (
        UpstreamProcess([ServerSpec(name, name) for name in ("v1", "v2")], seed=1) as upstream,
        control_plane_inside(directory, ports, on_ack=acks.on_ack) as parts,
    ):
        document = service_document(SERVICE, port=listener, endpoints=upstream.ports)
        spec = spec_from(read_document(document))
        await parts.store.apply(spec, by="bench", why="flips", now=clock.now())
        await envoy.start()
        try:

            async def listening() -> bool | None:
                envoy.server.check_alive()
                return await is_listening(listener) or None

            await acks.wait_other_than("")
            await wait_for_answer(listening, what=f"port {listener}", clock=clock, at_most=ACK_WITHIN)
            # Once around before the clock runs, so that both versions' connections exist, as they do in real life.
            await _flip(parts, acks, flips=2, seconds=1.0, clock=clock)
            plan = LoadPlan(
                port=listener,
                rate=rate,
                requests=requests,
                duration_s=requests / rate * 2,
                connections=CONNECTIONS,
                timeout_s=10,
            )
            async with LoadProcess([plan], directory=directory / "load") as load:
                done = await _flip(parts, acks, flips=flips, seconds=requests / rate, clock=clock)
                records = (await load.wait_records(at_most=dt.timedelta(seconds=requests / rate * 2 + 30)))["load"]
        finally:
            await envoy.server.stop()
    lasted = float(records.end.max() - records.start.min())
    return VariantResult(
        variant, done, len(records), len(records) / lasted, records.failures(), stale_ms(records, done)
    )


def holds(results: Sequence[VariantResult], *, least_rate: float = LEAST_RATE) -> bool:
    """Whether nothing failed, every variant is within the limits, and the load was one."""
    return all(
        not result.failures
        and result.per_second >= least_rate
        and float(np.percentile(result.commit_to_ack_ms, 50)) <= P50_LIMIT_MS
        and float(np.percentile(result.commit_to_ack_ms, 99)) <= P99_LIMIT_MS
        for result in results
    )


def main(
    *,
    flips: int = 100,
    rate: float = 2_200.0,
    variants: Sequence[Variant] = VARIANTS,
    requests: int = 100_000,
    json_file: Path | None = None,
) -> int:
    """Run the bench, print its table, and return 0 if everything holds. *requests* is the sum over the variants."""
    running.configure_logging(read_settings(log_level="warning"))
    directory = Path(tempfile.mkdtemp(prefix="hueshift-bench-flips-"))
    each = -(-requests // len(variants))
    try:
        results = [
            run_program(
                run_variant(
                    variant, flips=flips, rate=rate, requests=each, directory=directory / variant, clock=SystemClock()
                )
            )
            for variant in variants
        ]
    except EndedEarlyError as exc:
        print(f"bench flips: {exc} (logs: {directory})")
        return exc.code
    rows = [result.to_json() for result in results]
    table = Table("", *(row["variant"] for row in rows), "bound")
    for words, key, bound in (
        ("flips", "flips", ""),
        ("requests", "requests", ""),
        ("requests/s", "requests_per_s", f"{LEAST_RATE:g}"),
        ("failed", "failed", "0"),
        ("commit to ACK, p50 ms", "commit_to_ack_p50_ms", f"{P50_LIMIT_MS:g}"),
        ("commit to ACK, p99 ms", "commit_to_ack_p99_ms", f"{P99_LIMIT_MS:g}"),
        ("commit to ACK, max ms", "commit_to_ack_max_ms", ""),
        ("call to ACK, p50 ms", "call_to_ack_p50_ms", ""),
        ("call to ACK, p99 ms", "call_to_ack_p99_ms", ""),
        ("commit to last request on old, p50 ms", "commit_to_last_on_old_p50_ms", ""),
        ("commit to last request on old, max ms", "commit_to_last_on_old_max_ms", ""),
    ):
        table.add_row(words, *(str(row[key]) for row in rows), bound)
    console().print(table)
    good = holds(results)
    print(f"{'holds' if good else 'FAILS'}; logs and records: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps({"variants": rows, "holds": good}, indent=2) + "\n")
    return 0 if good else 1
