"""The feature distance: nothing between equal pictures, little between codings, more between styles, much for bugs."""

import io
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from controlplane.errors import InvalidInputError
from controlplane.quality import features, gate
from controlplane.quality.colour import Pixels
from controlplane.quality.features import LPIPS, Meter
from controlplane.quality.verdict import Limits
from tests.onnx_files import FREE, pack_model
from tests.unit.quality.gallery import DEFECTS, coloured, encode

pytestmark = pytest.mark.xdist_group("gallery")

STEP = 9
"""Every so-manieth photo."""


@pytest.fixture(scope="module")
def meter() -> Meter:
    found = features.open_shipped()
    assert found is not None
    return found


def decode(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.uint8)


def test_a_picture_is_at_no_distance_of_itself_whatever_its_size(meter: Meter) -> None:
    for height, width in ((64, 64), (70, 250), (512, 333), (2000, 500)):
        noise = np.random.default_rng(height).integers(256, size=(height, width, 3), dtype=np.uint8)
        assert meter.measure(noise, noise) == pytest.approx(0, abs=1e-6)
        assert meter.measure(noise, noise[::-1]) > 0.1


def test_a_distance_is_the_same_both_ways_and_in_the_plain_function(meter: Meter) -> None:
    one, other = coloured("v1", every=STEP)[0].pixels, coloured("v2", every=STEP)[0].pixels
    distance = meter.measure(one, other)
    assert 0 < distance < 4
    assert meter.measure(other, one) == pytest.approx(distance, rel=1e-4)
    assert features.feature_distance(one, other) == pytest.approx(distance, rel=1e-4)


def test_codings_are_nearer_than_styles_and_styles_nearer_than_bugs(meter: Meter) -> None:
    muted, vivid = coloured("v1", every=STEP), coloured("v2", every=STEP)

    def mean(pictures: list[Pixels]) -> float:
        return float(
            np.mean([meter.measure(one.pixels, picture) for one, picture in zip(muted, pictures, strict=True)])
        )

    coded, badly = (
        mean([decode(encode(one.pixels, quality=quality, subsampling=2)) for one in muted]) for quality in (85, 60)
    )
    styled = mean([one.pixels for one in vivid])
    bugs = {
        name: mean([decode(data) for data in DEFECTS[name](muted)])
        for name in ("all grey", "colours inverted", "hues turned by 90 degrees", "negative", "shifted by 8 pixels")
    }
    assert coded < 0.05 < styled < 0.13 < min(bugs.values()), (coded, styled, bugs)
    assert badly < Limits().feature_distance / 1.5 < Limits().feature_distance < max(bugs.values()), badly


def test_only_larger_pictures_are_scaled_and_their_shape_is_kept() -> None:
    sizes = {(100, 130): (96, 128), (512, 384): (256, 192), (4000, 1000): (256, 64), (300, 300): (256, 256)}
    for (height, width), wanted in sizes.items():
        assert features.shrink(np.zeros((height, width, 3), np.uint8)).shape[:2] == wanted


# -- the owner's LPIPS -------------------------------------------------------------------------------------------------

BOTH = {"a": FREE, "b": FREE}
DIFFERENCE = [(("a", "b"), "Sub", "d"), (("d",), "Abs", "e"), (("e",), "ReduceMean", "y")]
"""The mean absolute difference: a distance with the inputs and the output of LPIPS."""


def write(folder: pathlib.Path, data: bytes) -> pathlib.Path:
    (folder / "own.onnx").write_bytes(data)
    return folder / "own.onnx"


def test_the_owners_network_measures_beside_the_shipped_one(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path, pack_model(DIFFERENCE, inputs=BOTH, output=("y", (1, 1, 1, 1))))
    shipped, own = gate.find_meters(file)
    assert (shipped.name, own.name) == ("feature_distance", LPIPS)
    dark, light = (np.full((300, 300, 3), level, np.uint8) for level in (51, 102))
    assert own.measure(dark, light) == pytest.approx(2 * 51 / 255, abs=1e-5)


def test_a_network_of_one_size_gets_that_size(tmp_path: pathlib.Path) -> None:
    inputs = dict.fromkeys("ab", (1, 3, 64, 96))
    file = write(tmp_path, pack_model(DIFFERENCE, inputs=inputs, output=("y", (1, 1, 1, 1))))
    black, white = (np.full((200, 150, 3), level, np.uint8) for level in (0, 255))
    assert Meter(file, LPIPS).measure(black, white) == pytest.approx(2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no network that onnxruntime can run"),
        (b"no network", "is no network that onnxruntime can run"),
        (pack_model([(("a",), "Neg", "y")], inputs={"a": FREE}, output=("y", FREE)), "has 1 inputs and 1 outputs"),
        (pack_model([(("a", "b"), "Sub", "y")], inputs=BOTH, output=("y", FREE)), "does not answer one number"),
        (
            pack_model(DIFFERENCE, inputs=dict.fromkeys("ab", (1, 4, 64, 64)), output=("y", (1, 1, 1, 1))),
            "does not take two float32 pictures (1, 3, H, W)",
        ),
    ],
)
def test_a_file_that_cannot_measure_is_refused_in_one_line(tmp_path: pathlib.Path, data: bytes, words: str) -> None:
    file = write(tmp_path, data)
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InvalidInputError) as refused:
        Meter(file, LPIPS).measure(picture, picture)
    assert str(refused.value).startswith(f"--lpips: {file} {words}; give an ONNX file with two inputs, ")


def test_without_onnxruntime_nothing_is_measured_and_an_own_network_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert gate.find_meters() == ()
    with pytest.raises(InvalidInputError, match="--lpips: needs the package onnxruntime"):
        gate.find_meters(tmp_path / "own.onnx")
    monkeypatch.undo()
    with pytest.raises(InvalidInputError, match="cannot be read"):
        gate.find_meters(tmp_path / "own.onnx")
