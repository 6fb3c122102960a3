"""Runs a DDColor checkpoint with torch itself: the reference, and the way where no ONNX file was made.

The device decides the arithmetic. CUDA: bfloat16 by autocast, which leaves norms and softmax in float32. CPU: float32,
because bfloat16 is several times slower where the processor has no instructions for it. Both in channels-last order.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference_worker.backends import Device
from inference_worker.ddcolor.checkpoint import load_checkpoint
from inference_worker.ddcolor.network import DDColor, LightnessNet
from inference_worker.errors import ModelError
from inference_worker.gpus import SHARE
from inference_worker.imaging import Floats

log = logging.getLogger(__name__)


def choose_device(device: Device) -> str:
    """Torch's name of the device.

    Raises:
        ModelError: CUDA is asked for and torch finds none, or TensorRT, which needs an ONNX file.
    """
    has_cuda = torch.cuda.is_available()
    match device:
        case Device.AUTO:
            return "cuda" if has_cuda else "cpu"
        case Device.CPU:
            return "cpu"
        case Device.CUDA:
            if not has_cuda:
                raise ModelError("--device: torch finds no CUDA device; leave it to auto, or see to driver and build")
            return "cuda"
        case Device.TENSORRT:
            raise ModelError("--device: TensorRT runs ONNX files; run `hueshift-worker models export` first")


class CudaMemory:
    """What torch's allocator has taken from the current device, and what is left there for it."""

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda

    def reset_peak(self) -> None:
        self._cuda.reset_peak_memory_stats()

    def read_peak_bytes(self) -> int:
        return int(self._cuda.max_memory_reserved())

    def read_limit_bytes(self) -> int:
        free, _ = self._cuda.mem_get_info()
        return int(SHARE * (free + self._cuda.memory_reserved()))


class TorchColorizer:
    """A folded network on one device."""

    def __init__(self, net: DDColor, *, threads: int, device: str, is_half: bool) -> None:
        """Take *net* to *device*, folding it if need be.

        Args:
            net: The network; it is changed.
            threads: Threads of torch in this process, on the CPU.
            device: Torch's name of the device.
            is_half: Compute in bfloat16 where that is safe.
        """
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._is_half = is_half
        self.meter = CudaMemory() if self._device.type == "cuda" else None
        folded = net if net.is_folded else net.fold()
        self._net = LightnessNet(folded).to(self._device, memory_format=torch.channels_last)

    @classmethod
    def load(cls, path: Path, *, threads: int, device: Device) -> "TorchColorizer":
        """Load an official checkpoint.

        Raises:
            ModelError: The file is no whole DDColor, or the device is not there.
        """
        name = choose_device(device)
        checkpoint = load_checkpoint(path)
        is_half = name == "cuda" and torch.cuda.is_bf16_supported()
        made = cls(checkpoint.net, threads=threads, device=name, is_half=is_half)
        facts = {
            "file": path.name,
            "runtime": f"torch-{torch.__version__}",
            "device": torch.cuda.get_device_name() if name == "cuda" else name,
            "variant": checkpoint.variant.name,
            "stored": checkpoint.stored_as,
            "compute": "bfloat16" if is_half else "float32",
        }
        log.info("model.loaded", extra={"fields": facts})
        return made

    def predict(self, lightness: Floats) -> Floats:
        """The ab planes (N, 2, H, W) for lightness (N, 1, H, W).

        Raises:
            ModelError: The network refused the input, or the device has no memory for it.
        """
        half = torch.autocast(self._device.type, torch.bfloat16) if self._is_half else contextlib.nullcontext()
        try:
            with torch.inference_mode(), half:
                ab = self._net(torch.from_numpy(np.ascontiguousarray(lightness)).to(self._device))
                return np.asarray(ab.float().cpu().numpy(), dtype=np.float32)
        except RuntimeError as exc:  # out of memory is one too
            raise ModelError("model: torch failed on this input; see the worker's log") from exc
