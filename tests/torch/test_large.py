"""The large network the whole way; minutes and GB, hence part of `make soak`."""

from pathlib import Path

import pytest
import torch

from inference_worker.ddcolor.checkpoint import load_checkpoint
from inference_worker.ddcolor.export import export_onnx
from inference_worker.ddcolor.stand_in import make_stand_in
from inference_worker.ddcolor.variants import LARGE

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_large_loads_folds_and_exports(tmp_path: Path) -> None:
    published = make_stand_in(LARGE)
    torch.save({"params": published.state_dict()}, tmp_path / "large.pth")
    checkpoint = load_checkpoint(tmp_path / "large.pth")
    assert checkpoint.variant is LARGE
    grey = torch.rand(1, 1, 256, 256).expand(-1, 3, -1, -1)
    folded = checkpoint.net.fold()
    with torch.inference_mode():
        assert (folded(grey) - published(grey)).abs().max() < 1e-5
    said: list[str] = []
    export_onnx(folded, 256, tmp_path / "large.onnx", threads=1, say=said.append)
    assert len([line for line in said if line.startswith("batch of")]) == 4
