"""What runs a colorizer; one module per runtime, imported only when it is chosen."""

from typing import Protocol

from inference_worker.imaging import Floats


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
