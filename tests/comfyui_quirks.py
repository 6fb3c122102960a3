"""What the stand-in for ComfyUI does beside answering, and what it keeps of a prompt."""

import dataclasses
from typing import Any


@dataclasses.dataclass(slots=True, kw_only=True)
class Quirks:
    """What this ComfyUI does beside answering; all of it was seen, or is a release's difference."""

    version: str = "0.3.64"
    late_history: bool = False
    """`execution_success` comes, and the history has nothing until `publish` is called."""
    no_executed: bool = False
    """Files are told by the history alone, as where a cached output node sends nothing."""
    own_ids: bool = True
    """Off: prompts get ids of ComfyUI's choice, as in old releases."""
    previews: bool = False
    """Binary frames between the text ones."""
    node_error: str | None = None
    """What the colorizing node raises."""
    inner_validation: bool = False
    """The check of the graph itself raises, and the answer has its traceback."""
    lost_answers: int = 0
    """So many answers to `/prompt` are cut off after the prompt was queued."""
    plain_500: bool = False
    """`/prompt` answers as it does to malformed JSON, whatever it gets."""
    unlistable: bool = False
    """Nothing is ever written: the output node has no images."""


@dataclasses.dataclass(slots=True, eq=False)
class Item:
    """A prompt in the queue."""

    number: float
    prompt_id: str
    graph: dict[str, Any]
    client_id: str

    @property
    def row(self) -> list[Any]:
        return [self.number, self.prompt_id, self.graph, {"client_id": self.client_id}, [], {}]
