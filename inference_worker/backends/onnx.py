"""Runs a colorizer's ONNX file with ONNX Runtime, on the best device that is there unless one is named."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import onnxruntime

from inference_worker.backends import Device
from inference_worker.errors import ModelError
from inference_worker.imaging import Floats

log = logging.getLogger(__name__)

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
WANTED: Final = {
    Device.AUTO: (CUDA, CPU),
    Device.CPU: (CPU,),
    Device.CUDA: (CUDA, CPU),
    Device.TENSORRT: (TENSORRT, CUDA, CPU),
}
Providers: TypeAlias = list[str | tuple[str, dict[str, object]]]


def choose_providers(available: Sequence[str], device: Device, cache: Path) -> Providers:
    """What ONNX Runtime shall try, best first; TensorRT only when it is asked for, since it builds for minutes.

    Args:
        available: What the installed runtime was built with.
        device: What is asked for.
        cache: Folder for TensorRT's engines.

    Raises:
        ModelError: The runtime was not built with what is asked for.
    """
    best, *_ = WANTED[device]
    if device is not Device.AUTO and best not in available:
        raise ModelError(
            f"--device: this ONNX Runtime has no {device.value} (it has {', '.join(available)}); "
            "install onnxruntime-gpu, or leave the device to auto"
        )
    options: dict[str, object] = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
    return [(name, options) if name == TENSORRT else name for name in WANTED[device] if name in available]


class OnnxColorizer:
    """One session; its threads are bounded so that workers on one machine do not fight over the cores."""

    def __init__(self, path: Path, *, threads: int, device: Device = Device.AUTO) -> None:
        """Load the file.

        Raises:
            ModelError: The file is no model that this runtime can run, or the device that was named is not there.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # neighbours need the core
        options.enable_mem_pattern = False  # input sizes differ from photo to photo
        options.log_severity_level = 3
        providers = choose_providers(onnxruntime.get_available_providers(), device, path.parent / "tensorrt")
        try:
            self._session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
        except Exception as exc:  # the runtime's exceptions share no base class
            raise ModelError(f"model: {path.name} cannot be loaded by ONNX Runtime; run `models verify`") from exc
        used = self._session.get_providers()
        if device is not Device.AUTO and WANTED[device][0] not in used:  # built with it, but no driver or no device
            raise ModelError(f"--device: {device.value} cannot be used here; leave it to auto, or see to its driver")
        log.info(
            "model.loaded",
            extra={"fields": {"file": path.name, "runtime": "onnxruntime", "providers": ",".join(used)}},
        )
        self._input = self._session.get_inputs()[0].name

    def predict(self, lightness: Floats) -> Floats:
        """The ab planes (N, 2, h, w) for lightness (N, 1, H, W); the model decides at which size.

        Raises:
            ModelError: The runtime refused the input.
        """
        try:
            (ab,) = self._session.run(None, {self._input: lightness})
        except Exception as exc:  # the runtime's exceptions share no base class
            raise ModelError("model: the runtime failed on this input; see the worker's log") from exc
        return np.asarray(ab, dtype=np.float32)
