"""`hueshift-worker models list`, `show` and `verify`."""

import shutil
from pathlib import Path

import pytest
import yaml

from inference_worker import __main__ as command
from inference_worker.cards import parse_card
from inference_worker.catalogue import SHIPPED, find_card


def run(*arguments: str) -> int:
    return command.main(["models", *arguments])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A copy of the shipped models, to be spoilt."""
    return shutil.copytree(SHIPPED, tmp_path / "models")


def test_list_names_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    comfyui = ["ddcolor-building", "ddcolor-kijai", "ddcolor-nodes", "ddcolor-person"]
    assert [line[0] for line in lines] == ["building", *comfyui, "person", "v1", "v2"]
    assert lines[2][2:] == ["lab-colorizer", "comfyui", "template.toml,", "workflow.json"]
    assert lines[5] == ["person", "person", "lab-colorizer", "onnx", "alias", "of", "v1"]
    assert lines[6][:5] == ["v1", "v1", "lab-colorizer", "onnx", "weights.onnx"]


def test_list_tells_of_a_broken_card_in_its_place(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "v2" / "model.toml").write_text('name = "v2"')
    assert run("list", "--models-dir", str(models)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[-1].endswith("v2/model.toml: family: missing; add it")


def test_show_begins_with_what_pins_a_version_and_is_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "v2") == 0
    first, _, text = capsys.readouterr().out.partition("\n")
    card = find_card(SHIPPED, "v2")
    assert yaml.safe_load(first) == {"model": {"name": "v2", "checksum": card.checksum}}
    assert parse_card(text, folder=SHIPPED / "v2", find_base=lambda _: card) == card


def test_show_tells_an_alias_with_the_facts_of_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "person") == 0
    text = capsys.readouterr().out
    assert text.startswith(f'model: {{name: "person", checksum: "{find_card(SHIPPED, "v1").checksum}"}}\n')
    assert "sizes = [460, 680]" in text
    assert 'licence = "Apache-2.0"' in text


def test_verify_passes_on_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify") == 0
    assert capsys.readouterr().out.count(" ok sha256:") == 8


def test_verify_fails_on_damage_and_looks_at_the_others_too(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "v1" / "weights.onnx").write_bytes(b"damaged")
    (models / "v2" / "model.toml").write_text("name = 1")
    assert run("verify", "v1", "v2", "v3", "person", "--models-dir", str(models)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["v1", "v2", "v3", "person"]
    assert "has SHA-256" in lines[0]
    assert "name: 1 is no text" in lines[1]
    assert "'v3' is unknown" in lines[2]
    assert "has SHA-256" in lines[3]
