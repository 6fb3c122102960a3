import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from inference_worker.catalogue import Backend, find_card, load_cards, record
from inference_worker.errors import ModelError


def write(folder: Path, **changes: object) -> Path:
    (folder / "m.onnx").write_bytes(b"weights")
    row: dict[str, Any] = {
        "name": "v1",
        "version": "v1",
        "file": "m.onnx",
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "licence": "Apache-2.0",
        "input_px": 192,
        "about": "a model",
    }
    rows = [row | changes, {"name": "person", "alias_of": "v1", "about": "the same"}]
    (folder / "models.json").write_text(json.dumps({"models": rows}))
    return folder


def test_an_alias_has_its_own_name_and_the_other_ones_file(tmp_path: Path) -> None:
    cards = load_cards(write(tmp_path))
    assert list(cards) == ["v1", "person"]
    assert cards["person"].path == cards["v1"].path
    assert cards["person"].alias_of == "v1"
    cards["person"].verify()


def test_changed_weights_are_found(tmp_path: Path) -> None:
    card = find_card(write(tmp_path), "v1")
    (tmp_path / "m.onnx").write_bytes(b"other weights")
    with pytest.raises(ModelError, match=r"m\.onnx has SHA-256"):
        card.verify()


def test_missing_weights_are_found(tmp_path: Path) -> None:
    card = find_card(write(tmp_path), "v1")
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        card.verify()


def test_an_unknown_model_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="choose one of v1, person"):
        find_card(write(tmp_path), "v7")


@pytest.mark.parametrize(
    "changes",
    [
        {"input_px": 100},
        {"input_px": "big"},
        {"input_px": 4096},
        {"backend": "jax"},
        {"file": "../m.onnx"},
        {"sha256": None, "name": []},
    ],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"models\.json"):
        load_cards(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": [{}]}', '{"models": [{"name": "a", "alias_of": "b"}]}'])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.json").write_text(text)
    with pytest.raises(ModelError, match="not a valid manifest"):
        load_cards(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--models-dir"):
        load_cards(tmp_path)


def test_a_model_is_onnx_and_keeps_the_photos_shape_unless_its_row_says_otherwise(tmp_path: Path) -> None:
    plain = find_card(write(tmp_path), "v1")
    assert (plain.backend, plain.is_square, plain.is_fixed) == (Backend.ONNX, False, False)
    square = find_card(write(tmp_path, is_square=True), "v1")
    assert square.is_fixed
    free = find_card(write(tmp_path, is_square=True, backend="torch"), "person")
    assert (free.backend, free.is_square, free.is_fixed) == (Backend.TORCH, True, False)


def test_a_file_for_one_size_has_no_sizes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sizes of v1: its file is for 192 only"):
        load_cards(write(tmp_path, is_square=True, sizes=[96, 192]))
    assert find_card(write(tmp_path, is_square=True, backend="torch", sizes=[96, 192]), "v1").sizes is not None


def test_torch_runs_no_other_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="backend of v1: torch runs DDColor only"):
        load_cards(write(tmp_path, kind="rgb-to-rgb", backend="torch"))


def test_a_recorded_row_replaces_the_one_of_its_name(tmp_path: Path) -> None:
    rows = json.loads((write(tmp_path) / "models.json").read_text())["models"]
    record(tmp_path, rows[0] | {"name": "v2", "version": "v2"})
    record(tmp_path, rows[0] | {"name": "v2", "version": "v2.1"})
    cards = load_cards(tmp_path)
    assert list(cards) == ["v1", "person", "v2"]
    assert cards["v2"].version == "v2.1"


def test_the_first_row_makes_the_manifest(tmp_path: Path) -> None:
    row = json.loads((write(tmp_path) / "models.json").read_text())["models"][0]
    (tmp_path / "models.json").unlink()
    record(tmp_path, row)
    assert list(load_cards(tmp_path)) == ["v1"]


def test_a_broken_manifest_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text("{}")
    with pytest.raises(ModelError, match="not a valid manifest"):
        record(tmp_path, {"name": "v1"})
    assert (tmp_path / "models.json").read_text() == "{}"
