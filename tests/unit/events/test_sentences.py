"""Sentences of the history as people read them, made of the judge's own words."""

import dataclasses

import pytest

from controlplane.controller.narrate import sentence as narrated
from controlplane.controller.observer import Clusters, judge_ticks
from controlplane.events.sentences import answer_sentence, for_people, measured, sentence
from controlplane.ports import EnvoyAnswer, HistoryEntry, LoggedEntry, RolloutId, TickRead
from controlplane.rollout.model import (
    NO_STEP,
    Acked,
    Baking,
    Breach,
    Nacked,
    Pause,
    PauseCause,
    Paused,
    Promoted,
    Ready,
    RollbackCause,
    RollingBack,
    Shifting,
    State,
)
from tests.builders import NOW, TICK, make_counts, make_rollout

ENTRY = HistoryEntry(1, NOW, "transition", "colorize", RolloutId("colorize-1"), "x", "hueshift", "", "", "")


def logged(words: str, *, kind: str = "transition", what: str = "x", by: str = "ada", after: str = "") -> LoggedEntry:
    entry = dataclasses.replace(ENTRY, words=words, kind=kind, what=what, by=by, after=after)
    return LoggedEntry(entry, "v1", "v2")


def breach() -> Breach:
    """Have the production judge say that a version is broken."""
    rollout = dataclasses.replace(make_rollout(), state=Baking(0, NOW))
    ticks = [
        TickRead(
            TICK + second,
            {"b": make_counts(380), "c": make_counts(40, errors=4)},
            reporting=1,
            silent=0,
            closed=True,
        )
        for second in range(60)
    ]
    event = judge_ticks(rollout, Clusters("b", "c"), ticks).event
    assert isinstance(event, Breach)
    return event


def test_what_the_judge_says_is_told_with_value_sign_bound_and_odds() -> None:
    event = breach()
    after = RollingBack(NOW, RollbackCause.SLO_BREACH, event.words)
    words = narrated(make_rollout(), event, after)
    said = sentence(logged(words, after="RollingBack"))
    found = measured(words)
    assert found is not None
    assert said.startswith(f"rolling back v2: error rate 10 % ({found.bad}/{found.total}) > 1 %, v1 at 0 % in the same")
    assert said.endswith(f"(odds at least {found.odds}:1)")
    assert (found.what, found.value, found.sign, found.bound, found.bad * 10) == (
        "error rate",
        "10 %",
        ">",
        "1 %",
        found.total,
    )
    assert found.odds is not None
    assert found.odds > 100


@pytest.mark.parametrize(
    ("event", "after", "expected"),
    [
        (Ready(), Shifting(0, NOW, NO_STEP), "shifting v2 to 5 % (step 1 of 4): v2 is healthy everywhere"),
        (Acked(), Baking(1, NOW), "v2 at 25 % is live: every Envoy acknowledged"),
        (
            Nacked("edge-1 refused RDS: bad"),
            Paused(0, NOW, PauseCause.NACK, "", 0),
            "paused v2 at 5 %: edge-1 refused RDS: bad",
        ),
        (
            Pause("ada", "lunch; long"),
            Paused(0, NOW, PauseCause.OPERATOR, "", 0),
            "paused v2 at 5 %: ada asked to pause (lunch; long)",
        ),
        (Acked(), Promoted(NOW, ""), "promoted v2: every Envoy acknowledged"),
    ],
)
def test_every_move_is_told_with_its_verb_first(event: object, after: State, expected: str) -> None:
    words = narrated(make_rollout(), event, after)  # type: ignore[arg-type] # a union of events
    assert sentence(logged(words, after=type(after).__name__)) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            logged("promote --full asked for: all good", kind="audit", what="promote"),
            "ada asked to promote --full v2 (all good)",
        ),
        (
            logged("the split is now v1 95 %: test", kind="audit", what="set-split"),
            "ada set the weights of colorize: v1 95 %: test",
        ),
        (
            logged("cannot pause a rollout", kind="refused", what="Pause"),
            "refused ada to pause v2: cannot pause a rollout",
        ),
        (logged("edge-1 sees nothing", kind="audit", what="a later release's"), "ada: edge-1 sees nothing"),
        (logged("what; ever", after="OfALaterRelease"), "v2: what; ever"),
    ],
)
def test_deeds_are_told_with_who_and_why(entry: LoggedEntry, expected: str) -> None:
    assert sentence(entry) == expected


def test_evidence_is_odds_for_people() -> None:
    assert for_people("slow; evidence at least 1:1000000") == "slow (odds at least 1000000:1)"
    assert measured("waiting for healthy workers") is None


def test_answers_name_the_first_envoys() -> None:
    answer = EnvoyAnswer("rds", "0123456789abcdef", acked=True, nodes=("a",), count=1, at=NOW)
    assert answer_sentence(answer) == "a acknowledged RDS 0123456789ab"
