"""What can go wrong with ComfyUI; one clear line each, never a traceback of the other side."""

import re
from typing import Final

from inference_worker.errors import DeadlineError, ModelError, NotReadyError, WorkerError

MAX_TOLD: Final = 200
"""Characters of the other program's words that are passed on; an execution error may carry whole tensors as text."""
_TRACEBACK: Final = re.compile(r"Traceback \(most recent call last\)|^\s*File \"", re.MULTILINE)


def shorten(text: object, limit: int = MAX_TOLD) -> str:
    """One line of at most *limit* characters of what ComfyUI said, without any traceback."""
    words = text if isinstance(text, str) else ""
    found = _TRACEBACK.search(words)
    words = words[: found.start()] if found else words
    line = " ".join("".join(char if char.isprintable() else " " for char in words[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class TemplateError(ModelError):
    """A workflow template is not valid, or does not fit this ComfyUI: a node, a field or a checkpoint is missing."""

    def __init__(self, template: str, what: str) -> None:
        super().__init__(f"--model: {template}: {what}")


class UnreachableError(WorkerError):
    """ComfyUI does not answer now; it may be restarting, so the same call is worth repeating."""


class UnusableAnswerError(ModelError):
    """ComfyUI answered with something that its API does not have."""


class RefusedError(ModelError):
    """ComfyUI refused a workflow; the same one will be refused again."""

    def __init__(self, reason: str, *, without_file_at: frozenset[str] = frozenset()) -> None:
        """Keep what can be acted on.

        Args:
            reason: One line, from `read_refusal`.
            without_file_at: Ids of nodes whose input file ComfyUI does not have.
        """
        super().__init__(f"comfyui: the workflow was refused: {reason}")
        self.without_file_at = without_file_at


class JobFailedError(ModelError):
    """ComfyUI tried and failed."""


class JobCancelledError(NotReadyError):
    """Somebody deleted or interrupted the prompt, or ComfyUI was restarted too often; the request may be sent again."""

    def __init__(self, how: str) -> None:
        WorkerError.__init__(self, f"comfyui: {how}; send the request again later")
        self.state = "cancelled"


class JobLateError(DeadlineError):
    """One of the waits on the way of a prompt was longer than allowed."""

    def __init__(self, what: str) -> None:
        WorkerError.__init__(self, f"comfyui: {what}; send the request again later")


class PromptLostError(WorkerError):
    """ComfyUI forgot a prompt or its file, so the work is to be asked for once more; never leaves this package."""


class NobodyWaitsError(WorkerError):
    """Whoever asked has left; never leaves this package."""
