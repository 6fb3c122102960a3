"""How differently a network sees two pictures: a "feature distance" that is shipped, and LPIPS where its owner has it.

The shipped network is described in FEATURES.md beside this file. It is not LPIPS, and no figure of it may be called so.
"""

import pathlib
from typing import Any, Final

import numpy as np
from PIL import Image

from controlplane.errors import InvalidInputError
from controlplane.quality.colour import Floats, Pixels

SHIPPED: Final = pathlib.Path(__file__).parent / "features.onnx"
FEATURE_DISTANCE: Final = "feature_distance"
LPIPS: Final = "lpips"
SIDE_PX: Final = 256
"""The longer side that is looked at; smaller pictures are not enlarged."""
STEP_PX: Final = 32
MIN_SIDE_PX: Final = 64


def shrink(rgb: Pixels, side_px: int = SIDE_PX) -> Pixels:
    """A copy as networks take it: at most *side_px* long, both sides multiples of 32, the shape kept as far as that."""
    height, width = rgb.shape[:2]
    scale = min(1.0, side_px / max(height, width))
    width, height = (max(MIN_SIDE_PX, round(side * scale / STEP_PX) * STEP_PX) for side in (width, height))
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)


class Meter:
    """A network in an ONNX file: two pictures (1, 3, H, W) in -1..1 in, one number out that is 0 for equal ones.

    Args:
        file: The network.
        name: What reports call its figure.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        InvalidInputError: The file is no such network.
    """

    def __init__(self, file: pathlib.Path, name: str) -> None:
        import onnxruntime  # noqa: PLC0415 - optional: the gate works without it

        self.name = name
        self._file = file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session: Any = onnxruntime.InferenceSession(
                file.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except OSError as exc:
            raise self._refuse(f"cannot be read ({exc.strerror})") from exc
        except Exception as exc:  # onnxruntime's errors have no common root of their own
            raise self._refuse("is no network that onnxruntime can run") from exc
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 2 or len(outputs) != 1:
            raise self._refuse(f"has {len(inputs)} inputs and {len(outputs)} outputs")
        self._inputs: list[str] = [one.name for one in inputs]
        self._size = _read_fixed_size(inputs[0].shape)

    def measure(self, one: Pixels, other: Pixels) -> float:
        """The distance of two pictures of one size.

        Raises:
            InvalidInputError: The network does not take pictures, or answers no number.
        """
        given = dict(zip(self._inputs, (self._prepare(one), self._prepare(other)), strict=True))
        try:
            found = np.asarray(self._session.run(None, given)[0], dtype=np.float64)
        except Exception as exc:  # as above
            raise self._refuse("does not take two float32 pictures (1, 3, H, W)") from exc
        if found.size != 1 or not np.isfinite(found).all():
            raise self._refuse("does not answer one number")
        return float(found.reshape(()))

    def _prepare(self, rgb: Pixels) -> Floats:
        fitted = shrink(rgb) if self._size is None else np.asarray(Image.fromarray(rgb).resize(self._size))
        planes: Floats = (fitted.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1).astype(np.float32)
        return planes

    def _refuse(self, problem: str) -> InvalidInputError:
        fix = "give an ONNX file with two inputs, pictures (1, 3, H, W) in -1..1, and one output, their distance"
        return InvalidInputError("--lpips" if self.name == LPIPS else self.name, f"{self._file} {problem}", fix)


def _read_fixed_size(shape: list[Any]) -> tuple[int, int] | None:
    """Width and height, if the network takes one size only."""
    match shape:
        case [_, _, int() as height, int() as width]:
            return width, height
        case _:
            return None


def open_shipped() -> Meter | None:
    """The feature distance; None where onnxruntime is not installed."""
    try:
        return Meter(SHIPPED, FEATURE_DISTANCE)
    except ModuleNotFoundError:
        return None


def feature_distance(one: Pixels, other: Pixels) -> float:
    """The feature distance of two pictures (height x width x 3, sRGB) of one size: 0 for the same, 4 at most.

    Loads the network each time; whoever measures many pairs keeps a `Meter`.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    return Meter(SHIPPED, FEATURE_DISTANCE).measure(one, other)
