"""The whole of DDColor: encoder, both decoders and the layer that joins them.

`forward` is the published order of operations, step by step. `fold` prepares a loaded network for inference: it takes
the spectral norms and the blocks' scales into the weights, norms channels in one pass, keeps no tables of attention,
and lets the last three linear steps (queries over features, join with the picture, refine) run as one, which is the
same sum in another order. The published order makes 100 planes of the full size and reads 256; the other makes two.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from inference_worker.ddcolor.convnext import Block, ChannelNorm, Encoder
from inference_worker.ddcolor.pixels import UnetBlock, Upscale, blur, fold_spectral_norm, make_conv
from inference_worker.ddcolor.queries import WIDTH, Attention, ColourDecoder
from inference_worker.ddcolor.variants import QUERIES, Variant

DECODER_WIDTH: Final = 512
LAST_SCALE: Final = 4
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
KAPPA: Final = 24389 / 27
SRGB_TOE: Final = 0.0031308


class Decoder(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Both decoders: pixel features from coarse to fine, and colour queries that read them."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        at4, at8, at16, at32 = variant.widths
        wide, narrow = DECODER_WIDTH, DECODER_WIDTH // 2
        self.layers = nn.ModuleList(
            [UnetBlock(at32, at16, wide), UnetBlock(wide, at8, wide), UnetBlock(wide, at4, narrow)]
        )
        self.last_shuf = Upscale(narrow, narrow, LAST_SCALE, has_norm=False)
        self.color_decoder = ColourDecoder((wide, wide, narrow))

    def forward(self, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the queries want (N, QUERIES, WIDTH), and the finest pixel features at a quarter of the size."""
        at4, at8, at16, x = seen
        scales = []
        for block, skip in zip(self.layers, (at16, at8, at4), strict=True):
            x = block(x, skip)
            scales.append(x)
        return self.color_decoder(scales), x


class DDColor(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Grey RGB (N, 3, H, W) in 0..1 to ab (N, 2, H, W) in units of CIE Lab; H and W multiples of 32."""

    mean: Tensor
    std: Tensor

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.encoder = Encoder(variant)
        self.decoder = Decoder(variant)
        self.refine_net = nn.Sequential(nn.Sequential(make_conv(QUERIES + 3, 2, 1, has_bias=True)))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.is_folded = False

    def forward(self, grey: Tensor) -> Tensor:
        picture = (grey - self.mean) / self.std
        wanted, features = self.decoder(self.encoder(picture))
        if self.is_folded:
            return self._join_folded(wanted, features, picture)
        full = self.decoder.last_shuf(features)
        planes = torch.einsum("nqc,nchw->nqhw", wanted, full)
        return self.refine_net(torch.cat([planes, picture], dim=1))

    def _join_folded(self, wanted: Tensor, features: Tensor, picture: Tensor) -> Tensor:
        """The same as the published order, mixed down to two planes before they are shuffled and blurred."""
        refine = self.refine_net[0][0]
        of_queries, of_picture = refine.weight.flatten(1).split([QUERIES, 3], dim=1)
        last = self.decoder.last_shuf
        spread = last.spread(features)
        mixed = (of_queries @ wanted) @ spread.unflatten(1, (WIDTH, -1)).flatten(2)
        planes = mixed.unflatten(2, (-1, *spread.shape[2:])).flatten(1, 2)
        colour = blur(F.pixel_shuffle(planes, last.scale))
        return colour + F.conv2d(picture, of_picture[:, :, None, None], refine.bias)

    def fold(self) -> "DDColor":
        """Prepare for inference, in place; returns itself. The network can then no longer be trained or saved."""
        self.eval()
        fold_spectral_norm(self)
        for module in self.modules():
            if isinstance(module, Attention | Block | ChannelNorm):
                module.fold()
        self.is_folded = True
        self.requires_grad_(requires_grad=False)
        return self


class LightnessNet(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """A colorizer as the worker knows them: lightness (N, 1, H, W) in 0..100 to ab (N, 2, H, W)."""

    def __init__(self, net: DDColor) -> None:
        super().__init__()
        self.net = net

    def forward(self, lightness: Tensor) -> Tensor:
        return self.net(compute_grey(lightness).expand(-1, 3, -1, -1))


def compute_grey(lightness: Tensor) -> Tensor:
    """The sRGB level in 0..1 of a grey of CIE *lightness* in 0..100."""
    cube_root = (lightness + 16) / 116
    linear = torch.where(cube_root > 6 / 29, cube_root**3, lightness / KAPPA)
    curved = 1.055 * linear.clamp(min=SRGB_TOE) ** (1 / 2.4) - 0.055
    return torch.where(linear <= SRGB_TOE, linear * 12.92, curved)
