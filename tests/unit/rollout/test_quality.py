"""What a verdict on pictures leads to, and which steps wait for one."""

import dataclasses

import pytest

from controlplane.errors import InvalidInputError
from controlplane.rollout.model import Plan, Step
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.quality import Consequence, QualityVerdict, check_demands, consequence, is_compared_before
from controlplane.rollout.slo import (
    ErrorRateSlo,
    OnBreach,
    OnDrift,
    QualitySlo,
    RatioQuerySlo,
    Terms,
    check_slos,
    judged,
    quality_slo,
)
from tests.builders import DEFAULT_SLOS, make_plan, seconds

OK, DRIFT, BLOCK = QualityVerdict
NOTHING, QUESTION, BREACH = Consequence
PICTURES = QualitySlo("pictures")
PAUSE, MUTED = Terms(on_breach=OnBreach.PAUSE), Terms(muted=True)


@pytest.mark.parametrize(
    ("terms", "on_drift", "verdict", "leads_to"),
    [
        (Terms(), OnDrift.ALLOW, OK, NOTHING),
        (Terms(), OnDrift.ALLOW, DRIFT, NOTHING),
        (Terms(), OnDrift.ALLOW, BLOCK, BREACH),
        (Terms(), OnDrift.ASK, DRIFT, QUESTION),
        (Terms(), OnDrift.ASK, BLOCK, BREACH),
        (Terms(), OnDrift.BLOCK, DRIFT, BREACH),
        (PAUSE, OnDrift.ALLOW, DRIFT, NOTHING),
        (PAUSE, OnDrift.ALLOW, BLOCK, QUESTION),
        (PAUSE, OnDrift.BLOCK, DRIFT, QUESTION),
        (MUTED, OnDrift.BLOCK, BLOCK, NOTHING),
    ],
)
def test_what_a_verdict_leads_to(
    terms: Terms, on_drift: OnDrift, verdict: QualityVerdict, leads_to: Consequence
) -> None:
    assert consequence(QualitySlo("q", on_drift=on_drift, terms=terms), verdict, None) is leads_to


@pytest.mark.parametrize(
    ("asked", "verdict", "leads_to"),
    [
        (DRIFT, DRIFT, NOTHING),
        (BLOCK, DRIFT, NOTHING),
        (DRIFT, BLOCK, QUESTION),
        (BLOCK, BLOCK, NOTHING),
    ],
)
def test_a_person_is_asked_once_about_each_kind_of_trouble(
    asked: QualityVerdict, verdict: QualityVerdict, leads_to: Consequence
) -> None:
    assert consequence(QualitySlo("q", on_drift=OnDrift.ASK, terms=PAUSE), verdict, asked) is leads_to


def test_the_first_step_waits_unless_it_says_no_and_later_ones_only_if_they_say_so() -> None:
    slos = (*DEFAULT_SLOS, PICTURES)
    assert [is_compared_before(make_plan(), slos, step) for step in range(4)] == [True, False, False, False]
    plan = Plan((Step(100, quality=False), Step(500, quality=True), Step(10_000)))
    assert [is_compared_before(plan, slos, step) for step in range(3)] == [False, True, False]
    assert not is_compared_before(make_plan(), DEFAULT_SLOS, 0)


def test_a_step_cannot_wait_for_pictures_that_nobody_compares() -> None:
    plan = Plan((Step(100), Step(10_000, quality=True)))
    with pytest.raises(InvalidInputError, match=r"plan.steps\[2\].quality: waits for pictures that nobody compares"):
        check_demands(plan, DEFAULT_SLOS)
    check_demands(plan, (*DEFAULT_SLOS, PICTURES))


def test_the_judge_knows_nothing_of_pictures_and_their_objective_takes_no_part_of_its_doubt() -> None:
    with_them = (*DEFAULT_SLOS, PICTURES)
    assert policy_of(with_them) == policy_of(DEFAULT_SLOS)
    assert judged(with_them) == DEFAULT_SLOS
    assert quality_slo(with_them) is PICTURES
    given = ErrorRateSlo("errors", 0.01, terms=Terms(alpha=0.0095))
    check_slos([dataclasses.replace(given, terms=Terms()), PICTURES])
    with pytest.raises(InvalidInputError, match="too little"):
        check_slos([given, RatioQuerySlo("r", "a$version", "b$version", 0.1), PICTURES])


def test_it_does_not_stand_for_an_objective_about_requests() -> None:
    with pytest.raises(InvalidInputError, match="says neither how many requests may fail"):
        check_slos([PICTURES])
    with pytest.raises(InvalidInputError, match="two objectives of kind quality"):
        check_slos([*DEFAULT_SLOS, PICTURES, QualitySlo("more")])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"delta_e": -1}, "slos.q.delta_e: -1 is out of range; use 0 to 100"),
        ({"hue_deg": 181}, "slos.q.hue: 181 is out of range; use 0 to 180"),
        ({"chroma": 11}, "slos.q.chroma"),
        ({"ssim": 1.1}, "slos.q.ssim: 1.1 is out of range; use 0 to 1"),
        ({"delta_e": float("nan")}, "slos.q.delta_e"),
        ({"photos": 7}, "slos.q.photos: 7 are out of range; use 8 to 1000, or 0 for all"),
        ({"photos": -1}, "slos.q.photos"),
        ({"interval": seconds(59)}, "slos.q.interval"),
        ({"path": "repair"}, "slos.q.path: 'repair' is no path; start it with /"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        QualitySlo("q", **changes)  # type: ignore[arg-type] # each is of the field's type
    assert str(refused.value).startswith(words)
