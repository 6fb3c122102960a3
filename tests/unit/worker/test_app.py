import asyncio
import contextlib
import datetime as dt
import io
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import numpy as np
import pytest
from PIL import Image

from inference_worker.errors import ModelError
from inference_worker.faults import FaultPlan, WrongPicture
from inference_worker.imaging import Limits, Pixels, compute_lab, decode

Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]

PNG: Final = {"content-type": "image/png"}


def read(answer: httpx.Response) -> Pixels:
    assert answer.status_code == 200, answer.text
    return decode(answer.content, Limits())


def read_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert "\n" not in body["error"]
    return str(body["error"])


async def test_a_raw_photo_comes_back_coloured(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        answer = await worker.client.post("/repair", content=grey_png, headers=PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model-version"] == "v9"
    assert "x-injected-fault" not in answer.headers
    assert compute_lab(read(answer))[..., 2].mean() > 15


@pytest.mark.parametrize("field", ["image", "file"])
async def test_a_form_is_taken(start: Start, grey_png: bytes, field: str) -> None:
    async with start() as worker:
        answer = await worker.client.post("/repair", files={field: ("photo.png", grey_png, "image/png")})
    assert read(answer).shape == (80, 96, 3)


async def test_an_untyped_body_is_recognised(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        assert read(await worker.client.post("/repair", content=grey_png)).shape == (80, 96, 3)


async def test_accept_chooses_jpeg(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        answer = await worker.client.post("/repair", content=grey_png, headers=PNG | {"accept": "image/jpeg"})
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content.startswith(b"\xff\xd8")


@pytest.mark.parametrize(("given", "kept"), [("abc-123", True), ("", False), ("two words", False), ("x" * 200, False)])
async def test_a_request_id_is_echoed_or_made(start: Start, grey_png: bytes, given: str, *, kept: bool) -> None:
    async with start() as worker:
        answer = await worker.client.post("/repair", content=grey_png, headers=PNG | {"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.headers["x-request-id"]


async def test_a_colour_photo_is_refused_unless_forced(start: Start, colour_png: bytes) -> None:
    async with start() as worker:
        refused = await worker.client.post("/repair", content=colour_png, headers=PNG)
        forced = await worker.client.post("/repair?force=true", content=colour_png, headers=PNG)
        unclear = await worker.client.post("/repair?force=maybe", content=colour_png, headers=PNG)
    assert "force=true" in read_error(refused, 422)
    assert read(forced).shape == (80, 96, 3)
    assert read_error(unclear, 400).startswith("force:")


async def test_bodies_that_are_no_photo(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        post = worker.client.post
        empty = await post("/repair")
        empty_png = await post("/repair", headers=PNG)
        empty_part = await post("/repair", files={"image": ("a.png", b"", "image/png")})
        no_part = await post("/repair", files={"picture": ("a.png", grey_png, "image/png")})
        text_part = await post("/repair", files={"image": ("a.txt", b"hello", "text/plain")})
        plain_field = await post("/repair", files={"image": (None, b"hello")})
        no_boundary = await post("/repair", content=b"x", headers={"content-type": "multipart/form-data"})
        bad_form = await post(
            "/repair", content=b"nonsense", headers={"content-type": "multipart/form-data; boundary=b"}
        )
        as_json = await post("/repair", json={"image": "x"})
        gif = await post("/repair", content=b"GIF89a" + bytes(100), headers={"content-type": "image/gif"})
        unknown = await post("/repair", content=b"hello", headers={"content-type": "application/octet-stream"})
        corrupt = await post("/repair", content=b"hello", headers=PNG)
        cut_off = await post("/repair", content=grey_png[: len(grey_png) // 2], headers=PNG)
        again = await post("/repair", content=grey_png, headers=PNG)
    assert "empty" in read_error(empty, 400)
    assert "empty" in read_error(empty_png, 400)
    assert "empty" in read_error(empty_part, 400)
    assert "'image' or 'file'" in read_error(no_part, 400)
    assert "'text/plain'" in read_error(text_part, 415)
    assert "'image' or 'file'" in read_error(plain_field, 400)
    assert "form" in read_error(no_boundary, 400)
    assert "form" in read_error(bad_form, 400)
    assert "'application/json'" in read_error(as_json, 415)
    assert "'image/gif'" in read_error(gif, 415)
    assert read_error(unknown, 415).startswith("image:")
    assert "damaged" in read_error(corrupt, 422)
    assert "damaged" in read_error(cut_off, 422)
    assert again.status_code == 200


async def test_a_body_over_the_limit_is_not_read_to_its_end(start: Start) -> None:
    sent = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield bytes(1000)

    async with start(max_bytes=5000) as worker:
        streamed = await worker.client.post("/repair", content=stream(), headers=PNG)
        announced = await worker.client.post("/repair", content=bytes(6000), headers=PNG)
        in_form = await worker.client.post("/repair", files={"image": ("a.png", bytes(6000), "image/png")})
        big_form = await worker.client.post("/repair", files={"image": ("a.png", bytes(90_000), "image/png")})
    assert "5000 bytes" in read_error(streamed, 413)
    assert sent < 20_000
    for answer in (announced, in_form, big_form):
        assert "5000 bytes" in read_error(answer, 413)


async def test_too_many_pixels(start: Start, grey_png: bytes) -> None:
    async with start(limits=Limits(max_pixels=5000)) as worker:
        assert "96 x 80" in read_error(await worker.client.post("/repair", content=grey_png, headers=PNG), 413)


async def test_unknown_paths_and_methods_answer_in_the_same_form(start: Start) -> None:
    async with start() as worker:
        assert "/repair" in read_error(await worker.client.get("/nowhere"), 404)
        assert "POST" in read_error(await worker.client.get("/repair"), 405)


async def test_a_full_worker_says_come_again(start: Start, grey_png: bytes) -> None:
    async with start(max_inside=2) as worker, asyncio.TaskGroup() as tasks:
        worker.colorizer.hold()
        asked = [tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG)) for _ in range(3)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        refused = done.pop().result()
        assert "2 places" in read_error(refused, 429)
        assert refused.headers["retry-after"] == "1"
        worker.colorizer.release()
        await asyncio.wait(asked)
        assert sorted(task.result().status_code for task in asked) == [200, 200, 429]


async def test_a_late_answer_is_given_up(start: Start, grey_png: bytes) -> None:
    async with start(deadline=dt.timedelta(milliseconds=30)) as worker:
        worker.colorizer.hold()
        late = await worker.client.post("/repair", content=grey_png, headers=PNG)
        worker.colorizer.release()
    assert read_error(late, 504).startswith("deadline:")
    assert late.headers["retry-after"] == "1"


async def test_a_broken_model_answers_500_and_the_worker_lives(
    start: Start, grey_png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with start() as worker:
        worker.colorizer.is_broken = True
        broken = await worker.client.post("/repair", content=grey_png, headers=PNG)
        worker.colorizer.is_broken = False
        whole = await worker.client.post("/repair", content=grey_png, headers=PNG)
    assert read_error(broken, 500).startswith("model:")
    assert whole.status_code == 200
    assert "batch.failed" in caplog.text


async def test_probes_while_loading_ready_and_stopping(start: Start, grey_png: bytes) -> None:
    free = threading.Event()

    class Slow:
        def predict(self, lightness: Any) -> Any:
            return np.zeros((len(lightness), 2, 16, 16), np.float32)

    def load() -> Slow:
        free.wait(10)
        return Slow()

    async with start(load=load, is_awaited=False) as worker:
        assert (await worker.client.get("/healthz")).json() == {"status": "healthy", "model_loaded": False}
        loading = await worker.client.get("/readyz")
        early = await worker.client.post("/repair", content=grey_png, headers=PNG)
        free.set()
        await worker.service.ready.wait()
        ready = await worker.client.get("/readyz")
        healthy = await worker.client.get("/healthz")
        worker.service.stop()
        stopping = await worker.client.get("/readyz")
    assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
    assert "loading" in read_error(early, 503)
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert healthy.json() == {"status": "healthy", "model_loaded": True}
    assert (stopping.status_code, stopping.json()) == (503, {"status": "stopping"})


async def test_a_model_that_does_not_load_ends_the_worker(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    def load() -> Any:
        raise ModelError("model: damaged")

    async with start(load=load, is_awaited=False, on_fatal=ended.set) as worker:
        await ended.wait()
        assert (await worker.client.get("/readyz")).status_code == 503
    assert "model.load_failed" in caplog.text


async def test_metrics_tell_statuses_and_the_model(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        await worker.client.post("/repair", content=grey_png, headers=PNG)
        await worker.client.post("/repair", content=b"x", headers=PNG)
        await worker.client.get("/some/secret/path")
        text = (await worker.client.get("/metrics")).text
    assert 'http_requests_total{path="/repair",status="200"} 1.0' in text
    assert 'http_requests_total{path="/repair",status="422"} 1.0' in text
    assert 'http_requests_total{path="other",status="404"} 1.0' in text
    assert 'http_request_duration_seconds_count{path="/repair"} 2.0' in text
    assert 'code_version="1.2.3+g0123456789ab",family="lab-colorizer",model="fake",version="v9"} 1.0' in text
    assert "hueshift_worker_ready 1.0" in text
    assert "secret" not in text


async def test_injected_errors(start: Start, grey_png: bytes) -> None:
    async with start(faults=FaultPlan(error_share=0.5, seed=1)) as worker:
        answers = [await worker.client.post("/repair", content=grey_png, headers=PNG) for _ in range(20)]
        health = await worker.client.get("/healthz")
        text = (await worker.client.get("/metrics")).text
    failed = [answer for answer in answers if answer.status_code == 500]
    assert 3 < len(failed) < 17
    assert all(answer.headers["x-injected-fault"] == "error" for answer in failed)
    assert "--fault-errors" in read_error(failed[0], 500)
    assert all("x-injected-fault" not in answer.headers for answer in answers if answer.status_code == 200)
    assert health.json() == {"status": "healthy", "model_loaded": True}
    assert f'injected_faults_total{{kind="error"}} {len(failed)}.0' in text


async def test_injected_delay_multiplies_the_own_latency(start: Start, grey_png: bytes) -> None:
    plan = FaultPlan(delay_factor=3, delay=dt.timedelta(milliseconds=7))
    async with start(faults=plan) as worker:
        answer = await worker.client.post("/repair", content=grey_png, headers=PNG)
    assert answer.headers["x-injected-fault"] == "delay"
    assert worker.clock.slept == [dt.timedelta(milliseconds=107)]


@pytest.mark.parametrize("picture", [WrongPicture.GREY, WrongPicture.INVERTED])
async def test_injected_wrong_pictures(start: Start, grey_png: bytes, picture: WrongPicture) -> None:
    async with start(faults=FaultPlan(picture=picture)) as worker:
        answer = await worker.client.post("/repair", content=grey_png, headers=PNG)
    assert answer.headers["x-injected-fault"] == "picture"
    blue = compute_lab(read(answer))[..., 2].mean()
    assert blue < -5 if picture is WrongPicture.INVERTED else abs(blue) < 0.5


async def test_injected_wrong_pixels_and_files(start: Start, grey_png: bytes) -> None:
    async def ask_twice(how: WrongPicture) -> list[tuple[int, int]]:
        async with start(faults=FaultPlan(picture=how)) as worker:
            answers = [await worker.client.post("/repair", content=grey_png, headers=PNG) for _ in range(2)]
        return [Image.open(io.BytesIO(answer.content)).size for answer in answers]

    assert await ask_twice(WrongPicture.SHIFTED) == [(96, 80)] * 2
    assert await ask_twice(WrongPicture.HALVED) == [(48, 40)] * 2
    assert await ask_twice(WrongPicture.PREVIOUS) == [(64, 64), (96, 80)], "the warm-up's, then the first one's"
    async with start(faults=FaultPlan(picture=WrongPicture.GARBAGE)) as worker:
        answer = await worker.client.post("/repair", content=grey_png, headers=PNG)
    assert (answer.status_code, answer.content[:4] == b"\x89PNG") == (200, False)


async def test_no_request_can_switch_faults_on(start: Start, grey_png: bytes) -> None:
    tries = {"x-injected-fault": "error", "x-fault-errors": "1", "x-envoy-fault-abort-request": "500"}
    async with start() as worker:
        answer = await worker.client.post("/repair?fault-errors=1&fault=error", content=grey_png, headers=PNG | tries)
        slept = worker.clock.slept
    assert answer.status_code == 200
    assert "x-injected-fault" not in answer.headers
    assert slept == []


class Caller:
    """Speaks ASGI by hand, to leave in the middle of a request."""

    def __init__(self, app: Any, body: bytes) -> None:
        self.app = app
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self._body = [body]

    async def receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def ask(self) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/repair",
            "raw_path": b"/repair",
            "root_path": "",
            "query_string": b"",
            "scheme": "http",
            "http_version": "1.1",
            "headers": [(b"content-type", b"image/png")],
        }
        await self.app(scope, self.receive, self.send)


def get_app(worker: Any) -> Any:
    return worker.client._transport.app


async def test_a_hanging_request_ends_when_the_client_leaves(start: Start, grey_png: bytes) -> None:
    async with start(faults=FaultPlan(hang_share=1), max_inside=1) as worker:
        caller = Caller(get_app(worker), grey_png)
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(caller.ask())
            for _ in range(20):
                await asyncio.wait([asked], timeout=0)
            assert not asked.done()
            assert (await worker.client.get("/healthz")).status_code == 200
            caller.left.set()
        assert caller.sent[0]["status"] == 499


async def test_a_hanging_request_ends_when_the_worker_stops(start: Start, grey_png: bytes) -> None:
    async with start(faults=FaultPlan(hang_share=1)) as worker, asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(worker.client.post("/repair", content=grey_png, headers=PNG))
        for _ in range(20):
            await asyncio.wait([asked], timeout=0)
        assert not asked.done()
        worker.service.stop()
        assert "stopping" in read_error(await asked, 503)


async def test_leaving_frees_the_place_and_the_device(start: Start, grey_png: bytes) -> None:
    async with start(max_inside=1) as worker:
        worker.colorizer.hold()
        caller = Caller(get_app(worker), grey_png)
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(caller.ask())
            while not worker.colorizer.entered.is_set():
                await asyncio.wait([asked], timeout=0.005)
            caller.left.set()
        assert caller.sent[0]["status"] == 499
        worker.colorizer.release()
        assert (await worker.client.post("/repair", content=grey_png, headers=PNG)).status_code == 200


async def test_leaving_while_the_body_is_sent(start: Start) -> None:
    async with start() as worker:
        caller = Caller(get_app(worker), b"")
        caller._body = []
        caller.left.set()
        await caller.ask()
    assert caller.sent[0]["status"] == 499
    assert json.loads(caller.sent[1]["body"])["error"].startswith("client:")
