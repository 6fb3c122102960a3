"""The encoder: ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022), read at four scales."""

import itertools
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from inference_worker.ddcolor.variants import Variant

EPSILON: Final = 1e-6


class ChannelNorm(nn.LayerNorm):  # type: ignore[misc] # torch is not installed where mypy runs
    """Layer norm over the channels of each pixel of (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)
        self.is_folded = False

    def forward(self, x: Tensor) -> Tensor:
        if self.is_folded:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        centred = x - x.mean(1, keepdim=True)
        even = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * even + self.bias[:, None, None]

    def fold(self) -> None:
        """Norm in one pass over pixels turned to channels last, instead of six passes."""
        self.is_folded = True


class Block(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Depthwise 7 x 7, then two pointwise layers around a GELU, added to the input after a scale per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.full((width,), EPSILON))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        inside = self.pwconv2(F.gelu(self.pwconv1(inside)))
        if self.gamma is not None:
            inside = inside * self.gamma
        return x + inside.permute(0, 3, 1, 2)

    def fold(self) -> None:
        """Take the scale into the last layer: s * (Wx + b) = (sW)x + sb."""
        if self.gamma is None:
            return
        with torch.no_grad():
            self.pwconv2.weight.mul_(self.gamma[:, None])
            self.pwconv2.bias.mul_(self.gamma)
        self.gamma = None


class ConvNeXt(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Features at strides 4, 8, 16 and 32, each under a norm of its own that the next stage does not see."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        widths = variant.widths
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0]))])
        for shallow, deep in itertools.pairwise(widths):
            self.downsample_layers.append(nn.Sequential(ChannelNorm(shallow), nn.Conv2d(shallow, deep, 2, 2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth)))
            for depth, width in zip(variant.depths, widths, strict=True)
        )
        self.norm0, self.norm1, self.norm2, self.norm3 = map(ChannelNorm, widths)
        self.norm = nn.LayerNorm(widths[-1], eps=EPSILON)
        """Of the classifier that the encoder once had: in every checkpoint, and never used."""

    def forward(self, x: Tensor) -> list[Tensor]:
        seen = []
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        for down, stage, norm in zip(self.downsample_layers, self.stages, norms, strict=True):
            x = stage(down(x))
            seen.append(norm(x))
        return seen


class Encoder(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Holds the backbone under the name `arch`, as the checkpoints do."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.arch = ConvNeXt(variant)

    def forward(self, x: Tensor) -> list[Tensor]:
        seen: list[Tensor] = self.arch(x)
        return seen
