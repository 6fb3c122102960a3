"""The checkpoints that DDColor's authors publish, by the names that `models pull` knows, and the card of any DDColor.

None of them has run here, so their checksums are not known: the first download of each user records what came.
"""

import dataclasses
from pathlib import Path
from typing import Final

from inference_worker.cards import Backend, ModelCard, ModelFile, Source

ADDRESS: Final = "https://huggingface.co/piddnad/DDColor-models/resolve/main/"
DEFAULT_PX: Final = 512
WEIGHTS_LICENCE: Final = "code Apache-2.0 (piddnad/DDColor); its authors state no licence of their own for the weights"
DATA: Final = Source(
    licence="ImageNet's terms: research only",
    origin="ImageNet by its authors' account; ddcolor_artistic also private pictures",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One checkpoint of the authors."""

    name: str
    url: str
    about: str


ABOUT: Final = {
    "ddcolor_paper_tiny": "DDColor tiny, as in the paper",
    "ddcolor_paper": "DDColor large, as in the paper",
    "ddcolor_modelscope": "DDColor large, trained on cleaner data; its authors' default",
    "ddcolor_artistic": "DDColor large, trained on artistic pictures too",
}
PUBLISHED: Final = {
    name: Published(name=name, url=f"{ADDRESS}{name}.pth", about=about) for name, about in ABOUT.items()
}


def describe(
    name: str, folder: Path, file: ModelFile, *, backend: Backend, about: str, origin: str, size_px: int = DEFAULT_PX
) -> ModelCard:
    """The card of a DDColor in *file*; *origin* says where the weights came from."""
    return ModelCard(
        name=name,
        version=name,
        backend=backend,
        about=about,
        folder=folder,
        files=(file,),
        weights=Source(licence=WEIGHTS_LICENCE, origin=origin),
        data=DATA,
        input_px=size_px,
        is_square=True,
        head="query-based colour decoder of DDColor: ab planes",
    )
