"""Runs a colorizer's ONNX file with ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime

from inference_worker.errors import ModelError
from inference_worker.imaging import Floats


def open_session(path: Path, *, threads: int) -> onnxruntime.InferenceSession:
    """Load a file.

    Raises:
        ModelError: The file is no model that this runtime can run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # neighbours need the core
    options.enable_mem_pattern = False  # input sizes differ from photo to photo
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=onnxruntime.get_available_providers()
        )
    except Exception as exc:  # the runtime's exceptions share no base class
        raise ModelError(f"model: {path.name} cannot be loaded by ONNX Runtime; run `models verify`") from exc


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

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load the file.

        Raises:
            ModelError: The file is no model that this runtime can run.
        """
        self._session = open_session(path, threads=threads)
        self._input = self._session.get_inputs()[0].name

    def predict(self, lightness: Floats) -> Floats:
        """The ab planes (N, 2, H/4, W/4) for lightness (N, 1, H, W).

        Raises:
            ModelError: The runtime refused the input.
        """
        return run_session(self._session, self._input, lightness)


class OnnxTransformer:
    """An rgb-to-rgb network, channels first or last: AnimeGANv2 and its kin, super-resolution, denoising."""

    def __init__(self, path: Path, *, threads: int, darkest: float) -> None:
        """Load the file; *darkest* is what black is to the network, -1 or 0, and white is 1.

        Raises:
            ModelError: The file is no model that this runtime can run, or none from rgb to rgb of any size.
        """
        self._session = open_session(path, threads=threads)
        self._darkest = np.float32(darkest)
        self._input = self._session.get_inputs()[0].name
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
