"""What is true now, as at most one event per rollout: commands, the judge's verdict, the fleet's level, clocks."""

import dataclasses
import datetime as dt
import json
from collections.abc import Generator, Sequence
from typing import Final, TypeAlias

from controlplane.controller.fleet import FleetLevel, unready_members
from controlplane.ports import ClusterHealth, NodeStatus, Rollout, TickRead
from controlplane.rollout import judge as judging
from controlplane.rollout.gate import GateAnswer
from controlplane.rollout.judge import Exposure, Judgement, JudgeState, Policy, Verdict
from controlplane.rollout.lifecycle import carries_traffic, weight_bp
from controlplane.rollout.model import (
    Acked,
    Advance,
    Baking,
    Breach,
    DeadlinePassed,
    Event,
    Paused,
    PrepareTimedOut,
    Preparing,
    Question,
    Ready,
    RollingBack,
    Shifting,
    State,
    Suspicion,
    TelemetryLost,
)
from controlplane.rollout.objectives import policy_of, query_slos
from controlplane.rollout.quality import QualityRun
from controlplane.rollout.recorded import JudgedTick, Look
from controlplane.rollout.sampling import QuerySample, Sampling
from controlplane.rollout.windows import TickWindow, VersionTick

HISTORY = dt.timedelta(seconds=300)
"""How much of the baseline's past the judge reads before a rollout starts (judge.md 2.3)."""

GAP = dt.timedelta(seconds=5)
"""Silence after which a tick counts as a gap (judge.md section 5)."""

TELEMETRY_TIMEOUT = dt.timedelta(seconds=120)
"""Silence after which a rollout pauses and asks for a person (judge.md section 5)."""


MOST_ODDS: Final = 1e12
"""Evidence is recorded up to here: JSON knows no infinity."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clusters:
    """The Envoy clusters of a rollout's two versions."""

    baseline: str
    candidate: str


@dataclasses.dataclass(frozen=True, slots=True)
class FleetView:
    """Those that serve one service, as their rows say: who is there, how far they are, whom they find healthy.

    *trial* says, where it is so, that the service's newest revision runs on some of them only.
    """

    nodes: Sequence[NodeStatus]
    level: FleetLevel
    health: Sequence[ClusterHealth]
    trial: str = ""


def level_event(
    rollout: Rollout,
    clusters: Clusters,
    fleet: FleetView,
    *,
    now: dt.datetime,
    holds: Sequence[str] = (),
    patient: bool = False,
) -> Event | None:
    """Return what the fleet's level means for a rollout that waits for it; *holds* as in `Case`.

    *patient*: what it waits for is under way, so `Preparing` is not given up now.
    """
    match rollout.state:
        case Preparing(since=since):
            unready = (*unready_members(fleet.nodes, fleet.health, clusters.candidate, now=now), *holds)
            if fleet.level.settled and not unready and not fleet.trial:
                return Ready()
            if now - since >= rollout.plan.prepare_timeout and not patient:
                return PrepareTimedOut(_unready_words(fleet, unready))
        case Shifting() | RollingBack() if fleet.level.settled:
            return Acked()
        case _:
            pass
    return None


def clock_event(rollout: Rollout, *, heard_at: dt.datetime, now: dt.datetime) -> Event | None:
    """Return the deadline or the loss of telemetry, if either is due. *heard_at* is the last tick without a gap."""
    if isinstance(rollout.state, Preparing | Shifting | Baking) and now >= rollout.deadline_at:
        return DeadlinePassed()
    if not isinstance(rollout.state, Shifting | Baking) or not carries_traffic(rollout.state):
        return None
    silent_since = max(rollout.state.since, heard_at)
    if now - silent_since >= TELEMETRY_TIMEOUT:
        return TelemetryLost(f"no complete telemetry for {int((now - silent_since).total_seconds())} s")
    return None


def silence_event(rollout: Rollout, samples: Sequence[QuerySample], *, now: dt.datetime) -> Event | None:
    """Return the loss of a query's answers, if one that decides has had none for as long as a rollout may be blind."""
    if not isinstance(rollout.state, Shifting | Baking) or not carries_traffic(rollout.state):
        return None
    for slo in query_slos(rollout.slos):
        told = [sample for sample in samples if sample.name == slo.name]
        answered = max((sample.tick for sample in told if not sample.words), default=0)
        silent_s = int(now.timestamp() - max(rollout.state.since.timestamp(), answered))
        if silent_s >= TELEMETRY_TIMEOUT.total_seconds() and not slo.terms.muted:
            why = max(told, key=lambda sample: sample.tick).words if told else "nobody asked for it"
            return TelemetryLost(f"no answer for {slo.name} for {silent_s} s: {why}")
    return None


def heard_at(ticks: Sequence[TickRead]) -> dt.datetime | None:
    """Return the moment of the last tick in which every Envoy reported."""
    complete = [tick.tick for tick in ticks if tick.reporting > 0 and tick.silent == 0]
    return dt.datetime.fromtimestamp(max(complete), dt.UTC) if complete else None


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A rollout after the judge has seen new ticks, the event that its verdict amounts to, and the record of them."""

    rollout: Rollout
    event: Event | None
    ticks: tuple[JudgedTick, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A rollout and the ticks that its judge may not have seen yet, with what queries told of them (*samples*).

    *holds* say, a phrase each, why the candidate may get no more traffic now, whatever the judge thinks of it. They
    keep a rollout from its next step, the first and the last included, and from nothing else: a breach goes back at
    once, and a person may promote. *pictures* are the newest comparisons, the newest first; *gate* is the
    newest answer of a gate.
    """

    rollout: Rollout
    clusters: Clusters
    ticks: Sequence[TickRead]
    samples: Sequence[QuerySample] = ()
    holds: Sequence[str] = ()
    pictures: Sequence[QualityRun] = ()
    gate: GateAnswer | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    """What the judge is asked about one tick of one rollout."""

    state: JudgeState
    window: TickWindow
    exposure: Exposure
    policy: Policy


_Answer: TypeAlias = tuple[JudgeState, Judgement]


def judge_ticks(
    rollout: Rollout,
    clusters: Clusters,
    ticks: Sequence[TickRead],
    samples: Sequence[QuerySample] = (),
    holds: Sequence[str] = (),
) -> Judged:
    """Let the judge see the closed ticks it has not seen, up to the first that decides something, and peek at the next.

    Before the candidate carries traffic, ticks only teach the judge what the baseline is like.
    """
    (judged,) = judge_many([Case(rollout, clusters, ticks, samples, holds)])
    return judged


def judge_many(cases: Sequence[Case]) -> list[Judged]:
    """Do what `judge_ticks` does for many rollouts, tick by tick together: ten cost little more than one."""
    found: dict[int, Judged] = {}
    asked: dict[int, _Question] = {}
    courses = [_course(case) for case in cases]

    def go_on(number: int, answer: _Answer | None) -> None:
        try:
            asked[number] = next(courses[number]) if answer is None else courses[number].send(answer)
        except StopIteration as end:
            found[number] = end.value

    for number in range(len(courses)):
        go_on(number, None)
    while asked:
        questions, asked = asked, {}
        answers = judging.judge_all(
            [question.state for question in questions.values()],
            [question.window for question in questions.values()],
            [question.exposure for question in questions.values()],
            [question.policy for question in questions.values()],
        )
        for number, answer in zip(questions, answers, strict=True):
            go_on(number, answer)
    return [found[number] for number in range(len(courses))]


def _course(case: Case) -> Generator[_Question, _Answer, Judged]:
    rollout = case.rollout
    policy = policy_of(rollout.slos)
    sampling = Sampling(query_slos(rollout.slos), case.samples, since=_carrying_since(rollout.state))
    state = JudgeState.from_json(json.loads(rollout.judge)) if rollout.judge else JudgeState.initial(policy)
    judged_tick, judgement, event = rollout.judged_tick, None, None
    seen: list[JudgedTick] = []
    for tick in case.ticks:
        if judged_tick is not None and tick.tick <= judged_tick:
            continue
        window = _window(tick, case.clusters, sampling, judged_tick)
        if not tick.closed:
            peeked = _peek(rollout, state, window, policy)
            if peeked is not None:
                exposure = _exposure(rollout, tick.tick, judged_tick)
                heeded = _heeded(rollout.state, live=False, held=bool(case.holds))
                judgement, event = peeked, _meaning(peeked, heeded)
                seen.append(_record(judged_tick, window, Look.PARTIAL, exposure, heeded, peeked))
            break
        if carries_traffic(rollout.state) and not _precedes_exposure(rollout, tick.tick):
            exposure = _exposure(rollout, tick.tick, judged_tick)
            state, judgement = yield _Question(state, window, exposure, policy)
            heeded = _heeded(rollout.state, live=_is_live(rollout, tick.tick), held=bool(case.holds))
            event = _meaning(judgement, heeded)
            seen.append(_record(judged_tick, window, Look.WHOLE, exposure, heeded, judgement))
        else:
            state = judging.observe_history(state, window, policy)
            # What the judge learns while the rollout retreats decides nothing any more.
            if not isinstance(rollout.state, RollingBack):
                seen.append(JudgedTick(judged_tick, window, Look.HISTORY))
        judged_tick = tick.tick
        if event is not None:
            break
    return Judged(
        dataclasses.replace(
            rollout,
            judge=json.dumps(state.to_json()) if judged_tick != rollout.judged_tick else rollout.judge,
            judged_tick=judged_tick,
            evidence=_evidence(judgement, judged_tick, case.holds) if judgement else rollout.evidence,
        ),
        event,
        tuple(seen),
    )


def first_tick(rollout: Rollout) -> int:
    """Return the tick after which a rollout's judge wants to see the telemetry."""
    if rollout.judged_tick is not None:
        return rollout.judged_tick
    return int((rollout.started_at - HISTORY).timestamp())


def _window(tick: TickRead, clusters: Clusters, sampling: Sampling, previous: int | None) -> TickWindow:
    jumped = previous is not None and tick.tick - previous > GAP.total_seconds()
    return TickWindow(
        tick=tick.tick,
        baseline=tick.counts.get(clusters.baseline, VersionTick.zero()),
        candidate=tick.counts.get(clusters.candidate, VersionTick.zero()),
        gap=jumped or tick.reporting == 0 or tick.silent > 0,
        samples=sampling.at(tick.tick, previous=previous),
    )


def _carrying_since(state: State) -> int | None:
    """Return the tick since which the candidate carries the traffic that it has, as far as *state* tells."""
    if isinstance(state, Shifting | Baking | Paused) and carries_traffic(state):
        return int(state.since.timestamp())
    return None


def _precedes_exposure(rollout: Rollout, tick: int) -> bool:
    """Whether *tick* is older than the rollout's first live weight.

    What the candidate did then, perhaps in an earlier rollout, says nothing about it now.
    """
    return (
        rollout.evidence is None and isinstance(rollout.state, Baking) and tick < int(rollout.state.since.timestamp())
    )


def _is_live(rollout: Rollout, tick: int) -> bool:
    """Whether every Envoy ran the state's weight in *tick*: only then may the tick move the rollout on."""
    match rollout.state:
        case Baking(since=since):
            return tick >= int(since.timestamp())
        case Paused():
            return True
        case _:
            return False


def _exposure(rollout: Rollout, tick: int, previous: int | None) -> Exposure:
    match rollout.state:
        case Baking(step=step, since=since, probing=probing) if _is_live(rollout, tick):
            live = since.timestamp()
            return Exposure(
                weight_bp=weight_bp(rollout.plan, rollout.state) or 0,
                next_weight_bp=None if rollout.plan.is_last(step) else rollout.plan.steps[step + 1].weight_bp,
                weight_changed=previous is None or previous < int(live),
                min_hold_s=rollout.plan.steps[step].hold.total_seconds(),
                held_s=max(0.0, tick + 1 - live),
                probing=probing,
                baseline=rollout.baseline,
            )
        case Shifting(came_from=step):
            bp, probing = rollout.plan.steps[step].weight_bp, False
        case _:
            bp = weight_bp(rollout.plan, rollout.state) or 0
            probing = isinstance(rollout.state, Paused) and rollout.state.probing
    # Not at a live step: the judge watches, and whatever it would advance to is nobody's wish now.
    return Exposure(
        weight_bp=bp,
        next_weight_bp=None,
        weight_changed=False,
        min_hold_s=0.0,
        held_s=0.0,
        probing=probing,
        baseline=rollout.baseline,
    )


def _meaning(judgement: Judgement, heeded: Sequence[Verdict]) -> Event | None:
    if judgement.verdict not in heeded:
        return None
    match judgement.verdict:
        case Verdict.ROLLBACK:
            return Breach(judgement.reason)
        case Verdict.ASK:
            return Question(judgement.reason)
        case Verdict.PROBE:
            return Suspicion(judgement.reason)
        case Verdict.ADVANCE:
            return Advance(judgement.reason)
        case Verdict.HOLD:
            return None


def _heeded(state: State, *, live: bool, held: bool) -> tuple[Verdict, ...]:
    """Return the verdicts that move a rollout in *state*.

    Args:
        state: Where it is.
        live: Every Envoy ran the state's weight in the judged tick.
        held: Something else forbids the next step.
    """
    found: tuple[Verdict, ...] = (Verdict.ROLLBACK, Verdict.ASK)
    match state:
        case Baking(probing=True) | Paused(probing=True) if live:
            found = (*found, Verdict.ADVANCE)
        case Baking(probing=False) if live:
            found = (*found, Verdict.PROBE, Verdict.ADVANCE)
        case Baking(probing=False) | Paused(probing=False):
            found = (*found, Verdict.PROBE)
        case _:
            pass
    return tuple(verdict for verdict in found if not (held and verdict is Verdict.ADVANCE))


def _record(
    previous: int | None,
    window: TickWindow,
    look: Look,
    exposure: Exposure,
    heeded: tuple[Verdict, ...],
    judgement: Judgement,
) -> JudgedTick:
    odds = {each.name: min(float(f"{each.odds:.4g}"), MOST_ODDS) for each in judgement.objectives}
    verdict, words = judgement.verdict, judgement.reason
    return JudgedTick(previous, window, look, exposure, heeded, verdict, words, tuple(sorted(odds.items())))


def _peek(rollout: Rollout, state: JudgeState, partial: TickWindow, policy: Policy) -> Judgement | None:
    if not carries_traffic(rollout.state):
        return None
    return judging.peek_hard_stop(state, partial, policy, baseline=rollout.baseline)


def _evidence(judgement: Judgement, tick: int | None, holds: Sequence[str]) -> str:
    fields = dataclasses.asdict(judgement) | {"verdict": judgement.verdict.name.lower(), "tick": tick}
    if holds and judgement.verdict is Verdict.ADVANCE:
        fields |= {"verdict": Verdict.HOLD.name.lower(), "reason": "; ".join(holds)}
    return json.dumps(fields)


def _unready_words(fleet: FleetView, unready: Sequence[str]) -> str:
    if not fleet.level.expected:
        return "no Envoy is connected"
    if fleet.trial:
        return fleet.trial
    return "; ".join(unready) or f"waiting for the ACK of {', '.join(fleet.level.waiting)}"
