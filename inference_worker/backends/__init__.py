"""What runs a colorizer; one module per runtime, imported only when it is chosen."""

import enum
import importlib.util
from collections.abc import Callable
from typing import Protocol

from inference_worker.cards import Backend, ModelCard
from inference_worker.errors import ModelError
from inference_worker.imaging import Floats


class Device(enum.StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    """CUDA if this machine and the installed runtime have it, else the CPU."""
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    """CUDA by TensorRT: minutes of building at the first start, then from a cache beside the model; ONNX only."""


class Colorizer(Protocol):
    """A loaded model; called from one thread only."""

    def predict(self, lightness: Floats) -> Floats:
        """The ab planes (N, 2, h, w) for lightness (N, 1, H, W) in 0..100; H and W multiples of 32.

        Raises:
            ModelError: The runtime refused the input.
        """
        ...


class Transformer(Protocol):
    """A loaded rgb-to-rgb model; called from one thread only."""

    def predict(self, rgb: Floats) -> Floats:
        """The pictures (N, 3, s*H, s*W) for pictures (N, 3, H, W), all in 0..1; H and W multiples of 32, s whole.

        Raises:
            ModelError: The runtime refused the input.
        """
        ...


def check_runtime(card: ModelCard) -> None:
    """Refuse a model whose runtime is not installed, before a port is taken for it.

    Raises:
        ModelError: Names the model and what to install.
    """
    if card.backend is Backend.TORCH and importlib.util.find_spec("torch") is None:
        raise ModelError(f"--model: {card.name} runs by torch, which is not here; pip install 'hueshift[torch]'")


def open_colorizer(card: ModelCard, *, threads: int, device: Device = Device.AUTO) -> Colorizer:
    """Load the card's model in the runtime that the card names.

    Raises:
        ModelError: The file is not for this runtime, or the runtime has no such device.
    """
    match card.backend:
        case Backend.ONNX:
            from inference_worker.backends.onnx import OnnxColorizer  # noqa: PLC0415 - only the one that is chosen

            return OnnxColorizer(card.path, threads=threads, device=device)
        case Backend.TORCH:
            from inference_worker.backends.torch import TorchColorizer  # noqa: PLC0415 - as above

            return TorchColorizer.load(card.path, threads=threads, device=device)
        case Backend.COMFYUI:
            raise ModelError(f"model: {card.name} is for ComfyUI, which is no runtime of this process")


def open_transformer(card: ModelCard, *, threads: int, device: Device = Device.AUTO) -> Transformer:
    """Load the card's rgb-to-rgb model in the runtime that the card names.

    Raises:
        ModelError: The file is not for this runtime, is from rgb to something else, or the device is not there.
    """
    match card.backend:
        case Backend.ONNX:
            from inference_worker.backends.onnx import OnnxTransformer  # noqa: PLC0415 - only the one that is chosen

            return OnnxTransformer(card.path, threads=threads, darkest=card.darkest, device=device)
        case Backend.TORCH:
            from inference_worker.backends.torch_rgb import TorchTransformer  # noqa: PLC0415 - as above

            return TorchTransformer.load(card.path, threads=threads, device=device, darkest=card.darkest)
        case Backend.COMFYUI:
            raise ModelError(f"model: {card.name} is for ComfyUI, which is no runtime of this process")


class Runner(Protocol):
    """What turns lightness into colour somewhere else than on a device of this process; takes work while `run` runs."""

    @property
    def depth(self) -> int:
        """Pictures that wait."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why no more work should come, in one line; None while all is well."""
        ...

    def follow_health(self, told: Callable[[str | None], None]) -> None:
        """Have *told* called with `trouble` whenever it changes."""
        ...

    async def open(self) -> None:
        """Until work can be taken.

        Raises:
            ModelError: It never will be, as things are set up.
        """
        ...

    async def submit(self, picture: Floats) -> Floats:
        """The ab planes (2, h, w) for one picture's lightness (1, 1, H, W); cancelling gives the place up."""
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...
