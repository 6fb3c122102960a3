"""Reads DDColor's official checkpoints, strictly: each tensor is there, fits and is finite, or the file is refused.

The published code loads with `strict=False`, so that a wrong file paints wrong colours in silence.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from inference_worker.checkpoints import describe_shape, fill, read_tensors
from inference_worker.ddcolor.network import DDColor
from inference_worker.ddcolor.variants import VARIANTS, Variant
from inference_worker.errors import ModelError

STEM: Final = "encoder.arch.downsample_layers.0.0.weight"
"""The first layer; its width tells the variants apart."""


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
    return build(read_tensors(path), path.name)


def build(tensors: Mapping[str, Tensor], file: str) -> Checkpoint:
    """The network with the tensors of *file*.

    Raises:
        ModelError: They are no whole DDColor; one line says why.
    """
    variant = recognise(tensors, file)
    with torch.device("meta"):  # nothing is filled with random numbers only to be replaced
        net = DDColor(variant)
    stored_as = fill(net, tensors, file=file, called=f"DDColor {variant.name}")
    return Checkpoint(net, variant, stored_as)


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
    raise ModelError(f"checkpoint: {name} is no known DDColor: {STEM} is {describe_shape(stem)}, wide must be {known}")
