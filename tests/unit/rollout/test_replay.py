"""A record judged again: what comes out the same, where it parts, and what is said of it."""

import dataclasses
from collections.abc import Callable

import pytest

from controlplane.rollout.judge import Exposure, JudgeState, Policy, Verdict, judge, observe_history, peek_hard_stop
from controlplane.rollout.recorded import JudgedTick, Look
from controlplane.rollout.replay import (
    CAVEAT,
    UNSAID,
    IncompleteRecordError,
    Replay,
    ReplayedTick,
    Said,
    changes,
    sum_up,
    tell,
)
from controlplane.rollout.windows import TickWindow, VersionTick
from tests.unit.rollout.judge_ticks import POLICY, START, traffic

LOOSE = Policy(error_max=0.3, error_odds_ratio=100)
HEEDED = (Verdict.ROLLBACK, Verdict.PROBE, Verdict.ADVANCE)
HISTORY = 20


def record(
    *, seconds: int, errors: Callable[[int], int] = lambda _: 0, policy: Policy = POLICY, weight_bp: int = 1_000
) -> list[JudgedTick]:
    """Judge a candidate at one weight, as the controller would if nothing were ever heeded, and keep the record."""
    state, found = JudgeState.initial(policy), list[JudgedTick]()
    for second in range(-HISTORY, seconds):
        previous = found[-1].tick if found else None
        tick = START + HISTORY + second
        if second < 0:
            window = TickWindow(tick, traffic(100, seed=second + HISTORY), VersionTick.zero())
            state = observe_history(state, window, policy)
            found.append(JudgedTick(previous, window, Look.HISTORY))
            continue
        candidate = traffic(40, errors(second), seed=second)
        window = TickWindow(tick, traffic(360, seed=second), candidate, gap=second == 3)
        exposure = Exposure(weight_bp, 2_500, weight_changed=second == 0, min_hold_s=30.0, held_s=second + 1.0)
        state, judgement = judge(state, window, exposure, policy)
        found.append(JudgedTick(previous, window, Look.WHOLE, exposure, HEEDED, judgement.verdict, judgement.reason))
    return found


def bad_from(start: int, errors: int = 6) -> Callable[[int], int]:
    return lambda second: errors if second >= start else 0


def peeked(before: list[JudgedTick], policy: Policy = POLICY) -> JudgedTick:
    """Return the record of an unfinished second in which everything fails, after *before*."""
    state = JudgeState.initial(policy)
    for tick in before:
        if tick.exposure is None:
            state = observe_history(state, tick.window, policy)
        else:
            state, _ = judge(state, tick.window, tick.exposure, policy)
    last = before[-1]
    assert last.exposure is not None
    window = TickWindow(last.tick + 1, traffic(300), traffic(60, 60))
    judgement = peek_hard_stop(state, window, policy, baseline=last.exposure.baseline)
    assert judgement is not None
    heeded = (Verdict.ROLLBACK,)
    return JudgedTick(last.tick, window, Look.PARTIAL, last.exposure, heeded, judgement.verdict, judgement.reason)


# -- the same policy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [POLICY, LOOSE, Policy(error_max=None, latency_threshold_ms=200)])
def test_the_same_policy_says_the_same_in_the_same_words(policy: Policy) -> None:
    whole = record(seconds=60, errors=bad_from(40), policy=policy)
    ticks = Replay("colorize-1", policy).take(whole)
    assert len(ticks) == 60
    assert [tick for tick in ticks if not tick.is_same] == []
    assert sum_up(ticks).is_reproduced


def test_parts_come_to_the_same_as_the_whole() -> None:
    whole = record(seconds=50, errors=bad_from(30))
    replay = Replay("colorize-1", POLICY)
    parts = [tick for start in range(0, len(whole), 7) for tick in replay.take(whole[start : start + 7])]
    assert parts == Replay("colorize-1", POLICY).take(whole)


def test_a_decision_over_an_unfinished_second_is_made_again_of_what_was_seen_then() -> None:
    before = record(seconds=10)
    ticks = Replay("colorize-1", POLICY).take([*before, peeked(before)])
    assert (ticks[-1].partial, ticks[-1].is_same, ticks[-1].replayed.decision) == (True, True, Verdict.ROLLBACK)
    weak = dataclasses.replace(peeked(before), window=TickWindow(before[-1].tick + 1, traffic(300), traffic(60, 1)))
    (*_, last) = Replay("colorize-1", POLICY).take([*before, weak])
    assert (last.deviates, last.replayed.words) == (True, UNSAID)


def test_a_changed_record_is_noticed() -> None:
    whole = record(seconds=40, errors=bad_from(20))
    whole[-5] = dataclasses.replace(whole[-5], words="something else")
    outcome = sum_up(Replay("colorize-1", POLICY).take(whole))
    assert (outcome.is_reproduced, outcome.deviation, outcome.otherwise) == (False, None, 1)
    assert tell(outcome, since=START)[0] == (
        "every decision comes out as recorded; 1 of 40 seconds are judged in other words"
    )


@pytest.mark.parametrize("lost", [slice(0, 1), slice(5, 6), slice(30, 31), slice(0, 30)])
def test_a_record_with_a_hole_is_refused(lost: slice) -> None:
    whole = record(seconds=40)
    del whole[lost]
    with pytest.raises(IncompleteRecordError, match=r"record of colorize-1 has a hole.*HUESHIFT_TELEMETRY_RETENTION"):
        Replay("colorize-1", POLICY).take(whole)


# -- another policy ----------------------------------------------------------------------------------------------------


def test_looser_objectives_would_not_have_rolled_back() -> None:
    whole = record(seconds=50, errors=bad_from(15))
    outcome = sum_up(Replay("colorize-1", LOOSE).take(whole))
    assert [move.verdict for move in outcome.recorded] == [Verdict.ROLLBACK]
    assert [move.verdict for move in outcome.replayed] == [Verdict.ADVANCE]
    assert outcome.deviation is not None
    assert outcome.deviation.tick == outcome.recorded[0].tick
    seconds = outcome.deviation.tick - START - HISTORY
    first, recorded, replayed, caveat = tell(outcome, since=START + HISTORY)
    assert first.startswith(f"the first different decision comes after {seconds} s, at 10 %: recorded rollback (")
    assert ", replayed hold (" in first
    assert recorded.startswith(f"recorded: rolled back at 10 % after {seconds} s (")
    assert replayed.startswith("replayed: advanced from 10 % after ")
    assert caveat == CAVEAT


def test_stricter_objectives_would_not_have_gone_on() -> None:
    whole = record(seconds=60, errors=lambda second: int(second % 10 == 0), policy=LOOSE)
    outcome = sum_up(Replay("colorize-1", Policy(error_max=0.0001)).take(whole))
    assert [move.verdict for move in outcome.recorded] == [Verdict.ADVANCE]
    assert outcome.deviation is not None
    assert Verdict.ADVANCE not in [move.verdict for move in outcome.replayed]


# -- what is told ------------------------------------------------------------------------------------------------------


def said(decision: Verdict, words: str = "so it is") -> Said:
    return Said(decision, words, decision)


def second(at: int, recorded: Verdict, *, replayed: Verdict | None = None, exposure: Exposure) -> ReplayedTick:
    return ReplayedTick(at, exposure, partial=False, recorded=said(recorded), replayed=said(replayed or recorded))


def test_every_kind_of_decision_has_its_words() -> None:
    step, full, probe = (
        Exposure(500, 10_000),
        Exposure(10_000, None),
        Exposure(5_000, None, probing=True),
    )
    ticks = [
        second(1, Verdict.ADVANCE, exposure=step),
        second(2, Verdict.PROBE, exposure=full),
        second(3, Verdict.ADVANCE, exposure=probe),
        second(4, Verdict.ADVANCE, exposure=full),
    ]
    first, recorded = tell(sum_up(ticks), since=0)
    assert first == "every decision comes out as recorded, and so does every sentence"
    assert recorded.removeprefix("recorded: ").split(", ") == [
        "advanced from 5 % after 1 s",
        "half given back at 100 % after 2 s",
        "the other half taken again after 3 s",
        "promoted at 100 % after 4 s",
    ]
    assert tell(sum_up([]), since=0) == ("there is no decision to replay: the candidate has not carried traffic",)
    held = second(9, Verdict.HOLD, replayed=Verdict.ROLLBACK, exposure=step)
    assert tell(sum_up([held]), since=0)[:3] == (
        "the first different decision comes after 9 s, at 5 %: recorded hold (so it is), replayed rollback (so it is)",
        "recorded: held all the time",
        "replayed: rolled back at 5 % after 9 s (so it is)",
    )


def test_what_is_repeated_for_want_of_another_weight_counts_once_and_a_rollback_ends_it() -> None:
    step, following = Exposure(500, 2_500), Exposure(2_500, 10_000)
    ticks = [
        *(second(at, Verdict.HOLD, replayed=Verdict.ADVANCE, exposure=step) for at in (1, 2, 3)),
        second(4, Verdict.ADVANCE, exposure=following),
        *(second(at, Verdict.HOLD, replayed=Verdict.ROLLBACK, exposure=following) for at in (5, 6)),
        second(7, Verdict.HOLD, replayed=Verdict.ADVANCE, exposure=following),
    ]
    moves = [(move.tick, move.verdict) for move in sum_up(ticks).replayed]
    assert moves == [(1, Verdict.ADVANCE), (4, Verdict.ADVANCE), (5, Verdict.ROLLBACK)]


def test_a_verdict_that_moves_nothing_is_no_decision() -> None:
    whole = record(seconds=60)
    unheeded = [dataclasses.replace(tick, heeded=(Verdict.ROLLBACK,)) for tick in whole]
    ticks = Replay("colorize-1", POLICY).take(unheeded)
    assert Verdict.ADVANCE in [tick.recorded.verdict for tick in ticks]
    assert sum_up(ticks).recorded == ()


def test_changes_are_weights_verdicts_and_other_sentences_not_other_numbers() -> None:
    at = Exposure(500, 2_500)
    ticks = [
        dataclasses.replace(second(place, Verdict.HOLD, exposure=exposure), recorded=said(Verdict.HOLD, words))
        for place, (exposure, words) in enumerate(
            [
                (at, "1 of 30 s without a breach"),
                (at, "2.5 of 30 s without a breach"),
                (at, "needs 7 more"),
                (at, "needs 1e-05 more"),
                (dataclasses.replace(at, weight_bp=2_500), "needs 9 more"),
            ]
        )
    ]
    assert [tick.tick for tick in changes(ticks)] == [0, 2, 4]
    assert changes([]) == []
