"""AnimeGANv2's generator: three sizes down to a quarter, four inverted residual blocks, and up again."""

from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

TENSORS: Final = 77
PARAMETERS: Final = 2_143_552
SLOPE: Final = 0.2


class Unit(nn.Sequential):  # type: ignore[misc] # torch is not installed where mypy runs
    """Mirrored border, convolution, norm over the whole picture, leaky ReLU; a stride of 2 halves even sides."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
    ) -> None:
        border = (0, 1, 0, 1) if stride == 2 else (kernel // 2,) * 4
        super().__init__(
            nn.ReflectionPad2d(border) if kernel > 1 else nn.Identity(),
            nn.Conv2d(channels_in, channels_out, kernel, stride, groups=groups, bias=groups > 1),
            nn.GroupNorm(1, channels_out),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class Inverted(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """An inverted residual block: twice as wide inside, each channel filtered alone, no activation at its end."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        wide = 2 * channels_in
        self.is_residual = channels_in == channels_out
        self.layers = nn.Sequential(
            Unit(channels_in, wide, 1),
            Unit(wide, wide, groups=wide),
            nn.Conv2d(wide, channels_out, 1, bias=False),
            nn.GroupNorm(1, channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.is_residual else y


class Generator(nn.Module):  # type: ignore[misc] # torch is not installed where mypy runs
    """A photo (N, 3, H, W) in -1..1 in, its drawing in -1..1 out, of the same size; H and W multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.block_a = nn.Sequential(Unit(3, 32, 7), Unit(32, 64, stride=2), Unit(64, 64))
        self.block_b = nn.Sequential(Unit(64, 128, stride=2), Unit(128, 128))
        self.block_c = nn.Sequential(
            Unit(128, 128),
            Inverted(128, 256),
            *(Inverted(256, 256) for _ in range(3)),
            Unit(256, 128),
        )
        self.block_d = nn.Sequential(Unit(128, 128), Unit(128, 128))
        self.block_e = nn.Sequential(Unit(128, 64), Unit(64, 64), Unit(64, 32, 7))
        self.out_layer = nn.Sequential(nn.Conv2d(32, 3, 1, bias=False), nn.Tanh())

    def forward(self, photo: Tensor) -> Tensor:
        half = self.block_a(photo)
        low = self.block_c(self.block_b(half))
        # Corner on corner, as the original scales in TensorFlow and the published code by default.
        x = self.block_d(F.interpolate(low, half.shape[2:], mode="bilinear", align_corners=True))
        x = self.block_e(F.interpolate(x, photo.shape[2:], mode="bilinear", align_corners=True))
        drawn: Tensor = self.out_layer(x)
        return drawn
