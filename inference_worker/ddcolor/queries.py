"""The colour decoder: learned queries read the pixel decoder's three scales in turn and become colours.

A transformer decoder as in Mask2Former (Cheng et al., CVPR 2022), without masks: cross-attention first, then
self-attention, then two linear layers, each followed by its norm. Positions are sines of 2 pi times the share of
height and width (DETR, Carion et al., ECCV 2020).
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from inference_worker.ddcolor.variants import QUERIES, QUERY_LAYERS, QUERY_SCALES

WIDTH: Final = 256
HEADS: Final = 8
FEED_FORWARD: Final = 2048
TEMPERATURE: Final = 10_000.0


def encode_axis(count: int, device: torch.device) -> Tensor:
    """Sines and cosines, in turn, of each of *count* places along one axis: (count, WIDTH / 2)."""
    place = torch.arange(1, count + 1, dtype=torch.float32, device=device) / (count + 1e-6) * (2 * math.pi)
    octave = torch.arange(WIDTH // 4, dtype=torch.float32, device=device) / (WIDTH // 4)
    angle = place[:, None] / TEMPERATURE**octave
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)


def add_positions(pixels: Tensor, height: int, width: int) -> Tensor:
    """Rows of pixels (N, height * width, WIDTH) with their row in the first half of the channels, column in the second.

    Both are added as one vector per row and column: an exported graph would carry a table for every pixel.
    """
    grid = pixels.unflatten(1, (height, width))
    rows = F.pad(encode_axis(height, pixels.device), (0, WIDTH // 2)).to(pixels.dtype)
    columns = F.pad(encode_axis(width, pixels.device), (WIDTH // 2, 0)).to(pixels.dtype)
    return (grid + rows[:, None] + columns).flatten(1, 2)


class Attention(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """What both kinds of attention share."""

    is_folded = False

    def fold(self) -> None:
        """Make no table of who looks at what, which nobody reads."""
        self.is_folded = True


class CrossAttention(Attention):
    """Queries look at pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, place: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        seen, _ = self.multihead_attn(x + place, keys, values, need_weights=not self.is_folded)
        return self.norm(x + seen)


class SelfAttention(Attention):
    """Queries look at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        seen, _ = self.self_attn(x + place, x + place, x, need_weights=not self.is_folded)
        return self.norm(x + seen)


class FeedForward(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Each query for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(WIDTH, FEED_FORWARD)
        self.linear2 = nn.Linear(FEED_FORWARD, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class ColourHead(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Three linear layers from a query to its weights over the pixel features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class ColourDecoder(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """What each query wants of each pixel feature: (N, QUERIES, WIDTH) from three scales."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttention() for _ in range(QUERY_LAYERS))
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttention() for _ in range(QUERY_LAYERS))
        self.transformer_ffn_layers = nn.ModuleList(FeedForward() for _ in range(QUERY_LAYERS))
        self.decoder_norm = nn.LayerNorm(WIDTH)
        self.query_feat = nn.Embedding(QUERIES, WIDTH)
        self.query_embed = nn.Embedding(QUERIES, WIDTH)
        self.level_embed = nn.Embedding(QUERY_SCALES, WIDTH)
        self.input_proj = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in channels)
        self.color_embed = ColourHead()

    def forward(self, scales: list[Tensor]) -> Tensor:
        keys, values = [], []
        for level, (project, scale) in enumerate(zip(self.input_proj, scales, strict=True)):
            rows = project(scale).flatten(2).transpose(1, 2)
            values.append(rows + self.level_embed.weight[level])
            keys.append(add_positions(values[level], int(scale.shape[2]), int(scale.shape[3])))
        count = scales[0].shape[0]
        place = self.query_embed.weight.expand(count, -1, -1)
        x = self.query_feat.weight.expand(count, -1, -1)
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (read_pixels, read_queries, think) in enumerate(layers):
            level = index % QUERY_SCALES
            x = think(read_queries(read_pixels(x, place, keys[level], values[level]), place))
        return self.color_embed(self.decoder_norm(x))
