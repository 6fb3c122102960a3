"""The shipped photos are what their table says, are enough, and were never trained on."""

import collections
import csv
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from controlplane.errors import InvalidInputError
from controlplane.quality import photoset
from inference_worker.catalogue import SHIPPED as MODELS
from inference_worker.training.testset import name_in_training

ROWS = list(
    csv.DictReader((photoset.SHIPPED / photoset.TABLE).read_text(encoding="utf-8").splitlines(), delimiter="	")
)


def encode(pixels: np.ndarray, kind: str) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind)
    return target.getvalue()


def test_every_kind_of_scene_has_enough_photos_and_all_are_grey_and_small() -> None:
    photos = photoset.load_shipped()
    counts = collections.Counter(photo.stratum for photo in photos)
    assert set(counts) == {"person", "building", "landscape", "other"}
    assert min(counts.values()) >= 8
    assert len(photos) >= 48
    assert sum(len(photo.data) for photo in photos) < 6_000_000
    for photo in photos:
        assert np.ptp(photo.pixels, axis=-1).max() == 0, photo.name
        assert min(photo.pixels.shape[:2]) >= 64
        assert 256 < max(photo.pixels.shape[:2]) <= 512


def test_every_photo_has_a_licence_and_a_source_that_was_not_trained_on() -> None:
    trained = {
        tuple(line.split("\t")[:2])
        for line in (MODELS / "TRAINING_SOURCES.tsv").read_text(encoding="utf-8").splitlines()
    }
    assert len(trained) > 500
    licences = (photoset.SHIPPED / "LICENCES.md").read_text(encoding="utf-8")
    for row in ROWS:
        assert row["licence"].startswith(("CC0", "CC-BY", "public domain")), row
        assert (row["package"], name_in_training(row["member"])) not in trained
        assert (
            f"| {row['file']} | {row['stratum']} | {row['author']} | {row['licence']} | {row['package']} " in licences
        )
    assert len({row["member_sha256"] for row in ROWS}) == len(ROWS)


def test_the_folder_holds_what_the_table_names_and_nothing_else() -> None:
    found = {file.name for file in photoset.SHIPPED.iterdir()}
    assert found == {row["file"] for row in ROWS} | {photoset.TABLE, "LICENCES.md"}


def test_strata_can_be_chosen_and_unknown_ones_are_named() -> None:
    assert {photo.stratum for photo in photoset.load_shipped(["person"])} == {"person"}
    with pytest.raises(InvalidInputError, match="choose from person, building, landscape, other"):
        photoset.load_shipped(["cats"])


def test_a_photo_that_was_changed_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ROWS[0]["file"], photoset.TABLE):
        (tmp_path / name).write_bytes((photoset.SHIPPED / name).read_bytes() + b"\n")
    monkeypatch.setattr(photoset, "SHIPPED", tmp_path)
    with pytest.raises(InvalidInputError, match="was changed"):
        photoset.load_shipped()


def test_photos_of_ones_own_are_made_grey(tmp_path: pathlib.Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    for place in range(9):
        (tmp_path / f"own{place}.png").write_bytes(encode(colours, "PNG"))
    (tmp_path / "notes.txt").write_text("no picture")
    photos = photoset.load_folder(tmp_path)
    assert [photo.name for photo in photos] == [f"own{place}" for place in range(9)]
    assert np.ptp(photos[0].pixels, axis=-1).max() == 0
    assert photos[0].media_type == "image/png"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has 0 pictures; 8 are needed"),
        ({"x.jpg": b"text"}, "x.jpg is no picture"),
        ({"x.png": encode(np.zeros((80, 20), np.uint8), "PNG")}, "x.png is too small"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(
    tmp_path: pathlib.Path, files: dict[str, bytes], words: str
) -> None:
    grey = encode(np.full((70, 70), 9, np.uint8), "PNG")
    fill = {f"y{place}.png": grey for place in range(8)} if files else {}
    for name, data in (files | fill).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidInputError, match=words):
        photoset.load_folder(tmp_path)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        photoset.load_folder(tmp_path / "nowhere")
