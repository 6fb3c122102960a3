"""AnimeGANv2: the published layout, strict loading, and ONNX Runtime's answer against torch's."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inference_worker import __main__ as command
from inference_worker.animegan.checkpoint import load_checkpoint
from inference_worker.animegan.export import TOLERANCE, StagedNorm, export_onnx, measure_difference
from inference_worker.animegan.network import PARAMETERS, TENSORS, Generator
from inference_worker.backends import Device, open_transformer
from inference_worker.cards import Backend, Family
from inference_worker.catalogue import find_card, load_cards, verify
from inference_worker.errors import ModelError

pytestmark = pytest.mark.torch

STEM = "block_a.0.1.weight"
NORM = "block_c.2.layers.1.2.bias"


@pytest.fixture(scope="module")
def drawn() -> Generator:
    """Random weights; not to be changed."""
    torch.manual_seed(3)
    net = Generator()
    net.eval()
    return net


@pytest.fixture
def save(drawn: Generator, tmp_path: Path) -> Callable[..., Path]:
    """The file as it is published, bare tensors by name, after a change."""

    def save_changed(change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
        tensors = dict(drawn.state_dict())
        change(tensors)
        torch.save(tensors, tmp_path / "paprika.pt")
        return tmp_path / "paprika.pt"

    return save_changed


@pytest.fixture(scope="module")
def folder(drawn: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the export and with the checkpoint for torch, and what was said meanwhile in said.txt."""
    out = tmp_path_factory.mktemp("models")
    file = out / "paprika.pt"
    torch.save(drawn.state_dict(), file)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert command.main(["models", "export", str(file), "--out", str(out), "--threads", "1"]) == 0
        assert command.main(["models", "add", str(file), "--out", str(out), "--threads", "1"]) == 0
    (out / "said.txt").write_text(said.getvalue())
    return out


def test_tensors_have_the_published_names_and_number(drawn: Generator) -> None:
    tensors = drawn.state_dict()
    assert len(tensors) == TENSORS
    assert sum(p.numel() for p in drawn.parameters()) == PARAMETERS
    assert {STEM, NORM, "block_c.1.layers.2.weight", "block_e.2.2.bias", "out_layer.0.weight"} <= tensors.keys()
    assert [name for name in tensors if name.endswith(".1.bias")] == [
        f"block_c.{block}.layers.1.1.bias" for block in (1, 2, 3, 4)
    ]
    assert tensors["block_c.1.layers.1.1.weight"].shape == (256, 1, 3, 3)


def test_the_published_layout_loads(drawn: Generator, save: Callable[..., Path], tmp_path: Path) -> None:
    save_file(dict(drawn.state_dict()), tmp_path / "m.safetensors")
    for file in (save(), tmp_path / "m.safetensors"):
        net, stored = load_checkpoint(file)
        assert stored == "float32"
        assert all(torch.equal(t, drawn.state_dict()[name]) for name, t in net.state_dict().items())


def test_half_storage_is_computed_in_float32(save: Callable[..., Path]) -> None:
    net, stored = load_checkpoint(save(lambda t: t.update({name: x.half() for name, x in t.items()})))
    assert stored == "float16"
    assert {t.dtype for t in net.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(NORM), f"is no AnimeGANv2: missing {NORM}"),
        (lambda t: t.update(head=torch.zeros(1)), "unexpected head"),
        (lambda t: t.update({NORM: torch.zeros(7)}), f"wrong shape {NORM} 7 instead of 512"),
        (lambda t: t.update({NORM: torch.zeros(512, dtype=torch.int32)}), f"wrong type {NORM} int32"),
        (lambda t: t.update({NORM: torch.full((512,), torch.nan)}), f"not finite {NORM}"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(
    save: Callable[..., Path], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        load_checkpoint(save(change))
    assert "\n" not in str(refused.value)


def test_a_file_of_neither_network_is_told_so(
    save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(lambda t: t.pop(STEM))
    assert command.main(["models", "add", str(file), "--out", str(tmp_path / "models")]) == 2
    words = "error: checkpoint: paprika.pt is neither: DDColor has a tensor encoder.arch.downsample_layers.0.0.weight"
    assert capsys.readouterr().err == f"{words}, AnimeGANv2 one {STEM}\n"


def test_the_drawing_is_as_large_as_the_photo(drawn: Generator) -> None:
    with torch.inference_mode():
        drawing = drawn(torch.rand(1, 3, 64, 96) * 2 - 1)
    assert drawing.shape == (1, 3, 64, 96)
    assert drawing.abs().max() <= 1


def test_both_runtimes_agree_at_any_size(folder: Path) -> None:
    """The export itself compares, and says what it found."""
    found = re.findall(
        r"batch of \d at (\S+ x \S+): largest difference to torch (\S+)", (folder / "said.txt").read_text()
    )
    assert [size for size, _ in found] == ["128 x 96", "96 x 160", "256 x 256"]
    assert all(float(error) <= 1e-5 for _, error in found)


def test_a_norm_by_stages_is_the_norm() -> None:
    norm = torch.nn.GroupNorm(1, 8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 40, 56) * 3 + 5
    with torch.inference_mode():
        assert (StagedNorm(norm)(x) - norm(x)).abs().max() < 2e-5


def test_a_graph_that_answers_otherwise_is_not_kept(drawn: Generator, tmp_path: Path) -> None:
    class Wrong(torch.nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
        """Answers otherwise while it is traced."""

        def __init__(self) -> None:
            super().__init__()
            self.net = drawn

        def forward(self, photo: torch.Tensor) -> torch.Tensor:
            drawing = self.net(photo)
            return drawing if torch.jit.is_tracing() else drawing + 1e-3

    with pytest.raises(ModelError, match="export: ONNX Runtime differs from torch by"):
        export_onnx(Wrong(), tmp_path / "wrong.onnx", threads=1, say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_the_cards_say_what_they_are(folder: Path) -> None:
    cards = load_cards(folder)
    assert {name: card.backend for name, card in cards.items()} == {
        "animeganv2": Backend.ONNX,
        "animeganv2-torch": Backend.TORCH,
    }
    for card in cards.values():
        verify(card)
        assert (card.family, card.darkest, card.input_px) == (Family.RGB_TO_RGB, -1, 1024)
        assert "non-commercial" in card.weights.licence
    assert "AnimeGANv2: 77 tensors, 2.1 M parameters, stored as float32" in (folder / "said.txt").read_text()


def test_both_backends_make_the_same_picture(folder: Path, drawn: Generator) -> None:
    assert measure_difference(drawn, folder / "animeganv2" / "weights.onnx", 1, 64, 96, threads=1) <= TOLERANCE
    photo = np.random.default_rng(0).random((1, 3, 96, 64)).astype(np.float32)
    made = [
        open_transformer(find_card(folder, name), threads=1, device=Device.CPU).predict(photo)
        for name in ("animeganv2", "animeganv2-torch")
    ]
    assert np.abs(made[0] - made[1]).max() <= TOLERANCE
    assert 0 <= made[0].min() < made[0].max() <= 1


@pytest.mark.parametrize("sizes", [["--size", "1280"], ["--size", "512", "--size", "768"]])
def test_the_longest_side_has_a_limit(
    save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], sizes: list[str]
) -> None:
    assert command.main(["models", "export", str(save()), "--out", str(tmp_path / "models"), *sizes]) == 2
    assert capsys.readouterr().err == "error: --size: an rgb-to-rgb model takes one, 1024 at most\n"
