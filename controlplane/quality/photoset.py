"""The fixed photos that both versions colour: the shipped set, or a folder of the owner's."""

import csv
import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Final

from controlplane.errors import InvalidInputError
from controlplane.quality.colour import Pixels
from controlplane.quality.pictures import make_grey, read_photo
from controlplane.quality.verdict import MIN_PAIRS

SHIPPED: Final = pathlib.Path(__file__).parent / "photos"
TABLE: Final = "photos.tsv"
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
OWN: Final = "own"
MIN_SIDE_PX: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Photo:
    """One grey photo: its name without suffix, what it shows, and its file's bytes."""

    name: str
    stratum: str
    data: bytes
    pixels: Pixels

    @property
    def media_type(self) -> str:
        """What the bytes are."""
        return "image/png" if self.data.startswith(b"\x89PNG") else "image/jpeg"


def load_shipped(strata: Sequence[str] = ()) -> tuple[Photo, ...]:
    """The shipped photos, or those of some *strata*, in the order of their table.

    Raises:
        InvalidInputError: There is no such stratum, or a photo is missing or was changed.
    """
    with (SHIPPED / TABLE).open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    known = list(dict.fromkeys(row["stratum"] for row in rows))
    for stratum in strata:
        if stratum not in known:
            raise InvalidInputError("--strata", f"{stratum!r} is not one of them", f"choose from {', '.join(known)}")
    photos = []
    for row in rows:
        if strata and row["stratum"] not in strata:
            continue
        try:
            data = (SHIPPED / row["file"]).read_bytes()
        except OSError as exc:
            raise InvalidInputError("photos", f"{row['file']} cannot be read", "install hueshift again") from exc
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise InvalidInputError("photos", f"{row['file']} was changed", "install hueshift again")
        photos.append(Photo(pathlib.Path(row["file"]).stem, row["stratum"], data, read_photo(data)))
    return tuple(photos)


def load_folder(folder: pathlib.Path) -> tuple[Photo, ...]:
    """The owner's photos, by name; those with colour are made grey.

    Raises:
        InvalidInputError: The folder cannot be read, a file is no usable picture, or there are too few.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError as exc:
        raise InvalidInputError("--photos", f"{folder} cannot be read", "name a folder of photos") from exc
    if len(files) < MIN_PAIRS:
        raise InvalidInputError("--photos", f"{folder} has {len(files)} pictures", f"{MIN_PAIRS} are needed, better 50")
    photos = []
    for file in files:
        try:
            data = make_grey(file.read_bytes())
            pixels = read_photo(data)
        except (OSError, SyntaxError, ValueError) as exc:
            raise InvalidInputError("--photos", f"{file.name} is no picture", "take it out of the folder") from exc
        if min(pixels.shape[:2]) < MIN_SIDE_PX:
            raise InvalidInputError("--photos", f"{file.name} is too small", f"use sides of {MIN_SIDE_PX} px or more")
        photos.append(Photo(file.stem, OWN, data, pixels))
    return tuple(photos)
