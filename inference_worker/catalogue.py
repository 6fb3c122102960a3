"""Which models are shipped: reads and checks `models.json`, the manifest beside the weights."""

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from inference_worker.errors import ModelError
from inference_worker.sizing import MAX_INPUT_PX, STRIDE_PX, SizeRange

SHIPPED: Final = Path(__file__).parent / "models"
MANIFEST: Final = "models.json"


class Kind(enum.StrEnum):
    """What a model makes of a photo."""

    COLORIZER = "colorizer"
    RGB_TO_RGB = "rgb-to-rgb"


class Backend(enum.StrEnum):
    """The runtime that a model's file is for."""

    ONNX = "onnx"
    TORCH = "torch"
    """A DDColor checkpoint as its authors publish it; needs `hueshift[torch]`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the manifest says of one model; an alias carries the facts of the model that it names.

    Raises:
        ModelError: The input side is no multiple of 32 within 32..1280, the file name leaves the folder, or sizes or
            a backend are named that the file cannot have.
    """

    name: str
    version: str
    path: Path
    sha256: str
    licence: str
    input_px: int
    about: str
    alias_of: str | None = None
    kind: Kind = Kind.COLORIZER
    backend: Backend = Backend.ONNX
    sizes: SizeRange | None = None
    """Which sides a request may ask for; without, every request gets `input_px`."""
    darkest: float = -1.0
    """Black in the values of an rgb-to-rgb model, -1 or 0; white is 1."""
    is_square: bool = False
    """Whether every photo is squeezed into a square, as DDColor was trained; else it keeps its shape."""

    def __post_init__(self) -> None:
        if self.input_px % STRIDE_PX or not STRIDE_PX <= self.input_px <= MAX_INPUT_PX:
            raise ModelError(f"{MANIFEST}: input_px {self.input_px} of {self.name} is no multiple of 32 in 32..1280")
        if self.is_fixed and self.sizes is not None:
            raise ModelError(f"{MANIFEST}: sizes of {self.name}: its file is for {self.input_px} only; leave them out")
        if self.kind is Kind.RGB_TO_RGB and self.backend is Backend.TORCH:
            raise ModelError(f"{MANIFEST}: backend of {self.name}: torch runs DDColor only; export it as ONNX")

    @property
    def is_fixed(self) -> bool:
        """Whether the file takes no other input than a square of `input_px`."""
        return self.is_square and self.backend is Backend.ONNX

    def verify(self) -> None:
        """Check the file against its recorded SHA-256.

        Raises:
            ModelError: The file is missing or has other content.
        """
        try:
            found = hash_file(self.path)
        except OSError as exc:
            raise ModelError(f"model: {self.path.name} of {self.name} cannot be read; reinstall hueshift") from exc
        if found != self.sha256:
            raise ModelError(f"model: {self.path.name} has SHA-256 {found}, not {self.sha256}; reinstall hueshift")


def load_cards(folder: Path) -> dict[str, ModelCard]:
    """All models of *folder*'s manifest by name, in its order.

    Raises:
        ModelError: The manifest is missing or not valid; the message names what is wrong.
    """
    try:
        rows = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["models"]
        by_name = {row["name"]: row for row in rows}
        cards = {}
        for name, row in by_name.items():
            facts = by_name[row["alias_of"]] if "alias_of" in row else row
            if Path(facts["file"]).name != facts["file"]:
                raise ModelError(f"{MANIFEST}: file {facts['file']!r} of {name} must be a plain file name")
            cards[name] = ModelCard(
                name=name,
                version=str(row.get("version", facts["version"])),
                path=folder / facts["file"],
                sha256=facts["sha256"],
                licence=facts["licence"],
                input_px=int(row.get("input_px", facts["input_px"])),
                about=row["about"],
                alias_of=row.get("alias_of"),
                kind=Kind(facts.get("kind", Kind.COLORIZER)),
                sizes=SizeRange(*map(int, row["sizes"])) if "sizes" in row else None,
                darkest=float(facts.get("darkest", -1.0)),
                backend=Backend(facts.get("backend", Backend.ONNX)),
                is_square=bool(facts.get("is_square", False)),
            )
    except OSError as exc:
        raise ModelError(f"--models-dir: {folder / MANIFEST} cannot be read; name a folder with a manifest") from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise ModelError(f"--models-dir: {folder / MANIFEST} is not a valid manifest ({exc!r})") from exc
    return cards


def hash_file(path: Path) -> str:
    """The file's SHA-256, without holding the file in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(folder: Path, row: Mapping[str, object]) -> None:
    """Put *row* into *folder*'s manifest, in the place of a model of that name; makes a manifest where there is none.

    Raises:
        ModelError: There is a manifest and it is not valid, or it cannot be written.
    """
    path = folder / MANIFEST
    rows = []
    if path.exists():
        load_cards(folder)
        rows = json.loads(path.read_text(encoding="utf-8"))["models"]
    kept = [other for other in rows if other["name"] != row["name"]]
    half = path.with_name(path.name + ".part")
    try:
        half.write_text(json.dumps({"models": [*kept, dict(row)]}, indent=2) + "\n", encoding="utf-8")
        half.replace(path)
    except OSError as exc:
        raise ModelError(f"--out: {path} cannot be written ({exc.strerror}); name a folder of yours") from exc


def find_card(folder: Path, name: str) -> ModelCard:
    """The card of one model.

    Raises:
        ModelError: No such model; the message lists those there are.
    """
    cards = load_cards(folder)
    if name not in cards:
        raise ModelError(f"--model: {name!r} is unknown; choose one of {', '.join(cards)}")
    return cards[name]
