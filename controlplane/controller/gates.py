"""What the answers of a plan's gates mean for a rollout now: pure, over its row and that of the newest answer."""

import dataclasses
import datetime as dt

from controlplane.ports import Rollout
from controlplane.rollout.gate import GRACE, Before, Decision, Gate, GateAnswer, OnTimeout
from controlplane.rollout.model import Abort, Baking, Event, Pause, Preparing


@dataclasses.dataclass(frozen=True, slots=True)
class Visit:
    """A rollout that could go on if *gate*, of *step*, let it: since *since*, and asked from *asks_from* on."""

    gate: Gate
    step: int
    since: dt.datetime
    asks_from: dt.datetime

    @property
    def where(self) -> str:
        """Say which gate it is."""
        place = "the promotion" if self.gate.before is Before.PROMOTION else f"step {self.step + 1}"
        return f"the gate {self.gate.host} before {place}"

    def is_of(self, answer: GateAnswer | None) -> bool:
        """Whether *answer* was given at this visit."""
        return answer is not None and (answer.step, answer.before, answer.since) == (
            self.step,
            self.gate.before,
            self.since,
        )


def has_gates(rollout: Rollout) -> bool:
    """Whether the plan asks anybody."""
    return any(step.gate for step in rollout.plan.steps)


def visit_of(rollout: Rollout) -> Visit | None:
    """Return the gate before a rollout's next move; None where there is none."""
    match rollout.state:
        case Preparing(since=since):
            step, before, asks_from = 0, Before.STEP, since
        case Baking(step=now, since=since, probing=False):
            last = rollout.plan.is_last(now)
            step, before = (now, Before.PROMOTION) if last else (now + 1, Before.STEP)
            asks_from = since + rollout.plan.steps[now].hold
        case _:
            return None
    gate = rollout.plan.steps[step].gate
    return Visit(gate, step, since, asks_from) if gate is not None and gate.before is before else None


def is_due(rollout: Rollout, answer: GateAnswer | None, *, now: dt.datetime) -> bool:
    """Whether the gate is to be asked now."""
    visit = visit_of(rollout)
    if visit is None or now < visit.asks_from:
        return False
    if answer is None or not visit.is_of(answer):
        return True
    return not answer.by and answer.decision is not Decision.ABORT and now >= answer.asked_at + visit.gate.interval


def gate_holds(rollout: Rollout, answer: GateAnswer | None, *, now: dt.datetime) -> tuple[str, ...]:
    """Say why the rollout may not take its next step, as far as gates are concerned; see `observer.Case`."""
    visit = visit_of(rollout)
    if visit is None:
        return ()
    if answer is None or not visit.is_of(answer):
        return (f"{visit.where} was not asked yet",)
    if answer.decision is not Decision.OPEN:
        return (told(visit, answer),)
    if answer.by or now <= answer.asked_at + 2 * visit.gate.interval + GRACE:
        return ()
    return (f"{visit.where} has not answered since {answer.asked_at:%H:%M:%S} UTC",)


def gate_event(rollout: Rollout, answer: GateAnswer | None, *, now: dt.datetime) -> Event | None:
    """Return what a gate ends or stops: it said so, or did not open in time."""
    visit = visit_of(rollout)
    if visit is None or answer is None or not visit.is_of(answer) or answer.decision is Decision.OPEN:
        return None
    if answer.decision is Decision.ABORT:
        return Abort(answer.by or f"gate {visit.gate.host}", answer.words)
    if now < answer.began_at + visit.gate.timeout:
        return None
    why = f"{told(visit, answer)}; it did not open within {visit.gate.timeout.total_seconds():g} s"
    match visit.gate.on_timeout:
        case OnTimeout.ABORT:
            return Abort("hueshift", why)
        case OnTimeout.PAUSE:
            return Pause("hueshift", why)
        case OnTimeout.WAIT:
            return None


def is_waiting(rollout: Rollout, answer: GateAnswer | None) -> bool:
    """Whether a gate is what the rollout waits for, so that its preparation is not given up meanwhile."""
    visit = visit_of(rollout)
    return visit is not None and answer is not None and visit.is_of(answer) and answer.decision is not Decision.OPEN


def told(visit: Visit, answer: GateAnswer) -> str:
    """Say what a gate said, for people."""
    because = f": {answer.words}" if answer.words else ""
    match answer.decision:
        case Decision.OPEN:
            return f"{visit.where} is open{because}"
        case Decision.CLOSED:
            return f"{visit.where} is closed{because}"
        case Decision.ABORT:
            return f"{visit.where} ends the rollout{because}"
        case Decision.SILENT:
            return f"{visit.where} does not answer{because}"
