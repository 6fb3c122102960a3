import asyncio

import numpy as np
import pytest

from inference_worker.batching import DeviceQueue, Gate, Job, choose_batch
from inference_worker.errors import ModelError, QueueFullError
from inference_worker.imaging import Floats


def make_job(width: int = 32) -> Job:
    return Job(np.zeros((1, 1, 32, width), np.float32), asyncio.get_running_loop().create_future())


async def test_the_oldest_job_decides_the_shape() -> None:
    jobs = [make_job(32), make_job(64), make_job(32), make_job(32)]
    assert choose_batch(jobs, max_batch=2) == [jobs[0], jobs[2]]


async def test_jobs_nobody_waits_for_are_skipped() -> None:
    jobs = [make_job(32), make_job(64)]
    jobs[0].answer.cancel()
    assert choose_batch(jobs, max_batch=4) == [jobs[1]]


async def test_nothing_wanted_makes_no_batch() -> None:
    job = make_job()
    job.answer.cancel()
    assert choose_batch([job], max_batch=4) == []
    assert choose_batch([], max_batch=4) == []


def test_a_full_gate_refuses_and_opens_again() -> None:
    gate = Gate(1)
    with gate.enter():
        with pytest.raises(QueueFullError, match="all 1 places"), gate.enter():
            pytest.fail("the second request got in")
        assert gate.inside == 1
    with gate.enter():
        assert gate.inside == 1
    assert gate.inside == 0


async def test_waiting_jobs_share_a_run_and_get_their_own_answers() -> None:
    sizes: list[int] = []

    def predict(stack: Floats) -> Floats:
        return stack * 2

    queue = DeviceQueue(predict, max_batch=8, observe=sizes.append)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(queue.submit(np.full((1, 1, 32, 32), float(n), np.float32))) for n in range(5)]
        await asyncio.wait(asked, timeout=0)
        device = tasks.create_task(queue.run())
        await asyncio.wait(asked)
        device.cancel()
    assert [float(task.result().max()) for task in asked] == [0, 2, 4, 6, 8]
    assert sizes == [5]
    assert queue.depth == 0


async def test_a_failed_run_fails_its_jobs_and_not_the_device(caplog: pytest.LogCaptureFixture) -> None:
    def predict(stack: Floats) -> Floats:
        if stack.max() > 0:
            raise ModelError("model: no")
        return stack

    queue = DeviceQueue(predict, max_batch=1, observe=lambda _: None)
    async with asyncio.TaskGroup() as tasks:
        device = tasks.create_task(queue.run())
        with pytest.raises(ModelError):
            await queue.submit(np.ones((1, 1, 32, 32), np.float32))
        assert (await queue.submit(np.zeros((1, 1, 32, 32), np.float32))).shape == (1, 32, 32)
        device.cancel()
    assert "batch.failed" in caplog.text
