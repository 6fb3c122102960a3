"""Writes a folded DDColor as ONNX and holds ONNX Runtime's answer against torch's before the file counts as made.

The TorchScript exporter, opset 17: the newer one takes ten times as long for the same graph. The batch is free; height
and width are fixed, because the positions that the colour queries read are numbers of one size. One file per size.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch

from inference_worker.backends.onnx import OnnxColorizer
from inference_worker.ddcolor.network import DDColor, LightnessNet
from inference_worker.errors import ModelError

OPSET: Final = 17
TOLERANCE: Final = 1e-5
"""Largest difference between the runtimes, relative to the largest colour or to 1, whichever is larger."""
LARGE_PX: Final = 512
"""Above this side only batches of 1 and 2 are compared: four would need many GB."""


def export_onnx(net: DDColor, side_px: int, target: Path, *, threads: int, say: Callable[[str], None]) -> None:
    """Write *net* for inputs of *side_px* squared to *target*, in one step, once it is shown to be equal.

    Args:
        net: A folded network; otherwise the graph would carry the spectral norms.
        side_px: Side of the input, a multiple of 32.
        target: The file; an older one is replaced.
        threads: Threads of ONNX Runtime in the comparison.
        say: Told how far it is.

    Raises:
        ModelError: The two runtimes differ by more than TOLERANCE; nothing is written.
    """
    if not net.is_folded:
        raise ModelError("export: the network is not folded")
    half_made = target.with_name(target.name + ".part")
    module = LightnessNet(net).eval()
    say(f"tracing at {side_px} x {side_px}")
    try:
        _trace(module, side_px, half_made)
        colorizer = OnnxColorizer(half_made, threads=threads)
        for count in (1, 2, 3, 4) if side_px <= LARGE_PX else (1, 2):
            error = measure_difference(module, colorizer, count, side_px)
            say(f"batch of {count}: largest difference to torch {error:.1e}")
            if not error <= TOLERANCE:
                raise ModelError(f"export: ONNX Runtime differs from torch by {error:.1e}, allowed is {TOLERANCE:.0e}")
        half_made.replace(target)
    finally:
        half_made.unlink(missing_ok=True)


def _trace(module: LightnessNet, side_px: int, target: Path) -> None:
    # What the exporter says of itself and of fixed sizes is known here; of an error it raises.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.rand(1, 1, side_px, side_px) * 100,),
            str(target),
            input_names=["lightness"],
            output_names=["ab"],
            dynamic_axes={"lightness": {0: "n"}, "ab": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )


def measure_difference(
    module: Callable[[torch.Tensor], torch.Tensor], colorizer: OnnxColorizer, count: int, side_px: int
) -> float:
    """The largest difference in ab over a batch of noise, relative to the largest colour or to 1."""
    noise = np.random.default_rng(count).random((count, 1, side_px, side_px)) * 100
    lightness = noise.astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(lightness)).numpy()
    error = np.abs(colorizer.predict(lightness) - expected).max() / max(1.0, float(np.abs(expected).max()))
    return float(error)
