"""Which models a folder holds: one folder each, with a card and the files that it names.

`models.json`, one manifest for all, was the form before: it pinned sums only, and every writer rewrote what others had
written. It is not read any more; who has one is told what to do.
"""

import hashlib
from pathlib import Path
from typing import Final

from inference_worker.cards import CARD, NAME, ModelCard, ModelFile, parse_card, render_card
from inference_worker.errors import ModelError

SHIPPED: Final = Path(__file__).parent / "models"
FORMER: Final = "models.json"


def list_names(folder: Path) -> list[str]:
    """The models in *folder*, in order of their names.

    Raises:
        ModelError: There are none.
    """
    try:
        names = sorted(inside.name for inside in folder.iterdir() if (inside / CARD).is_file())
    except OSError as exc:
        raise ModelError(f"--models-dir: {folder} cannot be read ({exc.strerror}); name a folder of models") from exc
    if not names and (folder / FORMER).exists():
        raise ModelError(
            f"--models-dir: {folder / FORMER} is of a form that is not read any more; "
            f"give each model a folder NAME with its files and a {CARD}, or export or add it again"
        )
    if not names:
        raise ModelError(f"--models-dir: {folder} has no model; it takes folders NAME with a {CARD}")
    return names


def find_card(folder: Path, name: str) -> ModelCard:
    """The card of one model.

    Raises:
        ModelError: No such model, and the message lists those there are; or its card is not valid.
    """
    names = list_names(folder)
    if name not in names:
        raise ModelError(f"--model: {name!r} is unknown; choose one of {', '.join(names)}")
    return _read(folder, name, is_base=False)


def load_cards(folder: Path) -> dict[str, ModelCard]:
    """All models of *folder* by name.

    Raises:
        ModelError: There are none, or a card is not valid; the message names card, field and fix.
    """
    return {name: find_card(folder, name) for name in list_names(folder)}


def _read(folder: Path, name: str, *, is_base: bool) -> ModelCard:
    def find_base(other: str) -> ModelCard:
        if is_base:
            raise ModelError(f"{name} is an alias itself; name {other}")
        return _read(folder, other, is_base=True)

    path = folder / name / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path} cannot be read as text; see to the file") from exc
    return parse_card(text, folder=folder / name, find_base=find_base)


def hash_file(path: Path) -> str:
    """The file's SHA-256, without holding the file in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> ModelFile:
    """The card's entry for a file, with its sum and size.

    Raises:
        OSError: It cannot be read.
    """
    return ModelFile(name=path.name, sha256=hash_file(path), size_bytes=path.stat().st_size)


def verify(card: ModelCard) -> None:
    """Check all files against their recorded SHA-256.

    Raises:
        ModelError: One is missing or has other content.
    """
    for file in card.files:
        path = card.folder / file.name
        fix = (
            "run `models pull`" if file.url else "reinstall hueshift" if card.folder.parent == SHIPPED else "restore it"
        )
        try:
            found = hash_file(path)
        except OSError as exc:
            raise ModelError(f"model: {path} of {card.name} cannot be read; {fix}") from exc
        if found != file.sha256:
            raise ModelError(f"model: {path} has SHA-256 {found}, not {file.sha256}; {fix}")


def make_folder(models: Path, name: str) -> Path:
    """The folder of the model *name*, made if need be.

    Raises:
        ModelError: The name is no name for a model, or the folder cannot be made.
    """
    if not NAME.fullmatch(name):
        raise ModelError(f"--name: {name!r} is no name of a model; write {NAME.pattern}")
    try:
        (models / name).mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelError(f"--out: {models / name} cannot be made ({exc.strerror}); name a folder of yours") from exc
    return models / name


def record(models: Path, card: ModelCard) -> None:
    """Write the card into its folder, in the place of an older one; a reader sees the old or the new one, whole.

    Raises:
        ModelError: It cannot be written, or could not be read again.
    """
    path = make_folder(models, card.name) / CARD
    text = render_card(card)
    parse_card(text, folder=path.parent, find_base=lambda name: _read(models, name, is_base=True))
    half = path.with_name(path.name + ".part")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as exc:
        raise ModelError(f"--out: {path} cannot be written ({exc.strerror}); name a folder of yours") from exc
