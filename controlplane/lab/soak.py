"""Kill -9 of the control plane, again and again, while rollouts run and clients ask: does anyone notice?

Rollouts alternate: a healthy version that must be promoted, then one that fails and must be rolled back. All the while
the control plane is killed at random moments and started again after a random pause. What must hold: no client request
fails but those that the failing version was told to fail, and each rollout ends as it would have without the kills.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from controlplane.api.answers import RolloutView
from controlplane.clock import Clock, SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.load import Arrivals, LoadPlan, LoadProcess, Records
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, console, run_program
from controlplane.lab.stack import Stack
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess

SERVICE = "soak"
HEALTHY = Behaviour(median_ms=20, p95_ms=25)
FAILING = dataclasses.replace(HEALTHY, error_share=0.2)

# Small, so that a rollout takes seconds and the kills meet it in all its states; the judge and its alpha are as always.
PLAN: Mapping[str, Any] = {"steps": [{"weight": f"{weight}%", "hold": "3s"} for weight in (25, 50, 100)]}
SLOS: tuple[Mapping[str, Any], ...] = ({"name": "errors", "kind": "error_rate", "max": "5%"},)

FIRST_KILL_S = (0.0, 8.0)
NEXT_KILL_S = (3.0, 10.0)
AT_A_CHANGE_SHARE = 0.5
DOWN_S = (0.1, 3.0)
DEFECT_AFTER_S = (0.0, 6.0)
KILLS_PER_ROLLOUT = 2
"""So that the kills meet rollouts of both kinds."""

ROLLOUT_WITHIN = dt.timedelta(minutes=4)


@dataclasses.dataclass(frozen=True, slots=True)
class Kill:
    """One kill: the rollout's state just before, and how long the control plane was away, start-up included."""

    rollout: str
    phase: str
    weight: str
    away_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ride:
    """One rollout of the drill."""

    rollout: str
    expected: Literal["promoted", "rolled_back"]
    outcome: str
    words: str
    seconds: float
    kills: tuple[Kill, ...]

    @property
    def is_right(self) -> bool:
        """Whether it ended as it must."""
        return self.outcome == self.expected


@dataclasses.dataclass(slots=True)
class Report:
    """The rollouts, and what clients met."""

    rides: list[Ride] = dataclasses.field(default_factory=list)
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    requests: int = 0
    injected: int = 0

    @property
    def kills(self) -> int:
        """How often the control plane was killed."""
        return sum(len(ride.kills) for ride in self.rides)

    @property
    def holds(self) -> bool:
        """Whether nobody noticed."""
        return not self.failures and all(ride.is_right for ride in self.rides)

    def add(self, records: Records) -> None:
        """Count what clients met."""
        self.failures.update(records.failures())
        self.requests += len(records)
        self.injected += int(records.has("x-injected-fault").sum())

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` writes."""
        return {
            "kills": self.kills,
            "requests": self.requests,
            "injected_faults": self.injected,
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures),
            "rollouts": [dataclasses.asdict(ride) for ride in self.rides],
            "holds": self.holds,
        }

    def table(self) -> Table:
        """Return the table for people."""
        table = Table("rollout", "outcome", "seconds", "killed while", "away s", "")
        for ride in self.rides:
            table.add_row(
                ride.rollout,
                ride.outcome or "none",
                f"{ride.seconds:.1f}",
                ", ".join(f"{kill.phase} {kill.weight}" for kill in ride.kills) or "-",
                ", ".join(f"{kill.away_s:.1f}" for kill in ride.kills) or "-",
                "ok" if ride.is_right else f"FAILS: {ride.words}",
            )
        return table


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """The pieces that every rollout of the drill uses."""

    stack: Stack
    upstream: UpstreamProcess
    clock: Clock
    rng: random.Random
    progress: Console

    async def ride(self, *, candidate: str, fails: bool, most_kills: int) -> Ride:
        """Run one rollout to its end, and kill the control plane up to *most_kills* times on its way."""
        begun = self.clock.steady()
        await self.upstream.change(candidate, HEALTHY)
        rollout = await self.stack.api.start(SERVICE, to=candidate, plan=PLAN, why="drill")
        async with asyncio.TaskGroup() as tasks:
            breaking = tasks.create_task(self._break(candidate)) if fails else None
            killing = tasks.create_task(self._kill_at_random(rollout, most_kills))
            ended = await self.stack.api.wait_rollout(rollout, lambda _: False, at_most=ROLLOUT_WITHIN)
            if breaking is not None:
                await breaking
            # A kill that has begun is followed by its start: the next rollout wants a control plane.
            kills = await killing
        await self.upstream.change(candidate, HEALTHY)
        ride = Ride(
            rollout=rollout,
            expected="rolled_back" if fails else "promoted",
            outcome=ended.outcome or "",
            words=ended.words,
            seconds=self.clock.steady() - begun,
            kills=kills,
        )
        met = ", ".join(f"{kill.phase} {kill.weight}" for kill in kills)
        self.progress.print(f"  {rollout}: {ride.outcome} ({ride.words}); killed while {met or '-'}", soft_wrap=True)
        return ride

    async def _break(self, candidate: str) -> None:
        await self.clock.sleep(dt.timedelta(seconds=self.rng.uniform(*DEFECT_AFTER_S)))
        await self.upstream.change(candidate, FAILING)

    async def _kill_at_random(self, rollout: str, most: int) -> tuple[Kill, ...]:
        """Kill until the rollout has ended, *most* times at most: at any moment, or as soon as something has moved.

        Most of a rollout is waiting for evidence, so moments drawn from its length alone would rarely meet a change.
        """
        kills: list[Kill] = []
        pause = FIRST_KILL_S
        while len(kills) < most:
            now = await self.stack.api.rollout(rollout)
            if not now.active:
                break
            if self.rng.random() < AT_A_CHANGE_SHARE:
                now = await self._wait_change(now)
            else:
                await self.clock.sleep(dt.timedelta(seconds=self.rng.uniform(*pause)))
                now = await self.stack.api.rollout(rollout)
                if not now.active:
                    break
            begun = self.clock.steady()
            await self.stack.kill_control_plane()
            await self.clock.sleep(dt.timedelta(seconds=self.rng.uniform(*DOWN_S)))
            await self.stack.start_control_plane()
            kills.append(Kill(rollout, now.phase, now.weight, self.clock.steady() - begun))
            pause = NEXT_KILL_S
        return tuple(kills)

    async def _wait_change(self, before: RolloutView) -> RolloutView:
        """Wait until the rollout is in another state, or has ended."""
        return await self.stack.api.wait_rollout(
            before.id,
            lambda now: (now.state, now.step) != (before.state, before.step),
            at_most=ROLLOUT_WITHIN,
            every=dt.timedelta(milliseconds=30),
        )


async def run_drill(*, kills: int, rate: float, directory: Path, seed: int, clock: Clock) -> Report:
    """Run rollouts under *rate* requests per second until the control plane was killed *kills* times."""
    report = Report()
    (port,) = free_ports(1)
    specs = [ServerSpec(version, version, HEALTHY) for version in ("v1", "v2")]
    async with (
        UpstreamProcess(specs, seed=seed, log_file=directory / "upstream.log") as upstream,
        Stack(directory=directory / "stack", clock=clock) as stack,
    ):
        drill = Drill(
            stack=stack, upstream=upstream, clock=clock, rng=random.Random(seed), progress=console(stderr=True)
        )
        await stack.api.apply(service_document(SERVICE, port=port, endpoints=upstream.ports, plan=PLAN, slos=SLOS))
        await stack.wait_listener(port)
        await stack.api.wait_fleet()
        plan = LoadPlan(
            port=port,
            rate=rate,
            arrivals=Arrivals.POISSON,
            connections=128,
            requests=10_000_000,
            duration_s=6 * 3_600,
            timeout_s=10,
            seed=seed,
        )
        async with LoadProcess([plan], directory=directory / "load") as load:
            stable = "v1"
            while report.kills < kills:
                fails = len(report.rides) % 2 == 1
                candidate = "v2" if stable == "v1" else "v1"
                most = min(KILLS_PER_ROLLOUT, kills - report.kills)
                ride = await drill.ride(candidate=candidate, fails=fails, most_kills=most)
                report.rides.append(ride)
                if not ride.is_right:
                    break  # whatever comes after would stand on a split that nobody expects
                stable = stable if fails else candidate
            load.stop()
            report.add((await load.wait_records(at_most=dt.timedelta(minutes=1)))["load"])
    return report


def main(*, kills: int = 20, rate: float = 400.0, json_file: Path | None = None, seed: int | None = None) -> int:
    """Run the drill, print its table, and return 0 if nobody noticed a kill."""
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix="hueshift-soak-"))
    print(f"seed {seed}")
    try:
        report = run_program(run_drill(kills=kills, rate=rate, directory=directory, seed=seed, clock=SystemClock()))
    except EndedEarlyError as exc:
        print(f"soak: {exc} (logs: {directory})")
        return exc.code
    console().print(report.table())
    print(
        f"{report.kills} kills, {report.requests} requests, {report.injected} told to fail; others that failed: ",
        end="",
    )
    print(dict(report.failures) or 0)
    print(f"{'holds' if report.holds else 'FAILS'}; logs and records: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return 0 if report.holds else 1
