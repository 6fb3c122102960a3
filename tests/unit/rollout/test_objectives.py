"""Objectives beyond errors and latency, and the terms of each: what is judged, what it decides, and whom it asks."""

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from typing import cast

import pytest

from controlplane.errors import InvalidInputError
from controlplane.rollout.judge import JudgeState, Verdict
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.policy import Policy
from controlplane.rollout.slo import (
    ClientErrorSlo,
    ErrorRateSlo,
    LatencySlo,
    OnBreach,
    RatioQuerySlo,
    Slo,
    Terms,
    ValueQuerySlo,
    check_slos,
    with_defaults,
)
from controlplane.rollout.windows import Counted, Sample, VersionTick
from tests.unit.rollout.judge_ticks import Run, failing, healthy, traffic

MOVES = (Verdict.ADVANCE, Verdict.ROLLBACK, Verdict.PROBE, Verdict.ASK)
ERRORS, LATENCY = ErrorRateSlo("errors", 0.01), LatencySlo("latency", 400, 0.95)
MEMORY = ValueQuerySlo("memory", 'gpu_memory{version="$version"}', highest=0.9)
EMPTY = RatioQuerySlo("empty", 'empty{version="$version"}', 'all{version="$version"}', max_ratio=0.02)
ASKS = Terms(on_breach=OnBreach.PAUSE)
MUTED = Terms(muted=True)


def answering(total: int, **codes: int) -> VersionTick:
    """Make a tick of *total* answers, some of them by status: ``s422=3``."""
    plain = traffic(total)
    named = tuple(sorted((name.removeprefix("s"), count) for name, count in codes.items() if count))
    errors = sum(count for name, count in named if name[0] == "5")
    return dataclasses.replace(plain, errors=errors, codes=named)


def run(*slos: Slo, hold_s: float = 600) -> Run:
    return Run(policy=policy_of(slos), weight_bp=2_500, next_weight_bp=5_000, min_hold_s=hold_s).watch(60)


def see(rollout: Run, *samples: Sample) -> Verdict:
    """Judge a healthy second with these samples."""
    baseline, candidate = healthy(75, 25)(rollout.tick)
    return rollout.see(baseline, candidate, samples=samples)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_version_that_finds_nonsense_in_everything_is_stopped_within_seconds() -> None:
    rollout = run(ERRORS, LATENCY)
    assert rollout.until(5, lambda _: (answering(75), answering(25, s422=25)), stop=MOVES) is Verdict.ROLLBACK
    assert rollout.judgement.reason.startswith("nearly everything is blaming the client: 100 % (25/25)")


def test_a_version_that_blames_more_clients_than_the_old_one_is_rolled_back() -> None:
    rollout = run(ERRORS, LATENCY)
    second = lambda _: (answering(75, s404=3), answering(25, s404=4))  # noqa: E731 - 4 % and 16 %
    assert rollout.until(60, second, stop=MOVES) is Verdict.ROLLBACK
    assert "share blaming the client" in rollout.judgement.reason
    assert "more than 2 times v1's odds" in rollout.judgement.reason


@pytest.mark.parametrize("share", [0.04, 0.4, 0.8, 1.0])
def test_what_clients_do_to_both_versions_is_held_against_neither(share: float) -> None:
    rollout = run(ERRORS, LATENCY, hold_s=30)
    second = lambda _: (answering(75, s422=round(75 * share)), answering(25, s422=round(25 * share)))  # noqa: E731
    assert rollout.until(90, second, stop=MOVES) is Verdict.ADVANCE


def test_clients_errors_below_the_floor_do_not_matter() -> None:
    rollout = run(ERRORS, LATENCY, hold_s=30)
    second = lambda tick: (answering(750), answering(250, s404=int(tick % 2)))  # noqa: E731 - 0 and 0.2 %
    assert rollout.until(90, second, stop=MOVES) is Verdict.ADVANCE


def test_at_100_percent_only_a_bound_of_its_own_tells_client_errors() -> None:
    nonsense = lambda _: (VersionTick.zero(), answering(100, s422=60))  # noqa: E731
    assert run(ERRORS, LATENCY).move(10_000, None).until(20, nonsense, stop=MOVES) is Verdict.HOLD
    bounded = run(ERRORS, LATENCY, ClientErrorSlo(max_ratio=0.2)).move(10_000, None)
    assert bounded.until(20, nonsense, stop=MOVES) is Verdict.PROBE
    bounded.move(5_000, None, probing=True)
    assert bounded.until(20, lambda _: (answering(50), answering(50, s422=30)), stop=MOVES) is Verdict.ROLLBACK


def test_a_version_that_turns_requests_away_fails_them() -> None:
    rollout = run(ERRORS, LATENCY)
    assert rollout.until(15, lambda _: (answering(75), answering(25, s429=5)), stop=MOVES) is Verdict.ROLLBACK
    assert rollout.judgement.reason.startswith("error rate 20 %")


def test_what_is_bad_is_the_owner_s_to_say() -> None:
    patient = ErrorRateSlo("errors", 0.01, bad=("5xx",))
    rollout = run(patient, LATENCY, ClientErrorSlo(terms=MUTED), hold_s=30)
    assert rollout.until(60, lambda _: (answering(75), answering(25, s429=5)), stop=MOVES) is Verdict.ADVANCE
    strict = ErrorRateSlo("errors", 0.01, bad=("5xx", "404"))
    rollout = run(strict, LATENCY)
    assert rollout.until(15, lambda _: (answering(75), answering(25, s404=5)), stop=MOVES) is Verdict.ROLLBACK


def test_a_failure_is_not_counted_as_the_client_s_as_well() -> None:
    policy = policy_of([ERRORS, LATENCY])
    rollout = Run(policy=policy, weight_bp=2_500, next_weight_bp=5_000).watch(10)
    rollout.see(answering(75), answering(25, s429=5))
    blamed = next(each for each in rollout.judgement.objectives if each.name == "client errors rel")
    assert blamed.candidate == 0.0


# -- several of a kind ------------------------------------------------------------------------------------------------


def test_two_latency_objectives_are_both_kept() -> None:
    tail = LatencySlo("tail", 1_000, 0.99)
    lame = lambda _: (traffic(75), _with_slow(traffic(22), 3))  # noqa: E731 - 12 % above 1 s
    rollout = run(ERRORS, LatencySlo("latency", 10_000, 0.95, Terms(tolerance=10)), tail)
    assert rollout.until(30, lame, stop=MOVES) is Verdict.ROLLBACK
    assert "share slower than 1000 ms" in rollout.judgement.reason


def test_two_error_objectives_are_both_kept() -> None:
    rollout = run(ErrorRateSlo("errors", 0.4, terms=Terms(tolerance=100)), ErrorRateSlo("down", 0.01, bad=("503",)))
    assert rollout.until(30, lambda _: (answering(75), answering(25, s503=3)), stop=MOVES) is Verdict.ROLLBACK
    assert rollout.judgement.reason.startswith("share answered 503 12 % (")


def _with_slow(tick: VersionTick, count: int) -> VersionTick:
    slow = list(tick.latency)
    slow[-2] += count
    total = tick.completed + count
    return dataclasses.replace(tick, completed=total, started=total, latency=tuple(slow))


# -- what queries tell ------------------------------------------------------------------------------------------------


def sampled(name: str, baseline: Counted, candidate: Counted) -> Callable[[int], Sample]:
    """Ask every fifth second."""
    return lambda second: Sample(name, baseline, candidate) if second % 5 == 0 else Sample(name)


def test_a_value_out_of_bounds_is_rolled_back_after_some_askings() -> None:
    rollout, ask = run(ERRORS, LATENCY, MEMORY), sampled("memory", (1, 0), (1, 1))
    verdicts = [see(rollout, ask(second)) for second in range(40)]
    assert Verdict.ROLLBACK in verdicts
    assert 10 <= verdicts.index(Verdict.ROLLBACK) <= 35
    see(rollout, ask(0))
    assert rollout.judgement.reason.startswith("share of memory out of bounds 100 % (")


def test_a_value_that_is_out_of_bounds_for_both_is_held() -> None:
    rollout, ask = run(ERRORS, LATENCY, MEMORY), sampled("memory", (1, 1), (1, 1))
    assert {see(rollout, ask(second)) for second in range(120)} == {Verdict.HOLD}
    assert "v1 is in trouble too" in rollout.judgement.reason


def test_a_share_that_a_query_counts_is_judged_like_errors() -> None:
    rollout, ask = run(ERRORS, LATENCY, EMPTY), sampled("empty", (400, 1), (100, 9))
    verdicts = [see(rollout, ask(second)) for second in range(60)]
    assert Verdict.ROLLBACK in verdicts
    assert "share of bad empty 9 %" in rollout.judgement.reason


@pytest.mark.parametrize("words", ["no data for 20 s", "Prometheus does not answer"])
def test_what_is_not_known_holds_says_so_and_stops_the_clocks(words: str) -> None:
    rollout = run(ERRORS, LATENCY, MEMORY, hold_s=30)
    assert {see(rollout, Sample("memory", missing=words)) for _ in range(60)} == {Verdict.HOLD}
    assert rollout.judgement.reason == f"nothing is known of memory: {words}, so the clocks stand still"
    verdicts = [see(rollout, sampled("memory", (1, 0), (1, 0))(second)) for second in range(200)]
    assert verdicts.index(Verdict.ADVANCE) >= 25, "the seconds in the dark do not count"


def test_an_objective_that_nobody_asks_for_holds() -> None:
    rollout = run(ERRORS, LATENCY, MEMORY, hold_s=5)
    assert {see(rollout) for _ in range(40)} == {Verdict.HOLD}
    assert "it was not asked for" in rollout.judgement.reason


def test_what_is_known_rolls_back_although_something_else_is_not() -> None:
    rollout = run(ERRORS, LATENCY, MEMORY)
    lost = Sample("memory", missing="no data")
    verdicts = [rollout.see(*failing(75, 25, 5)(second), samples=(lost,)) for second in range(10)]
    assert Verdict.ROLLBACK in verdicts


# -- terms ------------------------------------------------------------------------------------------------------------


def test_a_muted_objective_is_shown_and_decides_nothing() -> None:
    rollout = run(dataclasses.replace(ERRORS, terms=MUTED), LATENCY, hold_s=30)
    assert rollout.until(60, failing(75, 25, 5), stop=MOVES) is Verdict.ADVANCE
    shown = next(each for each in rollout.judgement.objectives if each.name == "error_abs")
    assert (shown.candidate, shown.decides) == (0.2, "muted")
    assert shown.odds >= 500


def test_a_muted_objective_without_data_holds_nothing() -> None:
    rollout = run(ERRORS, LATENCY, dataclasses.replace(MEMORY, terms=MUTED), hold_s=5)
    lost = Sample("memory", missing="no data")
    assert Verdict.ADVANCE in {see(rollout, lost) for _ in range(60)}


def test_an_objective_that_asks_asks_once_and_then_leaves_it_to_the_person() -> None:
    rollout = run(dataclasses.replace(ERRORS, terms=ASKS), LATENCY, hold_s=30)
    assert rollout.until(15, failing(75, 25, 5), stop=MOVES) is Verdict.ASK
    assert rollout.judgement.reason.startswith("error rate 20 %")
    assert rollout.until(60, failing(75, 25, 5), stop=MOVES) is Verdict.ADVANCE
    assert {each.decides for each in rollout.judgement.objectives if each.name.startswith("error")} == {"asked"}


def test_that_a_person_was_asked_survives_a_restart() -> None:
    rollout = run(dataclasses.replace(ERRORS, terms=ASKS), LATENCY, hold_s=300)
    rollout.until(15, failing(75, 25, 5), stop=MOVES)
    rollout.state = JudgeState.from_json(json.loads(json.dumps(rollout.state.to_json())))
    assert rollout.until(20, failing(75, 25, 5), stop=MOVES) is Verdict.HOLD


def test_others_still_roll_back_while_a_person_thinks() -> None:
    rollout = run(dataclasses.replace(ERRORS, terms=ASKS), LATENCY)
    rollout.until(15, failing(75, 25, 5), stop=MOVES)
    slow = lambda second: (traffic(75, seed=second), traffic(25, 5, median_ms=900, seed=second))  # noqa: E731
    assert rollout.until(20, slow, stop=MOVES) is Verdict.ROLLBACK


def test_a_breach_at_100_percent_that_asks_gives_nothing_back_by_itself() -> None:
    rollout = run(dataclasses.replace(ERRORS, terms=ASKS), LATENCY).move(10_000, None)
    assert rollout.until(30, lambda _: (VersionTick.zero(), traffic(100, 10)), stop=MOVES) is Verdict.ASK


def test_a_dead_version_asks_too() -> None:
    rollout = run(dataclasses.replace(ERRORS, terms=ASKS), LATENCY)
    assert rollout.until(5, failing(75, 25, 25), stop=MOVES) is Verdict.ASK


def test_tolerance_and_alpha_are_the_objective_s_own() -> None:
    policy = policy_of(
        [
            ErrorRateSlo("errors", 0.01, terms=Terms(tolerance=5, alpha=0.001)),
            LatencySlo("l", 400, 0.9, Terms(tolerance=1.5)),
        ]
    )
    assert (policy.error_odds_ratio, policy.latency_tolerance) == (5, 1.5)
    assert policy.thresholds == pytest.approx((2 / 0.001, 3 / 0.009, 3 / 0.009))


def test_the_chance_of_a_false_rollback_is_shared_out_whole() -> None:
    declared: list[list[Slo]] = [[ERRORS], [ERRORS, LATENCY], [ERRORS, LATENCY, MEMORY, EMPTY, ClientErrorSlo()]]
    for slos in declared:
        policy = policy_of(slos)
        shares = [alarms / limit for alarms, limit in zip(policy.alarms, policy.thresholds, strict=True)]
        assert sum(shares) == pytest.approx(0.01)


def test_the_default_policy_is_that_of_the_two_objectives() -> None:
    policy = policy_of([ERRORS, LATENCY, ClientErrorSlo(terms=MUTED)])
    assert dataclasses.replace(policy, shares=()) == Policy()


def test_the_longest_wish_for_quiet_counts() -> None:
    terms = Terms(quiet=dt.timedelta(seconds=90))
    assert policy_of([dataclasses.replace(ERRORS, terms=terms), LATENCY]).quiet_s == 90


# -- memory -----------------------------------------------------------------------------------------------------------


def test_a_state_of_the_release_before_is_read_and_goes_on() -> None:
    rollout = Run(policy=policy_of([ERRORS, LATENCY])).watch(60)
    rollout.until(20, healthy(), stop=())
    values = rollout.state.to_json()
    old = {name: value for name, value in values.items() if name not in {"asked", "pair_latency", "last_floor"}}
    pair, latency = (cast("list[float]", values[name]) for name in ("pair", "pair_latency"))
    old |= {"format": 1, "pair": [*[*pair, *[0.0] * 8][:8], *latency], "last_floor": -(10**9)}
    rollout.state = JudgeState.from_json(json.loads(json.dumps(old)))
    assert rollout.until(10, lambda _: (answering(95), answering(5, s422=5)), stop=MOVES) is Verdict.ROLLBACK


def test_the_state_of_all_default_objectives_and_one_more_stays_small() -> None:
    rollout = Run(policy=policy_of([ERRORS, LATENCY, EMPTY])).watch(300, requests=900)
    ask = sampled("empty", (900, 9), (50, 1))
    for second in range(120):
        baseline = answering(900, s404=9, s503=2)
        rollout.see(baseline, answering(50, s404=second % 2, s503=second % 2), samples=(ask(second),))
    assert len(json.dumps(rollout.state.to_json())) <= 4_096


# -- what makes no sense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ErrorRateSlo("e", 0.6), "slos.e.max: 60 % is out of range"),
        (lambda: ErrorRateSlo("e", 0.1, bad=("6xx",)), "slos.e.bad: '6xx' is not a kind of answer"),
        (lambda: ErrorRateSlo("e", 0.1, bad=()), "slos.e.bad: is empty"),
        (lambda: ErrorRateSlo("e", 0.1, terms=Terms(alpha=0.3)), "30 % would roll back too many healthy versions"),
        (lambda: ErrorRateSlo("e", 0.1, terms=Terms(tolerance=0.9)), "would roll back a version that is as good"),
        (lambda: ErrorRateSlo("e", 0.1, terms=Terms(budget=-1)), "slos.e.budget"),
        (lambda: ErrorRateSlo("e", 0.1, terms=Terms(quiet=dt.timedelta(days=2))), "slos.e.quiet"),
        (lambda: LatencySlo("l", 400, 0.95, Terms(tolerance=20)), "20 forbids nothing"),
        (lambda: ValueQuerySlo("v", "up", highest=1), "asks the same for every version"),
        (lambda: ValueQuerySlo("v", "up$version"), "has no bound"),
        (lambda: ValueQuerySlo("v", "up$version", highest=1, lowest=2), "slos.v.min: 2 is above max"),
        (lambda: RatioQuerySlo("r", "$version", " ", 0.1), "slos.r.total: is empty"),
        (lambda: RatioQuerySlo("r", "$version", "$version", 0.1, dt.timedelta(0)), "slos.r.interval"),
        (lambda: check_slos([MEMORY]), "slos: says neither how many requests may fail"),
        (lambda: check_slos([ERRORS] * 9), "use at most 8"),
        (
            lambda: check_slos([ERRORS, ClientErrorSlo("a"), ClientErrorSlo("b")]),
            "two objectives of kind client_errors",
        ),
        (lambda: check_slos([ErrorRateSlo("e", 0.1, terms=Terms(alpha=0.02))]), "leaves too little of 1 % for client"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_what_they_would_do(build: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        build()
    assert words in str(refusal.value)


def test_client_errors_are_an_objective_of_every_service() -> None:
    assert with_defaults([ERRORS]) == (ERRORS, ClientErrorSlo())
    mine = ClientErrorSlo("mine", 0.1)
    assert with_defaults([ERRORS, mine]) == (ERRORS, mine)
    grpc = ErrorRateSlo("errors", 0.01, bad=("5xx", "grpc-internal"))
    (_, added) = with_defaults([grpc])
    assert isinstance(added, ClientErrorSlo)
    assert "grpc-not-found" in added.bad
