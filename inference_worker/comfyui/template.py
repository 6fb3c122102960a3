"""Workflow templates: the files of a model whose card names the backend comfyui.

The card's first file says which fields of the workflow, another file of the card, are filled in:

    workflow = "DDColor人物黑白修复.json"

    [image]                         # gets the name of the uploaded picture
    node = "1"
    type = "LoadImage"
    fields = ["image"]              # or a place in the editor form's widgets_values

    [size]                          # gets a size within the card's, pixels
    node = "2"
    ...

    [checkpoint]                    # gets the value, or what --checkpoint asks for
    ...
    value = "ddcolor-imagenet"

    [output]                        # whose picture is the result; without fields
    node = "3"
    type = "SaveImage"

    [aliases]                       # names of checkpoints -> what the node lists, where the two differ
"""

import copy
import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from typing import Any

from inference_worker.cards import ModelCard
from inference_worker.comfyui.convert import convert, find_field, list_types
from inference_worker.comfyui.errors import TemplateError
from inference_worker.comfyui.nodetypes import NodeType, check_graph
from inference_worker.comfyui.wire import Graph
from inference_worker.errors import ModelError
from inference_worker.tables import Table


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
    workflow: Any
    low_px: int
    high_px: int
    image: Slot
    size: Slot
    checkpoint: Slot
    value: str
    """The checkpoint, unless another one is asked for."""
    aliases: Mapping[str, str]
    output: Slot

    def list_types(self) -> set[str]:
        """The node types that ComfyUI must have."""
        return list_types(self.name, self.workflow)

    def bind(self, types: Mapping[str, NodeType], checkpoint: str | None = None) -> "Workflow":
        """The workflow for a ComfyUI that has *types*, with *checkpoint* or the template's own.

        Raises:
            TemplateError: A node, a field or a checkpoint is missing there.
        """
        graph = convert(self.name, self.workflow, types)
        slots = {
            name: self._find(slot, graph, types)
            for name, slot in (("image", self.image), ("size", self.size), ("checkpoint", self.checkpoint))
        }
        self._find(self.output, graph, types)
        asked = self.value if checkpoint is None else checkpoint
        for field in slots["checkpoint"]:
            graph[self.checkpoint.node]["inputs"][field] = self.aliases.get(asked, asked)
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


def load_template(card: ModelCard) -> Template:
    """Read the template of a model.

    Raises:
        ModelError: Its files are not valid; one line names file, field and fix.
    """
    try:
        table = Table(tomllib.loads(card.path.read_text(encoding="utf-8")), source=str(card.path))
    except (OSError, ValueError, RecursionError) as exc:  # broken TOML and broken UTF-8 are ValueErrors
        raise ModelError(f"{card.path}: no valid TOML: {exc}; see https://toml.io") from exc
    name = table.take_text("workflow")
    if name not in {file.name for file in card.files[1:]}:
        raise table.refuse("workflow", f"{name!r} is no other file of the card; list it there, with its checksum")
    try:
        workflow = json.loads((card.folder / name).read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"{card.folder / name}: no valid JSON ({exc}); save the workflow anew") from exc
    checkpoint = table.take_table("checkpoint")
    value = checkpoint.take_text("value")
    aliases = table.take_table("aliases", is_needed=False)
    template = Template(
        name=card.name,
        workflow=workflow,
        low_px=card.input_px if card.sizes is None else card.sizes.low_px,
        high_px=card.input_px if card.sizes is None else card.sizes.high_px,
        image=_take_slot(table.take_table("image")),
        size=_take_slot(table.take_table("size")),
        checkpoint=_take_slot(checkpoint),
        value=value,
        aliases={alias: str(file) for alias, file in aliases.take_rest().items()},
        output=_take_slot(table.take_table("output"), has_fields=False),
    )
    table.close()
    return template


def _take_slot(table: Table, *, has_fields: bool = True) -> Slot:
    fields = tuple(table.take_list("fields")) if has_fields else ()
    slot = Slot(table.take_text("node"), table.take_text("type"), fields)
    table.close()
    return slot
