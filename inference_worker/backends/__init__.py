"""What runs a colorizer; one module per runtime, imported only when it is chosen."""

from collections.abc import Callable
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
