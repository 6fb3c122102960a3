"""Reads published checkpoints of any network, strictly: tensors and nothing else, and each where it belongs.

Published code often loads with `strict=False`, so that a wrong file makes wrong pictures in silence.
"""

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from inference_worker.errors import ModelError

STORED_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)
NAMED_AT_MOST: Final = 3


def is_torchscript(path: Path) -> bool:
    """Whether *path* is a TorchScript archive: a zip with code in it, which a checkpoint has not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


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
        raise ModelError(f"checkpoint: {path.name} has another layout; give tensors by name, or {{'params': tensors}}")
    return {str(name): tensor for name, tensor in found.items()}


def fill(net: nn.Module, tensors: Mapping[str, Tensor], *, file: str, called: str) -> str:
    """Give *net*, made on the meta device, the file's tensors as float32; returns the types that the file stores.

    Args:
        net: The network; put in evaluation mode.
        tensors: By the names that the network's own have.
        file: The file's name, for the error.
        called: The network's, likewise.

    Raises:
        ModelError: Some tensor is missing, unexpected, of another shape or type, or not finite; the first few by name.
    """
    if faults := list(find_faults(tensors, net.state_dict())):
        raise ModelError(f"checkpoint: {file} is no {called}: {'; '.join(faults)}")
    stored = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()})
    widened = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    net.load_state_dict(widened, strict=True, assign=True)
    net.eval()
    return "+".join(stored)


def find_faults(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterable[str]:
    """What keeps *tensors* from being *wanted*, one phrase per kind of fault."""
    shared = [name for name in wanted if name in tensors]
    misshapen = [name for name in shared if tensors[name].shape != wanted[name].shape]
    mistyped = [name for name in shared if not _has_type(tensors[name], wanted[name])]
    broken = [name for name in shared if tensors[name].is_floating_point() and not tensors[name].isfinite().all()]
    yield from _phrase("missing", [name for name in wanted if name not in tensors])
    yield from _phrase("unexpected", [name for name in tensors if name not in wanted])
    yield from _phrase(
        "wrong shape",
        [f"{name} {describe_shape(tensors[name])} instead of {describe_shape(wanted[name])}" for name in misshapen],
    )
    yield from _phrase("wrong type", [f"{name} {str(tensors[name].dtype).removeprefix('torch.')}" for name in mistyped])
    yield from _phrase("not finite", broken)


def _has_type(tensor: Tensor, wanted: Tensor) -> bool:
    if wanted.is_floating_point():
        return tensor.dtype in STORED_FLOATS
    return bool(tensor.dtype == wanted.dtype)


def describe_shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _phrase(kind: str, names: list[str]) -> Iterable[str]:
    if names:
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        yield f"{kind} {', '.join(names[:NAMED_AT_MOST])}{more}"
