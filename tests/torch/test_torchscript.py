"""TorchScript files, made here, from `models add` to a real worker's `/transform`; and those that are refused."""

import contextlib
import io
import re
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from inference_worker import __main__ as command
from inference_worker.animegan.network import Generator
from inference_worker.backends import Device
from inference_worker.backends.torch_rgb import TorchTransformer
from inference_worker.cards import Backend, Family
from inference_worker.catalogue import find_card
from inference_worker.errors import ModelError
from inference_worker.imaging import Pixels

pytestmark = pytest.mark.torch


class Negative(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    def forward(self, x: Tensor) -> Tensor:
        return -x


class Larger(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0)


class Twice(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Mean(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Grey(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


class Fixed(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 3, 64, 64)


def save(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have its newer formats; users have these files
        torch.jit.script(module).save(path)
    return path


def load(path: Path, darkest: int = -1) -> TorchTransformer:
    return TorchTransformer.load(path, threads=1, device=Device.CPU, darkest=darkest)


@pytest.mark.parametrize("darkest", [-1, 0])
def test_values_are_those_of_the_card(tmp_path: Path, darkest: int) -> None:
    rgb = np.random.default_rng(0).random((2, 3, 64, 96)).astype(np.float32)
    made = load(save(Negative(), tmp_path / "m.pt"), darkest).predict(rgb)
    assert np.abs(made - (1 - rgb if darkest else -rgb)).max() < 1e-6


def test_an_answer_may_be_a_whole_number_of_times_larger(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).random((1, 3, 64, 32)).astype(np.float32)
    made = load(save(Larger(), tmp_path / "m.pt")).predict(rgb)
    assert made.shape == (1, 3, 128, 64)
    assert np.abs(made[..., ::2, ::2] - rgb).max() < 1e-6


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Twice(), "answers a tuple, not one tensor of pictures"),
        (Mean(), r"answers \(1, 3\) to \(1, 3, 64, 96\); an rgb-to-rgb model answers pictures of the same shape"),
        (Grey(), r"answers \(1, 1, 64, 96\) to"),
        (Fixed(), "failed at 96 x 64 pixels: model: torch failed on this input"),
    ],
)
def test_what_answers_no_pictures_is_refused_at_the_start(tmp_path: Path, module: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        load(save(module, tmp_path / "m.pt"))
    assert "\n" not in str(refused.value)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    whole = save(Negative(), tmp_path / "m.pt").read_bytes()
    for cut in (b"no archive", whole[: len(whole) // 2]):
        (tmp_path / "bad.pt").write_bytes(cut)
        with pytest.raises(ModelError, match=r"^checkpoint: bad\.pt is damaged") as refused:
            load(tmp_path / "bad.pt")
        assert "\n" not in str(refused.value)
    with zipfile.ZipFile(tmp_path / "m.pt") as sound, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for name in sound.namelist():
            bad.writestr(name, sound.read(name).replace(b"torch.neg", b"torch.new"))
    with pytest.raises(ModelError, match=r"^model: bad\.pt cannot be loaded as TorchScript by torch ") as refused:
        load(tmp_path / "bad.pt")
    assert "\n" not in str(refused.value)


def test_torchscript_is_added_but_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = str(save(Negative(), tmp_path / "negative.pt")), str(tmp_path / "models")
    assert command.main(["models", "export", file, "--out", out]) == 2
    assert capsys.readouterr().err.startswith("error: models export: negative.pt is TorchScript, which runs as it is")
    assert command.main(["models", "add", file, "--out", out, "--darkest", "0", "--size", "512", "--threads", "1"]) == 0
    assert "add files of people whom you trust" in capsys.readouterr().out
    card = find_card(tmp_path / "models", "negative")
    assert (card.family, card.backend, card.darkest, card.input_px) == (Family.RGB_TO_RGB, Backend.TORCH, 0, 512)


@contextlib.contextmanager
def serving(models: Path, name: str) -> Iterator[str]:
    """A real worker's address, once it is ready; it is stopped, and must stop well, at the end."""
    flags = ["serve", "--model", name, "--models-dir", str(models), "--port", "0", "--device", "cpu"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "inference_worker", *flags], stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert worker.stderr is not None
        said = []
        for line in worker.stderr:
            said.append(line)
            if "model.became_ready" in line:
                break
        found = re.search(r"worker\.started .*port=(\d+)", "".join(said))
        assert found, "".join(said)
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
    assert worker.returncode == 0


def draw(width: int, height: int) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    planes = (x * 255 / width, y * 255 / height, 255 - x * 255 / width)
    return np.stack(planes, axis=-1).astype(np.uint8)


def send(client: httpx.Client, photo: Pixels) -> tuple[Any, Pixels]:
    body = io.BytesIO()
    Image.fromarray(photo).save(body, "PNG")
    answer = client.post("/transform", content=body.getvalue(), headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "PNG"
        return answer, np.asarray(image.convert("RGB"))


@pytest.mark.integration
def test_a_real_worker_transforms_by_torchscript(tmp_path: Path) -> None:
    """The third article's service: `animeganv2.pt`, a script of the generator, behind its three paths."""
    torch.manual_seed(5)
    net = Generator().eval()
    file, models = save(net, tmp_path / "animeganv2.pt"), tmp_path / "models"
    assert command.main(["models", "add", str(file), "--out", str(models), "--threads", "1"]) == 0
    photo = draw(96, 64)
    with torch.inference_mode():
        stack = torch.from_numpy(photo).permute(2, 0, 1)[None] / 127.5 - 1
        expected = ((net(stack)[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    with serving(models, "animeganv2") as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        assert client.get("/health").json() == {"status": "healthy", "model_loaded": True}
        assert client.get("/ready").json() == {"status": "ready"}
        answer, made = send(client, photo)
        assert answer.headers["x-model-version"] == "animeganv2"
        assert np.abs(made - expected).max() <= 0.51
        odd = send(client, draw(101, 75))[1]
        assert odd.shape == (75, 101, 3)
        assert client.post("/repair", content=b"x").status_code == 404


@pytest.mark.integration
def test_a_worker_scales_large_photos_down(tmp_path: Path) -> None:
    models = tmp_path / "models"
    file = save(Negative(), tmp_path / "negative.pt")
    assert command.main(["models", "add", str(file), "--out", str(models), "--threads", "1"]) == 0
    with serving(models, "negative") as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        answer, made = send(client, draw(1600, 400))
        assert answer.headers["x-effective-size"] == "1024"
        assert made.shape == (256, 1024, 3)
        same = send(client, draw(128, 96))[1]
    assert np.abs(same.astype(int) - (255 - draw(128, 96).astype(int))).max() <= 1


@pytest.mark.integration
def test_a_worker_that_cannot_load_ends_with_one_line(tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert command.main(["models", "add", str(save(Negative(), tmp_path / "n.pt")), "--out", str(models)]) == 0
    card = models / "n" / "model.toml"
    bad = save(Mean(), models / "n" / "weights.pt")
    from inference_worker.catalogue import hash_file  # noqa: PLC0415 - beside its one use

    text = re.sub(r'sha256 = "\w+"', f'sha256 = "{hash_file(bad)}"', card.read_text())
    card.write_text(re.sub(r"(?m)^bytes = .*\n", "", text))
    flags = ["serve", "--model", "n", "--models-dir", str(models), "--port", "0", "--device", "cpu"]
    ended = subprocess.run(
        [sys.executable, "-m", "inference_worker", *flags], check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "an rgb-to-rgb model answers pictures of the same shape" in ended.stderr
