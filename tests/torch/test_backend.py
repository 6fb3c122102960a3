import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_worker.backends import Device
from inference_worker.backends.torch import TorchColorizer, choose_device
from inference_worker.ddcolor.checkpoint import load_checkpoint
from inference_worker.ddcolor.network import DDColor, LightnessNet
from inference_worker.errors import ModelError
from inference_worker.imaging import Floats

pytestmark = pytest.mark.torch


@pytest.fixture
def lightness() -> Floats:
    return (np.random.default_rng(0).random((2, 1, 64, 64)) * 100).astype(np.float32)


def test_the_log_says_where_and_how_it_computes(checkpoint_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        TorchColorizer.load(checkpoint_file, threads=1, device=Device.CPU)
    fields = vars(caplog.records[-1])["fields"]
    assert caplog.records[-1].message == "model.loaded"
    assert (fields["device"], fields["compute"], fields["stored"]) == ("cpu", "float32", "float32")
    assert (fields["variant"], fields["runtime"]) == ("tiny", f"torch-{torch.__version__}")


def test_it_answers_what_the_network_answers(checkpoint_file: Path, folded: DDColor, lightness: Floats) -> None:
    colorizer = TorchColorizer.load(checkpoint_file, threads=1, device=Device.CPU)
    with torch.inference_mode():
        expected = LightnessNet(folded)(torch.from_numpy(lightness)).numpy()
    assert np.abs(colorizer.predict(lightness) - expected).max() < 1e-5


def test_bfloat16_is_near_and_answers_float32(checkpoint_file: Path, folded: DDColor, lightness: Floats) -> None:
    """What a GPU computes in; here on the CPU, where it is slow."""
    net = load_checkpoint(checkpoint_file).net
    colorizer = TorchColorizer(net, threads=1, device="cpu", is_half=True)
    with torch.inference_mode():
        expected = LightnessNet(folded)(torch.from_numpy(lightness)).numpy()
    ab = colorizer.predict(lightness)
    assert ab.dtype == np.float32
    assert np.abs(ab - expected).mean() < 0.05 * np.abs(expected).max()


def test_a_wrong_input_is_our_error(checkpoint_file: Path) -> None:
    colorizer = TorchColorizer.load(checkpoint_file, threads=1, device=Device.CPU)
    with pytest.raises(ModelError, match="torch failed on this input"):
        colorizer.predict(np.zeros((1, 1, 40, 40), np.float32))


def test_without_cuda_the_cpu_is_taken_unless_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(Device.AUTO) == choose_device(Device.CPU) == "cpu"
    with pytest.raises(ModelError, match="--device: torch finds no CUDA device"):
        choose_device(Device.CUDA)


def test_tensorrt_is_for_onnx_files() -> None:
    with pytest.raises(ModelError, match="--device: TensorRT runs ONNX files"):
        choose_device(Device.TENSORRT)
