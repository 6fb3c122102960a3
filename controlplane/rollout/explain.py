"""Says in one sentence with measured values why the judge decided as it did."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np

from controlplane.rollout import evidence
from controlplane.rollout.counting import counted, errors_of, lacking
from controlplane.rollout.policy import SLACK, BatchPolicy, Floats, Policy, Sampled
from controlplane.rollout.processes import BUILT_IN, ERROR, LATENCY, NOT_INFERIOR, SHIFT, layout
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


def what_of(objective: int, policy: Policy) -> str:
    """Say what an objective measures, as the subject of a sentence."""
    if objective == ERROR:
        return "error rate"
    if objective == LATENCY:
        return f"share slower than {snap_threshold(policy.latency_threshold_ms or 1):g} ms"
    return f"share {policy.shares[objective - BUILT_IN].what}"


def things_of(objective: int, policy: Policy) -> str:
    """Say what an objective counts, for ``12 more ...``."""
    measure = policy.shares[objective - BUILT_IN].measure if objective >= BUILT_IN else None
    return measure.things if isinstance(measure, Sampled) else "requests"


def dead_sentence(window: TickWindow, objective: int, policy: Policy, odds: float, name: str = "v1") -> str:
    """Say that nearly every request of the candidate is bad in this tick."""
    evidence_text = odds_text(odds, cap=1 / policy.hard_stop_alpha)
    if objective == LATENCY:
        threshold = snap_threshold(policy.latency_threshold_ms or LATENCY_EDGES_MS[0])
        return f"nearly every request takes more than {threshold:g} ms while {name} is fine; evidence {evidence_text}"
    if objective == ERROR:
        baseline, candidate = (
            (each.completed, errors_of(each, policy)) for each in (window.baseline, window.candidate)
        )
        bad = "nearly every request fails"
    else:
        baseline, candidate = counted(window, policy.shares[objective - BUILT_IN])
        bad = f"nearly everything is {policy.shares[objective - BUILT_IN].what}"
    other = f"{name} at {_counted(*baseline)}"
    return f"{bad}: {_counted(*candidate)} in this second, {other}; evidence {evidence_text}"


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
    places = layout(batch_policy.objectives)
    muted = batch_policy.active & ~batch_policy.deciding
    compared = np.zeros_like(judged.limit)
    compared[:, places.compared] = np.minimum(judged.odds[:, places.worse], judged.odds[:, places.floor])
    return [
        _Case(
            cause=Cause(judged.cause[row]),
            verdict=Verdict(judged.verdict[row]),
            objective=int(judged.objective[row]),
            odds=judged.odds[row, places.absolute].tolist(),
            compared=compared[row].tolist(),
            slower=judged.odds[row, SHIFT].tolist(),
            no_slower=float(judged.odds[row, NOT_INFERIOR]),
            hard_odds=float(judged.hard_odds[row, judged.objective[row]]),
            cap=(2 * batch_policy.threshold[row]).tolist(),
            asked=state.asked[row].tolist(),
            muted=muted[row].tolist(),
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
    """Per objective: evidence that its bound is broken."""
    compared: list[float]
    """Per objective: evidence that it is worse than the baseline, and matters."""
    slower: list[float]
    no_slower: float
    hard_odds: float
    cap: list[float]
    asked: list[bool]
    muted: list[bool]
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
        policy = self.policy
        if policy.error_max is not None:
            found += (
                self._absolute("error_abs", ERROR, policy.error_max),
                self._relative("error_rel", ERROR, policy.error_odds_ratio),
            )
        if policy.latency_threshold_ms is not None:
            place = self._place()
            shift = _share(self.shifts[place][CANDIDATE]), _share(self.shifts[place][BASELINE])
            missing = None if self.cause is Cause.NOT_COMPARED else 0
            relative = ObjectiveEvidence(
                "latency_rel", *shift, policy.latency_tolerance, self._slower(), missing, self._handled(LATENCY)
            )
            found += (self._absolute("latency_abs", LATENCY, 1 - policy.latency_quantile), relative)
        for objective, share in enumerate(policy.shares, start=BUILT_IN):
            if share.max_share is not None:
                found.append(self._absolute(f"{share.name} abs", objective, share.max_share))
            found.append(self._relative(f"{share.name} rel", objective, share.odds_ratio))
        return tuple(found)

    def _absolute(self, name: str, objective: int, bound: float) -> ObjectiveEvidence:
        shares, needed = self._shares(objective), _whole(self.needed[objective])
        return ObjectiveEvidence(name, *shares, bound, self.odds[objective], needed, self._handled(objective))

    def _relative(self, name: str, objective: int, bound: float) -> ObjectiveEvidence:
        missing = None if self.cause is Cause.SUSPECT and self.objective == objective else 0
        shares = self._shares(objective)
        return ObjectiveEvidence(name, *shares, bound, self.compared[objective], missing, self._handled(objective))

    def _shares(self, objective: int) -> tuple[float | None, float | None]:
        counts = self._counts(objective)
        return _share(counts[CANDIDATE]), _share(counts[BASELINE])

    def _handled(self, objective: int) -> str:
        if self.muted[objective]:
            return "muted"
        return "asked" if self.asked[objective] else ""

    def _slower(self) -> float:
        return (self.slower[0] + self.slower[1]) / 2

    def _counts(self, objective: int) -> list[Counts]:
        """Give the counts that the objective's evidence speaks of: since it shows, or else since it began."""
        beside = self.beside[objective]
        return beside if beside[CANDIDATE][0] else self.seen[objective]

    def _place(self) -> int:
        """Give the place of comparison (median, 95th percentile) that shows more."""
        return 0 if self.slower[0] >= self.slower[1] else 1

    # -- sentences ----------------------------------------------------------------------------------------------------

    def _sentence(self) -> str:
        objective = self.objective
        match self.cause:
            case Cause.DEAD:
                return dead_sentence(self.window, objective, self.policy, self.hard_odds, self.baseline)
            case Cause.BREACH:
                odds = odds_text(self.odds[objective], cap=self.cap[objective])
                return f"{self._breach(objective)}; evidence {odds}"
            case Cause.WORSE:
                odds = odds_text(self.compared[objective], cap=self.cap[objective])
                return (
                    f"{self._compared(objective)}: more than {self._odds_ratio(objective):g} times "
                    f"{self.baseline}'s odds; evidence {odds}"
                )
            case Cause.SLOWER:
                odds = odds_text(self._slower())
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
                things = things_of(objective, self.policy)
                missing = "this share will not do" if more is None else f"needs about {more} more {things}"
                limit = percent(self.limit[objective])
                return f"{self._compared(objective)}, not yet shown to be below {limit}: {missing}"
            case Cause.NO_DATA:
                return f"{lacking(self.window, self.policy)}, so the clocks stand still"
            case Cause.SUSPECT:
                odds = odds_text(self.compared[objective], cap=self.cap[objective])
                return f"{self._compared(objective)}: it may be worse than {self.baseline}; evidence {odds}"
            case Cause.NOT_COMPARED:
                shift = self._shift(2, None)
                return f"not yet shown to be as fast as {self.baseline}: {shift}; evidence {self._inferior()}"
            case Cause.BREACH_OVER:
                return f"{self.quiet_s:.0f} s without a breach beside {self.baseline}, back to 100 %"
            case _:
                judged = [
                    self._compared(each)
                    for each, alarms in enumerate(self.policy.alarms)
                    if alarms and not self._handled(each) and self._counts(each)[CANDIDATE][0]
                ]
                return f"all objectives kept: {'; '.join(judged)}"

    def _weight(self) -> str:
        return f"{self.exposure.weight_bp / 100:g} %"

    def _quiet_needed(self) -> float:
        if self.exposure.probing:
            return self.policy.quiet_s
        return min(self.policy.quiet_s, self.exposure.min_hold_s)

    def _inferior(self) -> str:
        return f"1:{max(self.no_slower, 1):.0f} of 1:{1 / self.policy.alpha_advance:.0f}"

    def _odds_ratio(self, objective: int) -> float:
        return (
            self.policy.error_odds_ratio if objective == ERROR else self.policy.shares[objective - BUILT_IN].odds_ratio
        )

    def _compared(self, objective: int) -> str:
        counts = self._counts(objective)
        other = f", {self.baseline} at {_counted(*counts[BASELINE])} in the same seconds" if counts[BASELINE][0] else ""
        return f"{what_of(objective, self.policy)} {_counted(*counts[CANDIDATE])}{other}"

    def _breach(self, objective: int) -> str:
        counts = self._counts(objective)
        bound = (
            self.policy.error_max or 0,
            1 - self.policy.latency_quantile,
            *(share.max_share or 0 for share in self.policy.shares),
        )[objective]
        other = (
            f", {self.baseline} at {percent(_share(counts[BASELINE]) or 0)} in the same seconds"
            if counts[BASELINE][0]
            else ""
        )
        return f"{what_of(objective, self.policy)} {_counted(*counts[CANDIDATE])} > SLO {percent(bound)}{other}"

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
