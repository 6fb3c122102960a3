"""A world of request counts that thousands of rollouts live through at once, judged by the production judge itself.

The world is the benchmark's: one tick is one second, requests are Poisson, the candidate's share of them binomial,
errors independent or in bursts, latencies lognormal. Two defects are added that the benchmark only describes:
requests that hang, and telemetry that goes missing.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from controlplane.errors import InvalidInputError
from controlplane.lab.peers import PEERS
from controlplane.rollout.engine import judge_batch, observe_batch
from controlplane.rollout.policy import BatchPolicy, Policy
from controlplane.rollout.state import BatchState
from controlplane.rollout.verdict import BatchExposure, Cause, Verdict
from controlplane.rollout.windows import BUCKETS, LATENCY_EDGES_MS, BatchTicks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HISTORY_S: Final = 300
MEDIAN_MS: Final = 100.0
SIGMA: Final = float(np.log(2.5) / 1.6448536269514722)
HOLD_S: Final = 30.0
BAKE_S: Final = 60.0
PROBE_WEIGHT: Final = 0.5
ROWS: Final = 2000
"""Rollouts that live at the same time; more do not run faster."""

OURS: Final = "hueshift"
EVERYONE: Final = "all"
ENGINES: Final = (OURS, *PEERS)

COARSE: Final = frozenset({50, 1000, 2000, 5000, 300_000})


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """One way a rollout may go; names and meaning as in the benchmark's schema, spans in seconds."""

    id: str
    rps: float
    bad: bool | None = None
    p1: float = 0.001
    p2: float | None = None
    lat2: float = 1.0
    burst: int = 0
    incident: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ramp: Mapping[str, float] = dataclasses.field(default_factory=dict)
    capacity: Mapping[str, float] = dataclasses.field(default_factory=dict)
    onset: float = 0.0
    zero: bool = False
    horizon: int = 1800
    sigma: float = SIGMA
    """Spread of the latencies' logarithm; their median is `MEDIAN_MS`."""
    hang: float = 0.0
    """Share of the candidate's requests that get no answer until `timeout` seconds have passed."""
    timeout: int = 300
    gap: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Telemetry is missing for `dur` seconds from `start` on, and again `every` seconds."""

    @property
    def defect_starts(self) -> float:
        """When the candidate begins to misbehave."""
        return max(self.onset, self.ramp.get("t0", 0.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one scenario's rollouts under one engine: shares of 1, seconds, requests."""

    scenario: Scenario
    engine: str
    replications: int
    rolled_back: float
    promoted: float
    rollback_s: tuple[float, float] | None
    """Median and 95th percentile from the defect's start."""
    promotion_s: tuple[float, float] | None
    harmed: float
    """Median of the candidate's bad answers; after a bad version was promoted, until the horizon."""
    causes: Mapping[str, int]

    @property
    def inconclusive(self) -> float:
        """Share that reached the horizon without a decision."""
        return max(0.0, 1 - self.rolled_back - self.promoted)


def load(path: Path) -> tuple[Policy, tuple[float, ...], list[Scenario]]:
    """Read a scenario file: the policy, the steps' weights and the scenarios."""
    content = json.loads(path.read_text(encoding="utf-8"))
    policy = Policy(
        error_max=content["policy"]["slo_error"],
        latency_threshold_ms=content["policy"]["slo_latency_ms"],
        latency_quantile=content["policy"]["slo_quantile"],
        latency_tolerance=content["policy"]["relative_latency_tolerance"],
    )
    return policy, tuple(content["policy"]["steps"]), [Scenario(**each) for each in content["scenarios"]]


def simulate(
    scenarios: Sequence[Scenario],
    *,
    replications: int,
    seed: int = 1,
    policy: Policy | None = None,
    steps: Sequence[float] = (0.05, 0.1, 0.25, 0.5, 1.0),
    holds: Sequence[float] | None = None,
    engine: str = OURS,
) -> list[Outcome]:
    """Run every scenario *replications* times and sum up what happened, *engine* deciding (one of `ENGINES`).

    Steps are held for *holds* seconds at least; by default for `HOLD_S`, the last one for `BAKE_S`.
    """
    if replications < 1:
        raise ValueError(f"replications is {replications}; give 1 or more")
    runs = [scenario for scenario in scenarios for _ in range(replications)]
    # Alike horizons and rates end alike: rollouts of one batch should.
    order = sorted(range(len(runs)), key=lambda run: (runs[run].horizon, runs[run].rps))
    rng = np.random.default_rng(seed)
    record = _Record.of(len(runs))
    held = np.array(holds if holds is not None else [HOLD_S] * (len(steps) - 1) + [BAKE_S])
    for start in range(0, len(order), ROWS):
        rows = np.array(order[start : start + ROWS])
        batch = _Batch(
            [runs[row] for row in rows],
            policy=policy or Policy(),
            steps=np.array(steps),
            holds=held,
            rng=rng,
            engine=engine,
        )
        batch.run(record, rows)
    return [
        record.outcome(scenario, engine, slice(index * replications, (index + 1) * replications))
        for index, scenario in enumerate(scenarios)
    ]


@dataclasses.dataclass(slots=True)
class _Record:
    verdict: Ints
    ended_s: Floats
    cause: Ints
    harmed: Floats

    @classmethod
    def of(cls, runs: int) -> Self:
        return cls(np.zeros(runs, np.int64), np.zeros(runs), np.zeros(runs, np.int64), np.zeros(runs))

    def outcome(self, scenario: Scenario, engine: str, rows: slice) -> Outcome:
        verdict, ended_s = self.verdict[rows], self.ended_s[rows]
        back, promoted = verdict == Verdict.ROLLBACK, verdict == Verdict.ADVANCE
        causes, counts = np.unique(self.cause[rows][back], return_counts=True)
        return Outcome(
            scenario=scenario,
            engine=engine,
            replications=verdict.size,
            rolled_back=float(back.mean()),
            promoted=float(promoted.mean()),
            rollback_s=_middle_and_late(ended_s[back] - scenario.defect_starts),
            promotion_s=_middle_and_late(ended_s[promoted]),
            harmed=float(np.median(self.harmed[rows])),
            causes={Cause(cause).name: int(count) for cause, count in zip(causes, counts, strict=True)},
        )


def _middle_and_late(seconds: Floats) -> tuple[float, float] | None:
    return (float(np.median(seconds)), float(np.percentile(seconds, 95))) if seconds.size else None


class _Columns:
    """The parameters of many runs as arrays, filtered together as runs end."""

    def __init__(self, runs: Sequence[Scenario], rng: np.random.Generator) -> None:
        def column(values: Iterator[float]) -> Floats:
            return np.array(list(values), dtype=np.float64)

        self.rps = column(run.rps for run in runs)
        self.p1 = column(run.p1 for run in runs)
        self.p2 = column(run.p1 if run.p2 is None else run.p2 for run in runs)
        self.lat2 = column(run.lat2 for run in runs)
        self.sigma = column(run.sigma for run in runs)
        self.burst = column(run.burst for run in runs)
        self.onset = column(run.onset for run in runs)
        self.zero = np.array([run.zero for run in runs])
        self.horizon = column(run.horizon for run in runs)
        self.bad = np.array([bool(run.bad) for run in runs])
        low = column(run.incident.get("start", (0, 0))[0] for run in runs)
        high = column(run.incident.get("start", (0, 0))[1] for run in runs)
        self.incident_start = np.floor(rng.uniform(low, high + 1e-9))
        self.incident_end = self.incident_start + column(run.incident.get("dur", 0) for run in runs)
        self.incident_p = column(run.incident.get("p", 0) for run in runs)
        self.incident_lat = column(run.incident.get("lat", 1) for run in runs)
        self.ramp_start = column(run.ramp.get("t0", 0) for run in runs)
        self.ramp_s = column(run.ramp.get("dur", 0) for run in runs)
        self.ramp_p = column(run.ramp.get("p", np.nan) for run in runs)
        self.ramp_lat = column(run.ramp.get("lat", 1) for run in runs)
        self.above = column(run.capacity.get("above", 2) for run in runs)
        self.above_p = column(run.capacity.get("p", np.nan) for run in runs)
        self.above_lat = column(run.capacity.get("lat", 1) for run in runs)
        self.hang = column(run.hang for run in runs)
        self.timeout = np.array([run.timeout for run in runs])
        self.gap_start = column(run.gap.get("start", np.inf) for run in runs)
        self.gap_s = column(run.gap.get("dur", 0) for run in runs)
        self.gap_every = column(run.gap.get("every", np.inf) for run in runs)

    def keep(self, rows: Bools) -> None:
        for name, values in vars(self).items():
            setattr(self, name, values[rows])

    def defects(self, second: int, weight: Floats) -> tuple[Floats, Floats, Floats]:
        """Give the candidate's error probability, latency multiplier and share of hung requests."""
        on = second >= self.onset
        p = np.where(on, self.p2, self.p1)
        lat = np.where(on, self.lat2, 1.0)
        risen = np.clip((second - self.ramp_start) / np.maximum(self.ramp_s, 1e-9), 0, 1) * (self.ramp_s > 0)
        p = np.where(np.isnan(self.ramp_p), p, p + (self.ramp_p - p) * risen)
        lat = lat * (1 + (self.ramp_lat - 1) * risen)
        loaded = on & (weight > self.above + 1e-9)
        p = np.where(loaded & ~np.isnan(self.above_p), self.above_p, p)
        return p, np.where(loaded, lat * self.above_lat, lat), np.where(on, self.hang, 0.0)

    def incident(self, second: int) -> tuple[Floats, Floats]:
        """Give what both versions suffer: extra error probability and latency multiplier."""
        on = (second >= self.incident_start) & (second < self.incident_end)
        return np.where(on, self.incident_p, 0.0), np.where(on, self.incident_lat, 1.0)

    def silent(self, second: int) -> Bools:
        since = second - self.gap_start
        with np.errstate(invalid="ignore"):
            phase = np.where(np.isinf(self.gap_every), since, np.mod(since, self.gap_every))
        return (since >= 0) & (phase < self.gap_s)


class Umpire(Protocol):
    """What decides about many rollouts, a second at a time."""

    def observe(self, ticks: BatchTicks) -> None:
        """Take in a second before the rollouts start."""

    def judge(self, ticks: BatchTicks, exposure: BatchExposure) -> tuple[Ints, Ints]:
        """Take in a second; return a `Verdict` and a `Cause` for every rollout."""

    def keep(self, rows: Bools) -> None:
        """Go on with these rollouts only."""


class ProductionJudge:
    """The judge that the controller runs, as an umpire: `rollout.engine` itself, on its own state."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policy = BatchPolicy.of(policies)
        self._state = BatchState.initial(policies)

    def observe(self, ticks: BatchTicks) -> None:
        self._state = observe_batch(self._state, ticks, self._policy)

    def judge(self, ticks: BatchTicks, exposure: BatchExposure) -> tuple[Ints, Ints]:
        self._state, judged = judge_batch(self._state, ticks, exposure, self._policy)
        return judged.verdict, judged.cause

    def keep(self, rows: Bools) -> None:
        self._policy, self._state = self._policy.take(rows), self._state.take(rows)


class _Batch:
    """Rollouts that live through the same seconds; those that end leave."""

    def __init__(
        self,
        runs: Sequence[Scenario],
        *,
        policy: Policy,
        steps: Floats,
        holds: Floats,
        rng: np.random.Generator,
        engine: str,
    ) -> None:
        rows = len(runs)
        policies = [policy] * rows
        self.rng = rng
        self.steps = steps
        self.holds = holds
        self.world = _Columns(runs, rng)
        self.slow_edge = BatchPolicy.of([policy]).slow_edge[0]
        self.slow_ms = LATENCY_EDGES_MS[self.slow_edge]
        kept = _kept_buckets(runs, self.slow_ms)
        self.log_kept = np.log(np.array(LATENCY_EDGES_MS)[kept])
        self.cells = np.append(kept, BUCKETS - 1)
        self.umpire: Umpire = ProductionJudge(policies) if engine == OURS else PEERS[engine](BatchPolicy.of(policies))
        self.step = np.zeros(rows, np.int64)
        self.held_s = np.zeros(rows)
        self.probing = np.zeros(rows, np.bool_)
        self.harmed = np.zeros(rows)
        self.slow_counts = np.array([run.lat2 != 1 or "lat" in run.ramp or "lat" in run.capacity for run in runs])
        self.unsent = np.zeros((rows, 2, 4), np.int64)
        longest = max((run.timeout for run in runs if run.hang), default=0)
        self.hanging = np.zeros((rows, longest), np.int64)

    def run(self, record: _Record, numbers: Ints) -> None:
        """Live until all rollouts have ended; *numbers* say where each is recorded."""
        for second in range(-HISTORY_S, 0):
            ticks = self._tick(second, np.zeros(numbers.size))
            self.umpire.observe(ticks)
        second = 0
        while numbers.size:
            weight = np.where(self.probing, PROBE_WEIGHT, self.steps[self.step])
            ticks = self._tick(second, weight)
            second += 1
            verdict, cause = self._judge(ticks, weight)
            last = self.step == self.steps.size - 1
            ended = (verdict == Verdict.ROLLBACK) | ((verdict == Verdict.ADVANCE) & last & ~self.probing)
            late = ~ended & (second >= self.world.horizon)
            self._act(verdict, ended)
            gone = ended | late
            if gone.any():
                where = numbers[gone]
                record.verdict[where] = np.where(late, Verdict.HOLD, verdict)[gone]
                record.cause[where] = cause[gone]
                record.ended_s[where] = second
                wrong = ended & (verdict == Verdict.ADVANCE) & self.world.bad
                self.harmed += np.where(wrong, self._harm_to_come(second), 0)
                record.harmed[where] = self.harmed[gone]
                numbers = numbers[~gone]
                self._keep(~gone)

    def _harm_to_come(self, second: int) -> Floats:
        """Expect the bad answers of a version that has all traffic from *second* on."""
        p, lat, hang = self.world.defects(second, np.ones_like(self.world.rps))
        slow = 1 - _normal_cdf(np.log(self.slow_ms / (MEDIAN_MS * lat)) / self.world.sigma)
        share = p + hang + np.where(self.slow_counts, (1 - p) * slow, 0)
        return np.asarray(self.world.rps * share * np.maximum(self.world.horizon - second, 0))

    def _judge(self, ticks: BatchTicks, weight: Floats) -> tuple[Ints, Ints]:
        last = self.step == self.steps.size - 1
        exposure = BatchExposure(
            weight=weight,
            next_weight=np.where(self.probing | last, 1.0, self.steps[np.minimum(self.step + 1, self.steps.size - 1)]),
            last=last,
            weight_changed=self.held_s == 0,
            min_hold_s=self.holds[self.step],
            held_s=self.held_s + 1,
            probing=self.probing,
        )
        return self.umpire.judge(ticks, exposure)

    def _act(self, verdict: Ints, ended: Bools) -> None:
        ahead = (verdict == Verdict.ADVANCE) & ~ended
        probe = verdict == Verdict.PROBE
        self.step = np.where(ahead & ~self.probing, self.step + 1, self.step)
        self.probing = (self.probing & ~ahead) | probe
        self.held_s = np.where(ahead | probe, 0.0, self.held_s + 1)

    def _keep(self, rows: Bools) -> None:
        self.world.keep(rows)
        self.umpire.keep(rows)
        for name in ("step", "held_s", "probing", "harmed", "slow_counts", "unsent", "hanging"):
            setattr(self, name, getattr(self, name)[rows])

    # -- one second ---------------------------------------------------------------------------------------------------

    def _tick(self, second: int, weight: Floats) -> BatchTicks:
        world, rng = self.world, self.rng
        sent = rng.poisson(world.rps)
        started = np.stack((sent, np.zeros_like(sent)), axis=-1)
        started[:, 1] = np.where(world.zero, 0, rng.binomial(sent, weight))
        started[:, 0] -= np.where(world.zero, 0, started[:, 1])
        p2, lat2, hang = world.defects(second, weight)
        extra, slower = world.incident(second)
        hung, timed_out = self._hang(second, started[:, 1], hang)
        answered = started.copy()
        answered[:, 1] -= hung
        errors = self._errors(answered, np.stack((world.p1, p2), axis=-1), extra)
        latency = self._latencies(answered, np.stack((slower, slower * lat2), axis=-1))
        errors[:, 1] += timed_out
        answered[:, 1] += timed_out
        latency[:, 1, -1] += timed_out
        slow = latency[:, 1, self.slow_edge + 1 :].sum(axis=-1) + hung - timed_out
        self.harmed += errors[:, 1] + np.where(self.slow_counts | (world.hang > 0), slow, 0)
        active = np.zeros_like(started)
        active[:, 1] = self.hanging.sum(axis=-1)
        return self._send(second, np.stack((answered, errors, started, active), axis=-1), latency)

    def _hang(self, second: int, started: Ints, share: Floats) -> tuple[Ints, Ints]:
        if not self.hanging.shape[1]:
            return np.zeros_like(started), np.zeros_like(started)
        hung = self.rng.binomial(started, share)
        rows, place = np.arange(started.size), second % self.world.timeout % self.hanging.shape[1]
        timed_out = self.hanging[rows, place]
        self.hanging[rows, place] = hung
        return hung, timed_out

    def _errors(self, requests: Ints, p: Floats, extra: Floats) -> Ints:
        burst = self.world.burst[:, None]
        together = np.minimum(requests, burst).astype(np.int64)
        chance = np.divide(p * requests, together, out=np.zeros_like(p), where=together > 0)
        bursts = (self.rng.random(p.shape) < chance) * together
        lonely = self.rng.binomial(requests, np.where(burst > 0, 0.0, p))
        errors = np.where(burst > 0, bursts, lonely)
        return np.asarray(errors + self.rng.binomial(requests - errors, np.minimum(extra, 1)[:, None]), np.int64)

    def _latencies(self, requests: Ints, multiplier: Floats) -> Ints:
        alike = np.round(multiplier, 4) + 1j * self.world.sigma[:, None]  # pairs that numpy can sort
        unique, inverse = np.unique(alike, return_inverse=True)
        below = _normal_cdf((self.log_kept - np.log(MEDIAN_MS * unique.real)[:, None]) / unique.imag[:, None])
        shares = np.diff(below, axis=-1, prepend=0.0, append=1.0)
        latency = np.zeros((*requests.shape, BUCKETS), np.int64)
        latency[..., self.cells] = self.rng.multinomial(requests, shares[inverse.reshape(requests.shape)])
        return latency

    def _send(self, second: int, counts: Ints, latency: Ints) -> BatchTicks:
        """Hold counts back while telemetry is missing: counters catch up afterwards, histograms do not."""
        silent = self.world.silent(second)
        active = counts[:, :, 3]
        if silent.any() or self.unsent.any():
            counts = counts + self.unsent
            self.unsent = np.where(silent[:, None, None], counts, 0)
            counts = np.where(silent[:, None, None], 0, counts)
            latency = np.where(silent[:, None, None], 0, latency)
            active = np.where(silent[:, None], 0, active)
        return BatchTicks(
            tick=np.full(silent.size, second + HISTORY_S, np.int64),
            gap=silent,
            completed=counts[:, :, 0],
            errors=counts[:, :, 1],
            started=counts[:, :, 2],
            active=active,
            latency=latency,
            shares=np.zeros((silent.size, 0, 2, 2), np.int64),
            unknown=np.zeros(silent.size, np.bool_),
        )


def _kept_buckets(runs: Sequence[Scenario], slow_ms: float) -> Ints:
    """Return the buckets that latencies are counted in; those in between go into the next one.

    The judge compares near the median and the 95th percentile and at the threshold, and there every edge counts.
    """
    p95 = MEDIAN_MS * np.exp(1.645 * max((run.sigma for run in runs), default=SIGMA))
    high = max(2.6 * p95, 1.6 * slow_ms)
    return np.array([i for i, edge in enumerate(LATENCY_EDGES_MS) if 70 <= edge <= high or edge in COARSE])


def _normal_cdf(z: Floats) -> Floats:
    """Give the normal distribution function to 1e-7 (Abramowitz and Stegun 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    polynomial = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * polynomial
    result: Floats = np.where(z >= 0, 1 - upper, upper)
    return result


def main(
    *,
    scenarios: Path,
    replications: int = 200,
    seed: int = 1,
    engines: Sequence[str] = (OURS,),
    json_file: Path | None = None,
) -> int:
    """Run *engines* on a scenario file; print a line per scenario and engine, and write ``--json`` if wanted.

    Raises:
        InvalidInputError: The file cannot be read as scenarios, or an engine is unknown.
    """
    for engine in engines:
        if engine not in {*ENGINES, EVERYONE}:
            raise InvalidInputError("--engine", f"{engine} is not known", f"give one of {', '.join(ENGINES)}, or all")
    try:
        policy, steps, worlds = load(scenarios)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InvalidInputError(
            "--scenarios", f"{scenarios} holds no scenarios ({exc})", "see tests/data/judge_scenarios.json for the form"
        ) from exc
    chosen = ENGINES if EVERYONE in engines else tuple(dict.fromkeys(engines))
    by_engine = [
        simulate(worlds, replications=replications, seed=seed, policy=policy, steps=steps, engine=engine)
        for engine in chosen
    ]
    # Side by side, scenario by scenario: what the engines make of the same worlds.
    rows = [_row(outcome) for outcomes in zip(*by_engine, strict=True) for outcome in outcomes]
    table = Table(title=f"{replications} rollouts per scenario", title_justify="left")
    columns = ("scenario", "engine", "rolled back", "promoted", "inconclusive", "s to rollback", "s to promotion")
    for name in (*columns, "harmed"):
        table.add_column(name, justify="left" if name in {"scenario", "engine"} else "right", no_wrap=True)
    for row in rows:
        shares = [f"{row[name]:.1%}" for name in ("rollback", "promoted", "inconclusive")]
        spans = [_span(row["t_rb_med"], row["t_rb_95"]), _span(row["t_prom_med"], row["t_prom_95"])]
        table.add_row(row["id"], row["engine"], *shares, *spans, f"{row['harmed_med']:.0f}")
    output = Console()
    if not output.is_terminal:
        output.width = 140
    output.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"results": rows}, indent=2) + "\n", encoding="utf-8")
    return 0


def _row(outcome: Outcome) -> dict[str, Any]:
    back, on = outcome.rollback_s or (None, None), outcome.promotion_s or (None, None)
    return {
        "id": outcome.scenario.id,
        "engine": outcome.engine,
        "runs": outcome.replications,
        "rollback": outcome.rolled_back,
        "promoted": outcome.promoted,
        "inconclusive": outcome.inconclusive,
        "t_rb_med": back[0],
        "t_rb_95": back[1],
        "t_prom_med": on[0],
        "t_prom_95": on[1],
        "harmed_med": outcome.harmed,
    }


def _span(median: float | None, late: float | None) -> str:
    return "" if median is None or late is None else f"{median:.0f} / {late:.0f}"
