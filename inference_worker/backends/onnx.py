"""Runs a colorizer's ONNX file with ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime

from inference_worker.errors import ModelError
from inference_worker.imaging import Floats


class OnnxColorizer:
    """One session; its threads are bounded so that workers on one machine do not fight over the cores."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load the file.

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
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=onnxruntime.get_available_providers()
            )
        except Exception as exc:  # the runtime's exceptions share no base class
            raise ModelError(f"model: {path.name} cannot be loaded by ONNX Runtime; run `models verify`") from exc
        self._input = self._session.get_inputs()[0].name

    def predict(self, lightness: Floats) -> Floats:
        """The ab planes (N, 2, H/4, W/4) for lightness (N, 1, H, W).

        Raises:
            ModelError: The runtime refused the input.
        """
        try:
            (ab,) = self._session.run(None, {self._input: lightness})
        except Exception as exc:  # the runtime's exceptions share no base class
            raise ModelError("model: the runtime failed on this input; see the worker's log") from exc
        return np.asarray(ab, dtype=np.float32)
