import logging
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from inference_worker.backends import Device, open_colorizer
from inference_worker.backends.onnx import CPU, CUDA, TENSORRT, choose_providers, is_on_gpu, open_session, run_session
from inference_worker.catalogue import SHIPPED, find_card
from inference_worker.errors import ModelError
from inference_worker.failures import is_out_of_memory
from inference_worker.imaging import Floats

CACHE = Path("models/tensorrt")


@pytest.mark.parametrize(
    ("available", "device", "chosen"),
    [
        ([CPU], Device.AUTO, [CPU]),
        (["AzureExecutionProvider", CPU], Device.AUTO, [CPU]),
        ([TENSORRT, CUDA, CPU], Device.AUTO, [CUDA, CPU]),
        ([TENSORRT, CUDA, CPU], Device.CPU, [CPU]),
        ([TENSORRT, CUDA, CPU], Device.CUDA, [CUDA, CPU]),
        ([TENSORRT, CUDA, CPU], Device.TENSORRT, [TENSORRT, CUDA, CPU]),
    ],
)
def test_the_best_that_is_there_is_chosen_and_tensorrt_only_by_name(
    available: list[str], device: Device, chosen: list[str]
) -> None:
    found = choose_providers(available, device, CACHE)
    assert [entry if isinstance(entry, str) else entry[0] for entry in found] == chosen


def test_tensorrt_keeps_its_engines() -> None:
    best, *_ = choose_providers([TENSORRT, CUDA, CPU], Device.TENSORRT, CACHE)
    assert best == (TENSORRT, {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(CACHE)})


def test_cuda_takes_no_more_memory_than_a_run_asks_for() -> None:
    best, *_ = choose_providers([CUDA, CPU], Device.CUDA, CACHE)
    assert best == (CUDA, {"arena_extend_strategy": "kSameAsRequested"})


def test_a_session_does_not_go_on_elsewhere_when_its_device_fails() -> None:
    session = open_session(find_card(SHIPPED, "v1").path, threads=1, device=Device.CPU)
    assert not session._enable_fallback
    assert not is_on_gpu(session)


class FailingSession:
    """As a session is, to who runs it, when its device is full."""

    def run(self, _: object, given: dict[str, Floats]) -> list[Floats]:
        raise RuntimeException(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
            "Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) "
            f"Failed to allocate memory for requested buffer of size {given['x'].nbytes}"
        )


def test_the_runtimes_lack_of_memory_is_the_schedulers_own() -> None:
    with pytest.raises(ModelError, match="the runtime failed on this input") as caught:
        run_session(FailingSession(), "x", np.zeros((1, 1, 32, 32), np.float32))
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("device", [Device.CUDA, Device.TENSORRT])
def test_a_named_device_that_is_not_there_is_refused(device: Device) -> None:
    with pytest.raises(ModelError, match=f"--device: this ONNX Runtime has no {device.value} "):
        choose_providers([CPU], device, CACHE)


def test_the_log_says_what_the_model_runs_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        open_colorizer(find_card(SHIPPED, "v1"), threads=1, device=Device.CPU)
    fields = vars(caplog.records[-1])["fields"]
    assert caplog.records[-1].message == "model.loaded"
    assert fields == {"file": "weights.onnx", "runtime": "onnxruntime", "providers": CPU}
