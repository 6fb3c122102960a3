"""Pure: which size of the network's input a request gets, by the policy of its route."""

import dataclasses
from typing import Final

STRIDE_PX: Final = 32
"""The networks halve their input five times."""
MAX_INPUT_PX: Final = 1280
LONGEST_TRANSFORM_PX: Final = 1024
"""rgb-to-rgb models take no longer side; what is larger is scaled down."""


@dataclasses.dataclass(frozen=True, slots=True)
class SizeRange:
    """The sides that a route allows, pixels, both ends included.

    Raises:
        ValueError: No multiple of 32 lies between the two within 32..1280.
    """

    low_px: int
    high_px: int

    def __post_init__(self) -> None:
        if not STRIDE_PX <= self._lowest <= self._highest <= MAX_INPUT_PX:
            raise ValueError(
                f"{self.low_px}..{self.high_px} holds no multiple of {STRIDE_PX} within 32..{MAX_INPUT_PX}"
            )

    @property
    def _lowest(self) -> int:
        return -(-self.low_px // STRIDE_PX) * STRIDE_PX

    @property
    def _highest(self) -> int:
        return self.high_px // STRIDE_PX * STRIDE_PX

    def choose(self, asked_px: int) -> int:
        """The multiple of 32 inside the range that is nearest to *asked_px*; of two, the smaller."""
        nearest = -(-(2 * asked_px - STRIDE_PX) // (2 * STRIDE_PX)) * STRIDE_PX
        return min(max(nearest, self._lowest), self._highest)
