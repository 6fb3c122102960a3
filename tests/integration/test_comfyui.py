"""The ComfyUI runner against a stand-in: no job is lost or doubled, whatever ComfyUI does.

Time is the loop's own: what is slow waits to be let go, and time-outs pass when the test says so.
"""

import asyncio
import contextlib
import dataclasses
import random
import socket
import uuid
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from inference_worker.comfyui import link
from inference_worker.comfyui.address import read_address
from inference_worker.comfyui.errors import (
    JobCancelledError,
    JobFailedError,
    JobLateError,
    RefusedError,
    TemplateError,
    UnusableAnswerError,
)
from inference_worker.comfyui.runner import ComfyUIRunner, ComfyUISettings
from inference_worker.comfyui.template import SHIPPED, load_template
from inference_worker.comfyui.tracking import Patience
from inference_worker.comfyui.work import name_prompt
from inference_worker.errors import ModelError, WorkerError
from inference_worker.imaging import Floats
from inference_worker.tracing import REQUEST_ID
from tests.comfyui import FakeComfyUI, running_comfyui
from tests.stepping import SteppedClock, get_loop, pass_time, pass_turns, pass_until, settle_until, stepped

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

PATIENCE = Patience(queue_s=60, silence_s=120, total_s=600, interrupt_s=30)


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
            template=load_template(SHIPPED, template),
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


# --- the usual way --------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["ddcolor-kijai", "ddcolor-person", "ddcolor-building", "ddcolor-nodes"])
@stepped
async def test_every_shipped_template_colours_a_picture(template: str) -> None:
    async with start(template=template) as world:
        made = await world.answer(world.order())
        assert isinstance(made, np.ndarray)
        assert is_warm(made)
        assert len(world.fake.executed) == 1


@stepped
async def test_the_prompt_has_the_requests_id_and_goes_to_our_socket_only() -> None:
    request_id = str(uuid.uuid4())
    async with start() as world:
        await world.answer(world.order(request_id))
        (sent,) = world.fake.posted("/prompt")
        assert sent["prompt_id"] == request_id
        assert sent["client_id"] in world.fake.sockets
        assert sent["prompt"]["2"]["inputs"]["checkpoint"] == "ddcolor_modelscope.pth"
        assert sent["prompt"]["2"]["inputs"]["model_input_size"] == 256  # the nearest that the template allows to 64


@stepped
async def test_previews_and_a_reconnect_greeting_are_skipped() -> None:
    async with start() as world:
        world.fake.quirks.previews = True
        assert isinstance(await world.answer(world.order()), np.ndarray)


@stepped
async def test_at_most_two_prompts_are_in_comfyui_and_the_rest_wait_here() -> None:
    async with start() as world:
        world.fake.hold()
        orders = [world.order(level=40 + n) for n in range(5)]
        await settle_until(lambda: len(world.fake.posted("/prompt")) == 2, "two prompts")
        assert world.runner.depth == 3
        world.fake.release()
        for order in orders:
            assert isinstance(await world.answer(order), np.ndarray)
        assert len(world.fake.executed) == 5
        assert len(world.fake.history) == 5


@stepped
async def test_one_place_means_one_prompt() -> None:
    async with start(places=1) as world:
        world.fake.hold()
        orders = [world.order(level=40 + n) for n in range(2)]
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        assert (world.runner.depth, world.fake.find_pending()) == (1, [])
        world.fake.release()
        for order in orders:
            assert isinstance(await world.answer(order), np.ndarray)


# --- cached answers and repeated requests -----------------------------------------------------------


@stepped
async def test_the_same_picture_again_is_answered_from_the_cache() -> None:
    async with start() as world:
        first, second = await world.answer(world.order()), await world.answer(world.order())
        assert isinstance(first, np.ndarray)
        assert isinstance(second, np.ndarray)
        assert len(world.fake.posted("/prompt")) == 2
        assert len(world.fake.executed) == 1


@stepped
async def test_a_cached_answer_that_tells_no_files_is_found_in_the_history() -> None:
    async with start() as world:
        await world.answer(world.order())
        world.fake.quirks.no_executed = True
        assert isinstance(await world.answer_later(world.order()), np.ndarray)
        assert len(world.fake.executed) == 1


@stepped
async def test_a_cached_answer_whose_file_was_cleared_away_is_made_again() -> None:
    async with start() as world:
        await world.answer(world.order())
        world.fake.outputs.clear()
        assert isinstance(await world.answer(world.order()), np.ndarray)
        assert len(world.fake.executed) == 2


@stepped
async def test_a_request_that_comes_again_finds_its_prompt_and_sends_none() -> None:
    request_id = str(uuid.uuid4())
    async with start() as world:
        await world.answer(world.order(request_id))
        assert isinstance(await world.answer(world.order(request_id)), np.ndarray)
        assert len(world.fake.posted("/prompt")) == 1


@stepped
async def test_a_request_of_the_same_id_with_another_photo_gets_its_own_answer() -> None:
    async with start() as world:
        one = await world.answer(world.order("always-the-same", level=20))
        other = await world.answer(world.order("always-the-same", level=80))
        assert isinstance(one, np.ndarray)
        assert isinstance(other, np.ndarray)
        assert [sent["prompt_id"] for sent in world.fake.posted("/prompt")] == [
            name_prompt("always-the-same", 0),
            name_prompt("always-the-same", 1),
        ]


@stepped
async def test_two_requests_of_one_id_at_once_do_not_share_a_prompt() -> None:
    async with start() as world:
        world.fake.hold()
        orders = [world.order("twin", level=level) for level in (20, 80)]
        await settle_until(lambda: len(world.fake.posted("/prompt")) == 2, "two prompts")
        world.fake.release()
        for order in orders:
            assert isinstance(await world.answer(order), np.ndarray)


@stepped
async def test_a_failed_request_that_comes_again_is_tried_again() -> None:
    async with start() as world:
        world.fake.quirks.node_error = "once"
        assert isinstance(await world.answer(world.order("retry")), JobFailedError)
        world.fake.quirks.node_error = None
        assert isinstance(await world.answer(world.order("retry")), np.ndarray)


# --- what ComfyUI is late with, or does not say ----------------------------------------------------


@stepped
async def test_success_before_the_history_knows_takes_the_file_from_executed() -> None:
    async with start() as world:
        world.fake.quirks.late_history = True
        assert isinstance(await world.answer(world.order()), np.ndarray)
        assert world.fake.history == {}
        world.fake.publish()


@stepped
async def test_success_before_the_history_knows_and_without_executed_is_waited_for() -> None:
    async with start() as world:
        world.fake.quirks = dataclasses.replace(world.fake.quirks, late_history=True, no_executed=True)
        order = world.order()
        await settle_until(lambda: not world.fake.go_history.is_set(), "success")
        await pass_time(4)
        assert not order.done()
        world.fake.publish()
        assert isinstance(await world.answer_later(order), np.ndarray)


@stepped
async def test_success_that_is_never_listed_is_given_up_after_five_seconds() -> None:
    async with start() as world:
        world.fake.quirks = dataclasses.replace(world.fake.quirks, late_history=True, no_executed=True)
        began_s = get_loop().time()
        made = await world.answer_later(world.order())
        assert isinstance(made, JobLateError)
        assert "listed no picture" in str(made)
        assert get_loop().time() - began_s < 10
        world.fake.publish()


@stepped
async def test_an_output_node_without_a_picture_is_an_error() -> None:
    async with start() as world:
        world.fake.quirks.unlistable = True
        made = await world.answer_later(world.order())
        assert isinstance(made, JobFailedError)
        assert "made no picture" in str(made)


@stepped
async def test_a_lost_answer_to_the_prompt_does_not_double_it() -> None:
    async with start() as world:
        world.fake.quirks.lost_answers = 1
        assert isinstance(await world.answer_later(world.order()), np.ndarray)
        assert len(world.fake.posted("/prompt")) == 1
        assert len(world.fake.executed) == 1


# --- errors -----------------------------------------------------------------------------------------


@stepped
async def test_an_error_in_a_node_is_one_short_line() -> None:
    async with start() as world:
        world.fake.quirks.node_error = "no room\nTraceback (most recent call last):\n  File secret" + "x" * 5000
        made = await world.answer(world.order())
        assert isinstance(made, JobFailedError)
        assert str(made) == "comfyui: DDColor_Colorize failed: RuntimeError: no room"


@stepped
async def test_an_error_that_was_not_heard_is_read_from_the_history() -> None:
    async with start() as world:
        world.fake.hold()
        world.fake.quirks.node_error = "unheard"
        order = world.order()
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        world.fake.sockets.clear()  # ComfyUI sends to nobody now
        world.fake.release()
        made = await world.answer_later(order)
        assert isinstance(made, JobFailedError)
        assert "unheard" in str(made)


@stepped
async def test_a_refused_workflow_names_node_and_field_and_no_traceback() -> None:
    async with start() as world:
        del world.fake.node_types["DDColor_Colorize"]["input"]["required"]["checkpoint"][0][:]
        made = await world.answer(world.order())
        assert isinstance(made, RefusedError)
        assert "node 2 (DDColor_Colorize): Value not in list: checkpoint" in str(made)
        assert "\n" not in str(made)


@stepped
async def test_a_check_that_raises_there_is_told_without_its_traceback() -> None:
    async with start() as world:
        world.fake.quirks.inner_validation = True
        made = await world.answer(world.order())
        assert isinstance(made, RefusedError)
        assert "Exception when validating inner node" in str(made)
        assert "Traceback" not in str(made)
        assert "secret" not in str(made)


@stepped
async def test_plain_text_instead_of_json_is_an_error_and_not_a_crash() -> None:
    async with start() as world:
        world.fake.quirks.plain_500 = True
        made = await world.answer(world.order())
        assert isinstance(made, UnusableAnswerError)
        assert str(made) == "comfyui: /prompt answered 500"
        world.fake.quirks.plain_500 = False
        assert isinstance(await world.answer(world.order()), np.ndarray)


@stepped
async def test_an_input_that_is_gone_is_uploaded_again() -> None:
    async with start() as world:
        world.fake.forgetful_uploads = 1
        assert isinstance(await world.answer(world.order(level=60)), np.ndarray)
        assert world.fake.forgetful_uploads == 0


# --- restarts and lost sockets --------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", range(4))
@stepped
async def test_whatever_breaks_in_whatever_order_each_order_is_answered_by_one_prompt(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a drill
    restarts = 0
    async with start() as world:
        orders = [world.order(f"order-{n}", level=20 + 5 * n) for n in range(10)]

        def are_all_done() -> bool:
            return all(order.done() for order in orders)

        while not are_all_done():
            world.fake.release()
            match dice.choice(["cut", "restart", "hold", "deafen", "lose answer", "nothing"]):
                case "cut":
                    world.fake.cut_all()
                case "restart" if restarts < 2:  # a third would be one too many for a prompt
                    restarts += 1
                    await world.fake.restart()
                case "hold":
                    world.fake.hold()
                case "deafen":
                    world.fake.sockets.clear()
                case "lose answer":
                    world.fake.quirks.lost_answers = 1
                case _:
                    pass
            await pass_turns(dice.randrange(200))
            for _ in range(dice.randrange(4)):
                await get_loop().step()
        assert [type(order.result()) for order in orders] == [np.ndarray] * 10
        wanted = {name_prompt(f"order-{n}", 0) for n in range(10)}
        assert set(world.fake.executed) == wanted
        assert max(world.fake.executed.count(prompt_id) for prompt_id in wanted) <= 1 + restarts
        assert (world.fake.find_pending(), world.fake.running, world.fake.posted("/interrupt")) == ([], None, [])


# --- deleted, interrupted, given up -----------------------------------------------------------------


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


# --- the start --------------------------------------------------------------------------------------


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
    assert told.startswith("--template: ddcolor-kijai: node 2 (DDColor_Colorize) is not installed")


@stepped
async def test_a_missing_node_of_an_editors_workflow_is_refused_by_name() -> None:
    told = await refuse(lambda fake: fake.node_types.pop("DDColorInference"), template="ddcolor-nodes")
    assert "node 4 (DDColorInference) is not installed" in told


@stepped
async def test_a_checkpoint_that_is_not_listed_is_refused_by_name() -> None:
    told = await refuse(lambda _: None, model="ddcolor_secret.pth")
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
        address=read_address("http://comfyui.example:8188"), template=load_template(SHIPPED, "ddcolor-kijai")
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


@stepped
async def test_the_template_error_names_the_template() -> None:
    with pytest.raises(TemplateError, match="no such template; choose one of ddcolor-building"):
        load_template(SHIPPED, "nope")
