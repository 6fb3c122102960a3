"""The ComfyUI runner against a stand-in: the usual way, cached answers, late ones, and errors.

Time is the loop's own: what is slow waits to be let go, and time-outs pass when the test says so.
"""

import dataclasses
import uuid

import numpy as np
import pytest

from inference_worker.comfyui.errors import (
    JobFailedError,
    JobLateError,
    RefusedError,
    UnusableAnswerError,
)
from inference_worker.comfyui.work import name_prompt
from tests.comfyui_world import is_warm, start
from tests.stepping import get_loop, pass_time, settle_until, stepped

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


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
        assert world.fake.most_queued == 2
        assert len(world.fake.executed) == 5
        assert len(world.fake.history) == 5


@stepped
async def test_one_place_means_one_prompt() -> None:
    async with start(places=1) as world:
        world.fake.hold()
        orders = [world.order(level=40 + n) for n in range(3)]
        await settle_until(lambda: world.runner.depth == 2, "two that wait")
        assert (len(world.fake.executed), world.fake.find_pending()) == (1, [])
        world.fake.release()
        for order in orders:
            assert isinstance(await world.answer(order), np.ndarray)
        assert world.fake.most_queued == 1


@stepped
async def test_a_slow_node_that_tells_its_progress_is_not_late(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with start() as world:
        world.fake.hold()
        order = world.order("slow")
        await settle_until(lambda: len(world.fake.executed) == 1, "work")
        for done in range(5):
            await world.fake.progress(done, 20)
            await pass_time(100)  # of 120 that it may be silent
            assert not order.done()
        world.fake.release()
        assert isinstance(await world.answer(order), np.ndarray)
        told = [record.fields for record in caplog.records if record.message == "prompt.progressed"]  # type: ignore[attr-defined] # our own
        prompt_id = name_prompt("slow", 0)
        assert told == [{"prompt_id": prompt_id, "share": "0.10"}, {"prompt_id": prompt_id, "share": "0.20"}]


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
async def test_a_node_that_is_gone_all_at_once_is_named() -> None:
    async with start() as world:
        del world.fake.node_types["DDColor_Colorize"]
        made = await world.answer(world.order())
        assert isinstance(made, RefusedError)
        assert "node DDColor_Colorize does not exist" in str(made)


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
