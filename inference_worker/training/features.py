"""Exports the network behind the picture gate's "feature distance" as one small ONNX file; run by hand, needs torch.

Zhang et al.'s recipe ("The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018) on the first
blocks of an ImageNet EfficientNet-Lite0 and without their learnt weights, so it is not LPIPS and must not be called so.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any, Final

import onnx  # type: ignore[import-not-found, unused-ignore] # installed for training only
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from inference_worker.training.export import halve_weights
from inference_worker.training.net import Encoder, pad_same

DEPTHS: Final = (0, 2, 4, 7, 10)
"""Blocks whose output is compared: strides 2, 4, 8, 16 and 16, 16 to 112 channels. What comes later is coarser than
colours are, and two thirds of the file."""
EXAMPLE_PX: Final = 256
TINY: Final = 1e-6


class Features(Encoder):
    """The network as far as it is compared."""

    def forward(self, x: Any) -> list[Any]:
        """Features at each of `DEPTHS` of pictures (N, 3, H, W) in -1..1, H and W multiples of 16."""
        levels = (x + 1) * 127.5
        x = F.relu6(self._bn0(self._conv_stem(pad_same((levels - 127.0) / 128.0, 3, 2))))
        found = []
        for index, block in enumerate(self._blocks[: DEPTHS[-1] + 1]):
            x = block(x)
            if index in DEPTHS:
                found.append(x)
        return found


class FeatureDistance(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """How differently the network sees two pictures: 0 for the same, 4 at most."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, one: Any, other: Any) -> Any:
        """Distances (N,) of *one* and *other*, both (N, 3, H, W) in -1..1.

        At each depth and place the channels are scaled to a vector of length 1; the squared distance of the two
        vectors is averaged over places, then over depths.
        """
        parts = []
        for x in self.features(torch.cat([one, other])):
            unit = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + TINY)
            first, second = unit.chunk(2)
            parts.append(((first - second) ** 2).sum(dim=1).mean(dim=(1, 2)))
        return torch.stack(parts).mean(dim=0)


def export(weights: Path, target: Path) -> None:
    """Write the distance on the pretrained *weights* as ONNX, stored as float16, computed in float32."""
    features = Features()
    features.load_pretrained(str(weights))
    module = FeatureDistance(features).eval()
    example = torch.rand(1, 3, EXAMPLE_PX, EXAMPLE_PX) * 2 - 1
    free = {0: "n", 2: "h", 3: "w"}
    torch.onnx.export(
        module,
        (example, example.flip(3)),
        str(target),
        input_names=["one", "other"],
        output_names=["distance"],
        dynamic_axes={"one": free, "other": free, "distance": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )
    model = onnx.load(str(target))
    halve_weights(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def main() -> None:
    """Export and print size and checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="efficientnet-lite0-*.pth")
    parser.add_argument("--out", type=Path, default=Path("controlplane/quality/features.onnx"))
    args = parser.parse_args()
    export(args.encoder, args.out)
    data = args.out.read_bytes()
    print(f"{args.out}: {len(data) / 1e6:.2f} MB, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
