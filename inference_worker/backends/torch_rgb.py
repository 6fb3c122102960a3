"""Runs rgb-to-rgb models by torch: TorchScript files, and AnimeGANv2's checkpoints.

A TorchScript file brings its own program. It runs in TorchScript's interpreter, which has no files, sockets or Python,
but it may compute for ever or take all memory, and the reader of such archives is C++ that trusts them: serve files of
people whom you trust.
"""

import logging
import warnings
from pathlib import Path
from typing import Final

import numpy as np
import torch

from inference_worker.animegan.checkpoint import load_checkpoint
from inference_worker.backends import Device
from inference_worker.backends.torch import CudaMemory, choose_device
from inference_worker.checkpoints import is_torchscript
from inference_worker.errors import ModelError
from inference_worker.imaging import Floats

log = logging.getLogger(__name__)

WARM_UP: Final = ((1, 64, 96), (1, 96, 64))
"""Batch, height, width of what a fresh model is tried on: two sizes, since photos have all sizes."""


class TorchTransformer:
    """A module from pictures (N, 3, H, W) to pictures (N, 3, s*H, s*W), on one device."""

    def __init__(self, module: torch.nn.Module, *, threads: int, device: str, darkest: float, file: str) -> None:
        """Take *module* to *device* and try it.

        Args:
            module: From values of *darkest* to 1 to values of the same range.
            threads: Threads of torch in this process, on the CPU.
            device: Torch's name of the device.
            darkest: What black is to the module, -1 or 0.
            file: The file's name, for errors.

        Raises:
            ModelError: It does not answer pictures with pictures, of whatever height and width.
        """
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self.meter = CudaMemory() if self._device.type == "cuda" else None
        self._darkest, self._file = np.float32(darkest), file
        self._module = module.to(self._device)
        for count, height, width in WARM_UP:
            try:
                self.predict(np.full((count, 3, height, width), 0.5, np.float32))
            except ModelError as exc:
                raise ModelError(f"model: {file} failed at {width} x {height} pixels: {exc}") from exc

    @classmethod
    def load(cls, path: Path, *, threads: int, device: Device, darkest: float) -> "TorchTransformer":
        """Load a TorchScript file, or a checkpoint of AnimeGANv2.

        Raises:
            ModelError: The file is neither, it does not answer pictures with pictures, or the device is not there.
        """
        name = choose_device(device)
        if is_torchscript(path):
            module, kind = load_torchscript(path, name), "TorchScript"
        else:
            module, kind = load_checkpoint(path)[0], "AnimeGANv2"
        made = cls(module, threads=threads, device=name, darkest=darkest, file=path.name)
        shown = torch.cuda.get_device_name() if name == "cuda" else name
        facts = {"file": path.name, "runtime": f"torch-{torch.__version__}", "device": shown, "kind": kind}
        log.info("model.loaded", extra={"fields": facts})
        return made

    def predict(self, rgb: Floats) -> Floats:
        """The pictures for *rgb*, (N, 3, H, W) in 0..1.

        Raises:
            ModelError: The module refused the input, answered no picture of it, or the device has no memory for it.
        """
        span = np.float32(1) - self._darkest
        stack = torch.from_numpy(np.ascontiguousarray(rgb * span + self._darkest))
        try:
            # The profiling executor would compile anew for every size that a photo has.
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                answer = self._module(stack.to(self._device))
                self._check(answer, stack)
                made = np.asarray(answer.float().cpu().numpy(), dtype=np.float32)
        except RuntimeError as exc:  # out of memory is one too
            log.warning("model.failed", extra={"fields": {"file": self._file}}, exc_info=True)
            raise ModelError("model: torch failed on this input; see the worker's log") from exc
        return (made - self._darkest) / span

    def _check(self, answer: object, asked: torch.Tensor) -> None:
        """Refuse what is no stack of pictures, as large as *asked* or a whole number of times larger."""
        if not isinstance(answer, torch.Tensor):
            raise ModelError(f"model: {self._file} answers a {type(answer).__name__}, not one tensor of pictures")
        scale = answer.shape[-1] // asked.shape[-1] if answer.ndim == 4 else 0
        count, channels, height, width = asked.shape
        if scale < 1 or answer.shape != (count, channels, scale * height, scale * width):
            raise ModelError(
                f"model: {self._file} answers {tuple(answer.shape)} to {tuple(asked.shape)}; "
                "an rgb-to-rgb model answers pictures of the same shape, or some whole number of times larger"
            )


def load_torchscript(path: Path, device: str) -> torch.nn.Module:
    """Load an archive onto *device*.

    Raises:
        ModelError: It cannot be read, or is of another torch.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch wants newer formats; such files stay around
            return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as exc:  # RuntimeError: damaged, or operators that this torch lacks
        raise ModelError(
            f"model: {path.name} cannot be loaded as TorchScript by torch {torch.__version__}; save it again with it"
        ) from exc
