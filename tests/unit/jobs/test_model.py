"""What an attempt's end means for its job."""

import datetime as dt
import itertools

import pytest

from controlplane.jobs.model import (
    Again,
    Away,
    Failed,
    GiveUp,
    Job,
    JobId,
    JobState,
    Order,
    Refused,
    after_failure,
    check_order,
    photo_key,
)
from tests.builders import NOW
from tests.job_builders import WORKFLOW, make_kind, make_picture

SECOND = dt.timedelta(seconds=1)


def make_job(*, attempts: int = 1, failures: int = 0) -> Job:
    return Job(
        number=1,
        id=JobId("1"),
        owner="ada",
        task_id="1",
        kind="person",
        workflow=WORKFLOW,
        model="ddcolor-imagenet",
        size=640,
        vip=False,
        state=JobState.RUNNING,
        attempts=attempts,
        failures=failures,
        words="",
        version="",
        image_url="",
        photo=make_picture(photo_key(JobId("1"))),
        result=None,
        submitted_at=NOW,
        started_at=NOW,
        finished_at=None,
    )


def test_what_is_left_out_of_an_order_is_the_kinds() -> None:
    sound = check_order(Order(workflow=WORKFLOW), {WORKFLOW: make_kind()})
    assert (sound.kind, sound.model, sound.size) == (make_kind(), "ddcolor-imagenet", 640)


def test_a_photo_that_will_never_do_is_given_up_at_once() -> None:
    assert after_failure(Refused("422: in colour"), make_job(), make_kind(), luck=0) == GiveUp("422: in colour")


def test_a_job_that_fails_by_itself_is_given_up_in_the_end() -> None:
    outcomes = [after_failure(Failed("500"), make_job(failures=n), make_kind(attempts=3), luck=0.5) for n in range(3)]
    assert outcomes == [Again("500", SECOND, True), Again("500", 2 * SECOND, True), GiveUp("500 (failed 3 times)")]


def test_workers_that_are_away_are_not_the_jobs_fault_however_long() -> None:
    for attempts in (1, 10, 1000):
        outcome = after_failure(Away("503"), make_job(attempts=attempts), make_kind(attempts=1), luck=1)
        assert isinstance(outcome, Again)
        assert not outcome.counts
        assert outcome.pause <= dt.timedelta(seconds=75)


def test_a_worker_may_ask_for_a_longer_pause_but_not_for_a_shorter_one() -> None:
    asked = dt.timedelta(minutes=4)
    assert after_failure(Away("429", asked), make_job(), make_kind(), luck=0) == Again("429", asked, False)
    assert after_failure(Away("429", 0 * SECOND), make_job(), make_kind(), luck=0) == Again("429", 0.75 * SECOND, False)


def test_jobs_that_failed_together_come_back_apart() -> None:
    pauses = [after_failure(Away("503"), make_job(), make_kind(), luck=number / 10) for number in range(11)]
    found = [each.pause for each in pauses if isinstance(each, Again)]
    assert all(one < two for one, two in itertools.pairwise(found))
    assert (found[0], found[-1]) == (0.75 * SECOND, 1.25 * SECOND)


@pytest.mark.parametrize("attempts", [1, 2, 3, 4, 5, 6, 7, 20])
def test_pauses_double_up_to_a_minute(attempts: int) -> None:
    outcome = after_failure(Away("503"), make_job(attempts=attempts), make_kind(), luck=0.5)
    assert isinstance(outcome, Again)
    assert outcome.pause == min(dt.timedelta(minutes=1), 2 ** (attempts - 1) * SECOND)
