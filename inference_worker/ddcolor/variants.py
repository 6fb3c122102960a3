"""Which DDColor networks there are; needs no torch, so that a command line can name them without it."""

import dataclasses
from typing import Final


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One size of the network; all sizes share both decoders."""

    name: str
    depths: tuple[int, int, int, int]
    """Blocks of each stage of the encoder."""
    widths: tuple[int, int, int, int]
    """Channels of each stage."""
    tensors: int
    """Tensors in an official checkpoint."""
    parameters: int
    """Trained numbers in it, without the running state of norms."""


TINY: Final = Variant(name="tiny", depths=(3, 3, 9, 3), widths=(96, 192, 384, 768), tensors=440, parameters=55_006_640)
LARGE: Final = Variant(
    name="large", depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536), tensors=602, parameters=227_869_328
)
VARIANTS: Final = {variant.name: variant for variant in (TINY, LARGE)}

QUERIES: Final = 100
QUERY_LAYERS: Final = 9
QUERY_SCALES: Final = 3
STRIDE_PX: Final = 32
"""The encoder halves its input five times."""
