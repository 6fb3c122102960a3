"""Pure: a workflow as ComfyUI's editor saves it -> the form that its API takes.

The editor's form holds the values of a node as a bare list. Which value belongs to which field is known only from
`/object_info`, so a node that is not installed cannot be converted and is refused by its name.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from inference_worker.comfyui.errors import TemplateError
from inference_worker.comfyui.nodetypes import NodeType
from inference_worker.comfyui.wire import Graph

NOTES: Final = frozenset({"Note", "MarkdownNote"})
REROUTE: Final = "Reroute"
EDITOR_ONLY: Final = frozenset({"PrimitiveNode"})
MODES: Final = {2: "muted", 4: "bypassed"}


def is_editor_form(workflow: object) -> bool:
    """Whether this is the editor's form."""
    return isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list)


def read_api_form(template: str, workflow: object) -> Graph:
    """A workflow that is in API form already; notes for the editor are left out.

    Raises:
        TemplateError: It is in no form that is known.
    """
    if not isinstance(workflow, dict) or not workflow:
        raise TemplateError(template, "the workflow is neither in the editor's nor in the API's form")
    for node, part in workflow.items():
        if (
            not isinstance(part, dict)
            or not isinstance(part.get("class_type"), str)
            or not isinstance(part.get("inputs"), dict)
        ):
            raise TemplateError(template, f"node {node} of the workflow has no class_type and inputs")
    return {node: {"class_type": part["class_type"], "inputs": dict(part["inputs"])} for node, part in workflow.items()}


def list_types(template: str, workflow: object) -> set[str]:
    """The node types that ComfyUI must have.

    Raises:
        TemplateError: The workflow is in no form that is known.
    """
    if is_editor_form(workflow):
        return {str(node["type"]) for node in _read_nodes(template, workflow).values()} - {REROUTE}
    return {part["class_type"] for part in read_api_form(template, workflow).values()}


def convert(template: str, workflow: object, types: Mapping[str, NodeType]) -> Graph:
    """The API's form of *workflow*, which may be in either.

    Args:
        template: Named in errors.
        workflow: The parsed file.
        types: The node types that are installed.

    Raises:
        TemplateError: A node cannot be converted; the message names it.
    """
    if not is_editor_form(workflow):
        return read_api_form(template, workflow)
    nodes = _read_nodes(template, workflow)
    links = _read_links(template, workflow)
    graph: Graph = {}
    for node_id, node in nodes.items():
        if node["type"] == REROUTE:
            continue
        kind = types.get(node["type"])
        if kind is None:
            where = f"node {node_id} ({node['type']})"
            raise TemplateError(template, f"{where} is not installed in this ComfyUI; install it, or map another one")
        inputs = dict(_read_values(template, node_id, node, kind))
        for entry in node.get("inputs") or ():
            if (link := entry.get("link")) is not None:
                inputs[entry["name"]] = _follow(template, node_id, link, links, nodes)
        graph[node_id] = {"class_type": node["type"], "inputs": inputs}
    return graph


def find_field(template: str, node_id: str, workflow: object, types: Mapping[str, NodeType], place: int) -> str:
    """The name of the field whose value is at *place* among a node's `widgets_values`.

    Raises:
        TemplateError: There is no such node or place.
    """
    node = _read_nodes(template, workflow).get(node_id) if is_editor_form(workflow) else None
    if node is None or node["type"] not in types:
        raise TemplateError(template, f"field {place}: node {node_id} is not in the editor's form or not installed")
    at = 0
    for one in types[node["type"]].inputs.values():
        if one.widgets and at <= place < at + one.widgets:
            return one.name
        at += one.widgets
    raise TemplateError(template, f"node {node_id} ({node['type']}) has no value at place {place}")


def _read_nodes(template: str, workflow: Any) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for node in workflow["nodes"]:
        if not isinstance(node, dict) or "id" not in node or not isinstance(node.get("type"), str):
            raise TemplateError(template, "a node of the workflow has no id or no type")
        where = f"node {node['id']} ({node['type']})"
        if node["type"] in NOTES:
            continue
        if node["type"] in EDITOR_ONLY:
            raise TemplateError(template, f"{where} exists only in the editor; write its value into the node behind it")
        if (mode := MODES.get(node.get("mode", 0))) is not None:
            raise TemplateError(template, f"{where} is {mode}; remove it from the workflow")
        nodes[str(node["id"])] = node
    return nodes


def _read_links(template: str, workflow: Any) -> dict[Any, tuple[str, int]]:
    links: dict[Any, tuple[str, int]] = {}
    for link in workflow.get("links") or ():
        match link:
            case [link_id, source, slot, *_]:
                links[link_id] = (str(source), int(slot))
            case {"id": link_id, "origin_id": source, "origin_slot": slot}:
                links[link_id] = (str(source), int(slot))
            case _:
                raise TemplateError(template, "a link of the workflow is in a form that is not known")
    return links


def _read_values(template: str, node_id: str, node: Mapping[str, Any], kind: NodeType) -> Iterator[tuple[str, Any]]:
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        yield from ((name, value) for name, value in saved.items() if name in kind.inputs)
        return
    at = 0
    for one in kind.inputs.values():
        if not one.widgets:
            continue
        if at >= len(saved):
            if one.is_required:
                where = f"node {node_id} ({node['type']})"
                raise TemplateError(template, f"{where} has {len(saved)} values, none for its field {one.name!r}")
            return
        yield one.name, saved[at]
        at += one.widgets


def _follow(
    template: str, node_id: str, link: Any, links: Mapping[Any, tuple[str, int]], nodes: Mapping[str, dict[str, Any]]
) -> list[str | int]:
    """The node and output behind a link, through any reroutes."""
    for _ in range(len(nodes) + 1):
        if link not in links or links[link][0] not in nodes:
            break
        source, slot = links[link]
        if nodes[source]["type"] != REROUTE:
            return [source, slot]
        link = next((entry.get("link") for entry in nodes[source].get("inputs") or ()), None)
    raise TemplateError(template, f"node {node_id} ({nodes[node_id]['type']}): link {link} leads to no node")
