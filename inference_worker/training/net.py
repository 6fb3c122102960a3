"""The small colorizer: an EfficientNet-Lite0 encoder, a light U-shaped decoder and two heads over colour bins.

Both heads have the same shape: logits over bins of the ab plane, a softmax, and the expected colour. Head `muted` is
trained as a regression of that expectation, head `vivid` as a classification; one head is exported per checkpoint,
so that v1 and v2 are the same graph with other numbers in it and cost the same.
"""

from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

BLOCKS: Final = (
    # expand ratio, kernel, stride, in, out: EfficientNet-Lite0
    (1, 3, 1, 32, 16),
    (6, 3, 2, 16, 24),
    (6, 3, 1, 24, 24),
    (6, 5, 2, 24, 40),
    (6, 5, 1, 40, 40),
    (6, 3, 2, 40, 80),
    (6, 3, 1, 80, 80),
    (6, 3, 1, 80, 80),
    (6, 5, 1, 80, 112),
    (6, 5, 1, 112, 112),
    (6, 5, 1, 112, 112),
    (6, 5, 2, 112, 192),
    (6, 5, 1, 192, 192),
    (6, 5, 1, 192, 192),
)
"""All but the last two, which hold a third of the encoder's weights: the files shall stay below 5 MB."""
SKIPS: Final = {2: 24, 4: 40, 10: 112}
"""Blocks whose output the decoder reads, with their channels; strides 4, 8 and 16."""
DEEPEST: Final = BLOCKS[-1][-1]
DROPPED: Final = 0.15
"""Share of the deepest features left out in training, as 600 photographs are few."""
BN_EPS: Final = 1e-3
DECODER_CHANNELS: Final = (128, 112, 80, 64)


def pad_same(x: Any, kernel: int, stride: int) -> Any:
    """TensorFlow's `same` padding for even sizes, which the pretrained weights were trained with."""
    if stride == 1:
        side = kernel // 2
        return F.pad(x, (side, side, side, side))
    low = (kernel - 2) // 2
    return F.pad(x, (low, kernel - 2 - low, low, kernel - 2 - low))


class Block(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """One inverted residual; attribute names are those of the pretrained file."""

    def __init__(self, expand: int, kernel: int, stride: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        wide = channels_in * expand
        self.kernel, self.stride = kernel, stride
        self.is_residual = stride == 1 and channels_in == channels_out
        self.is_expanding = expand > 1
        if self.is_expanding:
            self._expand_conv = nn.Conv2d(channels_in, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=BN_EPS)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=BN_EPS)
        self._project_conv = nn.Conv2d(wide, channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels_out, eps=BN_EPS)

    def forward(self, x: Any) -> Any:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.is_expanding else x
        y = F.relu6(self._bn1(self._depthwise_conv(pad_same(y, self.kernel, self.stride))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class Encoder(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """EfficientNet-Lite0 without its classifier; returns features at strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=BN_EPS)
        self._blocks = nn.ModuleList([Block(*block) for block in BLOCKS])

    def forward(self, x: Any) -> list[Any]:
        x = F.relu6(self._bn0(self._conv_stem(pad_same(x, 3, 2))))
        features = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in SKIPS:
                features.append(x)
        return [*features, x]

    def load_pretrained(self, path: str) -> None:
        """Load the ImageNet weights; what lies behind the last block is left out, any other difference is an error."""
        state = torch.load(path, weights_only=True)
        cut = tuple(f"_blocks.{index}." for index in range(len(BLOCKS), 16))
        kept = {
            name: tensor for name, tensor in state.items() if not name.startswith(("_conv_head", "_bn1.", "_fc", *cut))
        }
        self.load_state_dict(kept, strict=True)


def conv_bn(channels_in: int, channels_out: int, kernel: int) -> Any:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Head(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Logits over the colour bins at stride 4."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.mix = conv_bn(DECODER_CHANNELS[3], 48, 3)
        self.logits = nn.Conv2d(48, bins, 1)

    def forward(self, x: Any) -> Any:
        return self.logits(self.mix(x))


class Colorizer(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Lightness in, logits over colour bins out, once per head."""

    def __init__(self, centres: Any) -> None:
        super().__init__()
        deep, middle, upper, top = DECODER_CHANNELS
        self.encoder = Encoder()
        self.deep = conv_bn(DEEPEST, deep, 1)
        self.scene = nn.Linear(DEEPEST, deep)
        self.middle = conv_bn(deep + SKIPS[10], middle, 3)
        self.upper = conv_bn(middle + SKIPS[4], upper, 3)
        self.top = conv_bn(upper + SKIPS[2], top, 3)
        self.muted = Head(len(centres))
        self.vivid = Head(len(centres))
        self.register_buffer("centres", centres.clone())

    def trunk(self, lightness: Any) -> Any:
        """Features at stride 4 for *lightness* (N, 1, H, W) in 0..100; H and W multiples of 32."""
        grey = (lightness * 2.55 - 127.0) / 128.0
        at4, at8, at16, at32 = self.encoder(grey.expand(-1, 3, -1, -1))
        x = self.deep(at32) + self.scene(at32.mean(dim=(2, 3)))[:, :, None, None]
        x = F.dropout2d(x, DROPPED, training=self.training)
        for skip, layer in ((at16, self.middle), (at8, self.upper), (at4, self.top)):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = layer(torch.cat([x, skip], dim=1))
        return x

    def forward(self, lightness: Any) -> tuple[Any, Any]:
        features = self.trunk(lightness)
        return self.muted(features), self.vivid(features)


def expect(logits: Any, centres: Any, temperature: float = 1.0) -> Any:
    """The expected ab (N, 2, h, w) under the softmax of *logits* sharpened by *temperature*."""
    share = torch.softmax(logits / temperature, dim=1)
    return F.conv2d(share, centres.t()[:, :, None, None])
