"""What past rollouts say of a version, which way an undo goes; and what freezes cover."""

import dataclasses
import datetime as dt

import pytest

from controlplane.errors import ConflictError, InvalidInputError
from controlplane.rollout.freezing import Freeze, freeze_of, freeze_words, frozen_span
from controlplane.rollout.model import (
    Baking,
    Plan,
    Promoted,
    RollbackCause,
    RolledBack,
    State,
    Step,
)
from controlplane.rollout.past import Past, failure_of, plan_back, way_back

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DONE = Promoted(NOW, "")


def back(cause: RollbackCause) -> RolledBack:
    return RolledBack(NOW, cause, "error rate 20 % > SLO 1 %")


def past(*rollouts: tuple[str, str, State] | tuple[str, str, State, str]) -> list[Past]:
    """Return rollouts, given oldest first: from, to, how they ended, and "undo" for one."""
    found = [
        Past(f"colorize-{number}", each[0], each[1], each[2], direct=len(each) > 3, by="eve", why="grey")
        for number, each in enumerate(rollouts, start=1)
    ]
    return found[::-1]


@pytest.mark.parametrize(
    ("rollouts", "words"),
    [
        ([("v1", "v2", back(RollbackCause.SLO_BREACH))], "v2 was rolled back in colorize-1: error rate 20 % > SLO 1 %"),
        ([("v1", "v2", back(RollbackCause.UNDONE))], "v2 was undone in colorize-1: error rate 20 % > SLO 1 %"),
        ([("v1", "v2", DONE), ("v2", "v1", DONE, "undo")], "v2 was taken back by eve in colorize-2: grey"),
        ([("v1", "v2", back(RollbackCause.SLO_BREACH)), ("v1", "v2", back(RollbackCause.ABORTED))], "v2 was rolled"),
        ([("v1", "v2", back(RollbackCause.SLO_BREACH)), ("v1", "v2", Baking(0, NOW))], "v2 was rolled"),
        ([("v1", "v2", back(RollbackCause.SLO_BREACH)), ("v1", "v2", DONE)], ""),
        ([("v1", "v2", back(RollbackCause.ABORTED))], ""),
        ([("v1", "v2", back(RollbackCause.NEVER_READY))], ""),
        ([("v1", "v2", back(RollbackCause.SUPERSEDED))], ""),
        ([("v1", "v3", back(RollbackCause.SLO_BREACH))], ""),
        ([("v1", "v2", DONE), ("v2", "v1", back(RollbackCause.NEVER_READY), "undo")], ""),
        ([("v1", "v2", DONE), ("v2", "v1", DONE, "undo"), ("v1", "v2", DONE, "undo")], ""),
        ([], ""),
    ],
)
def test_a_version_is_remembered_by_how_it_was_tried_last(rollouts: list[tuple[str, str, State]], words: str) -> None:
    failure = failure_of(past(*rollouts), "v2")
    assert (failure is None) == (not words)
    if failure is not None:
        assert failure.words.startswith(words)
        assert failure.at == NOW


@pytest.mark.parametrize(
    ("rollouts", "traffic", "to", "found"),
    [
        ([("v1", "v2", DONE)], {"v2": 10_000}, "", ("v2", "v1")),
        ([("v1", "v2", DONE), ("v2", "v3", back(RollbackCause.SLO_BREACH))], {"v2": 10_000}, "", ("v2", "v1")),
        ([("v1", "v2", DONE)], {"v2": 6000, "v9": 4000}, "", ("v2", "v1")),
        ([("v1", "v2", DONE), ("v2", "v3", DONE)], {"v3": 10_000}, "v1", ("v3", "v1")),
        ([("v1", "v2", DONE), ("v2", "v1", DONE, "undo")], {"v1": 10_000}, "v2", ("v1", "v2")),
        ([("v1", "v2", DONE)], {"v1": 10_000}, "v2", ("", "v2")),
    ],
)
def test_the_way_back(
    rollouts: list[tuple[str, str, State]], traffic: dict[str, int], to: str, found: tuple[str, str]
) -> None:
    assert way_back("colorize", past(*rollouts), traffic, to) == found


@pytest.mark.parametrize(
    ("rollouts", "traffic", "to", "words"),
    [
        ([], {"v1": 10_000}, "", "nothing to undo: no rollout of 'colorize' was promoted yet"),
        ([("v1", "v2", back(RollbackCause.ABORTED))], {"v1": 10_000}, "", "was promoted yet"),
        ([("v1", "v2", DONE), ("v2", "v1", DONE, "undo")], {"v1": 10_000}, "", "colorize-2, was an undo itself; name"),
        ([("v1", "v2", DONE)], {"v1": 10_000}, "", "'v2', which colorize-1 promoted, has no traffic of 'colorize' any"),
        ([("v1", "v2", DONE)], {"v2": 10_000}, "v3", "'v3' has never had the traffic of 'colorize'; start a rollout"),
        ([("v1", "v2", DONE), ("v2", "v3", back(RollbackCause.ABORTED))], {"v2": 10_000}, "v3", "never had"),
        ([("v1", "v2", DONE)], {"v1": 10_000}, "v1", "nothing to undo: 'v1' has all traffic of 'colorize'"),
    ],
)
def test_where_there_is_nothing_to_undo_one_line_says_so(
    rollouts: list[tuple[str, str, State]], traffic: dict[str, int], to: str, words: str
) -> None:
    with pytest.raises(ConflictError) as refused:
        way_back("colorize", past(*rollouts), traffic, to)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_plan_of_an_undo_has_no_steps_and_keeps_the_limits() -> None:
    plan = Plan((Step(500), Step(10_000)), deadline=dt.timedelta(minutes=9), prepare_timeout=dt.timedelta(seconds=8))
    direct = plan_back(plan)
    assert (len(direct.steps), direct.direct, direct.deadline) == (1, True, plan.deadline)
    assert direct.prepare_timeout == plan.prepare_timeout
    with pytest.raises(InvalidInputError, match=r"plan\.direct: has 2 steps"):
        dataclasses.replace(plan, direct=True)


# -- freezes -----------------------------------------------------------------------------------------------------------


def frozen(service: str, begins: float, ends: float, *, ended: float | None = None) -> Freeze:
    """Return a freeze, in hours from now."""
    return Freeze(
        1, service, NOW + ends * HOUR, "ada", "sale", NOW + begins * HOUR, None if ended is None else NOW + ended * HOUR
    )


def test_a_freeze_covers_its_service_or_all_until_it_is_over() -> None:
    mine, every, over = frozen("colorize", -1, 1), frozen("", -2, 2), frozen("colorize", -1, 5, ended=-0.5)
    assert freeze_of([mine, every, over], "colorize", now=NOW) == every, "the one that lasts longest"
    assert freeze_of([mine, over], "colorize", now=NOW) == mine
    assert freeze_of([mine, over], "other", now=NOW) is None
    assert freeze_of([mine], "colorize", now=NOW + HOUR) is None
    assert freeze_words(every) == "everything is frozen until 2026-11-22 14:00 UTC by ada (sale)"


def test_frozen_time_counts_once() -> None:
    freezes = [frozen("colorize", -3, -1), frozen("", -2, 1), frozen("other", -9, 9), frozen("colorize", 1, 2)]
    assert frozen_span(freezes, "colorize", since=NOW - 4 * HOUR, now=NOW) == 3 * HOUR
    assert frozen_span(freezes, "colorize", since=NOW - HOUR / 2, now=NOW) == HOUR / 2
    assert frozen_span(freezes, "nobody", since=NOW - HOUR, now=NOW) == HOUR
    assert frozen_span([], "colorize", since=NOW - HOUR, now=NOW) == dt.timedelta(0)
