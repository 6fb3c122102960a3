"""Writes AnimeGANv2 as ONNX, height and width free, and holds ONNX Runtime's answer against torch's.

Its norms span whole pictures, and ONNX Runtime adds up millions of float32 one by one there: at 512 x 512 that alone
moves the output by 4e-4. So the exported norms take their means axis by axis, which costs 15 % and keeps 5e-6.
"""

import copy
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from inference_worker.backends import Device
from inference_worker.backends.onnx import open_session, run_session
from inference_worker.errors import ModelError

OPSET: Final = 17
TOLERANCE: Final = 1e-5
"""Largest difference between the runtimes, of values in -1..1."""
TRACED: Final = (1, 96, 128)
COMPARED: Final = ((1, 96, 128), (2, 160, 96), (1, 256, 256))
"""Batch, height, width; others than those of the trace show that the graph is free of them."""
INPUT: Final = "photo"


class StagedNorm(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """A GroupNorm of one group whose sums stay short."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.scale = nn.Parameter(norm.weight.detach().view(1, -1, 1, 1))
        self.shift = nn.Parameter(norm.bias.detach().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        away = x - self._take_mean(x)
        made: Tensor = away * (self._take_mean(away * away) + self.eps).rsqrt() * self.scale + self.shift
        return made

    def _take_mean(self, x: Tensor) -> Tensor:
        mean: Tensor = x.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)
        return mean


def stage_norms(net: nn.Module) -> nn.Module:
    """A copy of *net* with every norm over the whole picture replaced."""

    def replace(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, StagedNorm(child))
            else:
                replace(child)

    copied = copy.deepcopy(net)
    replace(copied)
    return copied


def export_onnx(net: nn.Module, target: Path, *, threads: int, say: Callable[[str], None]) -> None:
    """Write *net* to *target*, in one step, once it is shown to be equal.

    Args:
        net: From pictures in -1..1 to pictures in -1..1.
        target: The file; an older one is replaced.
        threads: Threads of ONNX Runtime in the comparison.
        say: Told how far it is.

    Raises:
        ModelError: The two runtimes differ by more than TOLERANCE; nothing is written.
    """
    half_made = target.with_name(target.name + ".part")
    say("tracing, height and width free")
    try:
        _trace(stage_norms(net).eval(), half_made)
        for count, height, width in COMPARED:
            error = measure_difference(net, half_made, count, height, width, threads=threads)
            say(f"batch of {count} at {width} x {height}: largest difference to torch {error:.1e}")
            if not error <= TOLERANCE:
                raise ModelError(f"export: ONNX Runtime differs from torch by {error:.1e}, allowed is {TOLERANCE:.0e}")
        half_made.replace(target)
    finally:
        half_made.unlink(missing_ok=True)


def _trace(net: nn.Module, target: Path) -> None:
    # What the exporter says of itself is known here; of an error it raises.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    axes = {0: "n", 2: "h", 3: "w"}
    count, height, width = TRACED
    with warnings.catch_warnings(), torch.no_grad():  # the exporter loses constants of inference mode
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.rand(count, 3, height, width) * 2 - 1,),
            str(target),
            input_names=[INPUT],
            output_names=["drawing"],
            dynamic_axes={INPUT: axes, "drawing": axes},
            opset_version=OPSET,
            dynamo=False,
        )


def measure_difference(
    net: Callable[[Tensor], Tensor], file: Path, count: int, height: int, width: int, *, threads: int
) -> float:
    """The largest difference over a batch of noise."""
    noise = np.random.default_rng(count).random((count, 3, height, width)) * 2 - 1
    photo = noise.astype(np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(photo)).numpy()
    made = run_session(open_session(file, threads=threads, device=Device.CPU), INPUT, photo)
    return float(np.abs(made - expected).max()) if made.shape == expected.shape else float("inf")
