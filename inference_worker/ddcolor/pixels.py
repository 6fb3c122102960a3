"""The pixel decoder: U-Net blocks that double the size by sub-pixel convolution, with spectral norm.

Sub-pixel convolution with a blur behind it is Sugawara et al.'s cure for checkerboards (2018), its initialisation
(ICNR) Aitken et al.'s (2017), spectral norm Miyato et al.'s (ICLR 2018); the block as a whole comes from DeOldify.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom
from torch.nn.utils import remove_spectral_norm, spectral_norm


def fill_icnr(weight: Tensor, scale: int) -> None:
    """Give all *scale* squared channels of one sub-pixel group the same random kernel, so that nothing is checkered."""
    group = scale**2
    kernels = torch.empty(weight.shape[0] // group, *weight.shape[1:])
    with torch.no_grad():
        weight.copy_(nn.init.kaiming_normal_(kernels).repeat_interleave(group, dim=0))


def blur(x: Tensor) -> Tensor:
    """The mean of each pixel and its upper and left neighbours; the border repeats."""
    return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


def make_conv(channels_in: int, channels_out: int, kernel: int, *, has_bias: bool) -> nn.Conv2d:
    """A convolution under spectral norm that keeps the size."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=has_bias)
    nn.init.kaiming_normal_(conv.weight)
    if has_bias:
        nn.init.zeros_(conv.bias)
    return spectral_norm(conv)


def fold_spectral_norm(root: nn.Module) -> None:
    """Divide each weight under *root* by its largest singular value once and for all, where that is not yet done.

    Without it every forward pass computes the same division again, and the exported graph carries it.
    """
    for module in root.modules():
        if hasattr(module, "weight_orig"):
            remove_spectral_norm(module)


class Upscale(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Sub-pixel convolution: *scale* squared times the channels, shuffled into *scale* times the size, blurred."""

    def __init__(self, channels_in: int, channels_out: int, scale: int, *, has_norm: bool) -> None:
        super().__init__()
        wide = channels_out * scale**2
        conv = make_conv(channels_in, wide, 1, has_bias=not has_norm)
        fill_icnr(conv.weight_orig, scale)
        self.conv = nn.Sequential(conv, nn.BatchNorm2d(wide)) if has_norm else nn.Sequential(conv)
        self.scale = scale

    def spread(self, x: Tensor) -> Tensor:
        """The channels before they are shuffled."""
        return F.relu(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return blur(F.pixel_shuffle(self.spread(x), self.scale))


class UnetBlock(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """Upscales, joins what the encoder saw at that size, and mixes both."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.shuf = Upscale(channels_in, channels_out, 2, has_norm=True)
        self.bn = nn.BatchNorm2d(channels_skip)
        mix = make_conv(channels_out + channels_skip, channels_out, 3, has_bias=False)
        self.conv = nn.Sequential(mix, nn.ReLU(), nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(F.relu(torch.cat([self.shuf(x), self.bn(skip)], dim=1)))
