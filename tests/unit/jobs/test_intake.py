"""Tasks of foreign producers: a row before the acknowledgement, one job per task_id, and a reason for each refusal."""

import asyncio
import datetime as dt
import json
from typing import Any

import pytest
import structlog

from controlplane.errors import OverQuotaError, UnavailableError
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.intake import TaskIntake
from controlplane.jobs.owners import Quotas
from controlplane.jobs.ports import ForeignTask
from tests.job_builders import WORKFLOW, make_callback_desk
from tests.unit.jobs.conftest import Works

TASK: dict[str, Any] = {
    "task_id": "7f3a",
    "image_url": "https://photos.example.org/1.jpg",
    "workflow_type": WORKFLOW,
    "parameters": {"size": 680, "model": "ddcolor-imagenet"},
}


class FakeTasks:
    """`ForeignTasks` in a list."""

    def __init__(self, *bodies: object) -> None:
        self.waiting = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in bodies]
        self.refused: list[tuple[bytes, str]] = []
        self.released: list[bytes] = []
        self.acknowledged: list[bytes] = []

    async def take_tasks(self, *, limit: int) -> tuple[ForeignTask, ...]:
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return tuple(ForeignTask(body, None) for body in taken)

    async def acknowledge_task(self, task: ForeignTask) -> None:
        self.acknowledged.append(task.body)

    async def release_task(self, task: ForeignTask) -> None:
        self.released.append(task.body)

    async def refuse_task(self, task: ForeignTask, *, words: str) -> None:
        self.refused.append((task.body, words))


def make_intake(works: Works, tasks: FakeTasks) -> TaskIntake:
    return TaskIntake(
        tasks=tasks, desk=works.desk, owner="foreign", clock=works.clock, interval=dt.timedelta(seconds=1)
    )


async def test_a_task_becomes_a_job_of_the_named_owner_once(works: Works) -> None:
    tasks = FakeTasks(TASK, TASK)
    assert await make_intake(works, tasks).take() == 2
    (job,) = await works.store.list_jobs("foreign")
    assert (job.task_id, job.size, job.image_url) == ("7f3a", 680, TASK["image_url"])
    assert (len(tasks.acknowledged), tasks.refused) == (2, [])
    assert await make_intake(works, tasks).take() == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff{", "body: is not JSON"),
        (b"[" * 100_000, "body: is not JSON"),
        ({}, "workflow_type: is missing"),
        ({**TASK, "task_id": None}, "task_id: is missing"),
        ({**TASK, "parameters": {"size": 9000}}, "parameters.size: 9000 px is outside"),
        ({**TASK, "workflow_type": "x.json"}, "workflow_type: 'x.json' is not known"),
        ({**TASK, "image_url": "http://169.254.169.254/"}, "image_url: leads to a host that is not allowed"),
        ({**TASK, "image_url": None}, "image: is missing"),
    ],
)
async def test_what_is_not_sound_is_refused_with_the_reason(works: Works, body: object, words: str) -> None:
    tasks = FakeTasks(body)
    await make_intake(works, tasks).take()
    assert [refusal.startswith(words) for _, refusal in tasks.refused] == [True]
    assert (tasks.acknowledged, await works.store.list_jobs("foreign")) == ([], ())


async def test_another_task_of_the_same_name_is_refused(works: Works) -> None:
    tasks = FakeTasks(TASK, {**TASK, "parameters": {"size": 460}})
    await make_intake(works, tasks).take()
    assert [words for _, words in tasks.refused] == [
        "task_id '7f3a' was used for another job; send a new one with each job"
    ]


async def test_over_quota_tasks_stay_where_they_are(works: Works) -> None:
    works.desk.quotas = Quotas(max_waiting=2)
    tasks = FakeTasks(*({**TASK, "task_id": str(number)} for number in range(3)))
    assert await make_intake(works, tasks).take() == 2, "no more are taken than there is room for"
    with pytest.raises(OverQuotaError, match="max_waiting: foreign has 2 jobs"):
        await make_intake(works, tasks).take()
    assert (len(tasks.waiting), tasks.refused, tasks.released) == (1, [], [])
    (job, _) = await works.store.list_jobs("foreign")
    await works.store.cancel_job(job.id, owner="foreign", now=works.clock.now())
    assert await make_intake(works, tasks).take() == 1


async def test_a_task_for_which_the_last_place_is_gone_meanwhile_comes_again(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def room(*_: object) -> int:
        return 5

    works.desk.quotas = Quotas(max_waiting=1)
    tasks = FakeTasks(TASK, {**TASK, "task_id": "second"}, {**TASK, "task_id": "third"})
    monkeypatch.setattr(JobDesk, "room", room)
    with pytest.raises(OverQuotaError):
        await make_intake(works, tasks).take()
    assert (len(tasks.acknowledged), len(tasks.released), tasks.refused) == (1, 2, [])


async def test_while_a_quota_is_used_up_it_is_looked_at_now_and_then(works: Works) -> None:
    works.desk.quotas = Quotas(max_daily=0)
    tasks = FakeTasks(TASK)
    started = works.clock.now()
    with structlog.testing.capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(make_intake(works, tasks).run())
            while works.clock.now() < started + dt.timedelta(minutes=1):
                await works.store.list_kinds()
            running.cancel()
    waits = [line for line in logs if line["event"] == "tasks.wait"]
    passed = works.clock.now() - started
    assert passed == len(waits) * dt.timedelta(seconds=10), "once in ten seconds"
    assert len(tasks.waiting) == 1


async def test_an_address_of_the_wrong_type_is_not_repeated(works: Works) -> None:
    tasks = FakeTasks({**TASK, "image_url": ["https://photos.example.org/?token=s3cret"]})
    with structlog.testing.capture_logs() as logs:
        await make_intake(works, tasks).take()
    assert [words for _, words in tasks.refused] == ["image_url: is not text; write it in quotes"]
    assert "s3cret" not in repr(logs)


async def test_a_database_that_is_away_loses_no_task(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise UnavailableError("the database does not answer")

    tasks = FakeTasks(TASK, {**TASK, "task_id": "second"})
    with monkeypatch.context() as broken:
        broken.setattr(type(works.store), "submit", refuse)
        with pytest.raises(UnavailableError):
            await make_intake(works, tasks).take()
    assert (len(tasks.released), tasks.acknowledged, tasks.refused) == (2, [], [])


async def test_a_task_may_name_who_is_told_of_its_end(works: Works) -> None:
    callbacks = make_callback_desk(works.store, works.clock)
    works.desk.check_callback = callbacks.check_task
    address = "https://shop.example.org/done"
    tasks = FakeTasks({**TASK, "callback_url": address})
    await make_intake(works, tasks).take()
    ((_, words),) = tasks.refused
    assert words.startswith("callback_url: would be called without a signature")
    await callbacks.renew_secret("foreign", "task")
    tasks = FakeTasks({**TASK, "callback_url": address}, {**TASK, "task_id": "8", "callback_url": 8})
    await make_intake(works, tasks).take()
    assert [words for _, words in tasks.refused] == ["callback_url: 8 is not text; write it in quotes"]
    (job,) = await works.store.list_jobs("foreign")
    now = works.clock.now()
    await works.store.cancel_job(job.id, owner="foreign", now=now)
    (notice,) = await works.store.take_notices(until=now, now=now, room={}, each=1, limit=1)
    assert notice.address == address


async def test_where_nobody_is_told_a_task_with_a_callback_is_refused(works: Works) -> None:
    tasks = FakeTasks({**TASK, "callback_url": "https://shop.example.org/done"})
    await make_intake(works, tasks).take()
    assert [words for _, words in tasks.refused] == ["callback_url: is not called from here; leave it out"]
