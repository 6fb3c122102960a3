"""Which photos of a folder a batch colours, where each result goes, and what it calls their jobs."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from controlplane.errors import InvalidInputError

if TYPE_CHECKING:
    from controlplane.api.job_schemas import KindDocument

ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
"""Files that are called so are photos; what is in them is for the control plane to judge."""
MAX_BYTES: Final = 32 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Photo:
    """A photo of the folder: *name* is its path below it, *target* that of its result, without the ending."""

    name: str
    path: pathlib.Path
    target: str


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is to be coloured; *others* is how many files are none of it."""

    photos: tuple[Photo, ...]
    others: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for each photo, with nothing left out."""

    workflow: str
    model: str
    size: int

    def task_id(self, content: bytes) -> str:
        """Name the task that colours *content* so: the same photo and the same options are the same task."""
        asked = [hashlib.sha256(content).hexdigest(), self.workflow, self.model, self.size]
        return f"batch-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:40]}"


def choose_options(
    kinds: "Sequence[KindDocument]", *, workflow: str | None, model: str | None, size: int | None
) -> Options:
    """Fill in what was left out, as the control plane would, so that a later default makes no other tasks.

    Raises:
        InvalidInputError: There is no such workflow, model or size, or the workflow must be named.
    """
    known = {kind.workflow: kind for kind in kinds}
    names = ", ".join(sorted(known)) or "none yet: hueshift jobs kinds apply"
    if workflow is None:
        if len(known) != 1:
            raise InvalidInputError("--workflow", "is missing", f"use one of: {names}")
        (workflow,) = known
    if workflow not in known:
        raise InvalidInputError("--workflow", f"{workflow!r} is not known", f"use one of: {names}")
    kind = known[workflow]
    chosen = kind.models[0] if model is None else model
    if chosen not in kind.models:
        raise InvalidInputError(
            "--model", f"{chosen!r} is none of {workflow}'s", f"use one of: {', '.join(kind.models)}"
        )
    sizes = kind.sizes
    pixels = size if size is not None else sizes.max if sizes.default is None else sizes.default
    if not sizes.min <= pixels <= sizes.max:
        raise InvalidInputError(
            "--size", f"{pixels} px is outside {workflow}'s range", f"use {sizes.min} to {sizes.max}"
        )
    return Options(workflow=workflow, model=chosen, size=pixels)


def plan_folder(folder: pathlib.Path, out: pathlib.Path, *, recursive: bool) -> Plan:
    """List the photos of *folder*, by name; files and folders whose names begin with a dot are left alone.

    Raises:
        InvalidInputError: There is none, two would have the same result, or results would lie among the photos.
    """
    if not folder.is_dir():
        raise InvalidInputError("DIR", f"{folder} is no folder", "name the folder with the photos")
    if out.exists() and not out.is_dir():
        raise InvalidInputError("--out", f"{out} is no folder", "name a folder, which is made if need be")
    inside, outside = folder.resolve(), out.resolve()
    if inside == outside:
        raise InvalidInputError("--out", "is the folder of the photos", "name another one")
    if recursive and outside.is_relative_to(inside):
        raise InvalidInputError("--out", f"lies within {folder}, whose photos are read recursively", "name another one")
    names = sorted(_walk(folder, recursive=recursive))
    photos = tuple(_photo(folder, name) for name in names if pathlib.PurePath(name).suffix.lower() in ENDINGS)
    if not photos:
        deeper = not recursive and any(entry.is_dir() for entry in folder.iterdir())
        fix = "use --recursive for the folders below" if deeper else "name one with JPEG, PNG, WebP, TIFF or BMP files"
        raise InvalidInputError("DIR", f"{folder} has no photos", fix)
    _refuse_clashes(photos)
    return Plan(photos=photos, others=len(names) - len(photos))


def _walk(folder: pathlib.Path, *, recursive: bool) -> Iterator[str]:
    def refuse(exc: OSError) -> None:
        raise InvalidInputError("DIR", f"{exc.filename} cannot be read ({exc.strerror})", "make it readable") from exc

    for found, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        place = pathlib.Path(found).relative_to(folder)
        yield from ((place / name).as_posix() for name in files if not name.startswith("."))


def _photo(folder: pathlib.Path, name: str) -> Photo:
    return Photo(name=name, path=folder / name, target=pathlib.PurePosixPath(name).with_suffix("").as_posix())


def _refuse_clashes(photos: Sequence[Photo]) -> None:
    first: dict[str, Photo] = {}
    for photo in photos:
        other = first.setdefault(photo.target.casefold(), photo)  # some file systems take A.png for a.png
        if other is not photo:
            raise InvalidInputError(
                "DIR",
                f"{other.name} and {photo.name} would have the same result, {photo.target}.*",
                "rename one of them",
            )
