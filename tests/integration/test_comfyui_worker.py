"""A whole worker on a stand-in for ComfyUI: what callers and probes see of it, and the command."""

import asyncio
import contextlib
import datetime as dt
import os
import random
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from inference_worker.app import create_app
from inference_worker.catalogue import SHIPPED, find_card
from inference_worker.comfyui.address import read_address
from inference_worker.comfyui.runner import ComfyUIRunner, ComfyUISettings
from inference_worker.comfyui.template import load_template
from inference_worker.crafts import Colorizing
from inference_worker.faults import FaultPlan
from inference_worker.identity import Identity
from inference_worker.imaging import Limits, compute_lab, decode
from inference_worker.metrics import Metrics
from inference_worker.orders import COLORIZE_PATH
from inference_worker.service import Offer, Service, ServiceSettings
from tests.comfyui import FakeComfyUI, running_comfyui
from tests.comfyui_nodes import draw_photo
from tests.stepping import SteppedClock, pass_time, pass_until, settle_until, stepped

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]

IDENTITY = Identity(code_version="test", models=())
PNG = {"content-type": "image/png"}


class Worker:
    """A client of a worker, and the ComfyUI behind it."""

    def __init__(self, http: httpx.AsyncClient, fake: FakeComfyUI) -> None:
        self.http = http
        self.fake = fake

    async def ask(self, photo: bytes, request_id: str = "", **more: str) -> httpx.Response:
        headers = PNG | {"x-request-id": request_id or str(uuid.uuid4())} | more
        return await self.http.post("/repair", content=photo, headers=headers)

    async def read_phase(self) -> str:
        return str((await self.http.get("/readyz")).json()["status"])


@contextlib.asynccontextmanager
async def start(
    *, prepare: Callable[[FakeComfyUI], object] = lambda _: None, on_fatal: Callable[[], None] | None = None
) -> AsyncIterator[Worker]:
    """A worker on a ComfyUI that *prepare* has seen first; ready, unless *on_fatal* awaits that it never will be."""
    clock = SteppedClock()
    metrics = Metrics()
    async with running_comfyui() as fake:
        prepare(fake)
        settings = ComfyUISettings(
            address=read_address(f"http://127.0.0.1:{fake.port}"),
            template=load_template(find_card(SHIPPED, "ddcolor-kijai")),
        )
        runner = ComfyUIRunner(settings, clock=clock, dice=random.Random(1))  # noqa: S311 - jitter
        craft = Colorizing(model="fake", input_px=256)
        offer = Offer(craft=craft, load=pytest.fail, version="v9", is_grey_wanted=True, runner=runner)
        service = Service(
            settings=ServiceSettings(deadline=dt.timedelta(seconds=60)),
            offers={COLORIZE_PATH: offer},
            metrics=metrics,
            clock=clock,
            on_fatal=on_fatal or pytest.fail,
        )
        app = create_app(
            service=service, metrics=metrics, clock=clock, version="v9", identity=IDENTITY, faults=FaultPlan()
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://worker") as http,
        ):
            if on_fatal is None:
                await service.ready.wait()
            try:
                yield Worker(http, fake)
            finally:
                fake.release()


def read_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    told = str(answer.json()["error"])
    assert "\n" not in told
    return told


@stepped
async def test_a_photo_comes_back_coloured_under_its_requests_id() -> None:
    request_id = str(uuid.uuid4())
    async with start() as worker:
        answer = await worker.ask(draw_photo(96, 80), request_id)
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == request_id
        rgb = decode(answer.content, Limits())
        assert rgb.shape == (80, 96, 3)
        assert compute_lab(rgb)[..., 2].mean() > 5
        assert np.abs(compute_lab(rgb)[..., 0] - compute_lab(np.full_like(rgb, 128))[..., 0]).max() < 1
        assert worker.fake.posted("/prompt")[-1]["prompt_id"] == request_id
        warm_up = worker.fake.posted("/prompt")[0]
        assert warm_up["prompt"]["2"]["inputs"]["model_input_size"] == 256


@stepped
async def test_readiness_goes_and_comes_with_comfyui_and_no_request_is_lost() -> None:
    async with start() as worker:
        assert await worker.read_phase() == "ready"
        worker.fake.hold()
        async with asyncio.TaskGroup() as tasks:
            inside = tasks.create_task(worker.ask(draw_photo(100, 80, level=100)))
            await settle_until(lambda: len(worker.fake.executed) == 2, "work")
            await worker.fake.kill()
            await pass_time(3)
            assert await worker.read_phase() == "unhealthy"
            refused = await worker.ask(draw_photo(90, 80, level=90))
            assert "unhealthy" in read_error(refused, 503)
            assert refused.headers["retry-after"] == "1"
            assert (await worker.http.get("/healthz")).status_code == 200
            worker.fake.release()
            await worker.fake.start()
            await pass_until(inside.done, "the answer")
        assert inside.result().status_code == 200
        assert await worker.read_phase() == "ready"


@stepped
async def test_errors_have_their_statuses() -> None:
    async with start() as worker:
        worker.fake.quirks.node_error = "out of memory\nTraceback (most recent call last):\n"
        failed = await worker.ask(draw_photo(90, 80, level=90))
        assert read_error(failed, 500) == "comfyui: DDColor_Colorize failed: RuntimeError: out of memory"
        worker.fake.quirks.node_error = None
        worker.fake.hold()
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(worker.ask(draw_photo(91, 80, level=91)))
            await settle_until(lambda: len(worker.fake.executed) == 3, "work")
            worker.fake.interrupt()
            worker.fake.release()
        cancelled = asked.result()
        assert "interrupted" in read_error(cancelled, 503)
        assert cancelled.headers["retry-after"] == "1"


@stepped
async def test_a_checkpoint_that_cannot_be_loaded_ends_the_start_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def be_without_file(fake: FakeComfyUI) -> None:
        fake.quirks.node_error = "no ddcolor_modelscope.pth\nTraceback (most recent call last):\n"

    ended: list[str] = []
    async with start(prepare=be_without_file, on_fatal=lambda: ended.append("now")):
        await settle_until(lambda: ended == ["now"], "the end")
    (told,) = [record for record in caplog.records if record.message == "model.refused"]
    why = "comfyui: DDColor_Colorize failed: RuntimeError: no ddcolor_modelscope.pth"
    assert (told.fields, told.exc_info) == ({"why": f"'{why}'"}, None)  # type: ignore[attr-defined] # our own


@stepped
async def test_a_deadline_that_passes_is_told_and_its_prompt_is_stopped_by_its_id() -> None:
    request_id = str(uuid.uuid4())
    async with start() as worker:
        worker.fake.hold()
        async with asyncio.TaskGroup() as tasks:
            headers = {"x-envoy-expected-rq-timeout-ms": "9000"}
            asked = tasks.create_task(worker.ask(draw_photo(92, 80, level=92), request_id, **headers))
            await pass_until(asked.done, "an answer")
        assert asked.result().status_code == 504
        await pass_until(lambda: worker.fake.posted("/interrupt") != [], "an interrupt")
        assert worker.fake.posted("/interrupt") == [{"prompt_id": request_id}]


# --- the command ------------------------------------------------------------------------------------


def name_flags(fake: FakeComfyUI, *more: str) -> list[str]:
    url = f"http://127.0.0.1:{fake.port}"
    model = ["--model", "ddcolor-kijai", "--comfyui-url", url]
    return ["-m", "inference_worker", "serve", "--port", "0", *model, *more]


async def begin(*flags: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, *flags, stderr=pipe, env=environment, cwd=ROOT)


async def test_the_command_refuses_a_missing_node_in_one_line() -> None:
    async with running_comfyui() as fake:
        del fake.node_types["DDColor_Colorize"]
        process = await begin(*name_flags(fake))
        _, told = await process.communicate()
        assert process.returncode == 1
        (line,) = [line for line in told.decode().splitlines() if "model.refused" in line]
        assert "node 2 (DDColor_Colorize) is not installed in this ComfyUI" in line
        assert "Traceback" not in told.decode()


async def read_until(process: asyncio.subprocess.Process, words: str) -> str:
    """The first line of the log that has *words*."""
    assert process.stderr is not None
    while words.encode() not in (line := await process.stderr.readline()):
        assert line, f"it ended without {words}"
    return line.decode()


async def test_the_command_waits_for_comfyui_outlives_its_restart_and_ends_by_a_signal_with_its_work_done() -> None:
    async with running_comfyui() as fake:
        await fake.kill()
        process = await begin(*name_flags(fake, "--checkpoint", "ddcolor_artistic", "--linger-s", "1"))
        started = await read_until(process, "worker.started")
        await read_until(process, "comfyui.connect_failed")
        await fake.start()
        await read_until(process, "model.became_ready")
        assert fake.posted("/prompt")[0]["prompt"]["2"]["inputs"]["checkpoint"] == "ddcolor_artistic.pth"
        (port,) = re.findall(r"\bport=(\d+)", started)
        root = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(timeout=50, trust_env=False) as http, asyncio.TaskGroup() as tasks:

            async def ask(level: int) -> "asyncio.Task[httpx.Response]":
                """Ask for a picture that is at work in ComfyUI then."""
                fake.hold()
                fake.at_work.clear()
                asked = tasks.create_task(http.post(f"{root}/repair", content=draw_photo(level=level), headers=PNG))
                await fake.at_work.wait()
                return asked

            (model,) = (await http.get(f"{root}/models")).json()["models"]
            assert (model["name"], model["backend"]) == ("ddcolor-kijai+ddcolor_artistic", "comfyui")
            assert model["checksum"] == find_card(SHIPPED, "ddcolor-kijai").checksum
            restarted = await ask(100)
            await fake.kill()
            await read_until(process, "comfyui.connect_failed")
            fake.release()
            await fake.start()
            assert (await restarted).status_code == 200
            stopped = await ask(110)
            process.send_signal(signal.SIGTERM)
            while (await http.get(f"{root}/readyz")).json()["status"] != "stopping":
                pass
            fake.release()
            assert (await stopped).status_code == 200
        assert len(fake.executions) == len(set(fake.executions)) == 4  # the warm-up, the first one twice, the second
        assert process.stderr is not None
        told = await process.stderr.read()
        assert await process.wait() == 0
        assert b"Traceback" not in told
