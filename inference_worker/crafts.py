"""Pure: what the two kinds of models are given of a photo, and how their output becomes a picture again."""

import dataclasses
from typing import Protocol

import numpy as np
from PIL import Image

from inference_worker.imaging import Floats, Pixels, prepare, recombine
from inference_worker.scheduling import Bucket
from inference_worker.sizing import LONGEST_TRANSFORM_PX, STRIDE_PX, SizeRange


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A photo on its way to the network: what the network is given, and the effective size that the answer names."""

    photo: Pixels
    picture: Floats
    size_px: int


class Craft(Protocol):
    """One kind of work; the same steps for all."""

    @property
    def model(self) -> str:
        """The model's name, part of every bucket."""
        ...

    @property
    def largest_px(self) -> int:
        """Pixels of the largest input."""
        ...

    def list_trial_sizes(self) -> tuple[int, ...]:
        """Sides of square inputs, the usual one last and a smaller one before it, unless the model takes no other.

        The start measures what they cost.
        """
        ...

    def make_trial(self, side_px: int) -> Floats:
        """An input of that side."""
        ...

    def guess_bucket(self, asked_px: int | None) -> Bucket:
        """About how large the input will be; the photo's shape is not known yet."""
        ...

    def open(self, photo: Pixels, asked_px: int | None) -> Prepared:
        """Make the network's input; *asked_px* is the size in the request, if one was named."""
        ...

    def close(self, prepared: Prepared, output: Floats) -> Pixels:
        """Make the picture from one output of the network, without the axis of the batch."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Colorizing:
    """Lightness in, colour out; sizes by the policy of the route."""

    model: str
    input_px: int
    sizes: SizeRange | None = None
    is_square: bool = False
    """Whether photos of other shapes are squeezed."""
    is_fixed: bool = False
    """Whether the network takes no other side than `input_px`."""

    @property
    def largest_px(self) -> int:
        return max(self.input_px, self.choose_size(10**6)) ** 2

    def choose_size(self, asked_px: int | None) -> int:
        """The side of a square input, and of one of equal area for other photos."""
        return self.input_px if asked_px is None or self.sizes is None else self.sizes.choose(asked_px)

    def list_trial_sizes(self) -> tuple[int, ...]:
        smaller = max(STRIDE_PX, self.input_px // 2 // STRIDE_PX * STRIDE_PX)
        return (self.input_px,) if self.is_fixed else (smaller, self.input_px)

    def make_trial(self, side_px: int) -> Floats:
        return np.full((1, 1, side_px, side_px), 50, np.float32)

    def guess_bucket(self, asked_px: int | None) -> Bucket:
        side = self.choose_size(asked_px)
        return Bucket(self.model, side, side)

    def open(self, photo: Pixels, asked_px: int | None) -> Prepared:
        side = self.choose_size(asked_px)
        return Prepared(photo, prepare(photo, side, is_square=self.is_square), side)

    def close(self, prepared: Prepared, output: Floats) -> Pixels:
        return recombine(prepared.photo, output)


@dataclasses.dataclass(frozen=True, slots=True)
class Transforming:
    """A picture in, a picture out; too large ones are scaled down, sides that are no multiple of 32 padded and cut."""

    model: str
    longest_px: int = LONGEST_TRANSFORM_PX

    @property
    def largest_px(self) -> int:
        return self.longest_px**2

    def list_trial_sizes(self) -> tuple[int, ...]:
        return 4 * STRIDE_PX, 8 * STRIDE_PX

    def make_trial(self, side_px: int) -> Floats:
        return np.full((1, 3, side_px, side_px), 0.5, np.float32)

    def guess_bucket(self, asked_px: int | None) -> Bucket:
        longest = min(self.longest_px, asked_px or self.longest_px)
        side = -(-longest // STRIDE_PX) * STRIDE_PX
        return Bucket(self.model, side, side)

    def open(self, photo: Pixels, asked_px: int | None) -> Prepared:
        height, width = photo.shape[:2]
        longest = min(self.longest_px, asked_px or self.longest_px, max(height, width))
        scale = longest / max(height, width)
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        image = Image.fromarray(photo)
        small = image if scale == 1 else image.resize((wide, high), Image.Resampling.LANCZOS)
        shown = np.asarray(small, dtype=np.uint8)
        picture = np.moveaxis(shown.astype(np.float32) / 255, -1, 0)
        padded = np.pad(picture, ((0, 0), (0, -high % STRIDE_PX), (0, -wide % STRIDE_PX)), mode="edge")
        return Prepared(shown, np.ascontiguousarray(padded[None]), longest)

    def close(self, prepared: Prepared, output: Floats) -> Pixels:
        height, width = prepared.photo.shape[:2]
        scale = output.shape[1] // prepared.picture.shape[2]
        kept = output[:, : height * scale, : width * scale]
        levels = np.rint(np.clip(np.nan_to_num(kept), 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(levels, 0, -1))


def find_bucket(model: str, picture: Floats) -> Bucket:
    """The bucket of an input (1, channels, h, w)."""
    return Bucket(model, picture.shape[2], picture.shape[3])
