"""Trains the shipped colorizers on the collected photographs, on one CPU thread, for a given number of minutes.

Both heads learn together on one trunk. Figures on held-out photographs and a contact sheet are written beside the
checkpoint; `export.py` makes the two ONNX files from it.
"""

import argparse
import dataclasses
import json
import math
import random
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from inference_worker.training.net import Colorizer, expect

BIN_STEP: Final = 10
SMOOTHING: Final = 0.5
"""Share of a uniform distribution mixed into the bins' frequencies before rare colours are weighed up."""
SOFT_SIGMA: Final = 5.0
FROZEN_BLOCKS: Final = 3


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


def crop(photo: Photo, size: int, rng: random.Random) -> tuple[Any, Any]:
    """Cut a random square, scale it to *size*, flip it half of the time; returns Lab and mask."""
    _, height, width = photo.lab.shape
    short = min(height, width)
    side = max(min(short, 96), int(short * rng.uniform(0.45, 1.0) ** 0.7))
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    both = photo.lab if photo.mask is None else torch.cat([photo.lab, photo.mask])
    cut = both[:, top : top + side, left : left + side].float()
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

    def draw_one(self, size: int) -> Any:
        kind = self.rng.random()
        if kind < 0.10 and self.paintings:
            return crop(self.rng.choice(self.paintings), size, self.rng)[0]
        if kind < 0.16 and self.panoramas:
            lab, mask = crop(self.rng.choice(self.panoramas), size, self.rng)
            return mask * lab + (1 - mask) * paint_sky(size, self.rng)
        scene = crop(self.rng.choice(self.scenes), size, self.rng)[0]
        if kind < 0.26 and self.stamps:
            lab, mask = crop(self.rng.choice(self.stamps), size, self.rng)
            return mask * lab + (1 - mask) * scene
        return scene

    def draw(self, count: int, size: int) -> tuple[Any, Any]:
        """A batch: lightness with tone and noise changed as old photographs have it, and the true ab."""
        lab = torch.stack([self.draw_one(size) for _ in range(count)])
        lightness, ab = lab[:, :1], lab[:, 1:]
        gamma = torch.empty(count, 1, 1, 1).uniform_(0.75, 1.35)
        gain = torch.empty(count, 1, 1, 1).uniform_(0.8, 1.05)
        lift = torch.empty(count, 1, 1, 1).uniform_(0.0, 8.0)
        noise = torch.randn_like(lightness) * torch.empty(count, 1, 1, 1).uniform_(0.0, 2.5)
        toned = 100 * (lightness.clamp(0, 100) / 100) ** gamma * gain + lift + noise
        return toned.clamp(0, 100), ab


def choose_bins(photos: list[Photo]) -> tuple[Any, Any]:
    """Bin centres (K, 2) that the training photographs use, and how much a pixel of each bin weighs."""
    counts: dict[tuple[int, int], float] = {}
    for photo in photos:
        if photo.row["split"] != "train":
            continue
        ab = photo.lab[1:, ::6, ::6].float().reshape(2, -1)
        if photo.mask is not None:
            ab = ab[:, photo.mask[0, ::6, ::6].reshape(-1) > 0.5]
        cells, times = torch.unique(torch.round(ab / BIN_STEP).long(), dim=1, return_counts=True)
        total = float(times.sum()) or 1.0
        for (a, b), n in zip(cells.t().tolist(), times.tolist(), strict=True):
            counts[a, b] = counts.get((a, b), 0.0) + n / total
    whole = sum(counts.values())
    kept = {cell: n / whole for cell, n in sorted(counts.items()) if n / whole > 2e-5}
    centres = torch.tensor(list(kept), dtype=torch.float32) * BIN_STEP
    share = torch.tensor(list(kept.values()))
    share = share / share.sum()
    weight = 1 / ((1 - SMOOTHING) * share + SMOOTHING / len(share))
    return centres, weight / (weight * share).sum()


def measure_loss(net: Colorizer, lightness: Any, ab: Any, weight: Any) -> Any:
    """Classification with rare colours weighed up, plus regression of the expected colour."""
    muted, vivid = net(lightness)
    target = F.interpolate(ab, size=vivid.shape[2:], mode="area")
    flat = target.permute(0, 2, 3, 1).reshape(-1, 2)
    distance = torch.cdist(flat, net.centres)
    near, index = distance.topk(5, dim=1, largest=False)
    soft = torch.exp(-(near**2) / (2 * SOFT_SIGMA**2)) + 1e-6
    soft = soft / soft.sum(dim=1, keepdim=True)
    rare = weight[index[:, 0]]
    log_share = F.log_softmax(vivid.permute(0, 2, 3, 1).reshape(-1, vivid.shape[1]), dim=1)
    classification = -(rare * (soft * log_share.gather(1, index)).sum(dim=1)).mean()
    guess = expect(muted, net.centres).permute(0, 2, 3, 1).reshape(-1, 2)
    error = F.smooth_l1_loss(guess, flat, beta=25.0, reduction="none").sum(dim=1)
    regression = (rare.sqrt() * error).mean()
    return classification + 0.12 * regression


def set_training_mode(net: Colorizer) -> None:
    """Train the decoder; the encoder keeps its ImageNet statistics and its first blocks their weights."""
    net.train()
    net.encoder.eval()
    for module in (net.encoder._conv_stem, net.encoder._bn0, *net.encoder._blocks[:FROZEN_BLOCKS]):  # noqa: SLF001 - the names are the pretrained file's
        for parameter in module.parameters():
            parameter.requires_grad_(requires_grad=False)


def train(net: Colorizer, feed: Feed, weight: Any, *, minutes: float, size: int, out: Path) -> int:
    """Train until *minutes* have passed; returns the number of pictures seen."""
    set_training_mode(net)
    encoder = [p for p in net.encoder.parameters() if p.requires_grad]
    decoder = [p for name, p in net.named_parameters() if not name.startswith("encoder.")]
    optimiser = torch.optim.AdamW(
        [{"params": encoder, "peak": 1.5e-4}, {"params": decoder, "peak": 1.5e-3}], lr=1e-4, weight_decay=0.02
    )
    smooth = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    start = time.perf_counter()
    seen, step, said = 0, 0, 0.0
    recent = 0.0
    while (done := (time.perf_counter() - start) / 60 / minutes) < 1:
        lr_share = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * lr_share
        lightness, ab = feed.draw(16, size)
        loss = measure_loss(net, lightness.contiguous(memory_format=torch.channels_last), ab, weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*encoder, *decoder], 5.0)
        optimiser.step()
        step, seen = step + 1, seen + 16
        recent = loss.item() if step == 1 else 0.98 * recent + 0.02 * loss.item()
        decay = min(0.998, step / (step + 20))
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                smooth[name].lerp_(tensor, 1 - decay)
        if done * minutes - said > 1:
            said = done * minutes
            print(f"{said:5.1f} min  {seen} seen  loss {recent:.3f}  lr {lr_share:.3f}", flush=True)
            torch.save({"state": smooth, "centres": net.centres}, out / "checkpoint.pt")
    net.load_state_dict(smooth)
    net.eval()
    torch.save({"state": net.state_dict(), "centres": net.centres}, out / "checkpoint.pt")
    return seen


def main() -> None:
    """Train, then save the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="what collect.py wrote")
    parser.add_argument("--encoder", type=Path, required=True, help="efficientnet-lite0-*.pth")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=22.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    photos = load_photos(args.photos)
    centres, weight = choose_bins(photos)
    net = Colorizer(centres).to(memory_format=torch.channels_last)
    net.encoder.load_pretrained(str(args.encoder))
    count = sum(p.numel() for p in net.parameters())
    print(f"{len(photos)} pictures, {len(centres)} bins, {count} parameters", flush=True)
    feed = Feed(photos, args.seed)
    kinds = {"scenes": feed.scenes, "paintings": feed.paintings, "panoramas": feed.panoramas, "cut-outs": feed.stamps}
    print(", ".join(f"{len(found)} {kind}" for kind, found in kinds.items()), flush=True)
    seen = train(net, feed, weight, minutes=args.minutes, size=args.size, out=args.out)
    print(f"saw {seen} pictures")


if __name__ == "__main__":
    main()
