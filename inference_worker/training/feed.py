"""Draws what the colorizers learn from: crops of the collected photographs, changed as old photographs differ.

Two crop sizes take turns: objects large in the picture, and whole scenes as the worker sends them.
"""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812 - torch's own custom

STRETCH: Final = 1.2
"""A crop's height and width differ by up to this factor before they become a square."""
BLURRED_SHARE: Final = 0.15


def srgb_to_lab(rgb: Any) -> Any:
    """Convert float sRGB in 0..1, channels last, to CIE Lab (D65)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
        dtype=np.float32,
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883], dtype=np.float32)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    ).astype(np.float32)


@dataclasses.dataclass(slots=True)
class Photo:
    """One photograph as Lab (3, H, W), its mask (1, H, W) or None, and how it is used."""

    row: dict[str, Any]
    lab: Any
    mask: Any


def load_photos(folder: Path) -> list[Photo]:
    photos = []
    for line in (folder / "sources.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        with Image.open(folder / row["file"]) as image:
            pixels = np.asarray(image, dtype=np.float32) / 255
        lab = torch.from_numpy(srgb_to_lab(pixels[..., :3])).permute(2, 0, 1).half()
        mask = torch.from_numpy(pixels[..., 3:].copy()).permute(2, 0, 1).half() if row["masked"] else None
        photos.append(Photo(row=row, lab=lab, mask=mask))
    return photos


def crop(photo: Photo, size: int, rng: random.Random, *, smallest: float) -> tuple[Any, Any]:
    """Cut a random rectangle, scale it to a square of *size*, flip it half of the time; returns Lab and mask.

    *smallest* is the least share of the photo's short side that a crop takes.
    """
    _, height, width = photo.lab.shape
    short = min(height, width)
    side = max(min(short, 96), int(short * rng.uniform(smallest, 1.0) ** 0.7))
    stretch = rng.uniform(1.0, STRETCH)
    tall, wide = (side, int(side / stretch)) if rng.random() < 0.5 else (int(side / stretch), side)
    top, left = rng.randint(0, height - tall), rng.randint(0, width - wide)
    both = photo.lab if photo.mask is None else torch.cat([photo.lab, photo.mask])
    cut = both[:, top : top + tall, left : left + wide].float()
    cut = F.interpolate(cut[None], size=(size, size), mode="bilinear", antialias=side > size, align_corners=False)[0]
    if rng.random() < 0.5:
        cut = cut.flip(2)
    return cut[:3], cut[3:] if photo.mask is not None else None


def paint_sky(size: int, rng: random.Random) -> Any:
    """A plain clear sky, lighter at the horizon, behind panoramas whose sky was cut out."""
    down = torch.linspace(0, 1, size)[:, None].expand(size, size)
    depth = rng.uniform(0.5, 1.3)
    lightness = rng.uniform(50, 75) + 22 * down
    return torch.stack([lightness, -2 - 4 * depth * (1 - down), -(8 + 26 * (1 - down)) * depth])


class Feed:
    """Draws training batches; cut-outs are pasted on photographs, panoramas on a sky."""

    def __init__(self, photos: list[Photo], seed: int) -> None:
        self.rng = random.Random(seed)
        train = [photo for photo in photos if photo.row["split"] == "train"]
        self.scenes = [p for p in train if p.mask is None and "paintings" not in p.row["path"]]
        self.paintings = [p for p in train if p.mask is None and "paintings" in p.row["path"]]
        self.panoramas = [p for p in train if p.mask is not None and p.row["package"] == "stellarium-data"]
        self.stamps = [p for p in train if p.mask is not None and p.row["package"] != "stellarium-data"]

    def draw_one(self, size: int, smallest: float) -> Any:
        def cut(kind: list[Photo]) -> tuple[Any, Any]:
            return crop(self.rng.choice(kind), size, self.rng, smallest=smallest)

        kind = self.rng.random()
        if kind < 0.08 and self.paintings:
            return cut(self.paintings)[0]
        if kind < 0.14 and self.panoramas:
            lab, mask = cut(self.panoramas)
            return mask * lab + (1 - mask) * paint_sky(size, self.rng)
        scene = cut(self.scenes)[0]
        if kind < 0.24 and self.stamps:
            lab, mask = cut(self.stamps)
            return mask * lab + (1 - mask) * scene
        return scene

    def draw(self, count: int, size: int, *, smallest: float = 0.45) -> tuple[Any, Any]:
        """A batch: lightness (N, 1, size, size) changed as in old photographs, and the true ab (N, 2, size, size)."""
        lab = torch.stack([self.draw_one(size, smallest) for _ in range(count)])
        return self._age(lab[:, :1].clamp(0, 100)), lab[:, 1:]

    def _age(self, lightness: Any) -> Any:
        """Another tone curve, contrast, darker corners, blur and grain."""
        count, _, size, _ = lightness.shape

        def draw(low: float, high: float) -> Any:
            return torch.empty(count, 1, 1, 1).uniform_(low, high)

        share = (lightness / 100) ** draw(0.65, 1.5)
        share = share + draw(-0.25, 0.35) * share * (1 - share) * (2 * share - 1)
        across = torch.linspace(-1, 1, size)
        radius2 = across[:, None] ** 2 + across[None, :] ** 2
        share = share * (1 - draw(0.0, 0.18) * radius2)
        if self.rng.random() < BLURRED_SHARE:
            share = F.interpolate(F.avg_pool2d(share, 2), scale_factor=2, mode="bilinear", align_corners=False)
        grain = torch.randn_like(lightness) * draw(0.0, 3.0)
        return (100 * share * draw(0.75, 1.05) + draw(0.0, 10.0) + grain).clamp(0, 100)
