import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.costs import Budget, Costs
from inference_worker.scheduling import (
    BULK_YIELD_S,
    MAX_HOLD_S,
    Bucket,
    Capacity,
    Priority,
    Run,
    Terms,
    Ticket,
    compute_hold_s,
    count_places,
    estimate_backlog_s,
    plan_run,
)

BUCKETS = [Bucket("a", 32, 32), Bucket("a", 64, 32), Bucket("b", 32, 32)]
TICKETS = st.lists(
    st.builds(
        Ticket,
        bucket=st.sampled_from(BUCKETS),
        priority=st.sampled_from(Priority),
        arrived_s=st.floats(0, 10),
        queued_s=st.floats(9.9, 10),
        deadline_s=st.floats(0, 40) | st.just(math.inf),
    ),
    max_size=30,
)
COSTS = st.builds(Costs, base_s=st.floats(0, 2), per_pixel_s=st.floats(0, 1e-3))
TERMS = st.builds(
    lambda costs, limits, max_batch, finish_s: Terms(
        capacity={
            model: Capacity(costs=costs, budget=Budget(limit_px=limit, ceiling_px=100_000))
            for model, limit in zip("ab", limits, strict=True)
        },
        max_batch=max_batch,
        finish_s=finish_s,
    ),
    COSTS,
    st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)),
    st.integers(1, 12),
    st.floats(0, 0.5),
)
NOW_S = 10.0


def make_terms(costs: Costs | None = None, *, max_batch: int = 4, limit_px: int = 10**6) -> Terms:
    capacity = Capacity(costs=costs or Costs(), budget=Budget(limit_px=limit_px, ceiling_px=10**6))
    return Terms(capacity={"a": capacity, "b": capacity}, max_batch=max_batch)


def make_ticket(**changes: Any) -> Ticket:
    ticket = Ticket(bucket=BUCKETS[0], priority=Priority.INTERACTIVE, arrived_s=0.0, queued_s=0.0, deadline_s=math.inf)
    return dataclasses.replace(ticket, **changes)


def plan(waiting: list[Ticket], terms: Terms) -> Run[Ticket]:
    return plan_run(waiting, terms, now_s=NOW_S)


@given(waiting=TICKETS, terms=TERMS)
def test_everybody_is_run_or_dropped_or_goes_on_waiting(waiting: list[Ticket], terms: Terms) -> None:
    run = plan(waiting, terms)
    named = [*run.batch, *run.late]
    assert len(set(map(id, named))) == len(named)
    assert set(map(id, named)) <= set(map(id, waiting))
    assert run.batch or len(run.late) == len(waiting)


@given(waiting=TICKETS, terms=TERMS)
def test_a_run_is_of_one_bucket_and_within_every_bound(waiting: list[Ticket], terms: Terms) -> None:
    batch = plan(waiting, terms).batch
    assert len({ticket.bucket for ticket in batch}) <= 1
    assert len(batch) <= terms.max_batch
    if len(batch) > 1:
        pixels = sum(ticket.bucket.pixels for ticket in batch)
        assert pixels <= terms.capacity[batch[0].bucket.model].budget.limit_px


@given(waiting=TICKETS, terms=TERMS)
def test_nobody_in_a_run_is_expected_to_be_late_and_nobody_is_dropped_who_is_not(
    waiting: list[Ticket], terms: Terms
) -> None:
    run = plan(waiting, terms)
    if run.batch:
        ends_s = NOW_S + terms.estimate_run_s(run.batch[0].bucket, len(run.batch)) + terms.finish_s
        assert all(ends_s <= ticket.deadline_s for ticket in run.batch)
    for ticket in run.late:
        assert NOW_S + terms.estimate_run_s(ticket.bucket, 1) + terms.finish_s > ticket.deadline_s


@given(waiting=TICKETS, terms=TERMS)
def test_the_first_in_line_is_always_served(waiting: list[Ticket], terms: Terms) -> None:
    run = plan(waiting, terms)
    able = [ticket for ticket in waiting if ticket not in run.late]
    if able:
        assert min(able, key=lambda ticket: ticket.rank_s) in run.batch


@given(waiting=TICKETS, terms=TERMS)
def test_bulk_work_waits_only_for_those_who_came_up_to_five_seconds_later(waiting: list[Ticket], terms: Terms) -> None:
    run = plan(waiting, terms)
    if run.batch:
        first = run.batch[0]
        for ticket in waiting:
            if ticket.priority is Priority.BULK and ticket not in run.late:
                assert first.arrived_s <= ticket.arrived_s + BULK_YIELD_S + 1e-9


@given(waiting=TICKETS, terms=TERMS)
def test_planning_again_and_again_serves_everybody(waiting: list[Ticket], terms: Terms) -> None:
    left = list(waiting)
    for _ in range(len(waiting)):
        run = plan(left, terms)
        left = [ticket for ticket in left if ticket not in run.batch and ticket not in run.late]
    assert left == []


@given(waiting=TICKETS, terms=TERMS, was_idle=st.booleans())
def test_a_run_is_never_held_longer_than_allowed(waiting: list[Ticket], terms: Terms, *, was_idle: bool) -> None:
    batch = plan(waiting, terms).batch
    hold_s = compute_hold_s(batch, terms, was_idle=was_idle, now_s=NOW_S)
    if was_idle or not batch or len(batch) == terms.max_batch:
        assert hold_s <= 0
    elif hold_s > 0:
        assert NOW_S + hold_s <= min(ticket.queued_s for ticket in batch) + MAX_HOLD_S + 1e-9
        ends_s = NOW_S + hold_s + terms.estimate_run_s(batch[0].bucket, len(batch)) + terms.finish_s
        assert ends_s <= min(ticket.deadline_s for ticket in batch) + 1e-6


@given(ahead=TICKETS, terms=TERMS)
def test_a_backlog_grows_with_the_line_and_batches_make_it_no_longer(ahead: list[Ticket], terms: Terms) -> None:
    one_by_one_s = sum(terms.estimate_run_s(ticket.bucket, 1) for ticket in ahead)
    total_s = estimate_backlog_s(ahead, terms)
    assert 0 <= total_s <= one_by_one_s + 1e-6
    assert estimate_backlog_s(ahead[1:], terms) <= total_s + 1e-6


def test_a_picture_that_would_make_the_others_late_stays_behind() -> None:
    terms = make_terms(Costs(base_s=1.0, per_pixel_s=1.0 / 1024))
    tight, free, own = make_ticket(deadline_s=13.0), make_ticket(arrived_s=1), make_ticket(arrived_s=2)
    assert plan([tight, free, own], terms).batch == (tight, free)


def test_a_tight_one_behind_does_not_stop_those_behind_it() -> None:
    terms = make_terms(Costs(base_s=1.0, per_pixel_s=1.0 / 1024))
    first, tight, third = make_ticket(), make_ticket(arrived_s=1, deadline_s=12.5), make_ticket(arrived_s=2)
    run = plan([first, tight, third], terms)
    assert run.batch == (first, third)
    assert run.late == ()


def test_other_buckets_stay_in_line() -> None:
    small, large, other = (make_ticket(bucket=bucket) for bucket in BUCKETS)
    again = make_ticket(arrived_s=1)
    assert plan([small, large, other, again], make_terms()).batch == (small, again)


def test_one_picture_may_always_try_alone() -> None:
    waiting = [make_ticket(), make_ticket()]
    assert plan(waiting, make_terms(limit_px=1)).batch == (waiting[0],)


@pytest.mark.parametrize(("limit", "places"), [(1, 1), (2, 1), (4, 3), (16, 12), (256, 192)])
def test_bulk_work_leaves_a_quarter_of_the_places(limit: int, places: int) -> None:
    assert count_places(limit, Priority.BULK) == places
    assert count_places(limit, Priority.INTERACTIVE) == limit
