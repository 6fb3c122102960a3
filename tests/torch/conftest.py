"""One small random DDColor for all tests, and its checkpoint as the authors would publish it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inference_worker.ddcolor.network import DDColor
from inference_worker.ddcolor.stand_in import make_stand_in
from inference_worker.ddcolor.variants import TINY


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def published() -> DDColor:
    """A tiny network in the published order; not to be changed."""
    return make_stand_in(TINY)


@pytest.fixture(scope="session")
def folded(checkpoint_file: Path) -> DDColor:
    """The same network, loaded and folded."""
    from inference_worker.ddcolor.checkpoint import load_checkpoint  # noqa: PLC0415 - after torch has its threads

    return load_checkpoint(checkpoint_file).net.fold()


@pytest.fixture(scope="session")
def checkpoint_file(published: DDColor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network's file, `{'params': tensors}`."""
    path = tmp_path_factory.mktemp("checkpoint") / "ddcolor_random_tiny.pth"
    torch.save({"params": published.state_dict()}, path)
    return path


@pytest.fixture
def save(published: DDColor, tmp_path: Path) -> Callable[..., Path]:
    """Save the network's tensors after a change: `save(lambda tensors: tensors.pop("mean"))`."""

    def save_changed(change: Callable[[dict[str, Any]], object], name: str = "changed.pth") -> Path:
        tensors = dict(published.state_dict())
        change(tensors)
        torch.save({"params": tensors}, tmp_path / name)
        return tmp_path / name

    return save_changed
