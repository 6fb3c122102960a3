"""What sound and broken versions make of the test photos: the shipped models' own colours, spoilt in known ways."""

import dataclasses
import functools
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from controlplane.quality import photoset
from controlplane.quality.photoset import Photo
from controlplane.quality.pictures import read_answer
from controlplane.quality.sanity import Unusable, View
from controlplane.quality.verdict import Case, Judgement, Limits, judge, make_case
from inference_worker.backends.onnx import OnnxColorizer
from inference_worker.catalogue import SHIPPED, find_card
from inference_worker.imaging import Floats, Pixels, prepare, recombine

LIMITS = Limits()


@dataclasses.dataclass(frozen=True, slots=True)
class Coloured:
    """One photo with the colours that a model predicts for it."""

    photo: Photo
    ab: Floats
    pixels: Pixels


def encode(pixels: Pixels, *, quality: int | None = None, subsampling: int = 0) -> bytes:
    """The picture as PNG, or as JPEG of a *quality*."""
    target = io.BytesIO()
    if quality is None:
        Image.fromarray(pixels).save(target, "PNG", compress_level=0)
    else:
        Image.fromarray(pixels).save(target, "JPEG", quality=quality, subsampling=subsampling)
    return target.getvalue()


def coloured(model: str, *, every: int = 1) -> tuple[Coloured, ...]:
    """The test photos as a shipped model colours them, or one of so many."""
    return tuple(_colour(model, place) for place in range(0, len(_photos()), every))


@functools.cache
def _colour(model: str, place: int) -> Coloured:
    photo = _photos()[place]
    ab = _open(model).predict(prepare(photo.pixels, find_card(SHIPPED, model).input_px))[0]
    return Coloured(photo, ab, recombine(photo.pixels, ab))


@functools.cache
def _photos() -> tuple[Photo, ...]:
    return photoset.load_shipped()


@functools.cache
def _open(model: str) -> OnnxColorizer:
    return OnnxColorizer(find_card(SHIPPED, model).path, threads=1)


@functools.cache
def healthy(model: str) -> tuple[View | Unusable, ...]:
    """What a shipped model's own answers measure."""
    return tuple(read_answer(encode(one.pixels), one.photo.pixels) for one in coloured(model))


def repaint(change: Callable[[Floats], Floats]) -> "Defect":
    """A defect of the predicted colours; the lightness stays the photo's."""
    return lambda ones: [
        encode(recombine(one.photo.pixels, np.ascontiguousarray(change(one.ab), dtype=np.float32))) for one in ones
    ]


def redraw(change: Callable[[Pixels], Pixels]) -> "Defect":
    """A defect of the finished picture."""
    return lambda ones: [encode(np.ascontiguousarray(change(one.pixels))) for one in ones]


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height)), dtype=np.uint8)


def one_cast(ab: Floats) -> Floats:
    return np.stack([np.full_like(ab[0], 12.0), np.full_like(ab[1], 20.0)])


def previous_users(ones: Sequence[Coloured]) -> list[bytes]:
    """Each answer is the picture of the one who asked before."""
    pictures = [encode(one.pixels) for one in ones]
    return pictures[-1:] + pictures[:-1]


def sometimes_previous_users(ones: Sequence[Coloured]) -> list[bytes]:
    """One visitor in all gets another's picture, resized to the size of the own one."""
    pictures = [encode(one.pixels) for one in ones]
    height, width = ones[5].pixels.shape[:2]
    pictures[5] = encode(resize(ones[4].pixels, width, height))
    return pictures


Defect = Callable[[Sequence[Coloured]], list[bytes]]

DEFECTS: dict[str, Defect] = {
    "all grey": repaint(np.zeros_like),
    "a and b swapped": repaint(lambda ab: ab[::-1]),
    "colours inverted": repaint(np.negative),
    "a inverted": repaint(lambda ab: ab * np.array([-1, 1], np.float32)[:, None, None]),
    "hues turned by 90 degrees": repaint(lambda ab: np.stack([-ab[1], ab[0]])),
    "one colour cast": repaint(one_cast),
    "saturation x 0.3": repaint(lambda ab: ab * 0.3),
    "saturation x 3": repaint(lambda ab: ab * 3),
    "colours beside their objects": repaint(lambda ab: np.roll(ab, 2, axis=2)),
    "red and blue swapped": redraw(lambda rgb: rgb[..., ::-1]),
    "negative": redraw(lambda rgb: 255 - rgb),
    "shifted by 8 pixels": redraw(lambda rgb: np.roll(rgb, 8, axis=1)),
    "mirrored": redraw(lambda rgb: rgb[:, ::-1]),
    "blurred": redraw(lambda rgb: np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(2)))),
    "half size": redraw(lambda rgb: resize(rgb, rgb.shape[1] // 2, rgb.shape[0] // 2)),
    "half size, enlarged again": redraw(
        lambda rgb: resize(resize(rgb, rgb.shape[1] // 2, rgb.shape[0] // 2), rgb.shape[1], rgb.shape[0])
    ),
    "darker": redraw(lambda rgb: (rgb * 0.8).astype(np.uint8)),
    "garbage": lambda ones: [np.random.default_rng(place).bytes(5000) for place in range(len(ones))],
    "cut off": lambda ones: [encode(one.pixels)[:3000] for one in ones],
    "nothing": lambda ones: [b"" for _ in ones],
    "the previous user's picture": previous_users,
    "the previous user's picture, once": sometimes_previous_users,
}


def make_cases(old: Sequence[View | Unusable], new: Sequence[View | Unusable], ones: Sequence[Coloured]) -> list[Case]:
    """One case for each of *ones*."""
    return [
        make_case(one.photo.name, one.photo.stratum, mine, other, LIMITS.bounds)
        for one, mine, other in zip(ones, old, new, strict=True)
    ]


def gate(cases: Sequence[Case]) -> Judgement:
    """The verdict with the default limits."""
    return judge("v1", "v2", cases, LIMITS)
