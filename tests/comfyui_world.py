"""A ComfyUI runner, the stand-in that it drives, and orders to it; for tests in a stepped loop."""

import asyncio
import contextlib
import dataclasses
import random
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

import numpy as np

from inference_worker.catalogue import SHIPPED, find_card
from inference_worker.comfyui.address import read_address
from inference_worker.comfyui.runner import ComfyUIRunner, ComfyUISettings
from inference_worker.comfyui.template import load_template
from inference_worker.comfyui.tracking import Patience
from inference_worker.errors import WorkerError
from inference_worker.imaging import Floats
from inference_worker.tracing import REQUEST_ID
from tests.comfyui import FakeComfyUI, running_comfyui
from tests.stepping import SteppedClock, pass_until, settle_until

PATIENCE: Final = Patience(queue_s=60, silence_s=120, total_s=600, interrupt_s=30)


def draw_lightness(level: float = 50.0, side: int = 64) -> Floats:
    return np.full((1, 1, side, side), level, np.float32)


def is_warm(ab: Floats) -> bool:
    return ab.shape == (2, 64, 64) and float(ab[1].mean()) > 5


@dataclasses.dataclass(slots=True)
class World:
    """A runner and the ComfyUI that it drives."""

    fake: FakeComfyUI
    runner: ComfyUIRunner
    tasks: asyncio.TaskGroup
    running: "asyncio.Task[None]"
    health: list[str | None] = dataclasses.field(default_factory=list)

    def order(self, request_id: str = "", level: float = 50.0) -> "asyncio.Task[Floats | WorkerError]":
        """Ask for a picture; an error is the task's result."""

        async def ask() -> Floats | WorkerError:
            REQUEST_ID.set(request_id or str(uuid.uuid4()))
            try:
                return await self.runner.submit(draw_lightness(level))
            except WorkerError as exc:
                return exc

        return self.tasks.create_task(ask())

    async def answer(self, task: "asyncio.Task[Floats | WorkerError]") -> Floats | WorkerError:
        """The result, without that any time passes."""
        await settle_until(task.done, "an answer")
        return task.result()

    async def answer_later(self, task: "asyncio.Task[Floats | WorkerError]") -> Floats | WorkerError:
        """The result, with time passing as needed."""
        await pass_until(task.done, "an answer")
        return task.result()

    async def be_left_alone(self) -> None:
        """Until no work is left in the runner."""
        await pass_until(lambda: not self.runner.prompts_inside, "the end of all work")


@contextlib.asynccontextmanager
async def start(
    *, template: str = "ddcolor-kijai", prepare: Callable[[FakeComfyUI], object] = lambda _: None, **settings: object
) -> AsyncIterator[World]:
    """A runner that is open, on a ComfyUI that *prepare* has seen first."""
    async with running_comfyui() as fake:
        prepare(fake)
        chosen = ComfyUISettings(
            address=read_address(f"http://127.0.0.1:{fake.port}"),
            template=load_template(find_card(SHIPPED, template)),
            patience=PATIENCE,
        )
        chosen = dataclasses.replace(chosen, **settings)  # type: ignore[arg-type] # by name
        runner = ComfyUIRunner(chosen, clock=SteppedClock(), dice=random.Random(1))  # noqa: S311 - jitter
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(runner.run())
            world = World(fake, runner, tasks, running)
            runner.follow_health(world.health.append)
            try:
                await runner.open()
                await settle_until(lambda: runner.trouble is None, "a link")
                world.health.clear()
                yield world
            finally:
                fake.release()
                running.cancel()
