"""The ComfyUI runner's start: what is refused, and how it is told."""

import asyncio
import random
import socket
from collections.abc import Callable

import pytest

from inference_worker.catalogue import SHIPPED, find_card
from inference_worker.comfyui.address import read_address
from inference_worker.comfyui.errors import (
    UnusableAnswerError,
)
from inference_worker.comfyui.runner import ComfyUIRunner, ComfyUISettings
from inference_worker.comfyui.template import load_template
from inference_worker.errors import ModelError
from tests.comfyui import FakeComfyUI
from tests.comfyui_world import start
from tests.stepping import SteppedClock, pass_until, settle_until, stepped

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


async def refuse(prepare: Callable[[FakeComfyUI], object], *, template: str = "ddcolor-kijai", **given: object) -> str:
    with pytest.raises(ExceptionGroup) as caught:
        async with start(prepare=prepare, template=template, **given):
            raise AssertionError("it started")
    (error,) = caught.value.exceptions
    assert isinstance(error, ModelError)
    assert "\n" not in str(error)
    return str(error)


@stepped
async def test_a_missing_node_is_refused_by_name() -> None:
    told = await refuse(lambda fake: fake.node_types.pop("DDColor_Colorize"))
    assert told.startswith("--model: ddcolor-kijai: node 2 (DDColor_Colorize) is not installed")


@stepped
async def test_a_missing_node_of_an_editors_workflow_is_refused_by_name() -> None:
    told = await refuse(lambda fake: fake.node_types.pop("DDColorInference"), template="ddcolor-nodes")
    assert "node 4 (DDColorInference) is not installed" in told


@stepped
async def test_a_checkpoint_that_is_not_listed_is_refused_by_name() -> None:
    told = await refuse(lambda _: None, checkpoint="ddcolor_secret.pth")
    assert "field 'checkpoint': 'ddcolor_secret.pth' is not listed; there are ddcolor_paper_tiny.pth" in told


@stepped
async def test_a_release_from_before_targeted_interrupts_is_refused() -> None:
    def be_old(fake: FakeComfyUI) -> None:
        fake.quirks.version = "0.3.40"

    assert await refuse(be_old) == "comfyui: this is 0.3.40; update it to 0.3.64 or later"


@stepped
async def test_a_name_that_leads_outside_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.9", 8188))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [place])
    settings = ComfyUISettings(
        address=read_address("http://comfyui.example:8188"), template=load_template(find_card(SHIPPED, "ddcolor-kijai"))
    )
    runner = ComfyUIRunner(settings, clock=SteppedClock(), dice=random.Random(1))  # noqa: S311 - jitter
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(runner.run())
        with pytest.raises(ModelError, match=r"comfyui\.example is at 203\.0\.113\.9"):
            await runner.open()
        running.cancel()


@stepped
async def test_a_link_that_is_dropped_as_soon_as_it_is_open_is_not_opened_in_a_frenzy() -> None:
    async with start() as world:
        world.fake.cut_all()
        await settle_until(lambda: world.runner.trouble is not None, "the trouble")
        assert world.fake.connections == 1
        await pass_until(lambda: world.runner.trouble is None, "health")
        assert world.fake.connections == 2


@stepped
async def test_a_comfyui_that_gives_ids_of_its_own_is_told_and_left_clean() -> None:
    async with start() as world:
        world.fake.hold()
        world.fake.add_stranger("theirs")
        world.fake.quirks.own_ids = False
        made = await world.answer(world.order())
        assert isinstance(made, UnusableAnswerError)
        assert "gives prompts ids of its own" in str(made)
        assert world.fake.find_pending() == []
