import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_worker.ddcolor.network import DDColor, compute_grey
from inference_worker.ddcolor.queries import encode_axis
from inference_worker.imaging import compute_lightness

pytestmark = pytest.mark.torch


def draw_grey(count: int, height: int, width: int) -> torch.Tensor:
    noise = torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(count))
    return noise.expand(-1, 3, -1, -1)


def test_it_answers_what_the_published_code_answered(published: DDColor, folded: DDColor) -> None:
    """The golden numbers are the published code's, on the weights of this very stand-in, at every 16th pixel.

    Both answers were equal to the last bit on the machine that made them; others round differently.
    """
    y, x = np.mgrid[0:64, 0:96]
    grey = torch.from_numpy((0.5 + 0.4 * np.sin(x / 9) * np.cos(y / 13)).astype(np.float32))
    golden = json.loads((Path(__file__).parents[1] / "golden" / "ddcolor" / "tiny-answer.json").read_text())
    for net in (published, folded):
        with torch.inference_mode():
            ab = net(grey.expand(1, 3, -1, -1))[0, :, 4::16, 4::16].numpy()
        assert np.abs(ab - np.array(golden["rows"])).max() < 1e-4


@pytest.mark.parametrize("shape", [(1, 256, 256), (2, 64, 96), (1, 32, 32)])
def test_folding_changes_nothing_but_the_order(
    published: DDColor, folded: DDColor, shape: tuple[int, int, int]
) -> None:
    grey = draw_grey(*shape)
    with torch.inference_mode():
        expected, ab = published(grey), folded(grey)
    assert ab.shape == (shape[0], 2, *shape[1:])
    assert expected.abs().max() > 0.1
    assert (ab - expected).abs().max() < 1e-5


def test_a_folded_network_has_no_spectral_norm_and_no_scales_left(published: DDColor, folded: DDColor) -> None:
    left = [name for name in folded.state_dict() if name.endswith(("_orig", "_u", "_v", "gamma"))]
    assert left == []
    assert any(name.endswith("weight_orig") for name in published.state_dict())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_folded_weights_have_spectral_norm_one(published: DDColor, folded: DDColor) -> None:
    """The largest singular value is 1 as far as the power iteration of training came."""
    pairs = [name.removesuffix("_orig") for name in published.state_dict() if name.endswith("weight_orig")]
    assert len(pairs) == 8
    weights = folded.state_dict()
    for name in pairs:
        largest = torch.linalg.matrix_norm(weights[name].flatten(1), ord=2)
        assert 0.9 < largest < 1.5, name


def test_folding_twice_is_harmless(folded: DDColor) -> None:
    grey = draw_grey(1, 64, 64)
    with torch.inference_mode():
        before = folded(grey)
        assert torch.equal(folded.fold()(grey), before)


def test_pictures_of_a_batch_do_not_mix(folded: DDColor) -> None:
    grey = draw_grey(4, 64, 64)
    with torch.inference_mode():
        together = folded(grey)
        for index in range(4):
            assert (together[index : index + 1] - folded(grey[index : index + 1])).abs().max() < 1e-5


def test_the_networks_grey_is_that_of_the_pixels() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    lightness = torch.from_numpy(compute_lightness(levels))
    assert np.abs(compute_grey(lightness)[0].numpy() * 255 - np.arange(256)).max() < 0.01


def test_positions_are_sines_of_the_share_of_the_way() -> None:
    axis = encode_axis(8, torch.device("cpu"))
    assert axis.shape == (8, 128)
    assert torch.allclose(axis[:, 0], torch.sin(torch.arange(1, 9) / 8 * 2 * torch.pi), atol=1e-5)
    assert torch.allclose(axis[:, 1], torch.cos(torch.arange(1, 9) / 8 * 2 * torch.pi), atol=1e-5)
