"""The nodes of the stand-in for ComfyUI: what `/object_info` tells of them, what they refuse, and what they paint."""

import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

from PIL import Image

TRACEBACK: Final = 'Traceback (most recent call last):\n  File "/srv/secret/execution.py", line 1, in run\n'
COLORIZERS: Final = frozenset({"DDColor_Colorize", "DDColor-DDColorize", "DDColorInference"})
"""The nodes that take their time."""

_INPUT_FILES: Final = [["photo.png"], {"image_upload": True}]

NODE_TYPES: Final[dict[str, dict[str, Any]]] = {
    "LoadImage": {
        "input": {"required": {"image": _INPUT_FILES}},
        "input_order": {"required": ["image"]},
        "output": ["IMAGE", "MASK"],
        "output_node": False,
    },
    "SaveImage": {
        "input": {
            "required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {"default": "ComfyUI"}]},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        },
        "input_order": {"required": ["images", "filename_prefix"], "hidden": ["prompt", "extra_pnginfo"]},
        "output": [],
        "output_node": True,
    },
    "PreviewImage": {
        "input": {"required": {"images": ["IMAGE"]}, "hidden": {"prompt": "PROMPT"}},
        "input_order": {"required": ["images"], "hidden": ["prompt"]},
        "output": [],
        "output_node": True,
    },
    "DDColor_Colorize": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "model_input_size": ["INT", {"default": 512, "min": 32, "max": 4096, "step": 32}],
                "checkpoint": [
                    [
                        "ddcolor_paper_tiny.pth",
                        "ddcolor_paper.pth",
                        "ddcolor_modelscope.pth",
                        "ddcolor_artistic.pth",
                    ],
                    {"default": "ddcolor_paper_tiny.pth"},
                ],
            }
        },
        "input_order": {"required": ["image", "model_input_size", "checkpoint"]},
        "output": ["IMAGE"],
        "output_node": False,
    },
    "DDColor-DDColorize": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                # The form of newer releases: the choices are an option.
                "model": ["COMBO", {"options": ["ddcolor-imagenet", "ddcolor-artistic"]}],
                "size": ["INT", {"default": 512, "min": 64, "max": 2048, "step": 1}],
            }
        },
        "input_order": {"required": ["image", "model", "size"]},
        "output": ["IMAGE"],
        "output_node": False,
    },
    "DDColorModelLoader": {
        "input": {"required": {"model_name": [["ddcolor_person_fp16.safetensors"]]}},
        "output": ["DDCOLOR_MODEL"],
        "output_node": False,
    },
    "DDColorProcessor": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "width": ["INT", {"default": 640, "min": 64, "max": 2048, "step": 8}],
                "height": ["INT", {"default": 640, "min": 64, "max": 2048, "step": 8}],
            }
        },
        "output": ["IMAGE"],
        "output_node": False,
    },
    "DDColorInference": {
        "input": {"required": {"model": ["DDCOLOR_MODEL"], "image": ["IMAGE"]}},
        "output": ["IMAGE"],
        "output_node": False,
    },
    "KSampler": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}],
                "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
                "sampler_name": [["euler", "dpmpp_2m"], {}],
                "positive": ["CONDITIONING", {}],
                "denoise": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}],
            },
            "optional": {"note": ["STRING", {"forceInput": True}], "tiled": ["BOOLEAN", {"default": False}]},
        },
        "output": ["LATENT"],
        "output_node": False,
    },
}


def find_refusal(
    body: dict[str, Any], types: Mapping[str, dict[str, Any]], files: Mapping[str, bytes], *, is_raising: bool
) -> dict[str, Any] | None:
    """What `/prompt` answers with 400, or None; *is_raising* has the check itself fail, traceback and all."""
    if "prompt" not in body:
        return _refuse("no_prompt", "No prompt provided")
    graph = body["prompt"]
    for node, part in graph.items():
        kind = part["class_type"]
        if kind not in types:
            return _refuse("invalid_prompt", f"Cannot execute because node {kind} does not exist.")
        found = list(_check_node(part, types[kind], files))
        if is_raising:
            found = [("exception_during_inner_validation", "Exception when validating inner node", TRACEBACK)]
        if found:
            errors = [
                {"type": name, "message": message, "details": details, "extra_info": {"traceback": TRACEBACK}}
                for name, message, details in found
            ]
            facts = {"errors": errors, "dependent_outputs": ["3"], "class_type": kind}
            return _refuse("prompt_outputs_failed_validation", "Prompt outputs failed validation", {node: facts})
    if not any(types[part["class_type"]]["output_node"] for part in graph.values()):
        return _refuse("prompt_no_outputs", "Prompt has no outputs")
    return None


def _check_node(
    part: dict[str, Any], declaration: dict[str, Any], files: Mapping[str, bytes]
) -> Iterator[tuple[str, str, str]]:
    for name, declared in declaration["input"]["required"].items():
        value = part["inputs"].get(name)
        facts = declared[1] if len(declared) > 1 else {}
        options = declared[0] if isinstance(declared[0], list) else facts.get("options")
        if value is None:
            yield "required_input_missing", "Required input is missing", name
        elif part["class_type"] == "LoadImage":
            if value not in files:
                details = f"image - Invalid image file: {value}"
                yield "custom_validation_failed", "Custom validation failed for node", details
        elif options is not None and value not in options:
            yield "value_not_in_list", "Value not in list", f"{name}: '{value}' not in {options}"
        elif isinstance(value, int) and value < facts.get("min", value):
            yield "value_smaller_than_min", "Value smaller than min", name


def _refuse(kind: str, message: str, nodes: dict[str, Any] | None = None) -> dict[str, Any]:
    error = {"type": kind, "message": message, "details": "", "extra_info": {}}
    return {"error": error, "node_errors": nodes or {}}


def draw_graph(image: str) -> dict[str, Any]:
    """A workflow for *image*, in API form."""
    facts = {"image": ["1", 0], "model_input_size": 512, "checkpoint": "ddcolor_paper.pth"}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "DDColor_Colorize", "inputs": facts},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def draw_photo(width: int = 64, height: int = 64, level: int = 128) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), (level, level, level)).save(target, "PNG")
    return target.getvalue()


def paint(data: bytes) -> bytes:
    """A warm tone over the grey, the same size."""
    grey = Image.open(io.BytesIO(data)).convert("L")
    warm = (grey.point(lambda v: min(255, v + 30)), grey, grey.point(lambda v: max(0, v - 40)))
    target = io.BytesIO()
    Image.merge("RGB", warm).save(target, "PNG")
    return target.getvalue()
