"""Reads AnimeGANv2's checkpoints as they are published for torch; the network computes in float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from inference_worker.animegan.network import Generator
from inference_worker.checkpoints import fill, read_tensors

STEM: Final = "block_a.0.1.weight"
"""The first layer; a file that has it is meant for this network."""


def is_animegan(tensors: Mapping[str, Tensor]) -> bool:
    return STEM in tensors


def build(tensors: Mapping[str, Tensor], file: str) -> tuple[Generator, str]:
    """The network with the file's tensors, in evaluation mode, and the types of its floats, such as `float16`.

    Raises:
        ModelError: Some tensor is missing, unexpected, of another shape or type, or not finite; named.
    """
    with torch.device("meta"):  # nothing is filled with random numbers only to be replaced
        net = Generator()
    stored_as = fill(net, tensors, file=file, called="AnimeGANv2")
    return net, stored_as


def load_checkpoint(path: Path) -> tuple[Generator, str]:
    """Load a checkpoint: tensors by name, or `{'params': tensors}`, by torch or as `.safetensors`.

    Raises:
        ModelError: The file cannot be read, holds more than tensors, or is no whole AnimeGANv2; one line says which.
    """
    return build(read_tensors(path), path.name)
