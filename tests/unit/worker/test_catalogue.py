"""Folders of models: what is there, what is whole, and what is written."""

import dataclasses
from pathlib import Path

import pytest

from inference_worker.cards import CARD, ModelCard, Source
from inference_worker.catalogue import describe_file, find_card, list_names, load_cards, make_folder, record, verify
from inference_worker.errors import ModelError
from inference_worker.sizing import SizeRange


def write(models: Path, name: str = "v1") -> ModelCard:
    """A model of one file, and `person`, an alias of it."""
    folder = make_folder(models, name)
    (folder / "m.onnx").write_bytes(b"weights")
    source = Source(licence="CC0", origin="this test")
    card = ModelCard(
        name=name,
        version=name,
        about="a model",
        folder=folder,
        files=(describe_file(folder / "m.onnx"),),
        weights=source,
        data=source,
        input_px=192,
    )
    record(models, card)
    record(models, dataclasses.replace(card, name="person", alias_of=name, about="the same"))
    return card


def test_what_was_recorded_is_found(tmp_path: Path) -> None:
    card = write(tmp_path)
    (tmp_path / "README.md").write_text("no model")
    (tmp_path / "empty").mkdir()
    assert list_names(tmp_path) == ["person", "v1"]
    assert find_card(tmp_path, "v1") == card
    assert load_cards(tmp_path)["person"].path == card.path
    verify(load_cards(tmp_path)["person"])
    assert [path.name for path in card.folder.iterdir() if path.name.endswith(".part")] == []


def test_a_recorded_card_replaces_the_one_of_its_name(tmp_path: Path) -> None:
    card = write(tmp_path)
    record(tmp_path, dataclasses.replace(card, version="v1.1", sizes=SizeRange(96, 256)))
    assert find_card(tmp_path, "v1").version == "v1.1"
    assert find_card(tmp_path, "person").version == "v1"


def test_changed_weights_are_found(tmp_path: Path) -> None:
    card = write(tmp_path)
    card.path.write_bytes(b"other weights")
    with pytest.raises(ModelError, match=r"m\.onnx has SHA-256 .*, not .*; restore it"):
        verify(card)


def test_missing_weights_are_found(tmp_path: Path) -> None:
    card = write(tmp_path)
    card.path.unlink()
    with pytest.raises(ModelError, match=r"m\.onnx of v1 cannot be read; restore it"):
        verify(card)
    urls = tuple(dataclasses.replace(file, url="https://models.example/m.onnx") for file in card.files)
    with pytest.raises(ModelError, match="cannot be read; run `models pull`"):
        verify(dataclasses.replace(card, files=urls))


def test_an_unknown_model_names_those_there_are(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ModelError, match="--model: 'v7' is unknown; choose one of person, v1"):
        find_card(tmp_path, "v7")


def test_a_broken_card_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path)
    (make_folder(tmp_path, "bad") / CARD).write_text("name = 3")
    assert find_card(tmp_path, "v1").name == "v1"
    with pytest.raises(ModelError, match=r"bad/model\.toml: name: 3 is no text"):
        load_cards(tmp_path)
    (tmp_path / "bad" / CARD).write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"bad/model\.toml cannot be read as text"):
        find_card(tmp_path, "bad")


def test_an_alias_of_an_alias_or_of_nothing_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    card = find_card(tmp_path, "person")
    with pytest.raises(ModelError, match=r"alias_of: no card of 'person' to go by \(.*person is an alias itself"):
        record(tmp_path, dataclasses.replace(card, name="face", alias_of="person"))
    with pytest.raises(ModelError, match=r"alias_of: no card of 'v9' to go by"):
        record(tmp_path, dataclasses.replace(card, name="face", alias_of="v9"))
    assert not (tmp_path / "face" / CARD).exists()


def test_a_card_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    card = write(tmp_path)
    with pytest.raises(ModelError, match="about: 'two\\\\nlines' is not one printable line"):
        record(tmp_path, dataclasses.replace(card, about="two\nlines"))
    assert find_card(tmp_path, "v1") == card


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--name: '\.\./x' is no name of a model"):
        make_folder(tmp_path / "models", "../x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--models-dir: .* has no model; it takes folders NAME with a model"):
        load_cards(tmp_path)
    with pytest.raises(ModelError, match=r"--models-dir: .*nowhere cannot be read"):
        load_cards(tmp_path / "nowhere")


def test_the_former_manifest_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text('{"models": []}')
    with pytest.raises(ModelError, match=r"models\.json is of a form that is not read any more; give each model a"):
        load_cards(tmp_path)
