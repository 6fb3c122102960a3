"""The ComfyUI runner when ComfyUI restarts or its socket is lost: no job is lost, none is done twice."""

import asyncio
import dataclasses
import random

import numpy as np
import pytest

from inference_worker.comfyui import link
from inference_worker.comfyui.errors import (
    JobCancelledError,
)
from inference_worker.comfyui.work import name_prompt
from inference_worker.errors import WorkerError
from inference_worker.imaging import Floats
from tests.comfyui_world import World, start
from tests.stepping import get_loop, pass_time, pass_turns, pass_until, settle_until, stepped

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


@stepped
async def test_a_lost_socket_loses_no_job() -> None:
    async with start() as world:
        await pass_time(60)  # the link has been steady
        world.fake.hold()
        order = world.order()
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        world.fake.cut_all()
        await settle_until(lambda: world.fake.connections == 2, "a new link")
        world.fake.release()
        assert isinstance(await world.answer_later(order), np.ndarray)
        assert len(world.fake.posted("/prompt")) == 1
        assert world.health == []


@stepped
async def test_what_happened_while_the_socket_was_lost_is_found_afterwards() -> None:
    async with start() as world:
        world.fake.hold()
        order = world.order()
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        world.fake.sockets.clear()
        world.fake.cut_all()
        world.fake.release()
        assert isinstance(await world.answer_later(order), np.ndarray)
        assert len(world.fake.executed) == 1


@stepped
async def test_what_is_told_while_a_new_link_is_still_being_checked_is_heard_at_once() -> None:
    async with start() as world:
        await pass_time(60)  # the link has been steady
        world.fake.hold()
        order = world.order()
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        await pass_time(5)  # now it is between two looks
        world.fake.go_stats.clear()
        world.fake.cut_all()
        await settle_until(lambda: world.fake.connections == 2, "a new link")
        world.fake.release()
        assert isinstance(await world.answer(order), np.ndarray)
        world.fake.go_stats.set()


@stepped
async def test_a_link_that_fails_its_check_is_left_at_once_however_much_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "CLOSE_S", 3600.0)  # a farewell whose answer is not read would take that long
    async with start() as world:
        await pass_time(60)  # the link has been steady
        world.fake.go_stats.clear()
        world.fake.cut_all()
        await settle_until(lambda: world.fake.connections == 2, "a new link")
        del world.fake.node_types["DDColor_Colorize"]
        await world.fake.chatter(100)
        world.fake.go_stats.set()
        await settle_until(lambda: "not installed" in str(world.runner.trouble), "the refusal")


@stepped
async def test_a_comfyui_that_takes_connections_and_answers_none_is_told_and_left() -> None:
    async with start() as world:
        world.fake.go_stats.clear()
        world.fake.cut_all()
        await pass_until(lambda: "no answer to /system_stats (ReadTimeout)" in str(world.runner.trouble), "the trouble")
        world.fake.go_stats.set()
        await pass_until(lambda: world.runner.trouble is None, "health")
        assert isinstance(await world.answer(world.order()), np.ndarray)


@stepped
async def test_an_answer_that_the_link_does_not_hear_is_found_by_looking() -> None:
    async with start() as world:
        world.fake.sockets.clear()  # as when the end of an old socket takes the new one out of ComfyUI's list
        began_s = get_loop().time()
        assert isinstance(await world.answer_later(world.order()), np.ndarray)
        assert get_loop().time() - began_s < 5


@stepped
async def test_a_picture_that_a_restart_wiped_before_it_was_fetched_is_made_again() -> None:
    async with start() as world:
        world.fake.go_view.clear()
        order = world.order("wiped")
        await settle_until(lambda: world.fake.history != {}, "success")
        await world.fake.restart()
        world.fake.go_view.set()
        assert isinstance(await world.answer_later(order), np.ndarray)
        assert world.fake.executions == [(1, name_prompt("wiped", 0)), (2, name_prompt("wiped", 0))]


@pytest.mark.parametrize("is_running", [True, False])
@stepped
async def test_a_restart_of_comfyui_loses_no_job_and_doubles_none(*, is_running: bool) -> None:
    async with start() as world:
        world.fake.hold()
        if not is_running:
            world.fake.add_stranger("theirs")
        order = world.order("restarted")
        await settle_until(lambda: len(world.fake.posted("/prompt")) == 1, "the prompt")
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        await world.fake.kill()
        await pass_until(lambda: world.runner.trouble is not None, "the trouble")
        assert not order.done()
        world.fake.release()
        await world.fake.start()
        assert isinstance(await world.answer_later(order), np.ndarray)
        assert [sent["prompt_id"] for sent in world.fake.posted("/prompt")] == [name_prompt("restarted", 0)] * 2
        assert world.fake.executed.count(name_prompt("restarted", 0)) == (2 if is_running else 1)
        assert list(world.fake.history) == [name_prompt("restarted", 0)]
        assert world.runner.trouble is None
        assert [trouble is None for trouble in world.health] == [False, True]


@stepped
async def test_a_picture_that_brings_comfyui_down_is_given_up_after_three_attempts() -> None:
    async with start() as world:
        world.fake.hold()
        order = world.order()
        for attempt in range(1, 4):
            await pass_until(lambda count=attempt: len(world.fake.executed) == count, "work")  # type: ignore[misc] # as above
            await world.fake.restart()
        made = await world.answer_later(order)
        assert isinstance(made, JobCancelledError)
        assert "lost this picture 3 times" in str(made)


@stepped
async def test_orders_that_come_while_comfyui_is_away_are_served_when_it_is_back() -> None:
    async with start() as world:
        await world.fake.kill()
        await pass_until(lambda: world.runner.trouble is not None, "the trouble")
        assert "no connection" in str(world.runner.trouble)
        order = world.order()
        await pass_time(30)
        await world.fake.start()
        assert isinstance(await world.answer_later(order), np.ndarray)


@stepped
async def test_a_comfyui_that_comes_back_without_the_node_is_named_and_not_used() -> None:
    async with start() as world:
        await world.fake.kill()
        kept = world.fake.node_types.pop("DDColor_Colorize")
        await world.fake.start()
        await pass_until(lambda: "not installed" in str(world.runner.trouble), "the refusal")
        assert "node 2 (DDColor_Colorize) is not installed" in str(world.runner.trouble)
        world.fake.node_types["DDColor_Colorize"] = kept
        await pass_until(lambda: world.runner.trouble is None, "health")


@dataclasses.dataclass(slots=True)
class Drill:
    """Orders, and what is broken while they are worked on."""

    world: World
    dice: random.Random
    orders: dict[str, "asyncio.Task[Floats | WorkerError]"] = dataclasses.field(default_factory=dict)
    left: set[str] = dataclasses.field(default_factory=set)
    losses: int = 0
    """What may have cost a prompt one of its three attempts."""
    strangers: int = 0

    def come(self) -> None:
        name = f"order-{len(self.orders)}"
        self.orders[name] = self.world.order(name, level=20 + 5 * len(self.orders))

    def leave(self) -> None:
        waiting = sorted(name for name, order in self.orders.items() if not order.done())
        if waiting:
            self.left.add(name := self.dice.choice(waiting))
            self.orders[name].cancel()

    async def be_away(self, span_s: float) -> None:
        self.losses += 1
        await self.world.fake.kill()
        await pass_turns(self.dice.randrange(200))
        await pass_time(span_s)
        await self.world.fake.start()

    async def break_something(self) -> None:
        fake, dice = self.world.fake, self.dice
        fake.release()
        fake.go_stats.set()
        fake.quirks.no_executed, fake.quirks.previews = dice.random() < 0.2, dice.random() < 0.2
        match dice.choice(
            ["cut", "away", "hold", "deafen", "answer", "upload", "stall", "stranger", "leave", "nothing"]
        ):
            case "cut":
                fake.cut_all()
            case "away" if self.losses < 2:
                await self.be_away(dice.choice([0.0, 1.0, 20.0]))
            case "hold":
                fake.hold()
            case "deafen":
                fake.sockets.clear()
            case "answer":
                fake.quirks.lost_answers = 1
            case "upload" if self.losses < 2:
                self.losses += 1
                fake.forgetful_uploads = 1
            case "stall":
                fake.go_stats.clear()
            case "stranger":
                self.strangers += 1
                fake.add_stranger(f"stranger-{self.strangers}")
            case "leave":
                self.leave()
            case _:
                pass

    async def end(self) -> None:
        """All is well again: until nothing is left anywhere."""
        fake, runner = self.world.fake, self.world.runner
        fake.release()
        fake.go_stats.set()
        await self.world.be_left_alone()
        await pass_until(lambda: runner.trouble is None, "health")
        await pass_until(lambda: not fake.pending and fake.running is None, "the strangers' ends")


@pytest.mark.parametrize("seed", range(12))
@stepped
async def test_whatever_breaks_in_whatever_order_each_order_is_answered_by_one_prompt(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a drill
    async with start() as world:
        drill = Drill(world, dice)
        while len(drill.orders) < 10 or not all(order.done() for order in drill.orders.values()):
            if len(drill.orders) < 10 and dice.random() < 0.5:
                drill.come()
            await drill.break_something()
            await pass_turns(dice.randrange(200))
            for _ in range(dice.randrange(4)):
                await get_loop().step()
        await drill.end()
        assert {type(order.result()) for name, order in drill.orders.items() if name not in drill.left} == {np.ndarray}
        ours = [(life, prompt_id) for life, prompt_id in world.fake.taken if not prompt_id.startswith("stranger")]
        assert len(ours) == len(set(ours)), "a prompt was sent twice to one ComfyUI"
        assert {prompt_id for _, prompt_id in ours} <= {name_prompt(name, 0) for name in drill.orders}
        assert len(world.fake.executions) == len(set(world.fake.executions))
        interrupted = {body["prompt_id"] for body in world.fake.posted("/interrupt")}
        assert interrupted <= {name_prompt(name, 0) for name in drill.left}
        assert (world.runner.depth, world.runner._prompts, world.runner._desk.names) == (0, {}, set())
