"""Ticks for the judge's tests: exact counts, and latencies given by quantiles instead of samples."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from controlplane.rollout.judge import Exposure, Judgement, JudgeState, Policy, Verdict, judge, observe_history
from controlplane.rollout.windows import BUCKETS, LATENCY_EDGES_MS, Sample, TickWindow, VersionTick

SIGMA = float(np.log(2.5) / 1.6448536269514722)
POLICY = Policy()
START = 1_000


@functools.cache
def latencies(requests: int, *, median_ms: float = 100.0, seed: int = 0) -> tuple[int, ...]:
    """Spread *requests* over the buckets as the benchmark's lognormal does."""
    drawn = np.random.default_rng(seed).lognormal(np.log(median_ms), SIGMA, requests)
    return tuple(np.bincount(np.searchsorted(LATENCY_EDGES_MS, drawn), minlength=BUCKETS).tolist())


def traffic(requests: int, errors: int = 0, *, median_ms: float = 100.0, seed: int = 0) -> VersionTick:
    """Make a version's tick in which everything that starts also ends."""
    return VersionTick(
        completed=requests,
        errors=errors,
        started=requests,
        active=0,
        latency=latencies(requests, median_ms=median_ms, seed=seed),
    )


@dataclasses.dataclass
class Run:
    """A rollout in the judge's hands, tick by tick."""

    policy: Policy = POLICY
    weight_bp: int = 500
    next_weight_bp: int | None = 1_000
    min_hold_s: float = 30.0
    probing: bool = False
    state: JudgeState = dataclasses.field(init=False)
    tick: int = START
    held_s: float = 0.0
    judgement: Judgement = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.state = JudgeState.initial(self.policy)

    def watch(self, seconds: int, requests: int = 100, errors: Callable[[int], int] = lambda _: 0) -> "Run":
        """Let the judge watch the baseline alone."""
        for second in range(seconds):
            baseline = traffic(requests, errors(second), seed=second)
            self.state = observe_history(self.state, TickWindow(self.tick, baseline, VersionTick.zero()), self.policy)
            self.tick += 1
        return self

    def move(self, weight_bp: int, next_weight_bp: int | None, *, probing: bool = False) -> "Run":
        """Go to another weight."""
        self.weight_bp, self.next_weight_bp, self.probing, self.held_s = weight_bp, next_weight_bp, probing, 0.0
        return self

    def see(
        self, baseline: VersionTick, candidate: VersionTick, *, gap: bool = False, samples: tuple[Sample, ...] = ()
    ) -> Verdict:
        """Judge one tick."""
        exposure = Exposure(
            weight_bp=self.weight_bp,
            next_weight_bp=self.next_weight_bp,
            weight_changed=self.held_s == 0,
            min_hold_s=self.min_hold_s,
            held_s=self.held_s + 1,
            probing=self.probing,
        )
        window = TickWindow(self.tick, baseline, candidate, gap, samples)
        self.state, self.judgement = judge(self.state, window, exposure, self.policy)
        self.tick += 1
        self.held_s += 1
        return self.judgement.verdict

    def until(self, seconds: int, window: "Second", *, stop: Iterable[Verdict]) -> Verdict:
        """Judge ticks until a verdict of *stop* or for *seconds*; give the last verdict."""
        wanted, verdict = set(stop), Verdict.HOLD
        for second in range(seconds):
            verdict = self.see(*window(second))
            if verdict in wanted:
                break
        return verdict


Second: TypeAlias = Callable[[int], tuple[VersionTick, VersionTick]]


def healthy(requests: int = 95, candidate: int = 5, *, median_ms: float = 100.0) -> Second:
    """Both versions serve everything; every 10th second one of the baseline's requests fails."""
    return lambda second: (
        traffic(requests, min(requests, int(second % 10 == 0)), seed=second),
        traffic(candidate, seed=second + 7_777, median_ms=median_ms),
    )


def failing(requests: int, candidate: int, errors: int, *, baseline_errors: int = 0) -> Second:
    """The candidate fails *errors* requests in every second."""
    return lambda second: (
        traffic(requests, baseline_errors, seed=second),
        traffic(candidate, errors, seed=second + 7_777),
    )
