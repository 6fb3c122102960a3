import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inference_worker.cards import Backend, ModelCard
from inference_worker.catalogue import SHIPPED, describe_file, find_card, load_cards, record, verify
from inference_worker.comfyui.convert import convert, is_editor_form, list_types
from inference_worker.comfyui.errors import TemplateError, UnusableAnswerError
from inference_worker.comfyui.nodetypes import NodeType, read_node_type
from inference_worker.comfyui.template import Grid, Template, load_template
from inference_worker.errors import ModelError
from tests.comfyui_nodes import NODE_TYPES

COMFYUI = [name for name, card in load_cards(SHIPPED).items() if card.backend is Backend.COMFYUI]


def read_types(**changed: dict[str, Any] | None) -> dict[str, NodeType]:
    rows = NODE_TYPES | {name.replace("__", "-"): row for name, row in changed.items()}
    found = {name: read_node_type(name, {name: row} if row else {}) for name, row in rows.items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def load(name: str) -> Template:
    return load_template(find_card(SHIPPED, name))


def bind(name: str, **changed: dict[str, Any] | None) -> Any:
    return load(name).bind(read_types(**changed))


def change(name: str, **inputs: object) -> dict[str, Any]:
    """A node type with other inputs; None takes one away."""
    row = copy.deepcopy(NODE_TYPES[name])
    for field, declared in inputs.items():
        row["input"]["required"][field] = declared
    row["input"]["required"] = {field: one for field, one in row["input"]["required"].items() if one is not None}
    row.pop("input_order", None)
    return row


def refuse(name: str, **changed: dict[str, Any] | None) -> str:
    with pytest.raises(TemplateError) as caught:
        bind(name, **changed)
    assert str(caught.value).startswith(f"--model: {name}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the shipped ones ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMFYUI)
def test_every_shipped_template_fits_and_is_filled_in(name: str) -> None:
    workflow = bind(name)
    graph = workflow.fill(image="uploaded.png", size_px=640)
    loads = [part for part in graph.values() if part["class_type"] == "LoadImage"]
    assert [part["inputs"]["image"] for part in loads] == ["uploaded.png"]
    assert json.loads(json.dumps(graph)) == graph
    assert "uploaded.png" not in json.dumps(workflow.graph)


def test_the_task_formats_workflow_keeps_its_name_node_and_model() -> None:
    template = load("ddcolor-person")
    assert find_card(SHIPPED, "ddcolor-person").files[1].name == "DDColor人物黑白修复.json"
    assert (template.low_px, template.high_px, template.value) == (460, 680, "ddcolor-imagenet")
    graph = bind("ddcolor-person").fill(image="a.png", size_px=680)
    assert graph["2"] == {
        "class_type": "DDColor-DDColorize",
        "inputs": {"image": ["1", 0], "size": 680, "model": "ddcolor-imagenet"},
    }


def test_the_twin_for_buildings_differs_in_sizes_and_prefix_alone() -> None:
    person, building = (load(name) for name in ("ddcolor-person", "ddcolor-building"))
    assert (building.low_px, building.high_px) == (960, 1280)
    assert person.list_types() == building.list_types()
    assert bind("ddcolor-building").fill(image="a.png", size_px=100)["2"]["inputs"]["size"] == 960


def test_the_editors_workflow_is_converted() -> None:
    template = load("ddcolor-nodes")
    assert is_editor_form(template.workflow)
    assert template.list_types() == {
        "LoadImage",
        "DDColorModelLoader",
        "DDColorProcessor",
        "DDColorInference",
        "SaveImage",
    }
    assert bind("ddcolor-nodes").fill(image="a.png", size_px=640) == {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "DDColorModelLoader", "inputs": {"model_name": "ddcolor_person_fp16.safetensors"}},
        "3": {"class_type": "DDColorProcessor", "inputs": {"image": ["1", 0], "width": 640, "height": 640}},
        "4": {"class_type": "DDColorInference", "inputs": {"model": ["2", 0], "image": ["3", 0]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "hueshift/person"}},
    }


@pytest.mark.parametrize(("asked", "given"), [(512, 512), (500, 512), (496, 512), (100, 256), (5000, 1280)])
def test_a_size_is_rounded_to_the_nodes_grid_within_the_templates_range(asked: int, given: int) -> None:
    graph = bind("ddcolor-kijai").fill(image="a.png", size_px=asked)
    assert graph["2"]["inputs"]["model_input_size"] == given


def test_a_grid_rounds_to_the_nearest() -> None:
    assert [Grid(480, 672, 32).fit(size) for size in (1, 480, 497, 670, 9999)] == [480, 480, 512, 672, 672]


def test_an_alias_becomes_the_file_and_any_other_name_is_taken_as_one() -> None:
    template, types = load("ddcolor-kijai"), read_types()
    for asked, file in (
        (None, "ddcolor_modelscope.pth"),
        ("ddcolor_artistic", "ddcolor_artistic.pth"),
        ("ddcolor_paper.pth", "ddcolor_paper.pth"),
    ):
        assert template.bind(types, asked).graph["2"]["inputs"]["checkpoint"] == file


# --- what does not fit --------------------------------------------------------------------------


def test_a_missing_node_is_named() -> None:
    assert "node 2 (DDColor_Colorize) is not installed" in refuse("ddcolor-kijai", DDColor_Colorize=None)
    assert "node 4 (DDColorInference) is not installed" in refuse("ddcolor-nodes", DDColorInference=None)


def test_a_missing_field_is_named() -> None:
    told = refuse("ddcolor-kijai", DDColor_Colorize=change("DDColor_Colorize", model_input_size=None))
    assert "node 2 (DDColor_Colorize) has no field 'model_input_size'; it has image, checkpoint" in told


def test_a_field_that_is_new_and_required_is_named() -> None:
    told = refuse("ddcolor-kijai", DDColor_Colorize=change("DDColor_Colorize", strength=["FLOAT", {}]))
    assert "lacks the field 'strength', which is required" in told


def test_a_checkpoint_that_is_not_listed_is_named_with_those_that_are() -> None:
    told = refuse("ddcolor-kijai", DDColor_Colorize=change("DDColor_Colorize", checkpoint=[["other.pth"], {}]))
    assert "field 'checkpoint': 'ddcolor_modelscope.pth' is not listed; there are other.pth" in told
    told = refuse("ddcolor-kijai", DDColor_Colorize=change("DDColor_Colorize", checkpoint=[[], {}]))
    assert "there are nothing" in told


def test_a_node_whose_sizes_are_all_outside_the_templates_is_refused() -> None:
    small = ["INT", {"min": 32, "max": 128, "step": 32}]
    told = refuse("ddcolor-kijai", DDColor_Colorize=change("DDColor_Colorize", model_input_size=small))
    assert "node 2 allows no size in 256..1280" in told


def test_an_output_that_is_not_there_is_named() -> None:
    row = {**NODE_TYPES["LoadImage"], "output": []}
    assert "linked to output 0 of node 1: none there" in refuse("ddcolor-kijai", LoadImage=row)


def test_a_form_of_object_info_that_is_not_known_is_told() -> None:
    rows: list[dict[str, Any]] = [{"input": 7}, {"input": {"required": {"a": []}}}, {"input": {"required": {"a": 3}}}]
    for row in rows:
        with pytest.raises(UnusableAnswerError, match="/object_info/X"):
            read_node_type("X", {"X": row})
    with pytest.raises(UnusableAnswerError):
        read_node_type("X", [])


# --- the editor's form ----------------------------------------------------------------------------


def draw(*nodes: dict[str, Any], links: list[Any] | None = None) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": links or []}


def test_second_values_of_seeds_and_uploads_are_skipped_and_optional_ones_may_be_absent() -> None:
    node = {"id": 7, "type": "KSampler", "widgets_values": [42, "randomize", 20, "euler", 0.5]}
    (part,) = convert("t", draw(node), read_types()).values()
    assert part["inputs"] == {"seed": 42, "steps": 20, "sampler_name": "euler", "denoise": 0.5}


def test_a_value_that_was_made_an_input_still_has_its_place() -> None:
    entry = {"name": "steps", "type": "INT", "link": 1, "widget": {"name": "steps"}}
    node = {"id": 7, "type": "KSampler", "inputs": [entry], "widgets_values": [42, "fixed", 20, "euler", 0.5, True]}
    source = {"id": 1, "type": "LoadImage", "widgets_values": ["a.png", "image"]}
    graph = convert("t", draw(node, source, links=[[1, 1, 0, 7, 2, "INT"]]), read_types())
    assert graph["7"]["inputs"]["steps"] == ["1", 0]
    assert graph["7"]["inputs"]["sampler_name"] == "euler"
    assert graph["7"]["inputs"]["tiled"] is True


def test_reroutes_are_followed_notes_are_left_out_and_links_may_be_objects() -> None:
    load = {"id": 1, "type": "LoadImage", "widgets_values": {"image": "a.png", "upload": "image"}}
    reroute = {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 5}]}
    save = {"id": 3, "type": "PreviewImage", "inputs": [{"name": "images", "link": 6}]}
    note = {"id": 4, "type": "MarkdownNote", "widgets_values": ["hello"]}
    links = [
        {"id": 5, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "IMAGE"},
        {"id": 6, "origin_id": 2, "origin_slot": 0, "target_id": 3, "target_slot": 0, "type": "IMAGE"},
    ]
    workflow = draw(load, reroute, save, note, links=links)
    assert list_types("t", workflow) == {"LoadImage", "PreviewImage"}
    assert convert("t", workflow, read_types()) == {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


@pytest.mark.parametrize(
    ("workflow", "told"),
    [
        (draw({"id": 1, "type": "PrimitiveNode"}), r"node 1 \(PrimitiveNode\) exists only in the editor"),
        (draw({"id": 1, "type": "LoadImage", "mode": 4}), r"node 1 \(LoadImage\) is bypassed"),
        (draw({"id": 1, "type": "LoadImage", "mode": 2}), r"node 1 \(LoadImage\) is muted"),
        (draw({"id": 1, "type": "5bb1c9c4-a-subgraph"}), r"node 1 \(5bb1c9c4-a-subgraph\) is not installed"),
        (draw({"id": 1, "type": "KSampler", "widgets_values": [1]}), r"node 1 \(KSampler\) has 1 values"),
        (
            draw({"id": 1, "type": "PreviewImage", "inputs": [{"name": "images", "link": 9}]}),
            r"node 1 \(PreviewImage\): link 9 leads to no node",
        ),
        (draw({"type": "LoadImage"}), "has no id"),
        (draw(links=["x"]), "a link of the workflow"),
        ({}, "neither in the editor's nor in the API's form"),
        ([], "neither in the editor's nor in the API's form"),
        ({"1": {"inputs": {}}}, "node 1 of the workflow has no class_type"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(workflow: Any, told: str) -> None:
    with pytest.raises(TemplateError, match=told):
        convert("t", workflow, read_types())


# --- the files --------------------------------------------------------------------------------------


def copy_kijai(models: Path, old: str = "", new: str = "") -> ModelCard:
    """kijai's model under another name, with a change in its template; its card has the new checksum."""
    folder = models / "mine"
    shutil.copytree(SHIPPED / "ddcolor-kijai", folder)
    path = folder / "template.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    files = (describe_file(path), describe_file(folder / "workflow.json"))
    record(models, dataclasses.replace(find_card(SHIPPED, "ddcolor-kijai"), name="mine", folder=folder, files=files))
    return find_card(models, "mine")


def test_a_model_of_ones_own_is_known_by_the_sum_of_template_and_workflow(tmp_path: Path) -> None:
    card = copy_kijai(tmp_path, 'value = "ddcolor-imagenet"', 'value = "ddcolor_paper"')
    verify(card)
    template = load_template(card)
    assert (template.name, template.value, template.low_px) == ("mine", "ddcolor_paper", 256)
    assert card.checksum != find_card(SHIPPED, "ddcolor-kijai").checksum


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[output]", "[outputs]", "output: missing; add it"),
        ('value = "ddcolor-imagenet"', "value = 7", "checkpoint.value: 7 is no text"),
        ('fields = ["image"]', 'fields = "image"', "image.fields: 'image' is impossible; write texts or whole numbers"),
        ('fields = ["image"]', 'fields = ["image"]\nfeilds = [1]', "image.feilds: unknown field; did you mean fields?"),
        ('"workflow.json"', '"../../secret.json"', "workflow: '../../secret.json' is no other file of the card"),
        ('"workflow.json"', '"absent.json"', "workflow: 'absent.json' is no other file of the card"),
        ("[aliases]", "[aliases", "no valid TOML"),
    ],
)
def test_a_template_that_is_not_valid_is_refused_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_template(copy_kijai(tmp_path, old, new))
    assert told in str(caught.value)
    assert str(tmp_path / "mine" / "template.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_workflow_that_is_no_json_is_refused_by_its_file(tmp_path: Path) -> None:
    card = copy_kijai(tmp_path)
    (card.folder / "workflow.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"workflow\.json: no valid JSON"):
        load_template(card)


def test_without_sizes_every_request_gets_the_cards_size(tmp_path: Path) -> None:
    card = dataclasses.replace(copy_kijai(tmp_path), sizes=None)
    graph = load_template(card).bind(read_types()).fill(image="a.png", size_px=1000)
    assert graph["2"]["inputs"]["model_input_size"] == 512


def test_a_slot_whose_node_is_another_is_refused(tmp_path: Path) -> None:
    card = copy_kijai(tmp_path, 'type = "PreviewImage"', 'type = "SaveImage"')
    with pytest.raises(TemplateError, match="node 3 is PreviewImage, not SaveImage"):
        load_template(card).bind(read_types())
