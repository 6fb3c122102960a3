"""Writes the trained checkpoint as two models, v1 (muted) and v2 (vivid), each an ONNX file and its card.

The two graphs differ in numbers only: temperature and saturation are folded into weights. Weights are stored as
float16 behind a Cast, which halves the files; the runtime widens them while loading and computes in float32.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx  # type: ignore[import-not-found, unused-ignore] # installed for training only
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from inference_worker.cards import ModelCard, Source
from inference_worker.catalogue import describe_file, make_folder, record
from inference_worker.sizing import SizeRange
from inference_worker.training.net import Colorizer

INPUT_PX: Final = 192
HALF_FROM_VALUES: Final = 512
"""Smaller tensors stay float32: they save nothing and hold what is sensitive."""


@dataclasses.dataclass(frozen=True, slots=True)
class Style:
    """How one head is decoded: a temperature below 1 sharpens, saturation scales the colour."""

    head: str
    temperature: float
    saturation: float
    about: str


WEIGHTS: Final = Source(
    licence="Apache-2.0",
    origin=(
        "trained by inference_worker/training, see MODEL_CARD.md; encoder EfficientNet-Lite0 (ImageNet), Apache-2.0"
    ),
)
DATA: Final = Source(
    licence="CC-BY, CC-BY-SA, CC0, public domain, GFDL, GPL-2 and -3, by picture in TRAINING_SOURCES.tsv",
    origin="592 pictures of Debian and PyPI packages, in TRAINING_SOURCES.tsv",
)
ROUTES: Final = {"person": SizeRange(460, 680), "building": SizeRange(960, 1280)}
"""v1 under other names, with the sizes that these routes allow."""


class Decoded(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """One head of the network with its decoding: lightness in, ab at a quarter of the size out."""

    def __init__(self, net: Colorizer, style: Style) -> None:
        super().__init__()
        self.net = net
        self.mix = getattr(net, style.head).mix
        self.logits = getattr(net, style.head).logits
        with torch.no_grad():
            self.logits.weight /= style.temperature
            self.logits.bias /= style.temperature
        self.register_buffer("colours", (net.centres * style.saturation).t()[:, :, None, None].contiguous())

    def forward(self, lightness: Any) -> Any:
        share = torch.softmax(self.logits(self.mix(self.net.trunk(lightness))), dim=1)
        return F.conv2d(share, self.colours)


def halve_weights(model: Any) -> None:
    """Store each large float32 weight as float16 and a Cast node."""
    kept, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < HALF_FROM_VALUES:
            kept.append(tensor)
            continue
        half = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half")
        casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
        kept.append(half)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def export(checkpoint: Path, style: Style, target: Path) -> None:
    """Write one style of *checkpoint* as ONNX."""
    saved = torch.load(checkpoint, weights_only=True)
    net = Colorizer(saved["centres"])
    net.load_state_dict(saved["state"])
    module = Decoded(net, style).eval()
    torch.onnx.export(
        module,
        (torch.rand(1, 1, INPUT_PX, INPUT_PX) * 100,),
        str(target),
        input_names=["lightness"],
        output_names=["ab"],
        dynamic_axes={"lightness": {0: "n", 2: "h", 3: "w"}, "ab": {0: "n", 2: "h4", 3: "w4"}},
        opset_version=17,
        dynamo=False,
    )
    model = onnx.load(str(target))
    halve_weights(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def main() -> None:
    """Export both styles and write all cards; figures are for `evaluate --record` to add."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the models folder")
    parser.add_argument("--muted-saturation", type=float, default=1.0)
    parser.add_argument("--vivid-saturation", type=float, default=1.0)
    parser.add_argument("--vivid-temperature", type=float, default=0.45)
    args = parser.parse_args()
    styles = {
        "v1": Style("muted", 1.0, args.muted_saturation, "Baseline colorizer, muted: regression of the colour."),
        "v2": Style(
            "vivid",
            args.vivid_temperature,
            args.vivid_saturation,
            "Baseline colorizer, vivid: classification over colour bins, sharpened mean.",
        ),
    }
    cards: dict[str, ModelCard] = {}
    for name, style in styles.items():
        target = make_folder(args.out, name) / "weights.onnx"
        export(args.checkpoint, style, target)
        cards[name] = ModelCard(
            name=name,
            version=name,
            about=f"{style.about} Not DDColor quality.",
            folder=target.parent,
            files=(describe_file(target),),
            weights=WEIGHTS,
            data=DATA,
            input_px=INPUT_PX,
            head=f"mean colour over bins, T = {style.temperature:g}, saturation {style.saturation:g}, quarter size",
        )
        record(args.out, cards[name])
        print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")
    about = "The checkpoint of v1 under the name of this route: no model was trained for it alone."
    for name, sizes in ROUTES.items():
        record(
            args.out,
            dataclasses.replace(cards["v1"], name=name, version=name, about=about, alias_of="v1", sizes=sizes),
        )


if __name__ == "__main__":
    main()
