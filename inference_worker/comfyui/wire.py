"""What ComfyUI says, read into values: events of its WebSocket, its queue, its history, its refusals.

Everything is tolerated that is not understood: a newer ComfyUI sends more, and a proxy may send anything.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from inference_worker.comfyui.errors import RefusedError, shorten

Graph: TypeAlias = dict[str, Any]
"""A workflow in API form: node id -> {"class_type", "inputs"}."""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A picture that ComfyUI has written, in the words of its `/view`."""

    name: str
    subfolder: str
    kind: str


# --- events -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Worked:
    """The prompt is being executed; *share* of its present node is done, where the node tells."""

    prompt_id: str
    share: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A node has written files; also sent for a node that is answered from the cache."""

    prompt_id: str
    node: str
    files: tuple[File, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Succeeded:
    """All nodes are done. The history may not list the prompt for some time yet."""

    prompt_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """A node raised an exception."""

    prompt_id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Interrupted:
    """Somebody interrupted the prompt."""

    prompt_id: str


Event: TypeAlias = Worked | Made | Succeeded | Failed | Interrupted


def read_event(text: str) -> Event | None:
    """One text frame; None for what concerns no prompt or is not understood."""
    try:
        frame = json.loads(text)
    except ValueError:
        return None
    if not isinstance(frame, dict) or not isinstance(data := frame.get("data"), dict):
        return None
    prompt_id = data.get("prompt_id")
    if not isinstance(prompt_id, str):
        return None  # `status`, and the `executing` that greets a client that comes back
    match frame.get("type"):
        case "executing" if data.get("node") is None:
            return Succeeded(prompt_id)  # the only end that old releases tell
        case "progress":
            return Worked(prompt_id, _read_share(data))
        case "execution_start" | "execution_cached" | "executing" | "progress_state":
            return Worked(prompt_id)
        case "executed":
            return Made(prompt_id, str(data.get("node")), read_files(data.get("output")))
        case "execution_success":
            return Succeeded(prompt_id)
        case "execution_error":
            return Failed(prompt_id, describe_failure(data))
        case "execution_interrupted":
            return Interrupted(prompt_id)
        case _:
            return None


def _read_share(data: Mapping[str, Any]) -> float | None:
    value, most = data.get("value"), data.get("max")
    if not isinstance(value, int | float) or not isinstance(most, int | float) or most <= 0:
        return None
    return min(1.0, max(0.0, value / most))


def read_files(output: object) -> tuple[File, ...]:
    """The pictures in a node's output."""
    images = output.get("images") if isinstance(output, dict) else None
    if not isinstance(images, list):
        return ()
    return tuple(
        File(str(image["filename"]), str(image.get("subfolder", "")), str(image.get("type", "output")))
        for image in images
        if isinstance(image, dict) and image.get("filename")
    )


def describe_failure(data: Mapping[str, Any]) -> str:
    """An `execution_error` in one line: the node and the exception, without its traceback and inputs."""
    node = shorten(data.get("node_type"), 60) or "a node"
    kind = shorten(data.get("exception_type"), 60).rpartition(".")[2] or "an error"
    words = shorten(data.get("exception_message"))
    return f"{node} failed: {kind}" + (f": {words}" if words else "")


# --- queue and history --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """Neither queued nor in the history: never sent, deleted, or forgotten in a restart."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """It waits."""

    graph: Graph


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """It is being executed, or has been and is not in the history yet."""

    graph: Graph


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """It succeeded; *files* by node."""

    graph: Graph
    files: Mapping[str, tuple[File, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """It did not succeed."""

    event: Failed | Interrupted


Sighting: TypeAlias = Unknown | Pending | Running | Finished | Ended


def read_queue(body: object, prompt_id: str) -> Pending | Running | None:
    """Where `/queue` lists the prompt, if it does."""
    if not isinstance(body, dict):
        return None
    for name, kind in (("queue_running", Running), ("queue_pending", Pending)):
        for item in _as_list(body.get(name)):
            if isinstance(item, list) and len(item) >= 3 and item[1] == prompt_id:  # newer releases append fields
                return kind(item[2] if isinstance(item[2], dict) else {})
    return None


def read_history(body: object, prompt_id: str) -> Unknown | Finished | Ended:
    """What `/history/ID` says: nothing at all unless the prompt is over."""
    entry = body.get(prompt_id) if isinstance(body, dict) else None
    if not isinstance(entry, dict):
        return Unknown()
    prompt, outputs, status = entry.get("prompt"), entry.get("outputs"), entry.get("status")
    told = _read_messages(status)
    if "execution_interrupted" in told:  # whose status is "error" too
        return Ended(Interrupted(prompt_id))
    if "execution_error" in told or (isinstance(status, dict) and status.get("status_str") == "error"):
        return Ended(Failed(prompt_id, describe_failure(told.get("execution_error", {}))))
    graph = prompt[2] if isinstance(prompt, list) and len(prompt) > 2 and isinstance(prompt[2], dict) else {}
    files = outputs if isinstance(outputs, dict) else {}
    return Finished(graph, {str(node): read_files(output) for node, output in files.items()})


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _read_messages(status: object) -> dict[str, dict[str, Any]]:
    messages = status.get("messages") if isinstance(status, dict) else None
    found: dict[str, dict[str, Any]] = {}
    for message in _as_list(messages):
        if isinstance(message, list) and len(message) == 2 and isinstance(message[0], str):
            found[message[0]] = message[1] if isinstance(message[1], dict) else {}
    return found


def is_same_work(one: Graph, other: Graph) -> bool:
    """Whether two graphs ask for the same; ComfyUI adds notes of its own to a graph that it has executed."""
    return one.keys() == other.keys() and all(
        isinstance(other[node], dict)
        and part.get("class_type") == other[node].get("class_type")
        and part.get("inputs") == other[node].get("inputs")
        for node, part in one.items()
        if isinstance(part, dict)
    )


# --- refusals -------------------------------------------------------------------------------------

MISSING_FILE: Final = "custom_validation_failed"
UNSPEAKABLE: Final = "exception_during_inner_validation"
"""Its details are a traceback."""


def read_refusal(body: object) -> RefusedError:
    """Why `/prompt` answered 400: the first node's first error, in one line."""
    answer = body if isinstance(body, dict) else {}
    error, nodes = answer.get("error"), answer.get("node_errors")
    nodes = nodes if isinstance(nodes, dict) else {}
    without_file: set[str] = set()
    told = ""
    for node, facts in nodes.items():
        if not isinstance(facts, dict):
            continue
        for one in _as_list(facts.get("errors")):
            if not isinstance(one, dict):
                continue
            if one.get("type") == MISSING_FILE:
                without_file.add(str(node))
            told = told or f"node {shorten(node, 20)} ({shorten(facts.get('class_type'), 60)}): {_describe(one)}"
    if not told:
        told = _describe(error) if isinstance(error, dict) else shorten(error) or "without a reason"
    return RefusedError(told, without_file_at=frozenset(without_file))


def _describe(error: Mapping[str, Any]) -> str:
    parts: Sequence[str] = [shorten(error.get("message"), 100) or shorten(error.get("type"), 60)]
    if error.get("type") != UNSPEAKABLE and (details := shorten(error.get("details"), 120)):
        parts = [*parts, details]
    return ": ".join(part for part in parts if part)
