"""The feature distance: nothing between equal pictures, little between codings, more between styles, much for bugs."""

import io

import numpy as np
import pytest
from PIL import Image

from controlplane.quality import features
from controlplane.quality.colour import Pixels
from controlplane.quality.features import Meter
from tests.unit.quality.gallery import DEFECTS, coloured, encode

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
    one, other = coloured("v1")[0].pixels, coloured("v2")[0].pixels
    distance = meter.measure(one, other)
    assert 0 < distance < 4
    assert meter.measure(other, one) == pytest.approx(distance, rel=1e-4)
    assert features.feature_distance(one, other) == pytest.approx(distance, rel=1e-4)


def test_codings_are_nearer_than_styles_and_styles_nearer_than_bugs(meter: Meter) -> None:
    muted, vivid = coloured("v1")[::STEP], coloured("v2")[::STEP]

    def mean(pictures: list[Pixels]) -> float:
        return float(
            np.mean([meter.measure(one.pixels, picture) for one, picture in zip(muted, pictures, strict=True)])
        )

    coded = mean([decode(encode(one.pixels, quality=85, subsampling=2)) for one in muted])
    styled = mean([one.pixels for one in vivid])
    bugs = {
        name: mean([decode(data) for data in DEFECTS[name](muted)])
        for name in ("all grey", "colours inverted", "hues turned by 90 degrees", "negative", "shifted by 8 pixels")
    }
    assert coded < 0.05 < styled < 0.13 < min(bugs.values()), (coded, styled, bugs)


def test_only_larger_pictures_are_scaled_and_their_shape_is_kept() -> None:
    sizes = {(100, 130): (96, 128), (512, 384): (256, 192), (4000, 1000): (256, 64), (300, 300): (256, 256)}
    for (height, width), wanted in sizes.items():
        assert features.shrink(np.zeros((height, width, 3), np.uint8)).shape[:2] == wanted
