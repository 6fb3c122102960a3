"""Which version a job is for, and how many run at each."""

import asyncio
import collections
import dataclasses
import datetime as dt
import uuid

import pytest

from controlplane.jobs.lanes import DRAWS, NO_LANE, Lane, Seat, Seats, draw
from controlplane.jobs.model import Again, Failed, GiveUp, JobId, Refused, after_failure
from tests.job_builders import make_kind
from tests.unit.jobs.test_model import make_job

LANE = Lane(service="colorize", draw_header="x-draw", split=(("v1", 9_000), ("v2", 1_000)), candidate="v2")
V1, V2 = Seat("colorize", "v1"), Seat("colorize", "v2")


def test_draws_fall_as_the_weights_say_and_stay_as_a_weight_grows() -> None:
    jobs = [JobId(uuid.UUID(int=number * 2**96 + number).hex) for number in range(0, 2**32, 2**32 // 20_000)]
    versions = {job: LANE.version_of(draw(job)) for job in jobs}
    counted = collections.Counter(versions.values())
    assert counted["v2"] / len(jobs) == pytest.approx(0.1, abs=0.01)
    wider = dataclasses.replace(LANE, split=(("v1", 5_000), ("v2", 5_000)))
    assert all(wider.version_of(draw(job)) == "v2" for job in jobs if versions[job] == "v2")
    back = dataclasses.replace(LANE, split=(("v1", DRAWS), ("v2", 0)))
    assert {back.version_of(draw(job)) for job in jobs} == {"v1"}


def test_without_a_header_the_draw_is_envoys() -> None:
    lane = dataclasses.replace(LANE, draw_header="")
    assert (lane.version_of(0), lane.headers_for(make_job()), lane.seats) == ("", {}, 1)
    assert lane.is_on_trial("v2")
    assert not lane.is_on_trial("v1")
    assert not NO_LANE.is_on_trial("")


def test_a_job_that_a_candidate_failed_goes_to_the_stable_version() -> None:
    job = make_job()
    assert LANE.headers_for(job) == {"x-draw": str(draw(job.id))}
    assert LANE.headers_for(dataclasses.replace(job, stable_only=True)) == {"x-draw": "0"}
    assert LANE.version_of(0) == "v1"


@pytest.mark.parametrize("outcome", [Failed("500", "v2"), Refused("422", "v2")])
def test_what_fails_at_a_version_on_trial_is_not_the_jobs_failure(outcome: Failed | Refused) -> None:
    job = make_job(failures=2)
    again = after_failure(outcome, job, make_kind(attempts=3), luck=0.5, on_trial=True)
    assert again == Again(outcome.words, dt.timedelta(seconds=1), counts=False, stable=True)
    assert isinstance(after_failure(outcome, job, make_kind(attempts=3), luck=0.5), GiveUp)


async def test_no_more_run_at_a_version_than_there_are_slots() -> None:
    seats = Seats(2)
    held = [await seats.take(lambda: V1) for _ in range(2)]
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(seats.take(lambda: V1))
        assert await seats.take(lambda: V2) == V2, "another version has slots of its own"
        assert not waiting.done()
        seats.leave(held[0])
    assert waiting.result() == V1


async def test_who_waits_for_a_version_goes_to_another_when_the_split_moves() -> None:
    seats, wanted, asked = Seats(1), V2, asyncio.Event()

    def choose() -> Seat:
        asked.set()
        return wanted

    await seats.take(lambda: V2)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(seats.take(choose))
        await asked.wait()
        wanted = V1
        seats.rearrange()
    assert waiting.result() == V1


def test_room_follows_the_versions_that_have_weight() -> None:
    seats = Seats(4)
    assert seats.room([NO_LANE]) == 4
    assert seats.room([LANE]) == 16, "as many may wait for their version as run"
    assert seats.room([dataclasses.replace(LANE, split=(("v1", DRAWS), ("v2", 0)))]) == 4
    for _ in range(5):
        seats.enter()
    assert (seats.room([NO_LANE]), seats.room([LANE])) == (0, 11)
    seats.exit()
    assert seats.room([LANE]) == 12
