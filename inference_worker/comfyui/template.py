"""Workflow templates: a workflow file and, beside it, a small TOML file that says which fields are filled in.

A template NAME is `NAME.toml`. It names the workflow file and four slots by node id, node type and field:

    workflow = "DDColor人物黑白修复.json"
    about = "..."
    sizes = [460, 680]              # what the route allows, pixels
    size = 640                      # unless a request asks for another
    model = "ddcolor-imagenet"      # unless --model asks for another

    [image]                         # gets the name of the uploaded picture
    node = "1"
    type = "LoadImage"
    fields = ["image"]

    [size_slot] [model_slot]        # likewise; a field may also be a place in the editor form's widgets_values
    [output]                        # whose picture is the result; without fields
    [models]                        # names that requests use -> what the node lists, where the two differ
"""

import copy
import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from inference_worker.comfyui.convert import convert, find_field, list_types
from inference_worker.comfyui.errors import TemplateError
from inference_worker.comfyui.nodetypes import NodeType, check_graph
from inference_worker.comfyui.wire import Graph

SHIPPED: Final = Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """A node of the workflow, and which of its fields are filled in: by name, or by place in the editor's form."""

    node: str
    kind: str
    fields: tuple[str | int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template as its files have it; not yet compared with any ComfyUI."""

    name: str
    about: str
    workflow: Any
    sha256: str
    low_px: int
    high_px: int
    size_px: int
    model: str
    models: Mapping[str, str]
    image: Slot
    size: Slot
    model_slot: Slot
    output: Slot

    def list_types(self) -> set[str]:
        """The node types that ComfyUI must have."""
        return list_types(self.name, self.workflow)

    def bind(self, types: Mapping[str, NodeType], model: str | None = None) -> "Workflow":
        """The workflow for a ComfyUI that has *types*, with *model* or the template's own.

        Raises:
            TemplateError: A node, a field or a checkpoint is missing there.
        """
        graph = convert(self.name, self.workflow, types)
        slots = {
            name: self._find(slot, graph, types)
            for name, slot in (("image", self.image), ("size", self.size), ("model", self.model_slot))
        }
        self._find(self.output, graph, types)
        asked = self.model if model is None else model
        for field in slots["model"]:
            graph[self.model_slot.node]["inputs"][field] = self.models.get(asked, asked)
        is_open = {(self.image.node, field) for field in slots["image"]}
        is_open |= {(self.size.node, field) for field in slots["size"]}
        check_graph(self.name, graph, types, open_fields=is_open)
        return Workflow(
            graph=graph,
            image=(self.image.node, slots["image"]),
            size=(self.size.node, slots["size"]),
            output=self.output.node,
            grid=self._find_grid(types, slots["size"]),
        )

    def _find(self, slot: Slot, graph: Graph, types: Mapping[str, NodeType]) -> tuple[str, ...]:
        found = graph.get(slot.node, {}).get("class_type", "nothing")
        if found != slot.kind:
            raise TemplateError(self.name, f"node {slot.node} is {found}, not {slot.kind}")
        fields = tuple(
            find_field(self.name, slot.node, self.workflow, types, field) if isinstance(field, int) else field
            for field in slot.fields
        )
        for field in fields:
            if slot.kind in types and field not in types[slot.kind].inputs:
                known = ", ".join(types[slot.kind].inputs)
                raise TemplateError(self.name, f"node {slot.node} ({slot.kind}) has no field {field!r}; it has {known}")
        return fields

    def _find_grid(self, types: Mapping[str, NodeType], fields: tuple[str, ...]) -> "Grid":
        low, high, step = float(self.low_px), float(self.high_px), 1.0
        for field in fields:
            one = types[self.size.kind].inputs[field]
            low = max(low, one.low or 0)
            high = min(high, one.high or math.inf)
            step = max(step, one.step or 1)
        grid = Grid(math.ceil(low / step) * int(step), math.floor(high / step) * int(step), int(step))
        if grid.low_px > grid.high_px:
            raise TemplateError(self.name, f"node {self.size.node} allows no size in {self.low_px}..{self.high_px}")
        return grid


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """The sizes that template and node both allow, pixels."""

    low_px: int
    high_px: int
    step_px: int

    def fit(self, size_px: float) -> int:
        """The allowed size that is nearest to *size_px*."""
        return min(max(round(size_px / self.step_px) * self.step_px, self.low_px), self.high_px)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A template that fits one ComfyUI."""

    graph: Graph
    image: tuple[str, tuple[str, ...]]
    size: tuple[str, tuple[str, ...]]
    output: str
    grid: Grid

    def fill(self, *, image: str, size_px: float) -> Graph:
        """The graph for one picture; *size_px* is rounded to what the node takes."""
        graph = copy.deepcopy(self.graph)
        for (node, fields), value in ((self.image, image), (self.size, self.grid.fit(size_px))):
            graph[node]["inputs"] |= dict.fromkeys(fields, value)
        return graph


def list_templates(folder: Path) -> list[str]:
    """The names of the templates in *folder*."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_template(folder: Path, name: str) -> Template:
    """Read one template.

    Raises:
        TemplateError: There is none of that name, or its files are not valid.
    """
    path = folder / f"{name}.toml"
    if Path(name).name != name or not path.is_file():
        raise TemplateError(name, f"no such template; choose one of {', '.join(list_templates(folder)) or 'none here'}")
    try:
        mapping = path.read_bytes()
        rows = tomllib.loads(mapping.decode())
        if Path(rows["workflow"]).name != rows["workflow"]:
            raise TemplateError(name, f"the workflow {rows['workflow']!r} must be a plain file name")
        workflow = (folder / rows["workflow"]).read_bytes()
        low_px, high_px = (int(bound) for bound in rows["sizes"])
        template = Template(
            name=name,
            about=str(rows["about"]),
            workflow=json.loads(workflow),
            sha256=hashlib.sha256(mapping + b"\0" + workflow).hexdigest(),
            low_px=low_px,
            high_px=high_px,
            size_px=int(rows["size"]),
            model=str(rows["model"]),
            models={str(key): str(value) for key, value in rows.get("models", {}).items()},
            image=_read_slot(rows["image"]),
            size=_read_slot(rows["size_slot"]),
            model_slot=_read_slot(rows["model_slot"]),
            output=_read_slot(rows["output"] | {"fields": []}),
        )
    except (OSError, KeyError, TypeError, ValueError) as exc:  # broken TOML, JSON and UTF-8 are ValueErrors
        raise TemplateError(name, f"its files are not valid ({type(exc).__name__}: {exc})") from exc
    if not 32 <= low_px <= template.size_px <= high_px:
        raise TemplateError(name, f"size {template.size_px} is outside sizes {low_px}..{high_px}")
    return template


def _read_slot(row: Mapping[str, Any]) -> Slot:
    fields = tuple(field if isinstance(field, int) else str(field) for field in row["fields"])
    return Slot(str(row["node"]), str(row["type"]), fields)
