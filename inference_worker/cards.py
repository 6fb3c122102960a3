"""Pure: what a model's card, its `model.toml`, says: the model, its files with their sums, and where both come from.

A card is strict, since releases are pinned to what it names: an unknown field, a wrong type or a file without a
checksum is an error, in one line that says which card, which field and what to write. Where nobody knows an origin or a
licence, the card must say so in words.
"""

import dataclasses
import enum
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from inference_worker.errors import ModelError
from inference_worker.sizing import MAX_INPUT_PX, STRIDE_PX, SizeRange
from inference_worker.tables import Table

CARD: Final = "model.toml"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
FILE_NAME: Final = re.compile(r"[^\W_][\w.+-]{0,127}")  # letters of any script: workflows are called by their users
SHA256: Final = re.compile(r"[0-9a-f]{64}")
URL: Final = re.compile(r"https?://[!-~]+")
MAX_FILE_BYTES: Final = 2**40
DARKEST: Final = (-1, 0)

Figure: TypeAlias = str | bool | int | float


class Family(enum.StrEnum):
    """What a model makes of a photo."""

    LAB_COLORIZER = "lab-colorizer"
    """Lightness (CIE L, 0..100) in, the two planes of colour (CIE ab) out."""
    RGB_TO_RGB = "rgb-to-rgb"


class Backend(enum.StrEnum):
    """The runtime that a model's files are for."""

    ONNX = "onnx"
    TORCH = "torch"
    """A checkpoint as its authors publish it, DDColor's or from rgb to rgb AnimeGANv2's, or a TorchScript file from rgb
    to rgb; needs `hueshift[torch]`."""
    COMFYUI = "comfyui"
    """A running ComfyUI; the files are a template and its workflow, see `comfyui/template.py`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model, beside its card."""

    name: str
    sha256: str
    size_bytes: int | None = None
    """Its size, where known: a download stops there."""
    url: str | None = None
    """Where `models pull` finds it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The terms that something stands under, and where it comes from; `unknown` where nobody knows."""

    licence: str
    origin: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a card says; an alias carries the files and facts of the model that it names.

    Raises:
        ModelError: The input side is no multiple of 32 within 32..1280, or sizes or a backend are named that the
            files cannot have.
    """

    name: str
    version: str
    family: Family = Family.LAB_COLORIZER
    backend: Backend = Backend.ONNX
    about: str
    folder: Path
    """Where the files lie."""
    files: tuple[ModelFile, ...]
    """The first is the one that the runtime opens."""
    weights: Source
    data: Source
    """What the model was trained on."""
    input_px: int
    """Side of the network's input; of rgb-to-rgb models, the longest side."""
    sizes: SizeRange | None = None
    """Which sides a request may ask for; without, every request gets `input_px`."""
    darkest: int = DARKEST[0]
    """Black in the values of an rgb-to-rgb model, -1 or 0; white is 1."""
    is_square: bool = False
    """Whether every photo is squeezed into a square, as DDColor was trained; else it keeps its shape."""
    head: str = "not described"
    """What the last layer gives, in words."""
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    """What was measured on pictures it never saw."""
    alias_of: str | None = None

    def __post_init__(self) -> None:
        if self.input_px % STRIDE_PX or not STRIDE_PX <= self.input_px <= MAX_INPUT_PX:
            raise self._refuse("input.px", f"{self.input_px} is no multiple of 32 in 32..{MAX_INPUT_PX}")
        if self.is_fixed and self.sizes is not None:
            raise self._refuse("input.sizes", f"its file is for {self.input_px} only; leave them out")
        if self.family is Family.RGB_TO_RGB and self.backend is Backend.COMFYUI:
            raise self._refuse("backend", "comfyui colorizes only; choose onnx, or family lab-colorizer")
        if self.family is Family.RGB_TO_RGB and (self.sizes is not None or self.is_square):
            raise self._refuse("input", "an rgb-to-rgb model takes any shape up to px; leave sizes and square out")

    def _refuse(self, field: str, what: str) -> ModelError:
        return ModelError(f"{self.folder.parent / self.name / CARD}: {field}: {what}")

    @property
    def path(self) -> Path:
        """The file that the runtime opens."""
        return self.folder / self.files[0].name

    @property
    def checksum(self) -> str:
        """What releases are pinned to; see `sum_files`."""
        return sum_files(self.files)

    @property
    def is_fixed(self) -> bool:
        """Whether the file takes no other input than a square of `input_px`."""
        return self.is_square and self.backend is Backend.ONNX


def sum_files(files: Sequence[ModelFile]) -> str:
    """A model's checksum, `sha256:` and hex: of its one file, or of the lines `<hex>  <name>` sorted by name."""
    if len(files) == 1:
        return f"sha256:{files[0].sha256}"
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(files, key=lambda file: file.name))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def read_name(text: str, source: str) -> str:
    """The name in a card that is not in its folder yet; *source* says where it is, for messages.

    Raises:
        ModelError: The card is no TOML or has no such name, or it is an alias, which has no files of its own.
    """
    table = _read_table(text, source)
    if table.has("alias_of"):
        raise table.refuse("alias_of", "an alias has no files; pull the model that it names")
    return table.take_text("name", fits=NAME)


def _read_table(text: str, source: str) -> Table:
    try:
        return Table(tomllib.loads(text), source=source)
    except (ValueError, RecursionError) as exc:  # ValueError: a number of thousands of digits, too
        raise ModelError(f"{source}: no valid TOML: {exc}; see https://toml.io") from exc


def parse_card(text: str, *, folder: Path, find_base: Callable[[str], ModelCard]) -> ModelCard:
    """Read the card of the model in *folder*.

    Args:
        text: The content of `model.toml`.
        folder: The model's own; its name must be the model's. Files are only named here, not looked at.
        find_base: Gives the card that an alias names, or raises ModelError.

    Raises:
        ModelError: It is no valid card; one line names card, field and fix.
    """
    table = _read_table(text, str(folder / CARD))
    name = table.take_text("name", fits=NAME)
    if name != folder.name:
        raise table.refuse("name", f"{name!r} lies in a folder called {folder.name!r}; give both one name")
    card = _parse_alias(table, name, find_base) if table.has("alias_of") else _parse_model(table, name, folder)
    table.close()
    return card


def _parse_alias(table: Table, name: str, find_base: Callable[[str], ModelCard]) -> ModelCard:
    alias_of = table.take_text("alias_of", fits=NAME)
    try:
        base = find_base(alias_of)
    except ModelError as exc:
        raise table.refuse("alias_of", f"no card of {alias_of!r} to go by ({exc})") from exc
    facts = table.take_table("input", is_needed=False)
    card = dataclasses.replace(
        base,
        name=name,
        alias_of=alias_of,
        version=table.take_text("version", fits=NAME),
        about=table.take_text("about"),
        input_px=facts.take_whole("px", base.input_px, low=STRIDE_PX, high=MAX_INPUT_PX),
        sizes=_take_sizes(facts),
    )
    facts.close()
    return card


def _parse_model(table: Table, name: str, folder: Path) -> ModelCard:
    family = Family(table.take_word("family", [family.value for family in Family]))
    backend = Backend(table.take_word("backend", [backend.value for backend in Backend]))
    facts, output = table.take_table("input"), table.take_table("output", is_needed=False)
    files = tuple(_parse_file(file) for file in table.take_tables("files"))
    if len({file.name for file in files}) < len(files):
        raise table.refuse("files", "two have one name; name each file once")
    if family is not Family.RGB_TO_RGB and facts.has("darkest"):
        raise table.refuse("input.darkest", f"a {family.value} is given CIE L of 0..100; leave it out")
    darkest = facts.take_whole("darkest", DARKEST[0], low=min(DARKEST), high=max(DARKEST))
    card = ModelCard(
        name=name,
        version=table.take_text("version", fits=NAME),
        family=family,
        backend=backend,
        about=table.take_text("about"),
        folder=folder,
        files=files,
        weights=_parse_source(table.take_table("weights")),
        data=_parse_source(table.take_table("data")),
        input_px=facts.take_whole("px", low=STRIDE_PX, high=MAX_INPUT_PX),
        sizes=_take_sizes(facts),
        darkest=darkest,
        is_square=facts.take_flag("square", default=False),
        head=output.take_text("head", "not described"),
        figures=table.take_table("figures", is_needed=False).take_rest(),
    )
    facts.close()
    output.close()
    return card


def _parse_file(table: Table) -> ModelFile:
    name = table.take_text("name", fits=FILE_NAME)
    if name == CARD or name.endswith(".part"):
        raise table.refuse("name", f"{name!r} is kept for another use; rename the file")
    file = ModelFile(
        name=name,
        sha256=table.take_text("sha256", fits=SHA256),
        size_bytes=table.take_whole("bytes", low=1, high=MAX_FILE_BYTES) if table.has("bytes") else None,
        url=table.take_text("url", fits=URL) if table.has("url") else None,
    )
    table.close()
    return file


def _parse_source(table: Table) -> Source:
    source = Source(licence=table.take_text("licence"), origin=table.take_text("origin"))
    table.close()
    return source


def _take_sizes(table: Table) -> SizeRange | None:
    pair = table.take_pair("sizes")
    try:
        return None if pair is None else SizeRange(*pair)
    except ValueError as exc:
        raise table.refuse("sizes", str(exc)) from exc


def render_card(card: ModelCard) -> str:
    """The card as TOML: what `parse_card` reads as the same card."""
    words = {"name": card.name, "version": card.version}
    shape: dict[str, object] = {"px": card.input_px}
    shape |= {} if card.sizes is None else {"sizes": [card.sizes.low_px, card.sizes.high_px]}
    if card.alias_of is not None:
        words |= {"alias_of": card.alias_of, "about": card.about}
        return _render("", words) + _render("[input]", shape)
    words |= {"family": card.family.value, "backend": card.backend.value, "about": card.about}
    shape |= {"darkest": card.darkest} if card.family is Family.RGB_TO_RGB else {}
    shape |= {"square": True} if card.is_square else {}
    parts = [_render("", words)]
    for file in card.files:
        facts: dict[str, object] = {"name": file.name, "sha256": file.sha256}
        facts |= {} if file.size_bytes is None else {"bytes": file.size_bytes}
        facts |= {} if file.url is None else {"url": file.url}
        parts.append(_render("[[files]]", facts))
    parts.append(_render("[input]", shape))
    parts.append(_render("[output]", {"head": card.head}))
    parts.append(_render("[weights]", {"licence": card.weights.licence, "origin": card.weights.origin}))
    parts.append(_render("[data]", {"licence": card.data.licence, "origin": card.data.origin}))
    if card.figures:
        parts.append(_render("[figures]", card.figures))
    return "".join(parts)


def _render(head: str, facts: Mapping[str, object]) -> str:
    lines = [f"{_render_key(key)} = {_render_value(value)}" for key, value in facts.items()]
    return "\n".join([f"\n{head}", *lines] if head else lines) + "\n"


def _render_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _render_value(key)


def _render_value(value: object) -> str:
    # JSON is TOML for texts, finite numbers, true, false and lists of those, but for DEL in a text.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
