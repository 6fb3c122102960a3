"""Pure: what `/object_info` says of the installed nodes, and whether a workflow fits it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

from inference_worker.comfyui.errors import TemplateError, UnusableAnswerError, shorten
from inference_worker.comfyui.wire import Graph

WIDGETS: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
SEEDS: Final = frozenset({"seed", "noise_seed"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a node type."""

    name: str
    kind: str
    is_required: bool
    options: tuple[str | int | float | bool, ...] | None = None
    """What a choice may be; None if it is no choice."""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    widgets: int = 0
    """How many values it takes in a saved workflow: a link none, an upload or a seed two."""

    def check(self, value: object) -> str | None:
        """Why *value* will be refused, or None."""
        if self.options is not None:
            if value in self.options:
                return None
            listed = ", ".join(str(option) for option in self.options[:8]) or "nothing"
            return f"{shorten(str(value), 80)!r} is not listed; there are {listed}"
        if self.kind in {"INT", "FLOAT"}:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return f"{shorten(str(value), 80)!r} is no number"
            if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
                return f"{value:g} is outside {_tell(self.low)}..{_tell(self.high)}"
        return None


def _tell(bound: float | None) -> str:
    return "" if bound is None else f"{bound:g}"


@dataclasses.dataclass(frozen=True, slots=True)
class NodeType:
    """A node type as this ComfyUI has it."""

    name: str
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]


def read_node_type(name: str, body: object) -> NodeType | None:
    """What `/object_info/NAME` answered; None if the node is not installed.

    Raises:
        UnusableAnswerError: It is listed in a form that is not known.
    """
    if not isinstance(body, dict):
        raise UnusableAnswerError(f"comfyui: /object_info/{name} is no object")
    facts = body.get(name)
    if facts is None:
        return None
    try:
        inputs = {one.name: one for one in _read_inputs(facts["input"], facts.get("input_order") or {})}
        return NodeType(name, inputs, tuple(str(one) for one in facts.get("output") or ()))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as exc:
        raise UnusableAnswerError(f"comfyui: /object_info/{name} has a form that is not known") from exc


def _read_inputs(sections: Mapping[str, Any], order: Mapping[str, Any]) -> Iterator[Input]:
    for section in ("required", "optional"):
        declared = sections.get(section) or {}
        for name in order.get(section) or declared:
            yield _read_input(name, declared[name], is_required=section == "required")


def _read_input(name: str, declared: Any, *, is_required: bool) -> Input:
    kind = declared[0]
    extra = declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}
    if isinstance(kind, list):
        options: tuple[Any, ...] | None = tuple(kind)
        kind = "COMBO"
    else:
        options = tuple(extra.get("options") or ()) if kind == "COMBO" else None
    is_widget = kind in WIDGETS and not extra.get("forceInput")
    has_second = (
        bool(extra.get("image_upload"))
        or bool(extra.get("control_after_generate"))
        or (name in SEEDS and kind == "INT")  # its control is implied in older releases
    )
    return Input(
        name=name,
        kind=str(kind),
        is_required=is_required,
        options=options,
        low=extra.get("min"),
        high=extra.get("max"),
        step=extra.get("step"),
        widgets=(2 if has_second else 1) if is_widget else 0,
    )


def check_graph(
    template: str, graph: Graph, types: Mapping[str, NodeType], *, open_fields: set[tuple[str, str]]
) -> None:
    """Refuse a workflow that this ComfyUI would refuse, by the name of the node and the field.

    Args:
        template: Named in the error.
        graph: The workflow in API form.
        types: The node types that are installed.
        open_fields: Node and field of what is filled in per request, and so is not looked at.

    Raises:
        TemplateError: A node or a field is missing, a link leads nowhere, or a value is not allowed.
    """
    for node, part in graph.items():
        kind, inputs = part["class_type"], part["inputs"]
        where = f"node {node} ({kind})"
        if kind not in types:
            raise TemplateError(template, f"{where} is not installed in this ComfyUI; install it, or map another one")
        known = types[kind].inputs
        for one in known.values():
            if one.is_required and one.name not in inputs and (node, one.name) not in open_fields:
                raise TemplateError(template, f"{where} lacks the field {one.name!r}, which is required")
        for field, value in inputs.items():
            if field not in known:
                raise TemplateError(template, f"{where} has no field {field!r}; it has {', '.join(known)}")
            if (node, field) in open_fields:
                continue
            if _is_link(value):
                _check_link(template, where, field, value, graph, types)
            elif known[field].kind not in WIDGETS:
                raise TemplateError(template, f"{where}: field {field!r} needs a link")
            elif (why := known[field].check(value)) is not None:
                raise TemplateError(template, f"{where}: field {field!r}: {why}")


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _check_link(template: str, where: str, field: str, value: Any, graph: Graph, types: Mapping[str, NodeType]) -> None:
    source, slot = value
    kind = graph[source]["class_type"] if source in graph else None
    if kind is None or (kind in types and slot >= len(types[kind].outputs)):
        raise TemplateError(
            template, f"{where}: field {field!r} is linked to output {slot} of node {source}: none there"
        )
