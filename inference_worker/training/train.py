"""Trains the shipped colorizers on the collected photographs, on one CPU thread, for a given number of minutes.

Both heads learn together on one trunk. Every minute the state is saved, so that a run that was cut off goes on with
`--resume`; every few minutes the smoothed weights are measured on the held-out photographs. `best.pt` has the weights
that did best there, `checkpoint.pt` the newest; `export.py` makes the two ONNX files from either.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own custom

from inference_worker.training.feed import Feed, Photo, load_photos
from inference_worker.training.net import Colorizer, expect

BIN_STEP: Final = 10
SMOOTHING: Final = 0.5
"""Share of a uniform distribution mixed into the bins' frequencies before rare colours are weighed up."""
SOFT_SIGMA: Final = 5.0
NEAREST_BINS: Final = 5
AB_LIMIT: Final = 128
FROZEN_BLOCKS: Final = 5
TURNS: Final = ((128, 16, 0.4), (128, 16, 0.4), (192, 8, 0.75))
"""Batches in turn: side of the crops, their number, least share of the photo's short side."""
WATCHED_PX: Final = 192
WATCH_EVERY_MIN: Final = 3.0
EMA_DECAY: Final = 0.999


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


class Loss:
    """How far both heads are from the truth; the nearest bins of every colour are looked up in a table."""

    def __init__(self, centres: Any, weight: Any) -> None:
        self.centres, self.weight = centres, weight
        line = torch.arange(-AB_LIMIT, AB_LIMIT + 1, dtype=torch.float32)
        grid = torch.cartesian_prod(line, line)
        near, self.index = torch.cdist(grid, centres).topk(NEAREST_BINS, dim=1, largest=False)
        soft = torch.exp(-(near**2) / (2 * SOFT_SIGMA**2)) + 1e-6
        self.soft = soft / soft.sum(dim=1, keepdim=True)

    def measure(self, net: Colorizer, lightness: Any, ab: Any) -> Any:
        """Classification with rare colours weighed up, regression of the expected colour, and its edges.

        The last term asks for colour edges where the truth has them and nowhere else, against blotches.
        """
        muted, vivid = net(lightness)
        target = F.interpolate(ab, size=vivid.shape[2:], mode="area")
        flat = target.permute(0, 2, 3, 1).reshape(-1, 2)
        cell = (flat.round().clamp(-AB_LIMIT, AB_LIMIT).long() + AB_LIMIT) @ torch.tensor([2 * AB_LIMIT + 1, 1])
        index, soft = self.index[cell], self.soft[cell]
        rare = self.weight[index[:, 0]]
        log_share = F.log_softmax(vivid.permute(0, 2, 3, 1).reshape(-1, vivid.shape[1]), dim=1)
        classification = -(rare * (soft * log_share.gather(1, index)).sum(dim=1)).mean()
        guess = expect(muted, self.centres)
        error = F.smooth_l1_loss(guess.permute(0, 2, 3, 1).reshape(-1, 2), flat, beta=25.0, reduction="none")
        regression = (rare.sqrt() * error.sum(dim=1)).mean()
        edges = sum((guess.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (2, 3))
        return classification + 0.12 * regression + 0.03 * edges


def set_training_mode(net: Colorizer) -> None:
    """Train the decoder; the encoder keeps its ImageNet statistics and its first blocks their weights."""
    net.train()
    net.encoder.eval()
    for module in (net.encoder._conv_stem, net.encoder._bn0, *net.encoder._blocks[:FROZEN_BLOCKS]):  # noqa: SLF001 - the names are the pretrained file's
        for parameter in module.parameters():
            parameter.requires_grad_(requires_grad=False)


def load_watched(photos: list[Photo]) -> list[tuple[Any, Any]]:
    """The held-out photographs, whole, as lightness and ab; those set apart for the demo are not looked at here."""
    return [
        F.interpolate(photo.lab.float()[None], size=(WATCHED_PX, WATCHED_PX), mode="area").split((1, 2), dim=1)
        for photo in photos
        if photo.row["split"] == "held_out"
    ]


class Run:
    """One training run: the network, its smoothed copy, the optimiser, and how far it has come."""

    def __init__(self, net: Colorizer, feed: Feed, loss: Loss, out: Path, *, minutes: float, rate: float) -> None:
        set_training_mode(net)
        self.net, self.feed, self.loss, self.out, self.minutes = net, feed, loss, out, minutes
        self.smooth = Colorizer(net.centres)
        self.smooth.load_state_dict(net.state_dict())
        self.smooth.eval()
        encoder = [p for p in net.encoder.parameters() if p.requires_grad]
        decoder = [p for name, p in net.named_parameters() if not name.startswith("encoder.")]
        self.trained = [*encoder, *decoder]
        groups = [{"params": encoder, "peak": 1.2e-4 * rate}, {"params": decoder, "peak": 1.5e-3 * rate}]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.04)
        self.seconds, self.step, self.seen, self.recent, self.best = 0.0, 0, 0, 0.0, math.inf

    def learn(self) -> None:
        """One step on one batch."""
        done = self.seconds / 60 / self.minutes
        lr_share = min(1.0, (self.step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * lr_share
        size, count, smallest = TURNS[self.step % len(TURNS)]
        lightness, ab = self.feed.draw(count, size, smallest=smallest)
        loss = self.loss.measure(self.net, lightness.contiguous(memory_format=torch.channels_last), ab)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 5.0)
        self.optimiser.step()
        self.step, self.seen = self.step + 1, self.seen + count
        self.recent = loss.item() if self.step == 1 else 0.98 * self.recent + 0.02 * loss.item()
        decay = min(EMA_DECAY, self.step / (self.step + 20))
        for kept, tensor in zip(self.smooth.state_dict().values(), self.net.state_dict().values(), strict=True):
            if tensor.is_floating_point():
                kept.lerp_(tensor, 1 - decay)

    def train(self, watched: list[tuple[Any, Any]]) -> None:
        """Learn until the minutes are used up, saving each minute and watching every few."""
        start = time.perf_counter() - self.seconds
        said = looked = self.seconds
        while self.seconds < self.minutes * 60:
            self.learn()
            self.seconds = time.perf_counter() - start
            if self.seconds - said > 60:
                said = self.seconds
                print(f"{said / 60:5.1f} min  {self.seen} seen  loss {self.recent:.3f}", flush=True)
                self.save()
            if self.seconds - looked > WATCH_EVERY_MIN * 60:
                looked = self.seconds
                self.watch(watched)
        self.save()
        self.watch(watched)

    def watch(self, watched: list[tuple[Any, Any]]) -> None:
        """Measure the smoothed weights on photographs that are not trained on; keep them when they are the best."""
        if not watched:
            return
        with torch.no_grad():
            held = sum(float(self.loss.measure(self.smooth, lightness, ab)) for lightness, ab in watched) / len(watched)
        print(f"      held-out loss {held:.4f}{'  best' if held < self.best else ''}", flush=True)
        if held < self.best:
            self.best = held
            torch.save({"state": self.smooth.state_dict(), "centres": self.net.centres}, self.out / "best.pt")

    def save(self) -> None:
        torch.save({"state": self.smooth.state_dict(), "centres": self.net.centres}, self.out / "checkpoint.pt")
        facts = {name: getattr(self, name) for name in ("seconds", "step", "seen", "recent", "best")}
        state = {"net": self.net.state_dict(), "smooth": self.smooth.state_dict(), **facts}
        torch.save({**state, "optimiser": self.optimiser.state_dict()}, self.out / "resume.pt")

    def resume(self) -> None:
        """Go on where the saved run stopped; crops are drawn from another seed than before."""
        state = torch.load(self.out / "resume.pt", weights_only=True)
        self.net.load_state_dict(state.pop("net"))
        self.smooth.load_state_dict(state.pop("smooth"))
        self.optimiser.load_state_dict(state.pop("optimiser"))
        for name, value in state.items():
            setattr(self, name, value)
        self.feed.rng.seed(self.step)
        torch.manual_seed(self.step)


def main() -> None:
    """Train, saving as it goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="what collect.py wrote")
    parser.add_argument("--encoder", type=Path, required=True, help="efficientnet-lite0-*.pth")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="of the whole run, a resumed one's first part too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--start", type=Path, help="a checkpoint.pt whose weights to begin with")
    parser.add_argument("--rate", type=float, default=1.0, help="times the usual rates of learning")
    parser.add_argument("--resume", action="store_true", help="go on with the run saved in --out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    photos = load_photos(args.photos)
    centres, weight = choose_bins(photos)
    net = Colorizer(centres).to(memory_format=torch.channels_last)
    net.encoder.load_pretrained(str(args.encoder))
    if args.start is not None:
        net.load_state_dict(torch.load(args.start, weights_only=True)["state"])
    count = sum(p.numel() for p in net.parameters())
    print(f"{len(photos)} pictures, {len(centres)} bins, {count} parameters", flush=True)
    feed = Feed(photos, args.seed)
    kinds = {"scenes": feed.scenes, "paintings": feed.paintings, "panoramas": feed.panoramas, "cut-outs": feed.stamps}
    print(", ".join(f"{len(found)} {kind}" for kind, found in kinds.items()), flush=True)
    run = Run(net, feed, Loss(centres, weight), args.out, minutes=args.minutes, rate=args.rate)
    if args.resume:
        run.resume()
    run.train(load_watched(photos))
    print(f"saw {run.seen} pictures")


if __name__ == "__main__":
    main()
