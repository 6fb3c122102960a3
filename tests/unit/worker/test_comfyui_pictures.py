import io

import numpy as np
import pytest
from PIL import Image

from inference_worker.comfyui.errors import UnusableAnswerError
from inference_worker.comfyui.pictures import draw_grey, name_content, read_colour
from inference_worker.comfyui.work import name_prompt
from inference_worker.imaging import compute_lab
from tests.comfyui_nodes import draw_photo


def test_the_grey_that_is_drawn_has_the_lightness_that_was_given() -> None:
    lightness = np.linspace(0, 100, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    with Image.open(io.BytesIO(draw_grey(lightness))) as image:
        drawn = compute_lab(np.asarray(image))
    assert np.abs(drawn[..., 0] - lightness[0, 0]).max() < 0.6  # 8 bits
    assert np.abs(drawn[..., 1:]).max() < 0.02


def test_colour_is_read_in_the_size_that_comfyui_chose() -> None:
    planes = read_colour(draw_photo(128, 64), 32, 64)
    assert planes.shape == (2, 64, 128)
    assert planes.dtype == np.float32


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "cannot be read"),
        (b"<html>", "cannot be read"),
        (draw_photo()[:60], "cannot be read"),
        (draw_photo(64, 32), "made 64 x 32 of 64 x 64: the shape differs"),
    ],
)
def test_an_answer_that_is_no_such_picture_is_told(data: bytes, told: str) -> None:
    with pytest.raises(UnusableAnswerError, match=told):
        read_colour(data, 64, 64)


def test_the_same_bytes_have_the_same_name() -> None:
    assert name_content(b"a") == name_content(b"a") != name_content(b"b")


def test_a_prompt_has_its_requests_id_or_one_made_of_it() -> None:
    own = "0B6A4F3E-6D0C-4C8E-9B0B-2F1F6C1D7A11"
    assert name_prompt(own, 0) == own.lower()
    assert name_prompt("../x y", 0) == name_prompt("../x y", 0)
    assert len({name_prompt(own, 0), name_prompt(own, 1), name_prompt("x", 0), name_prompt("x", 1)}) == 4
