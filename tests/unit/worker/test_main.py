import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest

from inference_worker import __main__ as command
from inference_worker.cards import Backend
from inference_worker.catalogue import SHIPPED, find_card, record
from inference_worker.errors import SettingError
from inference_worker.faults import FaultPlan, WrongPicture

SERVE = ["serve", "--model", "v1", "--port", "8083"]
COMFYUI = ["serve", "--model", "ddcolor-kijai", "--port", "8083"]


@pytest.mark.parametrize("command_line", [[], ["serve"], ["bench"], ["models"], ["models", "list"]])
def test_every_command_has_help(command_line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([*command_line, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    if command_line == ["serve"]:
        assert "off by default, since they are people's photos" in text


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["serve", "--model", "nope", "--port", "8083"], "--model"),
        (["serve", "--model", "v1", "--port", "99999"], "--port"),
        ([*SERVE, "--threads", "0"], "--threads"),
        ([*SERVE, "--input-px", "100"], "--input-px"),
        ([*SERVE, "--queue", "0"], "--queue"),
        ([*SERVE, "--sizes", "460"], "--sizes"),
        ([*SERVE, "--sizes", "33-63"], "--sizes"),
        ([*SERVE, "--memory-mb", "1"], "--memory-mb"),
        ([*SERVE, "--imaging-threads", "0"], "--imaging-threads"),
        ([*SERVE, "--linger-s", "-1"], "--linger-s"),
        ([*SERVE, "--transform", "v2"], "--transform"),
        ([*SERVE, "--fault-oom-above", "0"], "--fault-oom-above"),
        ([*SERVE, "--fault-device-after", "-1"], "--fault-device-after"),
        ([*SERVE, "--device", "gpu"], "--device"),
        ([*SERVE, "--device", "cpu:1"], "--device"),
        (["serve", "--model", "v1", "--port", "0", "--supervise"], "--port"),
        ([*SERVE, "--fault-errors", "2"], "--fault-errors"),
        ([*SERVE, "--fault-delay-factor", "0.5"], "--fault-delay-factor"),
        ([*SERVE, "--fault-delay-ms", "-5"], "--fault-delay-ms"),
        ([*SERVE, "--models-dir", "/nowhere"], "--models-dir"),
        ([*SERVE, "--sample-share", "1%"], "--sample-token-file: missing"),
        ([*SERVE, "--sample-share", "1%", "--sample-token-file", "/nowhere"], "--sample-token-file"),
        ([*SERVE, "--sample-share", "1%", "--sample-token-file", "/dev/null"], "--sample-token-file: no token"),
        ([*SERVE, "--sample-share", "101%"], "--sample-share"),
        ([*SERVE, "--sample-share", "some"], "--sample-share"),
        ([*SERVE, "--sample-keep", "10"], "--sample-keep"),
        ([*SERVE, "--sample-keep", "2h"], "--sample-keep"),
        ([*SERVE, "--sample-max", "0"], "--sample-max"),
        ([*SERVE, "--sample-max-mib", "0"], "--sample-max-mib"),
        (["models", "show", "nope"], "--model"),
        (
            ["models", "export", "x.pth", "--out", "new", "--size", "100"],
            "models export: needs torch, safetensors, onnx;",
        ),
        (["models", "add", "x.pth", "--out", "new"], "models add: needs torch, safetensors, onnx; pip install"),
        (["models", "bench"], "models bench: needs torch, safetensors, onnx; pip install 'hueshift[torch]'"),
        ([*SERVE, "--checkpoint", "ddcolor_paper"], "--checkpoint"),
        ([*COMFYUI, "--comfyui-url", "http://203.0.113.7:8188"], "--comfyui-url"),
        ([*COMFYUI, "--comfyui-allow", "everywhere"], "--comfyui-allow"),
        ([*COMFYUI, "--comfyui-wait-s", "0"], "--comfyui-wait-s"),
        ([*COMFYUI, "--comfyui-silence-s", "9999"], "--comfyui-silence-s"),
        ([*COMFYUI, "--input-px", "128"], "--input-px"),
        ([*COMFYUI, "--sizes", "128-512"], "--sizes"),
        ([*COMFYUI, "--fault-oom-above", "2"], "--fault-oom-above"),
    ],
)
def test_impossible_flags_are_one_line(arguments: list[str], field: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {field}")
    assert text.count("\n") == 1


def write_card(folder: Path, **facts: Any) -> list[str]:
    record(folder, dataclasses.replace(find_card(SHIPPED, "v1"), folder=folder / "v1", **facts))
    return [*SERVE, "--models-dir", str(folder)]


def test_a_file_for_one_size_is_not_served_at_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*write_card(tmp_path, is_square=True), "--input-px", "256"]) == 2
    assert capsys.readouterr().err.startswith("error: --input-px: the file of v1 is for 192 only; ")


def test_a_file_for_one_size_is_not_served_at_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*write_card(tmp_path, is_square=True), "--sizes", "96-256"]) == 2
    assert capsys.readouterr().err.startswith("error: --sizes: the file of v1 is for 192 only; ")


def test_a_model_of_a_missing_runtime_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(write_card(tmp_path, backend=Backend.TORCH)) == 2
    assert capsys.readouterr().err == (
        "error: --model: v1 runs by torch, which is not here; pip install 'hueshift[torch]'\n"
    )


def test_a_taken_port_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert command.main(SERVE) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_flags_become_a_fault_plan() -> None:
    given = "--fault-errors 0.2 --fault-hang 0.1 --fault-delay-factor 3 --fault-delay-ms 5 --fault-picture inverted"
    args = command.build_parser().parse_args([*SERVE, *given.split(), "--fault-seed", "4"])
    plan = command.read_faults(args)
    assert plan.is_active
    assert (plan.error_share, plan.hang_share, plan.delay_factor, plan.seed) == (0.2, 0.1, 3.0, 4)
    assert plan.picture is WrongPicture.INVERTED


def test_no_flag_means_no_fault() -> None:
    args = command.build_parser().parse_args(SERVE)
    assert command.read_faults(args) == FaultPlan()


def test_limits_are_checked_before_anything_is_loaded() -> None:
    args = command.build_parser().parse_args([*SERVE, "--max-bytes", "1"])
    with pytest.raises(SettingError, match="--max-bytes"):
        command.check_serve_flags(args)
