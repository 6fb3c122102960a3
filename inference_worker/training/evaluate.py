"""Measures the exported models on photographs they never saw, and draws a contact sheet: grey, v1, v2, truth.

Scores against the truth reward grey, so none of them alone decides: read them together, and look at the sheet.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from PIL import Image
from skimage.color import deltaE_ciede2000

from inference_worker.backends.onnx import OnnxColorizer
from inference_worker.catalogue import find_card, record
from inference_worker.imaging import Floats, Pixels, compute_lab, compute_lightness, prepare, recombine

CELL_PX: Final = 192
TIMED_RUNS: Final = 40
FEATURES_PX: Final = 256
FEATURES_STEP_PX: Final = 32


def measure_colourfulness(rgb: Pixels) -> float:
    """Hasler and Suesstrunk's figure: 0 for grey, about 40 for a natural photo."""
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    first, second = red - green, (red + green) / 2 - blue
    spread = np.hypot(first.std(), second.std())
    return float(spread + 0.3 * np.hypot(first.mean(), second.mean()))


def compare(made: Pixels, truth: Pixels) -> dict[str, float]:
    """All figures of one picture."""
    made_lab, true_lab = compute_lab(made), compute_lab(truth)
    true_ab = true_lab[..., 1:]
    made_ab = made_lab[..., 1:]
    lengths = np.hypot(*np.moveaxis(true_ab, -1, 0)) * np.hypot(*np.moveaxis(made_ab, -1, 0))
    aligned = np.sum(true_ab * made_ab, axis=-1)
    strong = (np.hypot(*np.moveaxis(true_ab, -1, 0)) > 10) & (lengths > 1e-3)
    return {
        "dE2000": float(np.mean(deltaE_ciede2000(true_lab, made_lab))),
        "colourfulness": measure_colourfulness(made),
        "chroma": float(np.hypot(made_ab[..., 0], made_ab[..., 1]).mean()),
        "hue_cosine": float(np.mean(aligned[strong] / lengths[strong])) if strong.any() else float("nan"),
        "max_dL": float(np.max(np.abs(made_lab[..., 0] - true_lab[..., 0]))),
    }


class FeatureMeter:
    """The quality gate's feature distance: its file takes two pictures (1, 3, H, W) in -1..1 and answers a number."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._inputs = [given.name for given in self._session.get_inputs()]

    def measure(self, one: Pixels, other: Pixels) -> float:
        (found,) = self._session.run(None, dict(zip(self._inputs, map(self._prepare, (one, other)), strict=True)))
        return float(np.asarray(found).reshape(()))

    def _prepare(self, rgb: Pixels) -> Floats:
        scale = min(1.0, FEATURES_PX / max(rgb.shape[:2]))
        high, wide = (max(64, round(side * scale / FEATURES_STEP_PX) * FEATURES_STEP_PX) for side in rgb.shape[:2])
        small = np.asarray(Image.fromarray(rgb).resize((wide, high), Image.Resampling.BICUBIC), dtype=np.float32)
        return np.ascontiguousarray(np.moveaxis(small / 127.5 - 1, -1, 0)[None])


def make_grey(rgb: Pixels) -> Pixels:
    """The photo without colour, at its own lightness: the grey whose L is nearest."""
    ladder = compute_lightness(np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2))[:, 0]
    nearest = np.abs(compute_lightness(rgb)[..., None] - ladder).argmin(axis=-1).astype(np.uint8)
    return np.repeat(nearest[..., None], 3, axis=2)


def time_model(model: OnnxColorizer, side_px: int) -> float:
    """Median milliseconds of one run at *side_px* squared."""
    lightness = (np.random.default_rng(0).random((1, 1, side_px, side_px)) * 100).astype(np.float32)
    spans = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        model.predict(lightness)
        spans.append(time.perf_counter() - start)
    return float(np.median(spans) * 1000)


def load_unseen(folder: Path) -> list[tuple[dict[str, Any], Pixels]]:
    rows = [json.loads(line) for line in (folder / "sources.jsonl").read_text(encoding="utf-8").splitlines()]
    found = []
    for row in rows:
        if row["split"] != "train" and not row["masked"]:
            with Image.open(folder / row["file"]) as image:
                image.thumbnail((384, 384), Image.Resampling.LANCZOS)
                found.append((row, np.asarray(image.convert("RGB"), dtype=np.uint8)))
    return found


def fit(rgb: Pixels) -> Image.Image:
    image = Image.fromarray(rgb)
    image.thumbnail((CELL_PX - 2, CELL_PX - 2), Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL_PX, CELL_PX), "white")
    cell.paste(image)
    return cell


def main() -> None:
    """Print the table and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="features.onnx of the quality gate, for the feature distance")
    parser.add_argument("--record", action="store_true", help="write the figures into the models' cards")
    args = parser.parse_args()
    cards = [find_card(args.models, name) for name in ("v1", "v2")]
    models = [OnnxColorizer(card.path, threads=1) for card in cards]
    meter = None if args.features is None else FeatureMeter(args.features)
    unseen = load_unseen(args.photos)
    figures: dict[str, list[dict[str, float]]] = {"grey": [], "v1": [], "v2": [], "truth": []}
    per_row = 2
    rows = (len(unseen) + per_row - 1) // per_row
    sheet = Image.new("RGB", (4 * per_row * CELL_PX, rows * CELL_PX), "white")
    for index, (_, truth) in enumerate(unseen):
        grey = make_grey(truth)
        made = [
            recombine(grey, model.predict(prepare(grey, card.input_px))[0])
            for model, card in zip(models, cards, strict=True)
        ]
        for name, picture in zip(figures, (grey, *made, truth), strict=True):
            seen = {} if meter is None else {"feature_distance": meter.measure(picture, truth)}
            figures[name].append(compare(picture, truth) | seen)
        for column, picture in enumerate((grey, *made, truth)):
            left = (index % per_row * 4 + column) * CELL_PX
            sheet.paste(fit(picture), (left, index // per_row * CELL_PX))
    sheet.save(args.sheet)
    print(f"{len(unseen)} photographs")
    for name, found in figures.items():
        means = {key: np.nanmean([figure[key] for figure in found]) for key in found[0]}
        print(f"{name:6}", "  ".join(f"{key} {value:.3f}" for key, value in means.items()))
        for card in cards:
            if args.record and card.name == name:
                measured = {key: round(float(value), 3) for key, value in means.items()}
                record(args.models, dataclasses.replace(card, figures={"photos": len(unseen), **measured}))
    for side_px in (192, 256):
        for card, model in zip(cards, models, strict=True):
            print(f"{card.name} at {side_px} px: {time_model(model, side_px):.1f} ms")


if __name__ == "__main__":
    main()
