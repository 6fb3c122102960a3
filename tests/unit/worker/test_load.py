"""What a worker does with more than it can do: deadlines, priorities, memory, and leaving."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import numpy as np

from inference_worker.costs import Budget, Costs
from inference_worker.faults import FaultPlan
from inference_worker.imaging import Floats
from inference_worker.sizing import SizeRange

Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]

PNG: Final = {"content-type": "image/png"}
TIMEOUT: Final = "x-envoy-expected-rq-timeout-ms"


def read_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"])


async def enter(worker: Any, task: asyncio.Task[httpx.Response]) -> None:
    """Until the device holds on to a picture."""
    while not worker.colorizer.entered.is_set():
        await asyncio.wait([task], timeout=0.005)


async def count_inside(worker: Any, wanted: int, task: asyncio.Task[httpx.Response]) -> None:
    while worker.service._queue.depth != wanted:
        await asyncio.wait([task], timeout=0.005)


async def test_a_request_that_cannot_make_it_is_refused_before_it_costs_anything(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        worker.service._queue.set_capacity("fake", Costs(base_s=2.0), Budget(limit_px=4096, ceiling_px=4096))
        hopeless = await worker.client.post("/repair", content=grey_png, headers=PNG | {TIMEOUT: "1500"})
        stacks = list(worker.stacks)
        fine = await worker.client.post("/repair", content=grey_png, headers=PNG | {TIMEOUT: "2500"})
    assert read_error(hopeless, 503).startswith("deadline: the answer would take about 2 s and is wanted within 1.5 s")
    assert int(hopeless.headers["retry-after"]) >= 1
    assert stacks == []
    assert fine.status_code == 200


async def test_the_line_ahead_counts(start: Start, grey_png: bytes) -> None:
    async with start() as worker, asyncio.TaskGroup() as tasks:
        worker.service._queue.set_capacity("fake", Costs(base_s=1.0), Budget(limit_px=4096, ceiling_px=4096))
        worker.colorizer.hold()
        asked = [tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG)) for _ in range(4)]
        await enter(worker, asked[0])
        await count_inside(worker, 3, asked[0])
        late = await worker.client.post("/repair", content=grey_png, headers=PNG | {TIMEOUT: "4900"})
        in_time = tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG | {TIMEOUT: "5100"}))
        await count_inside(worker, 4, asked[0])
        worker.colorizer.release()
        await asyncio.wait([*asked, in_time])
    assert read_error(late, 503).startswith("deadline:")
    assert [task.result().status_code for task in [*asked, in_time]] == [200] * 5


async def test_a_request_whose_time_runs_out_in_the_line_never_reaches_the_device(
    start: Start, grey_png: bytes
) -> None:
    async with start() as worker, asyncio.TaskGroup() as tasks:
        worker.colorizer.hold()
        first = tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG))
        await enter(worker, first)
        second = tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG | {TIMEOUT: "30000"}))
        await count_inside(worker, 1, first)
        worker.time.now_s += 31
        worker.colorizer.release()
        await asyncio.wait([first, second])
        assert len(worker.stacks) == 1
    assert first.result().status_code == 200
    assert read_error(second.result(), 504) == "deadline: no answer within 30 s; send the request again later"


async def test_envoys_timeout_only_shortens_the_workers_own(start: Start, grey_png: bytes) -> None:
    async with start(deadline=dt.timedelta(milliseconds=30)) as worker:
        worker.colorizer.hold()
        late = await worker.client.post("/repair", content=grey_png, headers=PNG | {TIMEOUT: "300000"})
        worker.colorizer.release()
    assert "within 0.03 s" in read_error(late, 504)


async def test_a_wrong_estimate_does_not_refuse_for_ever(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        worker.service._queue.set_capacity("fake", Costs(base_s=4.0), Budget(limit_px=4096, ceiling_px=4096))
        statuses: list[int] = []
        while statuses[-1:] != [200]:
            answer = await worker.client.post("/repair", content=grey_png, headers=PNG | {TIMEOUT: "2000"})
            statuses.append(answer.status_code)
    assert 10 < len(statuses) < 50


async def test_bulk_work_is_refused_first(start: Start, grey_png: bytes) -> None:
    async with start(max_inside=4) as worker, asyncio.TaskGroup() as tasks:
        worker.colorizer.hold()
        bulk = PNG | {"x-priority": "bulk"}
        asked = [tasks.create_task(worker.client.post("/repair", content=grey_png, headers=bulk)) for _ in range(3)]
        await enter(worker, asked[0])
        await count_inside(worker, 2, asked[0])
        refused = await worker.client.post("/repair", content=grey_png, headers=bulk)
        person = tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG))
        await count_inside(worker, 3, asked[0])
        full = await worker.client.post("/repair", content=grey_png, headers=PNG)
        unknown = await worker.client.post("/repair", content=grey_png, headers=PNG | {"x-priority": "vip"})
        worker.colorizer.release()
        await asyncio.wait([*asked, person])
    assert "all 3 places" in read_error(refused, 429)
    assert "all 4 places" in read_error(full, 429)
    assert read_error(unknown, 400).startswith("x-priority:")
    assert [task.result().status_code for task in [*asked, person]] == [200] * 4


async def test_a_full_worker_refuses_before_it_reads_and_says_when_to_come_again(start: Start, grey_png: bytes) -> None:
    read = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield grey_png

    async with start(max_inside=1) as worker, asyncio.TaskGroup() as tasks:
        worker.service._queue.set_capacity("fake", Costs(base_s=7.0), Budget(limit_px=4096, ceiling_px=4096))
        worker.colorizer.hold()
        asked = tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG))
        await enter(worker, asked)
        full = await worker.client.post("/repair", content=stream(), headers=PNG)
        worker.colorizer.release()
    assert read_error(full, 429).startswith("queue:")
    assert 7 <= int(full.headers["retry-after"]) <= 15
    assert read <= 1


async def test_bodies_share_a_bound(start: Start, grey_png: bytes) -> None:
    async with start(max_held_bytes=len(grey_png) + 10) as worker, asyncio.TaskGroup() as tasks:
        worker.colorizer.hold()
        asked = tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG))
        await enter(worker, asked)
        full = await worker.client.post("/repair", content=grey_png, headers=PNG)
        worker.colorizer.release()
        assert (await asked).status_code == 200
        again = await worker.client.post("/repair", content=grey_png, headers=PNG)
        assert worker.service.bodies.held == 0
    assert "room" in read_error(full, 429)
    assert again.status_code == 200


async def test_a_body_that_does_not_arrive_is_given_up(start: Start) -> None:
    left = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        yield b"\xff\xd8\xff"
        await left.wait()

    async with start(deadline=dt.timedelta(milliseconds=30)) as worker:
        slow = await worker.client.post("/repair", content=stream(), headers=PNG)
        left.set()
    assert "did not arrive" in read_error(slow, 408)


async def test_injected_lack_of_memory_is_mended_by_splitting(start: Start, grey_png: bytes) -> None:
    async with start(faults=FaultPlan(oom_above=2), max_batch=7) as worker, asyncio.TaskGroup() as tasks:
        worker.colorizer.hold()
        asked = [tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG))]
        await enter(worker, asked[0])
        asked += [tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG)) for _ in range(7)]
        await count_inside(worker, 7, asked[0])
        worker.colorizer.release()
        await asyncio.wait(asked)
        text = (await worker.client.get("/metrics")).text
        sizes = [shape[0] for shape in worker.stacks]
    assert [task.result().status_code for task in asked] == [200] * 8
    assert max(sizes) <= 2
    assert sum(sizes) == 8
    assert "hueshift_worker_out_of_memory_total 3.0" in text
    assert 'hueshift_worker_injected_faults_total{kind="out_of_memory"} 3.0' in text


async def test_the_effective_size_is_told(start: Start, grey_png: bytes) -> None:
    async with start(sizes=SizeRange(460, 680)) as worker:
        post = worker.client.post
        answers = [
            await post(f"/repair{query}", content=grey_png, headers=PNG) for query in ("", "?size=460", "?size=9999")
        ]
        nonsense = await post("/repair?size=big", content=grey_png, headers=PNG)
        stacks = list(worker.stacks)
    assert [answer.headers["x-effective-size"] for answer in answers] == ["64", "480", "672"]
    assert stacks == [(1, 1, 64, 64), (1, 1, 448, 512), (1, 1, 608, 736)]
    assert read_error(nonsense, 400).startswith("size:")


async def test_without_a_policy_the_model_keeps_its_size(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        answer = await worker.client.post("/repair?size=640", content=grey_png, headers=PNG)
    assert answer.headers["x-effective-size"] == "64"


async def test_a_worker_that_leaves_says_so_and_still_serves(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        before = await worker.client.post("/repair", content=grey_png, headers=PNG)
        worker.service.leave()
        words = (await worker.client.get("/readyz"), await worker.client.get("/ready"))
        health = await worker.client.get("/health")
        after = await worker.client.post("/repair", content=grey_png, headers=PNG)
    assert [(answer.status_code, answer.json()) for answer in words] == [
        (503, {"status": "stopping"}),
        (503, {"status": "loading"}),
    ]
    assert health.json() == {"status": "healthy", "model_loaded": True}
    assert (before.status_code, after.status_code) == (200, 200)
    assert "connection" not in before.headers
    assert after.headers["connection"] == "close"
    assert worker.service.count_requests() == {"accepted": 2, "answered": 2}


async def test_metrics_tell_stages_queue_and_memory(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        await worker.client.post("/repair", content=grey_png, headers=PNG)
        text = (await worker.client.get("/metrics")).text
    for line in (
        'hueshift_worker_images_total{path="/repair"} 1.0',
        'hueshift_worker_stage_seconds_count{stage="decode"} 1.0',
        'hueshift_worker_stage_seconds_count{stage="model"} 2.0',
        'hueshift_worker_stage_seconds_count{stage="encode"} 2.0',
        "hueshift_worker_queue_wait_seconds_count 2.0",
        "hueshift_worker_queue_depth 0.0",
        'hueshift_worker_run_budget_pixels{model="fake"} 4096.0',
        "hueshift_worker_accepted 1.0",
        "hueshift_worker_held_photo_pixels 0.0",
        "process_resident_memory_bytes ",
    ):
        assert line in text


async def test_a_device_that_knows_its_memory_sets_the_budget(start: Start, grey_png: bytes) -> None:
    """30 bytes a pixel, of which the device has room for 6,000 pixels: one run holds one picture of 64 x 64."""

    class Metered:
        def __init__(self) -> None:
            self.meter = self
            self.peak_bytes = 0

        def predict(self, stack: Floats) -> Floats:
            self.peak_bytes = max(self.peak_bytes, 1000 + 30 * stack.size)
            return np.zeros((len(stack), 2, 16, 16), np.float32)

        def reset_peak(self) -> None:
            self.peak_bytes = 0

        def read_peak_bytes(self) -> int:
            return self.peak_bytes

        def read_limit_bytes(self) -> int:
            return 1000 + 30 * 6000

    async with start(load=Metered, max_batch=8) as worker:
        answer = await worker.client.post("/repair", content=grey_png, headers=PNG)
        text = (await worker.client.get("/metrics")).text
    assert answer.status_code == 200
    assert 'hueshift_worker_run_budget_pixels{model="fake"} 6000.0' in text
