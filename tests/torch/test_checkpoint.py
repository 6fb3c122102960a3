from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inference_worker.ddcolor.checkpoint import load_checkpoint
from inference_worker.ddcolor.network import DDColor
from inference_worker.errors import ModelError

pytestmark = pytest.mark.torch

NORM = "decoder.layers.0.bn.weight"
STEM = "encoder.arch.downsample_layers.0.0.weight"


def assert_equal(net: DDColor, other: DDColor) -> None:
    wanted = other.state_dict()
    assert net.state_dict().keys() == wanted.keys()
    assert [name for name, tensor in net.state_dict().items() if not torch.equal(tensor, wanted[name])] == []


def test_the_authors_layout_loads(checkpoint_file: Path, published: DDColor) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    assert (checkpoint.variant.name, checkpoint.stored_as) == ("tiny", "float32")
    assert_equal(checkpoint.net, published)


def test_bare_tensors_load(published: DDColor, tmp_path: Path) -> None:
    torch.save(published.state_dict(), tmp_path / "bare.bin")
    assert_equal(load_checkpoint(tmp_path / "bare.bin").net, published)


def test_safetensors_load(published: DDColor, tmp_path: Path) -> None:
    save_file({name: t.contiguous() for name, t in published.state_dict().items()}, tmp_path / "m.safetensors")
    assert_equal(load_checkpoint(tmp_path / "m.safetensors").net, published)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_half_storage_is_computed_in_float32(save: Callable[..., Path], stored: Any, folded: DDColor) -> None:
    def halve(tensors: dict[str, Any]) -> None:
        tensors.update({name: t.to(stored) for name, t in tensors.items() if t.is_floating_point()})

    checkpoint = load_checkpoint(save(halve))
    assert checkpoint.stored_as == str(stored).removeprefix("torch.")
    assert {t.dtype for t in checkpoint.net.state_dict().values()} == {torch.float32, torch.int64}
    grey = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ab, expected = checkpoint.net.fold()(grey), folded(grey)
    assert ab.dtype == torch.float32
    assert (ab - expected).abs().max() < (0.02 if stored is torch.float16 else 0.2) * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(NORM), f"missing {NORM}"),
        (lambda t: t.pop(STEM), f"missing {STEM}"),
        (lambda t: t.update(head=torch.zeros(1)), "unexpected head"),
        (lambda t: t.update({NORM: torch.zeros(7)}), f"wrong shape {NORM} 7 instead of 384"),
        (lambda t: t.update({NORM: torch.zeros(384, dtype=torch.int32)}), f"wrong type {NORM} int32"),
        (lambda t: t.update({NORM: torch.full((384,), torch.nan)}), f"not finite {NORM}"),
        (lambda t: t.update({STEM: torch.zeros(128, 3, 4, 4)}), "wide must be 96 (tiny) or 192 (large)"),
        (lambda t: t.update({STEM: torch.zeros(192, 3, 4, 4)}), "no DDColor large: missing encoder.arch.stages.2.9."),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith("refine_net")], "refine_net.0.0.weight_orig"),
        (lambda t: [t.pop(name) for name in list(t) if ".bn." in name], " and 12 more"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(
    save: Callable[..., Path], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(ModelError) as refused:
        load_checkpoint(save(change))
    assert words in str(refused.value)
    assert str(refused.value).startswith("checkpoint: changed.pth ")
    assert "\n" not in str(refused.value)


def test_a_file_that_holds_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"params": {"mean": torch.nn.Linear(2, 2)}}, tmp_path / "code.pth")
    with pytest.raises(ModelError, match="damaged or holds more than tensors"):
        load_checkpoint(tmp_path / "code.pth")


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors", "empty.pth"])
def test_noise_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"\x80noise" * 100)
    with pytest.raises(ModelError, match=f"checkpoint: {name} is damaged"):
        load_checkpoint(tmp_path / name)


def test_a_cut_off_file_is_refused(checkpoint_file: Path, tmp_path: Path) -> None:
    (tmp_path / "half.pth").write_bytes(checkpoint_file.read_bytes()[:1_000_000])
    with pytest.raises(ModelError, match=r"checkpoint: half\.pth is damaged"):
        load_checkpoint(tmp_path / "half.pth")


def test_another_layout_is_refused(tmp_path: Path) -> None:
    torch.save({"params": [1, 2]}, tmp_path / "list.pth")
    with pytest.raises(ModelError, match="has another layout"):
        load_checkpoint(tmp_path / "list.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.pth cannot be read"):
        load_checkpoint(tmp_path / "nowhere.pth")
