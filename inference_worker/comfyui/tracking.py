"""Pure: how far a prompt is, by what was heard of it and what was seen of it; and when that took too long.

Events only make things faster. What decides is what queue and history show, so a lost socket loses nothing.
"""

import dataclasses
from typing import TypeAlias

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
    Sighting,
    Succeeded,
    Unknown,
    Worked,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long each part of a prompt's way may take, seconds."""

    connect_s: float = 3.0
    call_s: float = 30.0
    """One answer of the API, the picture's upload and download included."""
    queue_s: float = 60.0
    """In ComfyUI's own queue, behind whoever else uses it."""
    silence_s: float = 120.0
    """Executing without any event. DDColor tells nothing while it works, and loads its model first."""
    total_s: float = 300.0
    """From the request to the answer."""
    history_s: float = 5.0
    """From success to the entry in the history."""
    interrupt_s: float = 30.0
    """From an interrupt to its effect, seen only between nodes; then the instance counts as stuck."""
    look_s: float = 2.0
    """Between two looks at queue and history while nothing is heard."""


@dataclasses.dataclass(frozen=True, slots=True)
class Queued:
    """Sent; it waits in ComfyUI."""

    since_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Executing:
    """It is being worked on; *heard_s* is the last sign of that."""

    heard_s: float
    share: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Unlisted:
    """It succeeded, and its files are not known yet."""

    since_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Produced:
    """The picture is there."""

    file: File


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """ComfyUI does not know of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Broken:
    """It failed."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody interrupted it."""


Track: TypeAlias = Queued | Executing | Unlisted | Produced | Missing | Broken | Stopped


def hear(track: Track, event: Event, *, output: str, now_s: float) -> Track:
    """Where the prompt is after *event*; its picture comes from node *output*."""
    match track, event:
        case ((Produced() | Broken() | Stopped()), _):
            return track
        case _, Made(node=node, files=files) if node == output and files:
            return Produced(files[0])
        case _, Failed(reason=reason):
            return Broken(reason)
        case _, Interrupted():
            return Stopped()
        case Unlisted(), _:
            return track
        case _, Succeeded():
            return Unlisted(now_s)
        case Executing(share=known), Worked(share=share):
            return Executing(now_s, known if share is None else share)
        case _, (Worked() | Made()):
            return Executing(now_s)


def see(track: Track, sighting: Sighting, *, output: str, now_s: float) -> Track:
    """Where the prompt is after a look at queue and history; being listed as running is no sign of work."""
    match track, sighting:
        case ((Produced() | Broken() | Stopped()), _):
            return track
        case _, Finished(files=files):
            found = files.get(output)
            return Produced(found[0]) if found else Broken(f"node {output} made no picture")
        case _, Ended(event=event):
            return Broken(event.reason) if isinstance(event, Failed) else Stopped()
        case Unlisted(), _:
            return track
        case _, Unknown():
            return Missing()
        case Missing(), Pending():
            return Queued(now_s)
        case ((Queued() | Missing()), Running()):
            return Executing(now_s)
        case _, (Pending() | Running()):
            return track


def explain_late(track: Track, patience: Patience, *, due_s: float, now_s: float) -> str | None:
    """Which wait was too long, or None; *due_s* is when the whole must be over."""
    if now_s >= due_s:
        return f"no picture within {patience.total_s:g} s"
    match track:
        case Queued(since_s=since_s) if now_s - since_s >= patience.queue_s:
            return f"the picture waited {patience.queue_s:g} s in its queue"
        case Executing(heard_s=heard_s) if now_s - heard_s >= patience.silence_s:
            return f"no sign of work for {patience.silence_s:g} s"
        case Unlisted(since_s=since_s) if now_s - since_s >= patience.history_s:
            return f"it succeeded, but listed no picture within {patience.history_s:g} s"
        case _:
            return None
