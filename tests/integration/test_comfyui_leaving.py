"""The ComfyUI runner and prompts that are deleted, interrupted, given up or too slow."""

import dataclasses

import numpy as np
import pytest

from inference_worker.comfyui.errors import (
    JobCancelledError,
    JobLateError,
)
from inference_worker.comfyui.work import name_prompt
from tests.comfyui import FakeComfyUI
from tests.comfyui_world import PATIENCE, start
from tests.stepping import get_loop, pass_time, pass_until, settle_until, stepped

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@stepped
async def test_a_pending_prompt_that_somebody_deleted_is_told_as_cancelled() -> None:
    async with start() as world:
        world.fake.hold()
        world.fake.add_stranger("theirs")
        order = world.order("deleted")
        await settle_until(lambda: world.fake.find_pending() == [name_prompt("deleted", 0)], "a pending prompt")
        world.fake.delete(name_prompt("deleted", 0))
        made = await world.answer_later(order)
        assert isinstance(made, JobCancelledError)
        assert "deleted" in str(made)
        assert len(world.fake.posted("/prompt")) == 1


@stepped
async def test_a_prompt_that_somebody_interrupted_is_told_as_cancelled() -> None:
    async with start() as world:
        world.fake.hold()
        order = world.order()
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        world.fake.interrupt()  # without an id, as others do
        assert not order.done()  # seen between nodes only
        world.fake.release()
        made = await world.answer(order)
        assert isinstance(made, JobCancelledError)
        assert "interrupted" in str(made)


@stepped
async def test_an_interrupt_that_was_not_heard_is_no_failure_of_the_node() -> None:
    async with start() as world:
        world.fake.hold()
        order = world.order()
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        world.fake.sockets.clear()
        world.fake.interrupt()
        world.fake.release()
        assert isinstance(await world.answer_later(order), JobCancelledError)


@stepped
async def test_who_leaves_takes_a_pending_prompt_along() -> None:
    async with start() as world:
        world.fake.hold()
        world.fake.add_stranger("theirs")
        order = world.order("left")
        await settle_until(lambda: world.fake.find_pending() == [name_prompt("left", 0)], "a pending prompt")
        order.cancel()
        await settle_until(lambda: world.fake.posted("/queue") != [], "a deletion")
        await world.be_left_alone()
        assert world.fake.posted("/queue") == [{"delete": [name_prompt("left", 0)]}]
        assert world.fake.posted("/interrupt") == []
        assert world.fake.executed == ["theirs"]


@stepped
async def test_who_leaves_stops_a_running_prompt_by_its_id_and_no_other() -> None:
    async with start() as world:
        world.fake.hold()
        order = world.order("left")
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        order.cancel()
        await settle_until(lambda: world.fake.posted("/interrupt") != [], "an interrupt")
        world.fake.release()
        await world.be_left_alone()
        assert world.fake.posted("/interrupt") == [{"prompt_id": name_prompt("left", 0)}]
        assert isinstance(await world.answer(world.order()), np.ndarray)


@stepped
async def test_a_stranger_that_runs_is_never_interrupted() -> None:
    async with start() as world:
        world.fake.hold()
        world.fake.add_stranger("theirs")
        made = await world.answer_later(world.order("late"))
        assert isinstance(made, JobLateError)
        assert "waited 60 s in its queue" in str(made)
        await world.be_left_alone()
        assert world.fake.posted("/interrupt") == []
        assert world.fake.posted("/queue") == [{"delete": [name_prompt("late", 0)]}]


@stepped
async def test_an_interrupt_without_an_id_is_never_sent() -> None:
    async with start() as world:
        with pytest.raises(ValueError, match="whatever runs"):
            await world.runner._client.interrupt("")
        assert world.fake.posted("/interrupt") == []


@stepped
async def test_a_release_that_does_not_say_which_it_is_is_never_interrupted() -> None:
    def be_unknown(fake: FakeComfyUI) -> None:
        fake.quirks.version = "unknown"

    async with start(prepare=be_unknown) as world:
        world.fake.hold()
        order = world.order()
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        order.cancel()
        await pass_time(10)
        world.fake.release()
        await world.be_left_alone()
        assert world.fake.posted("/interrupt") == []


@stepped
async def test_a_node_that_never_ends_costs_the_worker_its_readiness_until_it_does() -> None:
    async with start() as world:
        world.fake.hold()
        began_s = get_loop().time()
        made = await world.answer_later(world.order("stuck"))
        assert isinstance(made, JobLateError)
        assert "no sign of work for 120 s" in str(made)
        assert 120 <= get_loop().time() - began_s < 130
        await pass_until(lambda: world.runner.trouble is not None, "the trouble")
        assert "cannot be stopped; restart ComfyUI" in str(world.runner.trouble)
        assert 150 <= get_loop().time() - began_s < 160
        assert world.fake.posted("/interrupt") == [{"prompt_id": name_prompt("stuck", 0)}]
        world.fake.release()
        await pass_until(lambda: world.runner.trouble is None, "health")
        assert isinstance(await world.answer(world.order()), np.ndarray)


@stepped
async def test_the_whole_way_has_a_bound_of_its_own() -> None:
    async with start(patience=dataclasses.replace(PATIENCE, total_s=30)) as world:
        world.fake.hold()
        made = await world.answer_later(world.order())
        assert isinstance(made, JobLateError)
        assert "no picture within 30 s" in str(made)
        world.fake.release()
        await world.be_left_alone()


@stepped
async def test_a_worker_that_stops_takes_back_what_still_waits() -> None:
    async with start() as world:
        world.fake.hold()
        orders = [world.order(f"left-{n}", level=40 + n) for n in range(2)]
        await settle_until(lambda: len(world.fake.find_pending()) == 1 and bool(world.fake.executed), "two prompts")
        world.running.cancel()
        await settle_until(world.running.done, "the end")
        for order in orders:
            order.cancel()
        assert world.fake.find_pending() == []
        assert world.fake.posted("/interrupt") == []
