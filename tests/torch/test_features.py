"""The network of the feature distance: a checkpoint in the published layout becomes a small ONNX file that agrees."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from inference_worker.training.features import FeatureDistance, Features, export
from inference_worker.training.net import Encoder

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; the classifier's tensors, which are not read, are there too."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save({**Encoder().state_dict(), "_fc.weight": torch.zeros(1)}, file)
    return file


@pytest.mark.filterwarnings("ignore")
def test_the_file_is_small_and_measures_what_torch_does_within_one_percent(weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "features.onnx"
    export(weights, target)
    assert target.stat().st_size < 4 * 2**20
    features = Features()
    features.load_pretrained(str(weights))
    module = FeatureDistance(features).eval()
    session = onnxruntime.InferenceSession(target.read_bytes(), providers=["CPUExecutionProvider"])
    for count, height, width in ((1, 64, 96), (2, 256, 256)):
        one, other = torch.rand(2, count, 3, height, width) * 2 - 1
        found = session.run(None, {"one": one.numpy(), "other": other.numpy()})[0]
        with torch.no_grad():
            expected = module(one, other).numpy()
        assert found.shape == (count,)
        assert np.abs(found / expected - 1).max() < 0.01
        same = session.run(None, {"one": one.numpy(), "other": one.numpy()})[0]
        assert np.abs(same).max() < 1e-6
