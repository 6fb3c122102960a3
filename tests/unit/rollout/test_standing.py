"""What is said of an objective: measured values, bounds, odds, and what is still needed."""

import pytest

from controlplane.rollout.objectives import policy_of
from controlplane.rollout.policy import Policy
from controlplane.rollout.slo import ErrorRateSlo, RatioQuerySlo, Slo, ValueQuerySlo
from controlplane.rollout.standing import Versions, span_text, standings
from controlplane.rollout.verdict import ObjectiveEvidence

VERSIONS = Versions("v1", "v2")


def say(evidence: ObjectiveEvidence, *, rate: float = 5.0) -> str:
    (standing,) = standings([evidence], Policy(), VERSIONS, rate=rate)
    return standing.words


def test_everything_that_was_measured_is_said() -> None:
    assert say(ObjectiveEvidence("error_abs", 0.041, 0.001, 0.01, 830, 270)) == (
        "failed requests: v2 4.1 %, v1 0.1 % in the same seconds, at most 1 %; "
        "evidence of a breach 1:830 of 1:400; needs about 270 more requests, 54 s at 5 a second"
    )


@pytest.mark.parametrize(
    ("evidence", "part"),
    [
        (
            ObjectiveEvidence("error_rel", 0.004, 0.001, 2.0, 3, 0),
            "at most 2 times v1's odds; evidence of a breach 1:3 of",
        ),
        (
            ObjectiveEvidence("latency_abs", 0.03, None, 0.05, 0.2, 0),
            "requests slower than 400 ms: v2 3 %, at most 5 %;",
        ),
        (ObjectiveEvidence("latency_rel", 0.6, 0.5, 1.1, 2, 0), "at most 1.1 times v1's latency"),
        (ObjectiveEvidence("error_abs", None, None, 0.01, 1, 387), "no request to v2 has ended yet"),
        (ObjectiveEvidence("error_abs", 0.0, None, 0.01, 1, 0), "nothing more is needed for the next step"),
        (ObjectiveEvidence("error_abs", 0.02, None, 0.01, 1, None), "no number of requests will do at this share"),
    ],
)
def test_each_kind_has_its_words(evidence: ObjectiveEvidence, part: str) -> None:
    assert part in say(evidence)


def test_requests_that_do_not_come_take_nobody_knows_how_long() -> None:
    evidence = ObjectiveEvidence("error_abs", 0.0, None, 0.01, 1, 100)
    (standing,) = standings([evidence], Policy(), VERSIONS, rate=0.0)
    assert standing.wait_s is None
    assert standing.words.endswith("needs about 100 more requests, and none come now")


@pytest.mark.parametrize(
    ("slo", "needed", "words"),
    [
        (RatioQuerySlo("grey", "g{$version}", "t{$version}", 0.01), 300, "needs about 300 more of what it counts"),
        (ValueQuerySlo("memory", "m{$version}", highest=1), 21, "needs about 21 more answers, 105 s at 0.2 a second"),
        (ValueQuerySlo("memory", "m{$version}", highest=1), None, "this share will not do"),
    ],
)
def test_what_is_asked_for_is_not_called_requests(slo: Slo, needed: int | None, words: str) -> None:
    policy = policy_of([slo, ErrorRateSlo("errors", 0.01)])
    for share in (None, 0.001):
        evidence = ObjectiveEvidence(f"{slo.name} abs", share, None, 0.01, 1, needed)
        (standing,) = standings([evidence], policy, VERSIONS, rate=100.0)
        assert standing.words.endswith(words)
        assert ("nothing is known of v2 yet" in standing.words) == (share is None)


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (54, "54 s"), (600, "10 min"), (9_000, "2.5 h")])
def test_spans_are_written_in_one_unit(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
