"""What comparisons of pictures mean for a rollout now: when one is due, what its verdict leads to, what it holds."""

import dataclasses
import datetime as dt

import pytest

from controlplane.controller.pictures import (
    LONGEST,
    RETRY,
    asked_by,
    is_comparing,
    is_due,
    picture_event,
    picture_holds,
)
from controlplane.ports import Rollout
from controlplane.rollout.model import (
    NO_STEP,
    Baking,
    Breach,
    PauseCause,
    Paused,
    Preparing,
    Promoted,
    Question,
    Shifting,
    State,
    Step,
)
from controlplane.rollout.quality import QualityRun, QualityVerdict, RunStatus
from controlplane.rollout.slo import OnBreach, OnDrift, QualitySlo, Terms
from tests.builders import DEFAULT_SLOS, NOW, make_rollout, seconds

SLO = QualitySlo("pictures", interval=seconds(600))
ASKS = dataclasses.replace(SLO, terms=Terms(on_breach=OnBreach.PAUSE))
OPERATOR = PauseCause.OPERATOR


def rollout(state: State, slo: QualitySlo = SLO, *steps: Step) -> Rollout:
    found = dataclasses.replace(make_rollout(state), slos=(*DEFAULT_SLOS, slo))
    return dataclasses.replace(found, plan=dataclasses.replace(found.plan, steps=steps)) if steps else found


def done(verdict: QualityVerdict, *, at: dt.datetime = NOW, number: int = 1) -> QualityRun:
    return QualityRun(number, at, RunStatus.DONE, at + seconds(9), verdict, f"v2 is {verdict.value}")


def failed(*, at: dt.datetime = NOW) -> QualityRun:
    return QualityRun(2, at, RunStatus.FAILED, at + seconds(9), words="v2 does not answer")


OK, DRIFT, BLOCK = (done(verdict) for verdict in QualityVerdict)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (Preparing(NOW), Breach(BLOCK.words)),
        (Preparing(NOW + seconds(1)), None),
        (Shifting(0, NOW, came_from=NO_STEP), Breach(BLOCK.words)),
        (Shifting(1, NOW + seconds(1), came_from=0), Breach(BLOCK.words)),
        (Baking(3, NOW + seconds(1)), Breach(BLOCK.words)),
        (Paused(0, NOW, OPERATOR, "", 1), Breach(BLOCK.words)),
        (Paused(NO_STEP, NOW, OPERATOR, "", 0), None),
        (Promoted(NOW, ""), None),
    ],
)
def test_a_flaw_is_a_breach_wherever_there_is_something_to_undo(state: State, event: Breach | None) -> None:
    assert picture_event(rollout(state), (BLOCK,)) == event


def test_a_question_waits_until_the_first_weight_is_live() -> None:
    """Before, there is no place to stand still at."""
    assert picture_event(rollout(Shifting(0, NOW, came_from=NO_STEP), ASKS), (BLOCK,)) is None
    assert picture_event(rollout(Baking(0, NOW), ASKS), (BLOCK,)) == Question(BLOCK.words)


def test_what_was_asked_is_noted_with_questions_only() -> None:
    asking = rollout(Preparing(NOW), dataclasses.replace(SLO, on_drift=OnDrift.ASK))
    event = picture_event(asking, (DRIFT,))
    assert asked_by(asking, event, (DRIFT,)).asked is QualityVerdict.DRIFT
    assert asked_by(asking, Breach(""), (BLOCK,)).asked is None
    assert asked_by(asking, None, ()) is asking


def test_the_newest_verdict_counts_whatever_failed_after_it() -> None:
    newer = done(QualityVerdict.OK, at=NOW + seconds(60), number=2)
    assert picture_event(rollout(Baking(0, NOW)), (newer, BLOCK)) is None
    assert picture_event(rollout(Baking(0, NOW)), (failed(), BLOCK)) == Breach(BLOCK.words)


def test_holds_say_what_is_waited_for() -> None:
    waiting = rollout(Preparing(NOW))
    assert picture_holds(waiting, ()) == ("the pictures of v2 and v1 are not compared yet",)
    assert picture_holds(waiting, (QualityRun(1, NOW),)) == ("the pictures of v2 and v1 are being compared",)
    words = "the pictures of v2 and v1 cannot be compared: v2 does not answer"
    assert picture_holds(waiting, (failed(),)) == (words,)
    assert picture_holds(waiting, (BLOCK,)) == (BLOCK.words,)
    assert picture_holds(waiting, (DRIFT,)) == ()
    assert picture_holds(rollout(Preparing(NOW), dataclasses.replace(SLO, terms=Terms(muted=True))), ()) == ()
    assert picture_holds(make_rollout(), ()) == ()


def test_a_demanding_step_wants_a_verdict_that_is_younger_than_the_step_before() -> None:
    steps = Step(500), Step(2500, quality=True), Step(10_000)
    before = rollout(Baking(0, NOW + seconds(1)), SLO, *steps)
    assert picture_holds(before, (OK,)) == ("the pictures of v2 and v1 are not compared yet",)
    assert picture_holds(before, (done(QualityVerdict.OK, at=NOW + seconds(2)),)) == ()
    assert picture_holds(rollout(Baking(1, NOW + seconds(1)), SLO, *steps), (OK,)) == ()


@pytest.mark.parametrize(
    ("state", "runs", "later", "due"),
    [
        (Preparing(NOW), (), 0, True),
        (Preparing(NOW), (OK,), 900, False),
        (Preparing(NOW + seconds(1)), (OK,), 1, True),
        (Preparing(NOW), (failed(),), 9 + RETRY.total_seconds() - 1, False),
        (Preparing(NOW), (failed(),), 9 + RETRY.total_seconds(), True),
        (Preparing(NOW), (QualityRun(1, NOW),), 1, True),
        (Baking(0, NOW), (), 0, True),
        (Baking(0, NOW), (OK,), 599, False),
        (Baking(0, NOW), (OK,), 600, True),
        (Shifting(0, NOW, came_from=NO_STEP), (), 900, False),
        (Promoted(NOW, ""), (), 900, False),
    ],
)
def test_when_pictures_are_to_be_compared(
    state: State, runs: tuple[QualityRun, ...], later: float, *, due: bool
) -> None:
    assert is_due(rollout(state), runs, now=NOW + seconds(later)) is due
    assert not is_due(make_rollout(state), runs, now=NOW + seconds(later)), "without an objective never"


def test_a_run_that_never_ends_was_left_behind() -> None:
    assert is_comparing((QualityRun(1, NOW),), now=NOW + seconds(1700))
    assert not is_comparing((QualityRun(1, NOW),), now=NOW + LONGEST)
    assert not is_comparing((OK,), now=NOW)
    assert not is_comparing((), now=NOW)
