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
CUDA_OPTIONS: Final[dict[str, object]] = {"arena_extend_strategy": "kSameAsRequested"}
"""Memory grows by what a run needs rather than by powers of two, so that what the device holds tells what runs take."""
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
    engines: dict[str, object] = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
    options = {TENSORRT: engines, CUDA: CUDA_OPTIONS}
    return [(name, options[name]) if name in options else name for name in WANTED[device] if name in available]


def open_session(path: Path, *, threads: int, device: Device) -> onnxruntime.InferenceSession:
    """Load a file.

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
        session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
    except Exception as exc:  # the runtime's exceptions share no base class
        raise ModelError(f"model: {path.name} cannot be loaded by ONNX Runtime; run `models verify`") from exc
    # By itself a session goes on with the CPU when its device fails: a hundred times slower, and nobody would know.
    session.disable_fallback()
    used = session.get_providers()
    if device is not Device.AUTO and WANTED[device][0] not in used:  # built with it, but no driver or no device
        raise ModelError(f"--device: {device.value} cannot be used here; leave it to auto, or see to its driver")
    log.info(
        "model.loaded", extra={"fields": {"file": path.name, "runtime": "onnxruntime", "providers": ",".join(used)}}
    )
    return session


def is_on_gpu(session: onnxruntime.InferenceSession) -> bool:
    """Whether the runtime took a GPU for it."""
    return not {CUDA, TENSORRT}.isdisjoint(session.get_providers())


def run_session(session: onnxruntime.InferenceSession, name: str, stack: Floats) -> Floats:
    """The first output for *stack*, given as the input called *name*.

    Raises:
        ModelError: The runtime refused the input.
    """
    try:
        (made,) = session.run(None, {name: stack})
    except Exception as exc:  # the runtime's exceptions share no base class
        raise ModelError("model: the runtime failed on this input; see the worker's log") from exc
    return np.asarray(made, dtype=np.float32)


class OnnxColorizer:
    """One session; its threads are bounded so that workers on one machine do not fight over the cores."""

    def __init__(self, path: Path, *, threads: int, device: Device = Device.AUTO) -> None:
        """Load the file.

        Raises:
            ModelError: The file is no model that this runtime can run, or the device that was named is not there.
        """
        self._session = open_session(path, threads=threads, device=device)
        self._input = self._session.get_inputs()[0].name
        self.is_on_gpu = is_on_gpu(self._session)

    def predict(self, lightness: Floats) -> Floats:
        """The ab planes (N, 2, h, w) for lightness (N, 1, H, W); the model decides at which size.

        Raises:
            ModelError: The runtime refused the input.
        """
        return run_session(self._session, self._input, lightness)


class OnnxTransformer:
    """An rgb-to-rgb network, channels first or last: AnimeGANv2 and its kin, super-resolution, denoising."""

    def __init__(self, path: Path, *, threads: int, darkest: float, device: Device = Device.AUTO) -> None:
        """Load the file; *darkest* is what black is to the network, -1 or 0, and white is 1.

        Raises:
            ModelError: The file is no model that this runtime can run, or none from rgb to rgb of any size.
        """
        self._session = open_session(path, threads=threads, device=device)
        self._darkest = np.float32(darkest)
        self._input = self._session.get_inputs()[0].name
        self.is_on_gpu = is_on_gpu(self._session)
        shape = self._session.get_inputs()[0].shape
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise ModelError(f"model: {path.name} takes {shape}; an rgb-to-rgb model takes four axes, one of them 3")
        self._is_last = shape[1] != 3
        if any(isinstance(side, int) for side in (shape[1:3] if self._is_last else shape[2:])):
            raise ModelError(f"model: {path.name} takes {shape}; export it with a free height and width")

    def predict(self, rgb: Floats) -> Floats:
        """The pictures for *rgb*, (N, 3, H, W) in 0..1.

        Raises:
            ModelError: The runtime refused the input.
        """
        span = np.float32(1) - self._darkest
        stack = rgb * span + self._darkest
        given = np.ascontiguousarray(np.moveaxis(stack, 1, -1)) if self._is_last else stack
        made = run_session(self._session, self._input, given)
        if self._is_last:
            made = np.moveaxis(made, -1, 1)
        return (made - self._darkest) / span
