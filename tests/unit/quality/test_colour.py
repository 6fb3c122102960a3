"""The figures, held against scikit-image, published values, and what must hold for any picture."""

import pathlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from controlplane.quality import colour
from controlplane.quality.colour import Floats, Pixels

SHARMA = np.loadtxt(pathlib.Path(__file__).parents[2] / "data" / "ciede2000.tsv", dtype=np.float32)
HISTOGRAMS = st.lists(st.floats(0, 100), min_size=colour.HUE_BINS, max_size=colour.HUE_BINS).map(np.array)


def scene(seed: int, height: int = 40, width: int = 56) -> Pixels:
    """Smooth random colours with some noise on them."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / random.uniform(4, 20) + random.uniform(0, 6)) * np.cos(y / 9) for _ in range(3)]
    planes = np.stack(waves, axis=-1) * 90 + 128 + random.normal(0, 6, (height, width, 3))
    return np.clip(planes, 0, 255).astype(np.uint8)


def lab_of(rgb: Pixels) -> Floats:
    """Lab at the picture's own size."""
    return colour.shrink_to_lab(rgb, max(rgb.shape))


SCENES = st.integers(0, 2**32).map(scene)


def test_the_published_pairs_of_ciede2000_come_out_to_the_last_published_digit() -> None:
    assert len(SHARMA) == 34
    for one, other in ((SHARMA[:, :3], SHARMA[:, 3:6]), (SHARMA[:, 3:6], SHARMA[:, :3])):
        np.testing.assert_allclose(colour.compute_delta_e(one, other), SHARMA[:, 6], atol=1e-4)


@given(SCENES, SCENES)
def test_lab_and_distances_are_scikit_images(one: Pixels, other: Pixels) -> None:
    np.testing.assert_allclose(lab_of(one), rgb2lab(one), atol=0.02)
    expected = deltaE_ciede2000(lab_of(one), lab_of(other))
    np.testing.assert_allclose(colour.compute_delta_e(lab_of(one), lab_of(other)), expected, atol=1e-4)


@given(SCENES, SCENES)
def test_a_distance_is_zero_for_the_same_and_the_same_both_ways(one: Pixels, other: Pixels) -> None:
    assert colour.compute_delta_e(lab_of(one), lab_of(one)).max() == 0
    there, back = (colour.compute_delta_e(lab_of(x), lab_of(y)) for x, y in ((one, other), (other, one)))
    np.testing.assert_allclose(there, back, atol=1e-5)
    assert there.min() >= 0


def test_shrinking_keeps_the_mean_light_and_the_shape() -> None:
    picture = scene(1, height=90, width=250)
    small = colour.shrink_to_lab(picture, 100)
    assert small.shape == (36, 100, 3)
    flat = np.full((90, 250, 3), 77, np.uint8)
    np.testing.assert_allclose(
        colour.shrink_to_lab(flat, 100), np.broadcast_to(lab_of(flat)[0, 0], (36, 100, 3)), atol=1e-4
    )
    assert colour.shrink_to_lab(picture, 1000).shape == picture.shape


@given(SCENES, SCENES)
def test_ssim_is_scikit_images(one: Pixels, other: Pixels) -> None:
    x, y = (lab_of(picture)[..., 1] for picture in (one, other))
    expected = structural_similarity(x.astype(np.float64), y.astype(np.float64), data_range=colour.AB_SPAN)
    assert colour.measure_ssim(x, y) == pytest.approx(expected, abs=1e-9)
    assert colour.measure_ssim(x, x) == pytest.approx(1)


def test_colourfulness_is_zero_for_grey_and_known_for_pure_colours() -> None:
    assert colour.measure_colourfulness(np.full((8, 8, 3), 90, np.uint8)) == 0
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4, :, 0], halves[4:, :, 2] = 255, 255
    first, second = np.array([255.0, 0.0]), np.array([127.5, -255.0])
    expected = np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())
    assert colour.measure_colourfulness(halves) == pytest.approx(expected, rel=1e-5)


@given(SCENES)
def test_more_saturation_is_more_chroma_and_grey_is_none(picture: Pixels) -> None:
    lab = lab_of(picture)
    assert colour.measure_chroma(lab * np.array([1, 2, 2], np.float32)) == pytest.approx(2 * colour.measure_chroma(lab))
    assert colour.measure_chroma(lab * np.array([1, 0, 0], np.float32)) == 0
    assert colour.count_hues(lab).sum() == pytest.approx(colour.measure_chroma(lab), rel=1e-4)


def test_shadows_and_skies_are_not_clipped_but_saturated_pixels_are() -> None:
    picture = np.full((2, 2, 3), 128, np.uint8)
    picture[0, 0], picture[0, 1], picture[1, 0] = 0, 255, (255, 40, 40)
    assert colour.measure_clipped(picture) == 0.25


def brute_force(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """The least work over all places where the circle may be cut open."""
    x, y = one / one.sum(), other / other.sum()
    cuts = (np.abs(np.cumsum(np.roll(x - y, place))[:-1]).sum() for place in range(len(x)))
    return float(min(cuts)) * 360 / len(x)


@given(HISTOGRAMS, HISTOGRAMS)
def test_the_distance_of_hues_is_the_least_work_over_all_cuts(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]
) -> None:
    if one.sum() < 1e-6 or other.sum() < 1e-6:
        return
    found = colour.measure_hue_distance(one, other)
    assert found == pytest.approx(brute_force(one, other), abs=1e-6)
    assert found == pytest.approx(colour.measure_hue_distance(other, one), abs=1e-9)
    assert 0 <= found <= 180 + 1e-9


@given(HISTOGRAMS, st.integers(0, colour.HUE_BINS - 1))
def test_hues_have_no_first_one(one: npt.NDArray[np.float64], turn: int) -> None:
    other = one[::-1].copy()
    turned = colour.measure_hue_distance(np.roll(one, turn), np.roll(other, turn))
    assert turned == pytest.approx(colour.measure_hue_distance(one, other), abs=1e-6)


@pytest.mark.parametrize("turn", [0, 1, 5, 18, 35])
def test_a_single_hue_is_as_far_as_it_is_turned(turn: int) -> None:
    one = np.zeros(colour.HUE_BINS)
    one[3] = 2.0
    assert colour.measure_hue_distance(one, np.roll(one, turn) * 7) == pytest.approx(min(turn, 36 - turn) * 10)


def test_without_colour_there_is_no_hue_to_compare() -> None:
    assert colour.measure_hue_distance(np.zeros(36), np.ones(36)) == 0


@given(SCENES)
def test_a_sepia_picture_leaves_nothing_that_a_tint_does_not_explain(picture: Pixels) -> None:
    lab = lab_of(picture)
    light = lab[..., 0]
    sepia = np.stack([light, 4 + 0.05 * light, 20 - 0.001 * light**2], axis=-1)
    assert colour.measure_residual(sepia) < 0.01
    assert colour.measure_residual(lab) > 5
