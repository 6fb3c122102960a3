import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from inference_worker.catalogue import find_card, load_cards
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
    [{"input_px": 100}, {"input_px": "big"}, {"input_px": 4096}, {"file": "../m.onnx"}, {"sha256": None, "name": []}],
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
