"""How long users meet a bad version: seconds from its first bad response to its last, seen from the client.

Five services run side by side behind one real Envoy, each with its own listener, so that five runs cost the time of
one: v1 alone for 300 s, then round by round a rollout of v2 that stands at its first step when the defect begins, at a
random moment. The judge is the production one, with its defaults. A run is measured response by response: v2's
answers that are errors or slower than the objective's threshold, from the moment of the defect on, dated by their
arrival; requests that hang are dated by their start.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import json
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from controlplane.clock import Clock, SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.load import Arrivals, LoadPlan, LoadProcess, Outcome, Records
from controlplane.lab.ports import free_ports
from controlplane.lab.program import EndedEarlyError, console, run_program
from controlplane.lab.stack import Stack
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess

SLOW_MS = 400.0
"""The default objective's threshold."""

HEALTHY = Behaviour(median_ms=100, p95_ms=250)
HISTORY_S = 300.0
SETTLE_S = 4.0
"""How long after a rollback the last answers are still awaited."""

LONG_HOLD = "30m"
SIDE_BY_SIDE_RATE = 100.0
HEALTHY_S = 180.0
ALONE_WARM_S = 20.0
"""How long v1 alone has the high rate before it counts; it has had its history at the low one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A defect, the weight and the rate at which it strikes, and the bound on the median (None: no rollback at all)."""

    name: str
    words: str
    behaviour: Behaviour
    limit_s: float | None
    weight: str = "5%"
    rate: float = SIDE_BY_SIDE_RATE
    side_by_side: bool = True


SCENARIOS = (
    Scenario("errors-20", "20 % errors", dataclasses.replace(HEALTHY, error_share=0.2), 10.0),
    Scenario("errors-100", "100 % errors", dataclasses.replace(HEALTHY, error_share=1.0), 5.0),
    Scenario("latency-x3", "latency x 3", dataclasses.replace(HEALTHY, factor=3.0), 15.0),
    Scenario(
        "errors-100-at-30",
        "100 % errors at 30 %, 600/s",
        dataclasses.replace(HEALTHY, error_share=1.0),
        2.0,
        weight="30%",
        rate=600.0,
        side_by_side=False,
    ),
    Scenario("healthy", "none, for 3 min", HEALTHY, None, weight="5% and up"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Exposure:
    """What users met of a bad version: *bad* of *served* answers, over *seconds* from the first to the last."""

    seconds: float
    bad: int
    served: int


def exposure(records: Records, *, candidate: str, since: float, until: float, slow_ms: float = SLOW_MS) -> Exposure:
    """Measure the answers of *candidate* to requests sent from *since* on (steady seconds) and before *until*.

    A request that got no answer in time counts, and is dated by its start: who else would have hung.
    """
    sent = (records.start >= since) & (records.start < until)
    hung = sent & (records.outcome == Outcome.TIMED_OUT)
    served = sent & records.has("x-version", candidate)
    bad = served & (~records.ok | (records.duration_ms > slow_ms))
    moments = np.concatenate([records.end[bad], records.start[hung]])
    seconds = float(moments.max() - moments.min()) if len(moments) else 0.0
    return Exposure(seconds, len(moments), int(served.sum() + hung.sum()))


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One rollout: when its defect began and when it was over (steady seconds), and what the control plane said."""

    scenario: str
    service: str
    since: float
    until: float
    outcome: str
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Lane:
    """One service of the bench: its Envoy listener."""

    service: str
    port: int

    @property
    def candidate(self) -> str:
        """The name of its v2 at the stub upstream."""
        return f"{self.service}-v2"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The pieces that every round uses."""

    stack: Stack
    upstream: UpstreamProcess
    clock: Clock
    rng: random.Random
    console: Console
    directory: Path

    async def run(self, lane: Lane, scenario: Scenario) -> Run:
        """Run *scenario* once on *lane*."""
        if scenario.limit_s is None:
            return await self._watch_healthy(lane, scenario)
        return await self._strike(lane, scenario)

    async def _strike(self, lane: Lane, scenario: Scenario) -> Run:
        """Roll v2 out, break it at a random moment of its first step, and wait for the end."""
        plan = {"steps": [{"weight": scenario.weight, "hold": LONG_HOLD}, {"weight": "100%"}]}
        await self.upstream.change(lane.candidate, HEALTHY)
        rollout = await self.stack.api.start(lane.service, to="v2", plan=plan, why=scenario.words)
        at_step = await self.stack.api.wait_rollout(
            rollout, lambda now: now.state == "baking", at_most=dt.timedelta(seconds=60)
        )
        if not at_step.active:
            return self._run(lane, scenario, self.clock.steady(), f"early {at_step.outcome}", at_step.words)
        await self.clock.sleep(dt.timedelta(seconds=self.rng.uniform(5.0, 20.0)))
        since = await self.upstream.change(lane.candidate, scenario.behaviour)
        ended = await self.stack.api.wait_rollout(rollout, lambda _: False, at_most=dt.timedelta(minutes=5))
        await self.clock.sleep(dt.timedelta(seconds=SETTLE_S))
        return self._run(lane, scenario, since, ended.outcome or "", ended.words)

    async def _watch_healthy(self, lane: Lane, scenario: Scenario) -> Run:
        """Roll a healthy v2 out by the default plan, and see what three minutes bring."""
        since = await self.upstream.change(lane.candidate, HEALTHY)
        rollout = await self.stack.api.start(lane.service, to="v2", why=scenario.words)
        await self.clock.sleep(dt.timedelta(seconds=HEALTHY_S))
        now = await self.stack.api.rollout(rollout)
        return self._run(lane, scenario, since, now.outcome or f"{now.phase} at {now.weight}", now.words)

    def _run(self, lane: Lane, scenario: Scenario, since: float, outcome: str, words: str) -> Run:
        run = Run(scenario.name, lane.service, since, self.clock.steady(), outcome, words)
        self.console.print(f"  {scenario.name:18} {lane.service}: {outcome}: {words}", soft_wrap=True)
        return run


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A scenario's runs, measured."""

    scenario: Scenario
    runs: tuple[Run, ...]
    exposures: tuple[Exposure, ...]

    @property
    def median_s(self) -> float:
        """The median over the runs of the seconds from the first bad response to the last."""
        return statistics.median(found.seconds for found in self.exposures)

    @property
    def holds(self) -> bool:
        """Whether the scenario ended as it must."""
        if self.scenario.limit_s is None:
            return all(run.outcome != "rolled_back" and not run.outcome.startswith("early") for run in self.runs)
        return self.median_s <= self.scenario.limit_s and all(run.outcome == "rolled_back" for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row."""
        return {
            "scenario": self.scenario.name,
            "limit_s": self.scenario.limit_s,
            "median_s": round(self.median_s, 3),
            "holds": self.holds,
            "runs": [
                {
                    "service": run.service,
                    "outcome": run.outcome,
                    "first_bad_to_last_bad_s": round(found.seconds, 3),
                    "bad_responses": found.bad,
                    "candidate_responses": found.served,
                    "evidence": run.words,
                }
                for run, found in zip(self.runs, self.exposures, strict=True)
            ],
        }


def measure(scenario: Scenario, runs: Sequence[Run], records: Mapping[str, Records]) -> Result:
    """Measure *runs* in the records of their services."""
    found = tuple(exposure(records[run.service], candidate="v2", since=run.since, until=run.until) for run in runs)
    return Result(scenario, tuple(runs), found)


@dataclasses.dataclass(slots=True)
class Report:
    """Everything that was measured, and what failed although no version was told to fail."""

    results: list[Result] = dataclasses.field(default_factory=list)
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    requests: int = 0

    def add(self, scenarios: Mapping[Scenario, Sequence[Run]], records: Mapping[str, Records]) -> None:
        """Add the rounds of one load."""
        self.results += [measure(scenario, runs, records) for scenario, runs in scenarios.items()]
        for found in records.values():
            self.failures.update(found.failures())
            self.requests += len(found)

    @property
    def holds(self) -> bool:
        """Whether every scenario ended as it must, and nothing else failed."""
        return all(result.holds for result in self.results) and not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` writes."""
        return {
            "results": [result.to_json() for result in self.results],
            "config_failures": sum(self.failures.values()),
            "failures": dict(self.failures),
            "requests": self.requests,
            "holds": self.holds,
        }

    def table(self) -> Table:
        """Return the table for people."""
        table = Table("defect", "weight", "runs", "median s", "worst s", "bound s", "bad responses", "outcomes", "")
        for result in self.results:
            scenario, seconds = result.scenario, [found.seconds for found in result.exposures]
            bound = "-" if scenario.limit_s is None else f"{scenario.limit_s:g}"
            # A healthy version's few slow answers are no exposure.
            spans = ("-", "-") if scenario.limit_s is None else (f"{result.median_s:.2f}", f"{max(seconds):.2f}")
            bad = "/".join(str(found.bad) for found in result.exposures)
            outcomes = ", ".join(sorted({run.outcome for run in result.runs}))
            verdict = "ok" if result.holds else "FAILS"
            table.add_row(scenario.words, scenario.weight, str(len(seconds)), *spans, bound, bad, outcomes, verdict)
        return table


def _load(lane: Lane, rate: float, seed: int) -> LoadPlan:
    return LoadPlan(
        name=lane.service,
        port=lane.port,
        rate=rate,
        arrivals=Arrivals.POISSON,
        connections=512,
        requests=5_000_000,
        duration_s=3 * 3_600,
        timeout_s=30,
        seed=seed,
    )


async def _run_side_by_side(
    bench: Bench, lanes: Sequence[Lane], idle: Sequence[Lane], scenarios: Sequence[Scenario], *, history_s: float
) -> tuple[dict[Scenario, list[Run]], dict[str, Records]]:
    """Let all *lanes* and *idle* ones gather history, then run each scenario on all *lanes* at once."""
    plans = [_load(lane, SIDE_BY_SIDE_RATE, number) for number, lane in enumerate((*lanes, *idle))]
    rounds: dict[Scenario, list[Run]] = {}
    async with LoadProcess(plans, directory=bench.directory / "side-by-side") as load:
        bench.console.print(f"{len(plans)} services, {history_s:g} s of v1 alone")
        await bench.clock.sleep(dt.timedelta(seconds=history_s))
        # Last the healthy one: it ends with v2 as the version that has all traffic.
        for scenario in sorted(scenarios, key=lambda one: one.limit_s is None):
            bench.console.print(f"{scenario.words}, at {scenario.weight}")
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(bench.run(lane, scenario)) for lane in lanes]
            rounds[scenario] = [task.result() for task in running]
        load.stop()
        return rounds, await load.wait_records(at_most=dt.timedelta(minutes=2))


async def _run_alone(
    bench: Bench, lane: Lane, scenario: Scenario, *, runs: int
) -> tuple[dict[Scenario, list[Run]], dict[str, Records]]:
    """Run *scenario* time and again on one service, which has the machine to itself."""
    async with LoadProcess([_load(lane, scenario.rate, 0)], directory=bench.directory / scenario.name) as load:
        bench.console.print(f"{scenario.words}")
        await bench.clock.sleep(dt.timedelta(seconds=ALONE_WARM_S))
        found = [await bench.run(lane, scenario) for _ in range(runs)]
        load.stop()
        return {scenario: found}, await load.wait_records(at_most=dt.timedelta(minutes=2))


async def run_bench(
    *, runs: int, scenarios: Sequence[Scenario], history_s: float, directory: Path, seed: int, clock: Clock
) -> Report:
    """Run *scenarios*, *runs* times each."""
    beside = [scenario for scenario in scenarios if scenario.side_by_side]
    alone = [scenario for scenario in scenarios if not scenario.side_by_side]
    ports = free_ports(runs + 1)
    lanes = [Lane(f"lane-{number}", port) for number, port in enumerate(ports[:-1], start=1)] if beside else []
    lone = [Lane("lone", ports[-1])] if alone else []
    report = Report()
    specs = [ServerSpec(f"{lane.service}-{v}", v, HEALTHY) for lane in (*lanes, *lone) for v in ("v1", "v2")]
    async with (
        UpstreamProcess(specs, seed=seed, log_file=directory / "upstream.log") as upstream,
        Stack(directory=directory / "stack", clock=clock) as stack,
    ):
        bench = Bench(
            stack=stack,
            upstream=upstream,
            clock=clock,
            rng=random.Random(seed),
            console=console(stderr=True),
            directory=directory,
        )
        for lane in (*lanes, *lone):
            endpoints = {version: upstream.ports[f"{lane.service}-{version}"] for version in ("v1", "v2")}
            await stack.api.apply(service_document(lane.service, port=lane.port, endpoints=endpoints))
        for lane in (*lanes, *lone):
            await stack.wait_listener(lane.port)
        await stack.api.wait_fleet()
        report.add(*await _run_side_by_side(bench, lanes, lone, beside, history_s=history_s))
        for scenario in alone:
            report.add(*await _run_alone(bench, lone[0], scenario, runs=runs))
    return report


def main(
    *,
    runs: int = 5,
    json_file: Path | None = None,
    scenario: str | None = None,
    history_s: float = HISTORY_S,
    seed: int = 1,
) -> int:
    """Run the bench, print its table, and return 0 if every bound holds."""
    chosen = [one for one in SCENARIOS if scenario in {None, one.name}]
    if not chosen:
        print(f"--scenario: {scenario!r} is none of {', '.join(one.name for one in SCENARIOS)}")
        return 2
    directory = Path(tempfile.mkdtemp(prefix="hueshift-bench-rollback-"))
    try:
        report = run_program(
            run_bench(
                runs=runs, scenarios=chosen, history_s=history_s, directory=directory, seed=seed, clock=SystemClock()
            )
        )
    except EndedEarlyError as exc:
        print(f"bench rollback: {exc} (logs: {directory})")
        return exc.code
    console().print(report.table())
    print(f"{report.requests} requests; failed although no version was told to: {dict(report.failures) or 0}")
    print(f"{'holds' if report.holds else 'FAILS'}; logs and records: {directory}")
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return 0 if report.holds else 1
