"""The shipped weights themselves: whole, of equal cost, different from each other, and really colouring photos."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from inference_worker.backends.onnx import OnnxColorizer
from inference_worker.catalogue import SHIPPED, load_cards, verify
from inference_worker.errors import ModelError
from inference_worker.imaging import Pixels, compute_lab, compute_lightness, prepare, recombine
from inference_worker.sizing import SizeRange

SAMPLES: Final = SHIPPED.parent / "samples"
PHOTOS: Final = sorted(SAMPLES.glob("*.jpg"))


@pytest.fixture(scope="module")
def models() -> dict[str, OnnxColorizer]:
    cards = load_cards(SHIPPED)
    return {name: OnnxColorizer(cards[name].path, threads=1) for name in ("v1", "v2")}


def open_grey(photo: Path) -> Pixels:
    with Image.open(photo) as image:
        image.thumbnail((192, 192))
        return np.asarray(image.convert("L").convert("RGB"), dtype=np.uint8)


@pytest.fixture(scope="module")
def coloured(models: dict[str, OnnxColorizer]) -> dict[tuple[str, str], Pixels]:
    """Every sample, by version and file name."""
    made = {}
    for photo in PHOTOS:
        grey = open_grey(photo)
        for name, model in models.items():
            made[name, photo.name] = recombine(grey, model.predict(prepare(grey, 192))[0])
    return made


def measure_chroma(rgb: Pixels) -> float:
    lab = compute_lab(rgb)
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


def read_message(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protobuf message: number, and varint or bytes. ONNX files are such messages."""
    at = 0

    def read_varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = read_varint()
        match key & 7:
            case 0:
                yield key >> 3, read_varint()
            case 2:
                size = read_varint()
                at += size
                yield key >> 3, data[at - size : at]
            case other:
                at += 8 if other == 1 else 4


def describe_graph(path: Path) -> tuple[list[bytes], int]:
    """The operators in order, and how many parameters there are."""
    graph = next(value for number, value in read_message(path.read_bytes()) if number == 7)
    assert isinstance(graph, bytes)
    operators, parameters = [], 0
    for number, value in read_message(graph):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            operators += [kind for field, kind in read_message(value) if field == 4 and isinstance(kind, bytes)]
        elif number == 5:
            parameters += math.prod(dim for field, dim in read_message(value) if field == 1 and isinstance(dim, int))
    return operators, parameters


def test_there_are_four_routes_and_every_file_is_whole() -> None:
    cards = load_cards(SHIPPED)
    assert {"v1", "v2", "person", "building"} <= set(cards)
    for card in cards.values():
        verify(card)
    assert cards["person"].alias_of == cards["building"].alias_of == "v1"
    assert (cards["person"].sizes, cards["building"].sizes) == (SizeRange(460, 680), SizeRange(960, 1280))
    assert cards["v1"].checksum != cards["v2"].checksum == f"sha256:{cards['v2'].files[0].sha256}"


def test_the_shipped_files_stay_small() -> None:
    files = list(SHIPPED.glob("v[12]/weights.onnx"))
    assert len(files) == 2
    assert all(file.stat().st_size <= 5_000_000 for file in files)
    assert sum(file.stat().st_size for file in PHOTOS) <= 1_500_000


def test_both_versions_cost_the_same() -> None:
    cards = load_cards(SHIPPED)
    first, second = (describe_graph(cards[name].path) for name in ("v1", "v2"))
    assert first == second
    assert first[1] > 2_000_000
    assert cards["v1"].input_px == cards["v2"].input_px


def test_the_cards_figures_are_what_was_promised() -> None:
    """Measured by `training.evaluate --record` on held-out photographs: no worse than grey, and not grey."""
    # Of the same photographs: dE2000 of grey, feature distances after five minutes of training.
    for name, least_colour, most_delta_e, trial in (("v1", 20, 12.98, 0.246), ("v2", 30, 12.98, 0.274)):
        figures = load_cards(SHIPPED)[name].figures
        assert figures["photos"] == 48
        assert float(figures["colourfulness"]) >= least_colour
        assert float(figures["dE2000"]) <= most_delta_e
        assert float(figures["feature_distance"]) < trial


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.stem)
def test_both_versions_colour_every_sample(coloured: dict[tuple[str, str], Pixels], photo: Path) -> None:
    grey = open_grey(photo)
    made = [coloured[name, photo.name] for name in ("v1", "v2")]
    for picture in made:
        assert measure_chroma(picture) > 5
        assert np.abs(compute_lightness(picture) - compute_lightness(grey)).max() <= 1.0
    difference = compute_lab(made[0]) - compute_lab(made[1])
    assert np.hypot(difference[..., 1], difference[..., 2]).mean() > 1


def test_colour_is_more_than_one_tint(coloured: dict[tuple[str, str], Pixels]) -> None:
    lab = np.concatenate([compute_lab(made).reshape(-1, 3) for (name, _), made in coloured.items() if name == "v2"])
    strong = lab[np.hypot(lab[:, 1], lab[:, 2]) > 8]
    hue = np.degrees(np.arctan2(strong[:, 2], strong[:, 1])) % 360
    for low, high, colour in ((30, 90, "warm"), (90, 150, "green"), (210, 300, "blue")):
        assert np.mean((hue >= low) & (hue < high)) > 0.04, colour


def test_vivid_is_more_vivid(coloured: dict[tuple[str, str], Pixels]) -> None:
    chroma = {"v1": 0.0, "v2": 0.0}
    for (name, _), made in coloured.items():
        chroma[name] += measure_chroma(made)
    assert chroma["v2"] > 1.2 * chroma["v1"]


def test_a_batch_gives_what_single_runs_give(models: dict[str, OnnxColorizer]) -> None:
    random = np.random.default_rng(0)
    stack = (random.random((3, 1, 96, 128)) * 100).astype(np.float32)
    together = models["v1"].predict(stack)
    assert together.shape == (3, 2, 24, 32)
    assert np.abs(together[1:2] - models["v1"].predict(stack[1:2])).max() < 1e-2


def test_the_wrong_input_is_our_error(models: dict[str, OnnxColorizer]) -> None:
    with pytest.raises(ModelError):
        models["v1"].predict(np.zeros((1, 3, 64, 64), np.float32))


def test_every_sample_has_a_licence_line() -> None:
    licences = (SAMPLES / "LICENCES.md").read_text(encoding="utf-8")
    assert PHOTOS
    assert all(photo.name in licences for photo in PHOTOS)
