import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.comfyui.errors import RefusedError, shorten
from inference_worker.comfyui.wire import (
    Ended,
    Event,
    Failed,
    File,
    Finished,
    Interrupted,
    Made,
    Pending,
    Running,
    Succeeded,
    Unknown,
    Worked,
    is_same_work,
    read_event,
    read_history,
    read_queue,
    read_refusal,
)

GRAPH = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def frame(kind: str, **data: Any) -> str:
    return json.dumps({"type": kind, "data": {"prompt_id": "p", **data}})


@pytest.mark.parametrize(
    ("text", "event"),
    [
        (frame("execution_start"), Worked("p")),
        (frame("execution_cached", nodes=["1"]), Worked("p")),
        (frame("executing", node="2"), Worked("p")),
        (frame("executing", node=None), Succeeded("p")),
        (frame("progress", value=3, max=12, node="2"), Worked("p", 0.25)),
        (frame("progress", value=3, max=0), Worked("p")),
        (frame("progress_state", nodes={}), Worked("p")),
        (
            frame("executed", node="3", output={"images": [{"filename": "a.png", "subfolder": "s", "type": "temp"}]}),
            Made("p", "3", (File("a.png", "s", "temp"),)),
        ),
        (frame("executed", node="3", output=None), Made("p", "3", ())),
        (frame("execution_success"), Succeeded("p")),
        (frame("execution_interrupted", node_id="2"), Interrupted("p")),
        (frame("a_later_invention"), None),
        ('{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}}', None),
        ('{"type": "executing", "data": {"node": "2"}}', None),  # greets a client that comes back
        ("not JSON", None),
        ("[1]", None),
    ],
)
def test_events(text: str, event: Event | None) -> None:
    assert read_event(text) == event


def test_an_execution_error_is_cut_to_one_short_line() -> None:
    event = read_event(
        frame(
            "execution_error",
            node_id="2",
            node_type="DDColor_Colorize",
            exception_type="torch.cuda.OutOfMemoryError",
            exception_message="no room for " + "tensor " * 1000 + "\nTraceback (most recent call last):\n secret",
            traceback=["secret"],
            current_inputs={"image": ["secret"]},
        )
    )
    assert isinstance(event, Failed)
    assert event.reason.startswith("DDColor_Colorize failed: OutOfMemoryError: no room for tensor")
    assert len(event.reason) < 300
    assert "secret" not in event.reason


@given(JSON)
def test_nothing_that_is_json_breaks_a_reader(value: Any) -> None:
    read_event(json.dumps(value))
    read_event(json.dumps({"type": "execution_error", "data": {"prompt_id": "p", "exception_message": value}}))
    read_event(json.dumps({"type": "executed", "data": {"prompt_id": "p", "node": "1", "output": value}}))
    read_history(value, "p")
    read_history({"p": {"prompt": value, "outputs": value, "status": value}}, "p")
    read_history({"p": {"status": {"messages": value}}}, "p")
    assert isinstance(read_refusal(value), RefusedError)
    assert isinstance(read_refusal({"error": value, "node_errors": {"1": value}}), RefusedError)
    assert isinstance(read_refusal({"node_errors": {"1": {"errors": value}}}), RefusedError)
    read_queue(value, "p")
    read_queue({"queue_running": value, "queue_pending": value}, "p")


def test_the_queue_tells_where_a_prompt_is() -> None:
    body = {
        "queue_running": [[0, "a", GRAPH, {}, ["3"]]],
        "queue_pending": [[1, "b", GRAPH, {}, ["3"], {"field": "of newer releases"}]],
    }
    assert read_queue(body, "a") == Running(GRAPH)
    assert read_queue(body, "b") == Pending(GRAPH)
    assert read_queue(body, "c") is None


def test_the_history_tells_success_failure_and_interrupts_apart() -> None:
    images = {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}
    entry: dict[str, Any] = {"prompt": [0, "p", GRAPH, {}, ["3"]], "outputs": {"3": images}, "meta": {}}
    good = {"status_str": "success", "completed": True, "messages": [["execution_success", {}]]}
    bad = {"status_str": "error", "completed": False, "messages": [["execution_error", {"node_type": "N"}]]}
    stopped = {"status_str": "error", "completed": False, "messages": [["execution_interrupted", {"node_id": "2"}]]}
    assert read_history({}, "p") == Unknown()
    assert read_history({"p": entry | {"status": good}}, "p") == Finished(GRAPH, {"3": (File("a.png", "", "output"),)})
    assert read_history({"p": entry | {"status": bad}}, "p") == Ended(Failed("p", "N failed: an error"))
    assert read_history({"p": entry | {"status": stopped}}, "p") == Ended(Interrupted("p"))


def test_the_executors_notes_do_not_make_another_graph() -> None:
    noted = {"1": {**GRAPH["1"], "is_changed": ["abc"], "_meta": {"title": "x"}}}
    assert is_same_work(GRAPH, noted)
    assert not is_same_work(GRAPH, {"1": {"class_type": "LoadImage", "inputs": {"image": "b.png"}}})
    assert not is_same_work(GRAPH, {})


def test_a_refusal_names_the_first_error_and_the_nodes_without_a_file() -> None:
    body = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
        "node_errors": {
            "1": {
                "errors": [
                    {
                        "type": "custom_validation_failed",
                        "message": "Custom validation failed for node",
                        "details": "image - Invalid image file: a.png",
                    }
                ],
                "dependent_outputs": ["3"],
                "class_type": "LoadImage",
            }
        },
    }
    refusal = read_refusal(body)
    assert str(refusal).endswith(
        "node 1 (LoadImage): Custom validation failed for node: image - Invalid image file: a.png"
    )
    assert refusal.without_file_at == {"1"}


def test_a_refusal_without_nodes_tells_its_own_message() -> None:
    told = read_refusal({"error": {"type": "invalid_prompt", "message": "no X", "details": ""}, "node_errors": {}})
    assert str(told) == "comfyui: the workflow was refused: no X"


@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "a \x1b[31m b", "x" * 1000, 'File "/a/b.py", line 1', None, 7])
def test_shortened_words_are_one_printable_line(text: object) -> None:
    line = shorten(text)
    assert len(line) <= 200
    assert line.isprintable()
    assert "/a/b.py" not in line
