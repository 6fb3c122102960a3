"""Reads DDColor's official checkpoints, strictly: each tensor is there, fits and is finite, or the file is refused.

The published code loads with `strict=False`, so that a wrong file paints wrong colours in silence.
"""

import dataclasses
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inference_worker.ddcolor.network import DDColor
from inference_worker.ddcolor.variants import VARIANTS, Variant
from inference_worker.errors import ModelError

STEM: Final = "encoder.arch.downsample_layers.0.0.weight"
"""The first layer; its width tells the variants apart."""
STORED_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)
NAMED_AT_MOST: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file's network, in evaluation mode and not folded; it computes in float32 whatever the file stores."""

    net: DDColor
    variant: Variant
    stored_as: str
    """Types of the file's floats, such as `float16`."""


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint: `{'params': tensors}` or bare tensors by torch, or `.safetensors`; float32, float16, bfloat16.

    Raises:
        ModelError: The file cannot be read, holds more than tensors, or is no whole DDColor; one line says which.
    """
    tensors = read_tensors(path)
    variant = recognise(tensors, path.name)
    with torch.device("meta"):  # nothing is filled with random numbers only to be replaced
        net = DDColor(variant)
    if faults := list(find_faults(tensors, net.state_dict())):
        raise ModelError(f"checkpoint: {path.name} is no DDColor {variant.name}: {'; '.join(faults)}")
    stored = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()})
    widened = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    net.load_state_dict(widened, strict=True, assign=True)
    return Checkpoint(net.eval(), variant, "+".join(stored))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, as they are stored; no code in the file is run.

    Raises:
        ModelError: The file cannot be read, or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected pickle protocol")  # it is read, or refused below
                found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise ModelError(
            f"checkpoint: {path} cannot be read ({exc.strerror or exc}); name the downloaded file"
        ) from exc
    except pickle.UnpicklingError as exc:
        raise ModelError(
            f"checkpoint: {path.name} is damaged or holds more than tensors; download it again from its authors"
        ) from exc
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as exc:
        raise ModelError(f"checkpoint: {path.name} is damaged or no checkpoint; download it again") from exc
    if isinstance(found, Mapping) and isinstance(found.get("params"), Mapping):
        found = found["params"]
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ModelError(
            f"checkpoint: {path.name} has another layout; DDColor's is {{'params': tensors}}, or tensors by name"
        )
    return {str(name): tensor for name, tensor in found.items()}


def recognise(tensors: Mapping[str, Tensor], name: str) -> Variant:
    """The variant whose first layer the file has.

    Raises:
        ModelError: It has none, or one of another width.
    """
    stem = tensors.get(STEM)
    if stem is None:
        raise ModelError(f"checkpoint: {name} is no DDColor: missing {STEM}, and the encoder's size with it")
    for variant in VARIANTS.values():
        if stem.ndim and stem.shape[0] == variant.widths[0]:
            return variant
    known = " or ".join(f"{variant.widths[0]} ({variant.name})" for variant in VARIANTS.values())
    raise ModelError(f"checkpoint: {name} is no known DDColor: {STEM} is {_describe(stem)}, wide must be {known}")


def find_faults(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterable[str]:
    """What keeps *tensors* from being *wanted*, one phrase per kind of fault."""
    shared = [name for name in wanted if name in tensors]
    misshapen = [name for name in shared if tensors[name].shape != wanted[name].shape]
    mistyped = [name for name in shared if not _has_type(tensors[name], wanted[name])]
    broken = [name for name in shared if tensors[name].is_floating_point() and not tensors[name].isfinite().all()]
    yield from _phrase("missing", [name for name in wanted if name not in tensors])
    yield from _phrase("unexpected", [name for name in tensors if name not in wanted])
    yield from _phrase(
        "wrong shape", [f"{name} {_describe(tensors[name])} instead of {_describe(wanted[name])}" for name in misshapen]
    )
    yield from _phrase("wrong type", [f"{name} {str(tensors[name].dtype).removeprefix('torch.')}" for name in mistyped])
    yield from _phrase("not finite", broken)


def _has_type(tensor: Tensor, wanted: Tensor) -> bool:
    if wanted.is_floating_point():
        return tensor.dtype in STORED_FLOATS
    return bool(tensor.dtype == wanted.dtype)


def _describe(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _phrase(kind: str, names: list[str]) -> Iterable[str]:
    if names:
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        yield f"{kind} {', '.join(names[:NAMED_AT_MOST])}{more}"
