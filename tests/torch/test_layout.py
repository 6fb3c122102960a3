"""Names, shapes and types are those of the official network; the lists in tests/golden/ddcolor were printed by it."""

from pathlib import Path

import pytest
import torch

from inference_worker.ddcolor.network import DDColor
from inference_worker.ddcolor.variants import VARIANTS, Variant

pytestmark = pytest.mark.torch

GOLDEN = Path(__file__).parents[1] / "golden" / "ddcolor"


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_tensors_are_those_of_the_official_network(variant: Variant) -> None:
    with torch.device("meta"):
        net = DDColor(variant)
    tensors = net.state_dict()
    lines = {
        f"{name} {'x'.join(map(str, t.shape)) or 'scalar'} {str(t.dtype).removeprefix('torch.')}"
        for name, t in tensors.items()
    }
    assert lines == set((GOLDEN / f"{variant.name}.txt").read_text().splitlines())
    assert len(tensors) == variant.tensors
    assert sum(parameter.numel() for parameter in net.parameters()) == variant.parameters


def test_the_sizes_are_the_published_ones() -> None:
    counts = {name: (v.tensors, round(v.parameters / 1e6, 1)) for name, v in VARIANTS.items()}
    assert counts == {"tiny": (440, 55.0), "large": (602, 227.9)}
