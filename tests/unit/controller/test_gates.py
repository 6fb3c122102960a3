"""What a gate's answers mean for a rollout now: what they hold back, what they end, when it is asked."""

import dataclasses
import datetime as dt

import pytest

from controlplane.controller.gates import gate_event, gate_holds, is_due, is_waiting, visit_of
from controlplane.errors import InvalidInputError
from controlplane.ports import Rollout
from controlplane.rollout.gate import Before, Decision, Gate, GateAnswer, OnTimeout
from controlplane.rollout.model import (
    NO_STEP,
    Abort,
    Baking,
    Event,
    Pause,
    PauseCause,
    Paused,
    Preparing,
    RollbackCause,
    RollingBack,
    Shifting,
    State,
    Step,
)
from tests.builders import NOW, make_plan, make_rollout

SECOND = dt.timedelta(seconds=1)
URL = "https://checks.example.org/gate?token=s3cret"
HELD = NOW + 30 * SECOND
"""When the builders' steps have been held for long enough."""


def rollout_in(state: State, step: int, **gate: object) -> Rollout:
    steps: list[Step] = list(make_plan().steps)
    asked = Gate(URL, **gate)  # type: ignore[arg-type] # passed through
    steps[step] = dataclasses.replace(steps[step], gate=asked)
    rollout = make_rollout(state)
    return dataclasses.replace(rollout, plan=dataclasses.replace(rollout.plan, steps=tuple(steps)))


def answer(decision: Decision, *, step: int = 1, words: str = "", at: dt.datetime = NOW, by: str = "") -> GateAnswer:
    return GateAnswer(step, Before.STEP, NOW, NOW, at, decision, words, by)


BAKING = rollout_in(Baking(0, NOW), 1)


@pytest.mark.parametrize(
    ("state", "step", "before", "stands"),
    [
        (Preparing(NOW), 0, Before.STEP, True),
        (Preparing(NOW), 1, Before.STEP, False),
        (Baking(0, NOW), 1, Before.STEP, True),
        (Baking(0, NOW), 2, Before.STEP, False),
        (Baking(0, NOW, probing=True), 1, Before.STEP, False),
        (Baking(3, NOW), 3, Before.PROMOTION, True),
        (Baking(3, NOW), 3, Before.STEP, False),
        (Baking(2, NOW), 3, Before.PROMOTION, False),
        (Shifting(0, NOW, NO_STEP), 0, Before.STEP, False),
        (Paused(0, NOW, PauseCause.OPERATOR, "", 1), 1, Before.STEP, False),
        (RollingBack(NOW, RollbackCause.SLO_BREACH, ""), 1, Before.STEP, False),
    ],
)
def test_where_a_rollout_stands_before_a_gate(state: State, step: int, before: Before, *, stands: bool) -> None:
    rollout = rollout_in(state, step, before=before)
    assert (visit_of(rollout) is not None) is stands
    assert bool(gate_holds(rollout, None, now=NOW)) is stands
    assert gate_event(rollout, None, now=NOW + dt.timedelta(days=1)) is None


def test_it_is_asked_once_the_step_was_held_and_again_after_the_interval() -> None:
    assert not is_due(BAKING, None, now=HELD - SECOND)
    assert is_due(BAKING, None, now=HELD)
    closed = answer(Decision.CLOSED, at=HELD)
    assert not is_due(BAKING, closed, now=HELD + 9 * SECOND)
    assert is_due(BAKING, closed, now=HELD + 10 * SECOND)
    assert is_due(BAKING, answer(Decision.OPEN, at=HELD), now=HELD + 10 * SECOND), "it may close again"
    assert not is_due(BAKING, answer(Decision.ABORT, at=HELD), now=HELD + 10 * SECOND)
    assert not is_due(BAKING, answer(Decision.CLOSED, at=HELD, by="ci"), now=HELD + 10 * SECOND)
    assert is_due(BAKING, dataclasses.replace(closed, since=NOW - SECOND), now=HELD), "that was an earlier visit"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "the gate checks.example.org before step 2 was not asked yet"),
        (answer(Decision.CLOSED, words="tests run"), "the gate checks.example.org before step 2 is closed: tests run"),
        (answer(Decision.SILENT, words="answered 503"), "before step 2 does not answer: answered 503"),
        (answer(Decision.OPEN, step=2), "was not asked yet"),
        (answer(Decision.OPEN, at=NOW - 36 * SECOND), "has not answered since"),
        (answer(Decision.OPEN), None),
        (answer(Decision.OPEN, by="ci", at=NOW - dt.timedelta(days=1)), None),
    ],
)
def test_all_but_a_fresh_yes_holds_the_next_step_back_and_says_why(given: GateAnswer | None, words: str | None) -> None:
    held = gate_holds(BAKING, given, now=NOW)
    assert bool(held) is (words is not None)
    assert not words or words in held[0]
    assert "s3cret" not in repr(held) + repr(BAKING)


@pytest.mark.parametrize(
    ("on_timeout", "event"),
    [(OnTimeout.WAIT, None), (OnTimeout.PAUSE, Pause), (OnTimeout.ABORT, Abort)],
)
@pytest.mark.parametrize("decision", [Decision.CLOSED, Decision.SILENT])
def test_a_gate_that_does_not_open_in_time(
    decision: Decision, on_timeout: OnTimeout, event: type[Event] | None
) -> None:
    rollout = rollout_in(Baking(0, NOW), 1, on_timeout=on_timeout)
    given = answer(decision, words="tests run")
    assert gate_event(rollout, given, now=HELD - SECOND) is None
    found = gate_event(rollout, given, now=HELD)
    assert (None if found is None else type(found)) is event
    assert found is None or "tests run; it did not open within 30 s" in found.why  # type: ignore[union-attr] # a command
    assert gate_event(rollout, answer(Decision.OPEN), now=HELD) is None


def test_a_gate_may_end_the_rollout() -> None:
    assert gate_event(BAKING, answer(Decision.ABORT, words="no"), now=NOW) == Abort("gate checks.example.org", "no")
    assert gate_event(BAKING, answer(Decision.ABORT, words="no", by="ci"), now=NOW) == Abort("ci", "no")
    assert is_waiting(BAKING, answer(Decision.CLOSED))
    assert not is_waiting(BAKING, answer(Decision.OPEN))


@pytest.mark.parametrize("url", ["ftp://x/", "https://", "https://u:p@host/", "x", "https://host/\n", "https://[::1"])
def test_addresses_that_are_none_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInputError, match="is no http or https URL"):
        Gate(url)


@pytest.mark.parametrize(
    "spans", [{"timeout": SECOND / 2}, {"interval": SECOND / 2}, {"timeout": dt.timedelta(days=8)}]
)
def test_spans_are_bounded(spans: dict[str, dt.timedelta]) -> None:
    with pytest.raises(InvalidInputError, match="is out of range"):
        Gate(URL, **spans)  # type: ignore[arg-type] # passed through


def test_before_promotion_is_for_the_last_step_alone() -> None:
    with pytest.raises(InvalidInputError, match=r"steps\[2\].gate.before: stands before no promotion"):
        rollout_in(Baking(0, NOW), 1, before=Before.PROMOTION)
