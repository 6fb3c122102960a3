"""A checkpoint becomes a model that a worker serves; ONNX Runtime answers what torch answers."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference_worker import __main__ as command
from inference_worker.backends import Device, open_colorizer
from inference_worker.backends.onnx import OnnxColorizer
from inference_worker.cards import Backend
from inference_worker.catalogue import find_card, load_cards, verify
from inference_worker.ddcolor.export import export_onnx, measure_difference
from inference_worker.ddcolor.network import DDColor, LightnessNet
from inference_worker.errors import ModelError
from inference_worker.imaging import compute_lab, compute_lightness, prepare, recombine

pytestmark = pytest.mark.torch

SIDE_PX = 256
PHOTO = Path(command.__file__).parent / "samples" / "windmill.jpg"


@pytest.fixture(scope="module")
def made(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A models folder with the export and with the checkpoint for torch, and what the command line said meanwhile."""
    out = tmp_path_factory.mktemp("models") / "new"
    given = [str(checkpoint_file), "--out", str(out), "--size", str(SIDE_PX), "--threads", "1"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert command.main(["models", "export", *given]) == 0
        assert command.main(["models", "add", *given]) == 0
    return out, said.getvalue()


@pytest.fixture(scope="module")
def folder(made: tuple[Path, str]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def exported(folder: Path) -> OnnxColorizer:
    return OnnxColorizer(folder / f"ddcolor-tiny-{SIDE_PX}" / "weights.onnx", threads=1)


def test_both_runtimes_agree_for_batches_of_one_to_four(made: tuple[Path, str]) -> None:
    """The export itself compares, and says what it found."""
    found = re.findall(r"batch of (\d): largest difference to torch (\S+)", made[1])
    assert [int(count) for count, _ in found] == [1, 2, 3, 4]
    assert all(float(error) <= 1e-5 for _, error in found)


def test_the_comparison_sees_a_difference(folded: DDColor, exported: OnnxColorizer) -> None:
    module = LightnessNet(folded)
    assert measure_difference(module, exported, 2, SIDE_PX) <= 1e-5
    assert measure_difference(lambda lightness: module(lightness) + 1e-4, exported, 1, SIDE_PX) > 5e-5


def test_a_batch_gives_what_single_runs_give(exported: OnnxColorizer) -> None:
    lightness = (np.random.default_rng(0).random((3, 1, SIDE_PX, SIDE_PX)) * 100).astype(np.float32)
    together = exported.predict(lightness)
    assert together.shape == (3, 2, SIDE_PX, SIDE_PX)
    assert np.abs(together[2:] - exported.predict(lightness[2:])).max() < 1e-5


def test_another_size_is_refused(exported: OnnxColorizer) -> None:
    with pytest.raises(ModelError):
        exported.predict(np.zeros((1, 1, 128, 128), np.float32))


def test_both_have_cards_and_their_sums_hold(folder: Path) -> None:
    cards = load_cards(folder)
    assert {name: card.backend for name, card in cards.items()} == {
        f"ddcolor-tiny-{SIDE_PX}": Backend.ONNX,
        "ddcolor-tiny-torch": Backend.TORCH,
    }
    for card in cards.values():
        verify(card)
        assert (card.is_square, card.input_px) == (True, SIDE_PX)
        assert "no licence of their own" in card.weights.licence
    assert sorted(path.name for path in folder.rglob("*.*")) == [
        "model.toml",
        "model.toml",
        "weights.onnx",
        "weights.pth",
    ]


def test_a_photo_keeps_its_own_light_at_full_size(folder: Path) -> None:
    with Image.open(PHOTO) as image:
        photo = np.asarray(image.convert("L").convert("RGB"))
    pictures = {}
    for name, card in load_cards(folder).items():
        colorizer = open_colorizer(card, threads=1, device=Device.CPU)
        ab = colorizer.predict(prepare(photo, card.input_px, is_square=card.is_square))
        pictures[name] = recombine(photo, ab[0] * 40)  # random weights are pale
        assert pictures[name].shape == photo.shape
        assert np.abs(compute_lightness(pictures[name]) - compute_lightness(photo)).max() <= 1
        assert np.abs(compute_lab(pictures[name])[..., 1:]).mean() > 1
    first, second = pictures.values()
    assert np.abs(first.astype(int) - second).max() <= 1


def test_adding_again_replaces_the_card(folder: Path, checkpoint_file: Path) -> None:
    before = load_cards(folder)
    given = [str(checkpoint_file), "--out", str(folder), "--size", str(SIDE_PX), "--threads", "1"]
    assert command.main(["models", "add", *given]) == 0
    assert load_cards(folder) == before


def test_a_graph_that_answers_otherwise_is_not_kept(folded: DDColor, tmp_path: Path) -> None:
    class Wrong(DDColor):
        """Answers otherwise while it is traced."""

        def forward(self, grey: torch.Tensor) -> torch.Tensor:
            ab = folded(grey)
            return ab if torch.jit.is_tracing() else ab + 1e-3

    wrong = Wrong.__new__(Wrong)
    torch.nn.Module.__init__(wrong)
    wrong.is_folded = True
    with pytest.raises(ModelError, match="export: ONNX Runtime differs from torch by"):
        export_onnx(wrong, 64, tmp_path / "wrong.onnx", threads=1, say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_an_unfolded_network_is_not_exported(published: DDColor, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not folded"):
        export_onnx(published, 64, tmp_path / "m.onnx", threads=1, say=lambda _: None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "export", "nowhere.pth", "--out", "OUT"], "error: checkpoint: nowhere.pth cannot be read"),
        (["models", "export", "x", "--out", "OUT", "--size", "100"], "error: --size: 100 is impossible"),
        (["models", "add", "x", "--out", "OUT/file/new"], "error: --out: "),
        (["models", "add", "x", "--out", "OUT", "--size", "64", "--size", "96"], "error: --size: give one size"),
        (["models", "bench", "--sizes", "512,big"], "error: --sizes: big is impossible"),
        (["models", "bench", "--rounds", "0"], "error: --rounds: 0 is impossible"),
        (["models", "bench", "--threads", "0"], "error: --threads: 0 is impossible"),
    ],
)
def test_impossible_flags_are_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert command.main([word.replace("OUT", str(tmp_path)) for word in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith(words)
    assert text.count("\n") == 1


def test_progress_says_what_it_is_and_how_far(made: tuple[Path, str]) -> None:
    folder, said = made
    assert "DDColor tiny: 440 tensors, 55.0 M parameters, stored as float32, computed in float32" in said
    assert find_card(folder, f"ddcolor-tiny-{SIDE_PX}").is_fixed
    assert not find_card(folder, "ddcolor-tiny-torch").is_fixed
