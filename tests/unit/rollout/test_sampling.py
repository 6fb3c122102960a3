"""From raw answers to counts per tick: nothing is lost or doubled, however the ticks are read; silence is no proof."""

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.rollout.sampling import QuerySample, Reading, Sampling, fresh_for, read, sampled
from controlplane.rollout.slo import QuerySlo, RatioQuerySlo, ValueQuerySlo
from controlplane.rollout.windows import Counted, Sample
from tests.builders import seconds

RATIO = RatioQuerySlo("images", 'bad{version="$version"}', 'all{version="$version"}', 0.01)
VALUE = ValueQuerySlo("memory", 'memory{version="$version"}', highest=10, lowest=-10)
LATEST = 100


def counters(
    tick: int, candidate: tuple[float, float | None], baseline: tuple[float | None, float | None] = (0, 0)
) -> QuerySample:
    return QuerySample("images", tick, Reading(*baseline), Reading(*candidate))


def value(tick: int, candidate: float, baseline: float | None = 0.0) -> QuerySample:
    return QuerySample("memory", tick, Reading(baseline), Reading(candidate))


def failed(tick: int, words: str = "timed out", name: str = "images") -> QuerySample:
    return QuerySample(name, tick, words=words)


def at(
    slo: QuerySlo, told: Sequence[QuerySample], tick: int, *, previous: int | None = None, since: int | None = 0
) -> Sample:
    (sample,) = Sampling([slo], told, since=since).at(tick, previous=previous)
    return sample


# -- counters ----------------------------------------------------------------------------------------------------------


def test_the_first_sample_only_says_from_where_to_count() -> None:
    told = [counters(1, (500, 5), (9000, 90)), counters(6, (510, 6), (9100, 90))]
    assert at(RATIO, told, 1) == Sample("images")
    assert at(RATIO, told, 6) == Sample("images", baseline=(100, 0), candidate=(10, 1))
    assert at(RATIO, told, 7) == Sample("images")


def test_what_came_since_the_tick_judged_before_is_counted_together() -> None:
    told = [counters(tick, (10 * tick, tick)) for tick in range(1, 9)]
    assert at(RATIO, told, 8, previous=4).candidate == (40, 4)
    assert at(RATIO, told[3:], 8, previous=4).candidate == (40, 4)


def test_a_failed_asking_costs_nothing_once_the_next_is_answered() -> None:
    told = [counters(1, (0, 0)), failed(6), counters(11, (30, 3))]
    assert at(RATIO, told, 6) == Sample("images")
    assert at(RATIO, told, 11).candidate == (30, 3)


@pytest.mark.parametrize(("total", "bad"), [(3.0, 0.0), (99.0, 7.0), (120.0, 4.0)])
def test_a_counter_that_went_down_loses_one_interval(total: float, bad: float) -> None:
    """It may be a sum over workers of which one is gone: the past of the others is no news."""
    told = [counters(1, (100, 5)), counters(2, (total, bad)), counters(3, (total + 10, bad + 1))]
    assert at(RATIO, told, 2).candidate == (0, 0)
    assert at(RATIO, told, 3).candidate == (10, 1)


def test_a_counter_of_bad_things_that_is_not_there_yet_is_zero() -> None:
    told = [counters(1, (100, None)), counters(2, (150, None)), counters(3, (160, 2.0))]
    assert (at(RATIO, told, 2).candidate, at(RATIO, told, 3).candidate) == ((50, 0), (10, 2))


def test_bad_things_that_the_total_does_not_know_yet_have_happened() -> None:
    told = [counters(1, (100, 0)), counters(2, (101, 9))]
    assert at(RATIO, told, 2).candidate == (9, 9)


def test_fractions_add_up() -> None:
    told = [counters(tick, (0.4 * tick, 0.1 * tick)) for tick in range(101)]
    total, bad = add([at(RATIO, told, tick).candidate for tick in range(101)])
    assert (40 <= total <= 50, bad) == (True, 10)


def test_a_baseline_without_data_is_nothing_to_compare_with_and_no_reason_to_wait() -> None:
    told = [counters(1, (10, 0), (70, 7)), counters(2, (20, 0), (None, None)), counters(3, (30, 0), (75, 8))]
    assert at(RATIO, told, 2) == Sample("images", candidate=(10, 0))
    assert at(RATIO, told, 3) == Sample("images", baseline=(5, 1), candidate=(10, 0))


STEPS = st.lists(
    st.tuples(st.integers(1, 9), st.floats(0, 1e6), st.floats(0, 1e6), st.booleans(), st.booleans()), min_size=1
)


@given(STEPS, st.data())
def test_however_the_ticks_are_read_nothing_is_lost_or_doubled(
    steps: list[tuple[int, float, float, bool, bool]], data: st.DataObject
) -> None:
    told: list[QuerySample] = []
    tick, total, bad = 0, 0.0, 0.0
    for wait, more, worse, fails, restarts in steps:
        tick, total, bad = tick + wait, (0 if restarts else total) + more + worse, (0 if restarts else bad) + worse
        told.append(failed(tick) if fails else counters(tick, (total, bad)))
    one_by_one = [at(RATIO, told, each).candidate for each in range(tick + 1)]
    assert all(0 <= bad <= total for total, bad in one_by_one)
    cuts = [*sorted(data.draw(st.sets(st.integers(0, tick)))), tick]
    parts = []
    for previous, until in itertools.pairwise([-1, *cuts]):
        # What the store gives: what is new, and what counted last before.
        before = [each for each in told if each.tick <= previous and not each.words][-1:]
        given = before + [each for each in told if each.tick > previous]
        parts.append(at(RATIO, given, until, previous=previous).candidate)
    assert add(parts) == add(one_by_one)


def add(counts: list[Counted]) -> Counted:
    return sum(total for total, _ in counts), sum(bad for _, bad in counts)


# -- values ------------------------------------------------------------------------------------------------------------


def test_each_answer_to_a_value_is_one_thing_bad_when_out_of_bounds() -> None:
    told = [value(1, 10, 10.1), value(2, math.inf), value(3, -11, None)]
    assert at(VALUE, told, 1) == Sample("memory", baseline=(1, 1), candidate=(1, 0))
    assert at(VALUE, told, 2) == Sample("memory", baseline=(1, 0), candidate=(1, 1))
    assert at(VALUE, told, 3) == Sample("memory", baseline=(0, 0), candidate=(1, 1))
    assert at(VALUE, told, 3, previous=0) == Sample("memory", baseline=(2, 1), candidate=(3, 2))


# -- when nothing is known ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "fresh"), [(1, 15), (5, 15), (6, 18), (300, 900)])
def test_three_misses_or_a_quarter_of_a_minute_are_borne(interval: int, fresh: int) -> None:
    slo = ValueQuerySlo("memory", "memory{version='$version'}", highest=1, interval=seconds(interval))
    assert fresh_for(slo) == seconds(fresh)
    assert at(slo, [value(5, 0)], 5 + fresh).missing == ""
    assert at(slo, [value(5, 0)], 6 + fresh).missing == f"no data for {fresh + 1} s: nobody asked for it"


def test_the_words_name_the_newest_cause_and_since_when() -> None:
    told = [counters(10, (1, 0)), failed(15, "timed out"), failed(20, "answered 502"), failed(40, "not yet")]
    assert at(RATIO, told, 25).missing == ""
    assert at(RATIO, told, 26).missing == "no data for 16 s: answered 502"


def test_a_query_that_was_never_answered_is_missed_a_while_after_the_traffic_began() -> None:
    told = [failed(tick) for tick in range(101, 200, 5)]
    assert at(RATIO, told, 115, since=100) == Sample("images")
    assert at(RATIO, told, 116, since=100) == Sample("images", missing="no data for 16 s: timed out")
    assert at(RATIO, [], 116, since=100).missing == "no data for 16 s: nobody asked for it"


def test_nothing_is_missed_before_there_is_traffic() -> None:
    assert at(RATIO, [failed(1)], 500, since=None).missing == ""


@given(st.lists(st.booleans(), max_size=20), st.integers(0, 30), st.integers(0, LATEST))
def test_a_tick_without_an_answer_for_too_long_is_always_missed(good: list[bool], since: int, tick: int) -> None:
    told = [counters(5 * place, (1, 0)) if is_good else failed(5 * place) for place, is_good in enumerate(good)]
    answered = [each.tick for each in told if not each.words and each.tick <= tick]
    newest = answered[-1] if answered else since
    assert bool(at(RATIO, told, tick, since=since).missing) == (tick - newest > 15)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_nan_and_infinite_counters_are_no_data_and_an_infinite_value_is_one() -> None:
    assert read(RATIO, (1, 8)) == Reading(8, 1)
    assert read(RATIO, (None, 8)) == read(RATIO, (math.nan, 8)) == Reading(8)
    assert read(RATIO, (1, None)) == read(RATIO, (1, math.nan)) == read(RATIO, (1, math.inf)) == Reading()
    assert read(VALUE, (math.inf,)) == Reading(math.inf)
    assert read(VALUE, (math.nan,)) == read(VALUE, (None,)) == Reading()


def test_without_data_of_the_candidate_a_sample_says_so() -> None:
    assert sampled(VALUE, 1, Reading(), Reading(3), version="v2") == value(1, 3, None)
    assert sampled(VALUE, 1, Reading(1), Reading(), version="v2").words == "the query gives nothing for v2"
    assert (
        sampled(RATIO, 1, Reading(1), Reading(), version="v2").words == "the query for the total gives nothing for v2"
    )
    with pytest.raises(ValueError, match="say why"):
        QuerySample("memory", 1)
