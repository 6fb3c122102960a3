import json
from pathlib import Path

import pytest
import torch

from inference_worker import __main__ as command
from inference_worker.backends import Device
from inference_worker.ddcolor.bench import Task, Way, read_peak_mb, time_turns

pytestmark = pytest.mark.torch


@pytest.mark.slow
def test_the_bench_measures_each_way_and_says_what_it_found(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(checkpoint_file), "--sizes", "64", "--rounds", "1", "--threads", "1"]
    code = command.main(["models", "bench", *given, "--json", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert code == (0 if found["gains"]["onnx"] >= 1.9 else 1)
    assert found["gains"]["published"] == 1
    assert [(row["size_px"], row["way"]) for row in found["rows"]] == [(64, w) for w in ("published", "torch", "onnx")]
    assert all(row["figures"]["peak_mb"] > 200 and row["figures"]["times"]["seconds"] > 0 for row in found["rows"])
    assert "64 px, in turns: onnx" in capsys.readouterr().out


def test_ways_are_timed_in_turns(checkpoint_file: Path, tmp_path: Path) -> None:
    task = Task(checkpoint=checkpoint_file, graph=tmp_path / "unused.onnx", side_px=32, threads=1, device=Device.CPU)
    times = time_turns([Way.PUBLISHED, Way.TORCH], task, rounds=1)
    assert list(times) == [Way.PUBLISHED, Way.TORCH]
    assert all(found.cpu_seconds > 0 and 0 < found.seconds < 60 for found in times.values())
    assert read_peak_mb() > 200


def test_without_a_gpu_its_bench_is_skipped_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["models", "bench", "--device", "cuda"]) == 0
    assert "SKIPPED: torch finds no CUDA device here. NOTHING WAS MEASURED ON A GPU." in capsys.readouterr().out
