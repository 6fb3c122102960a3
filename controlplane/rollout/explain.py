"""Says in one sentence with measured values why the judge decided as it did."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np

from controlplane.rollout import evidence
from controlplane.rollout.policy import (
    ERROR,
    FLOOR,
    LATENCY,
    NOT_INFERIOR,
    SHIFT,
    SLACK,
    WORSE_ERRORS,
    BatchPolicy,
    Floats,
    Policy,
)
from controlplane.rollout.state import BELOW, BatchState
from controlplane.rollout.verdict import BatchJudgement, Cause, Exposure, Judgement, ObjectiveEvidence, Verdict
from controlplane.rollout.windows import BASELINE, CANDIDATE, LATENCY_EDGES_MS, TickWindow, snap_threshold

Counts: TypeAlias = list[float]
"""Requests and, of these, bad ones."""

_LAST_EDGE: Final = len(LATENCY_EDGES_MS) - 1


def percent(share: float) -> str:
    """Write a share for people: two digits that matter."""
    value = share * 100
    if value <= 0:
        return "0 %"
    decimals = min(max(0, 1 - math.floor(math.log10(value))), 6)
    text = f"{value:.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def odds_text(odds: float, *, cap: float = 1e6) -> str:
    """Write evidence as the number of healthy rollouts among which one shows as much; not counted beyond *cap*."""
    return f"1:{max(odds, 1):.0f}" if odds < 0.999 * cap else f"at least 1:{cap:.0f}"


def dead_sentence(window: TickWindow, objective: int, policy: Policy, odds: float, name: str = "v1") -> str:
    """Say that nearly every request of the candidate is bad in this tick."""
    evidence_text = odds_text(odds, cap=1 / policy.hard_stop_alpha)
    if objective == LATENCY:
        threshold = snap_threshold(policy.latency_threshold_ms or LATENCY_EDGES_MS[0])
        return f"nearly every request takes more than {threshold:g} ms while {name} is fine; evidence {evidence_text}"
    candidate, baseline = (
        _counted(version.completed, version.errors) for version in (window.candidate, window.baseline)
    )
    return f"nearly every request fails: {candidate} in this second, {name} at {baseline}; evidence {evidence_text}"


def explain(
    state: BatchState,
    judged: BatchJudgement,
    windows: Sequence[TickWindow],
    exposures: Sequence[Exposure],
    policies: Sequence[Policy],
    batch_policy: BatchPolicy,
) -> list[Judgement]:
    """Turn the verdicts on many rollouts into judgements with their sentences."""
    needed = _needed(state, judged, batch_policy)
    return [
        _Case(
            cause=Cause(judged.cause[row]),
            verdict=Verdict(judged.verdict[row]),
            objective=int(judged.objective[row]),
            odds=judged.odds[row].tolist(),
            hard_odds=float(judged.hard_odds[row, judged.objective[row]]),
            cap=float(batch_policy.cap[row, 0]),
            limit=judged.limit[row].tolist(),
            needed=needed[row].tolist(),
            seen=state.seen[row].tolist(),
            beside=state.beside[row].tolist(),
            shifts=state.shifts[row].tolist(),
            edges=state.edges[row].tolist(),
            quiet_s=float(state.quiet_s[row]),
            held_s=float(state.held_s[row]),
            window=windows[row],
            exposure=exposures[row],
            policy=policies[row],
        ).judgement()
        for row in range(len(windows))
    ]


def _needed(state: BatchState, judged: BatchJudgement, policy: BatchPolicy) -> Floats:
    """Estimate per objective how many requests are still wanted before the next step."""
    needed = np.zeros_like(judged.limit)
    if judged.shown.all():
        return needed
    # Deflated by 1: those that the proof was made of, while `seen` has also what gaps held back.
    worth, requests = judged.worth, state.deflated[:, :, 0, 0]
    more = evidence.still_needed(
        worth[..., 1], worth[..., 0], np.minimum(judged.limit, 1 - 1e-9), policy.log_advance[:, None]
    )
    more = np.ceil(more * np.maximum(evidence.ratio(requests, worth[..., 0]), 1))
    return np.where(judged.shown, 0.0, np.where(judged.limit >= 1, 1.0, more))


@dataclasses.dataclass(frozen=True, slots=True)
class _Case:
    """One rollout's judgement in plain numbers."""

    cause: Cause
    verdict: Verdict
    objective: int
    odds: list[float]
    hard_odds: float
    cap: float
    limit: list[float]
    needed: list[float]
    seen: list[list[Counts]]
    beside: list[list[Counts]]
    shifts: list[list[Counts]]
    edges: list[int]
    quiet_s: float
    held_s: float
    window: TickWindow
    exposure: Exposure
    policy: Policy

    @property
    def baseline(self) -> str:
        return self.exposure.baseline

    def judgement(self) -> Judgement:
        return Judgement(self.verdict, self._sentence(), self._objectives())

    # -- values -------------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[ObjectiveEvidence, ...]:
        found: list[ObjectiveEvidence] = []
        if self.policy.error_max is not None:
            counts = self._counts(ERROR)
            shares = _share(counts[CANDIDATE]), _share(counts[BASELINE])
            worse = min(self.odds[WORSE_ERRORS], self.odds[FLOOR])
            found += (
                ObjectiveEvidence(
                    "error_abs", *shares, self.policy.error_max, self.odds[ERROR], _whole(self.needed[ERROR])
                ),
                ObjectiveEvidence("error_rel", *shares, self.policy.error_odds_ratio, worse, 0),
            )
        if self.policy.latency_threshold_ms is not None:
            counts = self._counts(LATENCY)
            shares = _share(counts[CANDIDATE]), _share(counts[BASELINE])
            place = self._place()
            shift = _share(self.shifts[place][CANDIDATE]), _share(self.shifts[place][BASELINE])
            slower = (self.odds[SHIFT.start] + self.odds[SHIFT.start + 1]) / 2
            bound = 1 - self.policy.latency_quantile
            missing = None if self.cause is Cause.NOT_COMPARED else 0
            found += (
                ObjectiveEvidence("latency_abs", *shares, bound, self.odds[LATENCY], _whole(self.needed[LATENCY])),
                ObjectiveEvidence("latency_rel", *shift, self.policy.latency_tolerance, slower, missing),
            )
        return tuple(found)

    def _counts(self, objective: int) -> list[Counts]:
        """Give the counts that the objective's evidence speaks of: since it shows, or else since it began."""
        beside = self.beside[objective]
        return beside if beside[CANDIDATE][0] else self.seen[objective]

    def _place(self) -> int:
        """Give the place of comparison (median, 95th percentile) that shows more."""
        return 0 if self.odds[SHIFT.start] >= self.odds[SHIFT.start + 1] else 1

    # -- sentences ----------------------------------------------------------------------------------------------------

    def _sentence(self) -> str:
        objective = self.objective
        match self.cause:
            case Cause.DEAD:
                return dead_sentence(self.window, objective, self.policy, self.hard_odds, self.baseline)
            case Cause.BREACH:
                odds = odds_text(self.odds[objective], cap=self.cap)
                return f"{self._breach(objective)}; evidence {odds}"
            case Cause.WORSE_ERRORS:
                odds = odds_text(min(self.odds[WORSE_ERRORS], self.odds[FLOOR]), cap=self.cap)
                return (
                    f"{self._compared(ERROR)}: more than {self.policy.error_odds_ratio:g} times "
                    f"{self.baseline}'s odds; evidence {odds}"
                )
            case Cause.SLOWER:
                odds = odds_text((self.odds[SHIFT.start] + self.odds[SHIFT.start + 1]) / 2)
                return (
                    f"slower than {self.policy.latency_tolerance:g} times {self.baseline}: "
                    f"{self._shift(self._place(), self._moved(self._place()))}; evidence {odds}"
                )
            case Cause.TOO_WEAK:
                return (
                    f"the breach came back at 100 % and vanished again as soon as {self.baseline} took half: "
                    "the candidate cannot carry all of the traffic"
                )
            case Cause.LONE_BREACH:
                return f"{self._breach(objective)}; nothing to compare with at 100 %, so {self.baseline} gets half back"
            case Cause.SHARED_INCIDENT:
                return f"{self._breach(objective)}: {self.baseline} is in trouble too, so this is held and not undone"
            case Cause.UNDECIDED_BREACH:
                return f"{self._breach(objective)}: not yet clear whether it is the candidate's own"
            case _:
                return self._calm_sentence()

    def _calm_sentence(self) -> str:
        objective = self.objective
        match self.cause:
            case Cause.REPEATED_TICK:
                return f"tick {self.window.tick} was judged before"
            case Cause.NO_TELEMETRY:
                return "telemetry of at least one Envoy is missing, so the clocks stand still"
            case Cause.NO_TRAFFIC:
                return f"no request to the candidate has ended at {self._weight()} yet"
            case Cause.MIN_HOLD:
                held = min(self.held_s, self.exposure.held_s)
                return f"{self._weight()} is held for {held:.0f} of at least {self.exposure.min_hold_s:.0f} s"
            case Cause.QUIET_TIME:
                return f"{self.quiet_s:.0f} of {self._quiet_needed():.0f} s without a breach at {self._weight()}"
            case Cause.TOO_LITTLE_EVIDENCE:
                more = _whole(self.needed[objective])
                missing = "this share will not do" if more is None else f"needs about {more} more requests"
                limit = percent(self.limit[objective])
                return f"{self._compared(objective)}, not yet shown to be below {limit}: {missing}"
            case Cause.NOT_COMPARED:
                shift = self._shift(2, None)
                return f"not yet shown to be as fast as {self.baseline}: {shift}; evidence {self._inferior()}"
            case Cause.BREACH_OVER:
                return f"{self.quiet_s:.0f} s without a breach beside {self.baseline}, back to 100 %"
            case _:
                judged = [
                    self._compared(each)
                    for each, bound in ((ERROR, self.policy.error_max), (LATENCY, self.policy.latency_threshold_ms))
                    if bound is not None
                ]
                return f"all objectives kept: {'; '.join(judged)}"

    def _weight(self) -> str:
        return f"{self.exposure.weight_bp / 100:g} %"

    def _quiet_needed(self) -> float:
        if self.exposure.probing:
            return self.policy.quiet_s
        return min(self.policy.quiet_s, self.exposure.min_hold_s)

    def _inferior(self) -> str:
        return f"1:{max(self.odds[NOT_INFERIOR], 1):.0f} of 1:{1 / self.policy.alpha_advance:.0f}"

    def _bad(self, objective: int) -> str:
        if objective == ERROR:
            return "failed"
        return f"slower than {snap_threshold(self.policy.latency_threshold_ms or 1):g} ms"

    def _compared(self, objective: int) -> str:
        counts = self._counts(objective)
        what = "error rate" if objective == ERROR else f"share {self._bad(LATENCY)}"
        other = f", {self.baseline} at {_counted(*counts[BASELINE])} in the same seconds" if counts[BASELINE][0] else ""
        return f"{what} {_counted(*counts[CANDIDATE])}{other}"

    def _breach(self, objective: int) -> str:
        counts = self._counts(objective)
        what = "error rate" if objective == ERROR else f"share {self._bad(LATENCY)}"
        bound = self.policy.error_max or 0 if objective == ERROR else 1 - self.policy.latency_quantile
        other = (
            f", {self.baseline} at {percent(_share(counts[BASELINE]) or 0)} in the same seconds"
            if counts[BASELINE][0]
            else ""
        )
        return f"{what} {_counted(*counts[CANDIDATE])} > SLO {percent(bound)}{other}"

    def _moved(self, place: int) -> float:
        wanted = LATENCY_EDGES_MS[self.edges[place]] * self.policy.latency_tolerance * (1 - SLACK)
        return next((edge for edge in LATENCY_EDGES_MS if edge >= wanted), LATENCY_EDGES_MS[_LAST_EDGE])

    def _shift(self, place: int, moved: float | None) -> str:
        if self.edges[place] == BELOW and self.shifts[place][CANDIDATE][0]:
            share, fast = _share(self.shifts[place][CANDIDATE]) or 0, LATENCY_EDGES_MS[0]
            return f"{percent(share)} take longer, while most of {self.baseline}'s take less than {fast:g} ms"
        if self.edges[place] < 0 or not self.shifts[place][CANDIDATE][0]:
            return "too few requests to compare latencies"
        edge = LATENCY_EDGES_MS[self.edges[place]]
        if moved is None:
            wanted = edge * self.policy.latency_tolerance**2 * (1 + SLACK)
            moved = max(each for each in LATENCY_EDGES_MS if each <= wanted)
        candidate, baseline = (_share(self.shifts[place][version]) or 0 for version in (CANDIDATE, BASELINE))
        other = f"{percent(baseline)} of {self.baseline}'s more than {edge:g} ms"
        return f"{percent(candidate)} take more than {moved:g} ms, {other}"


def _share(counts: Counts) -> float | None:
    return counts[1] / counts[0] if counts[0] else None


def _counted(total: float, bad: float) -> str:
    return f"{percent(bad / total) if total else '?'} ({bad:.0f}/{total:.0f})"


def _whole(number: float) -> int | None:
    return int(number) if math.isfinite(number) else None
