import logging
from pathlib import Path

import pytest

from inference_worker.backends import Device, open_colorizer
from inference_worker.backends.onnx import CPU, CUDA, TENSORRT, choose_providers
from inference_worker.catalogue import SHIPPED, find_card
from inference_worker.errors import ModelError

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
