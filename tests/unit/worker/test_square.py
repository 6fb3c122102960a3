"""Photos squeezed into a square for the network: their colour comes back where it belongs, under their own light."""

import numpy as np
import pytest

from inference_worker.crafts import Colorizing
from inference_worker.imaging import compute_lab, compute_lightness, prepare, recombine


@pytest.mark.parametrize(("width", "height"), [(300, 100), (90, 310), (128, 128)])
def test_colour_of_a_square_lands_where_the_photo_has_it(width: int, height: int) -> None:
    photo = np.full((height, width, 3), 128, np.uint8)
    photo[: height // 2] = 100
    lightness = prepare(photo, 64, is_square=True)
    assert lightness.shape == (1, 1, 64, 64)
    assert lightness[0, 0, 0, 0] < lightness[0, 0, 63, 0]
    ab = np.zeros((2, 64, 64), np.float32)
    ab[0, :, :32], ab[0, :, 32:] = 20, -20
    made = recombine(photo, ab)
    lab = compute_lab(made)
    assert made.shape == photo.shape
    assert lab[:, : width // 2 - width // 16, 1].min() > 15
    assert lab[:, width // 2 + width // 16 :, 1].max() < -15
    assert np.abs(compute_lightness(made) - compute_lightness(photo)).max() <= 1


def test_a_file_for_one_size_is_given_no_other() -> None:
    craft = Colorizing(model="ddcolor", input_px=64, is_square=True, is_fixed=True)
    assert craft.list_trial_sizes() == (64,)
    assert craft.open(np.full((100, 300, 3), 128, np.uint8), 32).picture.shape == (1, 1, 64, 64)


def test_colour_is_scaled_up_without_steps() -> None:
    """The published code repeats the nearest value, which shows as blocks at four times the size."""
    photo = np.full((256, 256, 3), 128, np.uint8)
    ab = np.zeros((2, 64, 64), np.float32)
    ab[0, :, :32], ab[0, :, 32:] = 20, -20
    steps = np.abs(np.diff(compute_lab(recombine(photo, ab))[128, :, 1]))
    assert steps.sum() > 38
    assert steps.max() < 15
