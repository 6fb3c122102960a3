"""Gathers the photographs the shipped colorizers learn from, each with its package, file, author and licence.

Only packages whose licences allow adaptation are read: Debian packages (unpacked by `apt-get download` and
`dpkg-deb -x`, one folder each) and the pictures inside the scikit-image and scikit-learn wheels. Drawings in those
packages are left out by name, grey pictures by measurement; a few paintings stay, for their landscapes and skin.
"""

import argparse
import dataclasses
import fnmatch
import hashlib
import importlib.util
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

SHORT_SIDE_PX: Final = 288
LONG_SIDE_PX: Final = 720
MIN_SIDE_PX: Final = 110
MIN_MEAN_CHANNEL_SPREAD: Final = 7.0
"""Grey pictures teach nothing about colour; levels of 255, mean over pixels of max(R,G,B) - min(R,G,B)."""

ACTIVITIES: Final = "/gcompris/src/activities/"

PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "gcompris-qt-data": (
        "categorization/resource/images/fishes/*",
        "categorization/resource/images/monuments/*",
        "categorization/resource/images/others/*",
        "categorization/resource/images/renewable/*",
        "categorization/resource/images/tools/*",
        "clickgame/resource/sea*",
        "details/resource/image/[CEFGLNOT]*_background.webp",
        "erase/resource/*",
        "explore_farm_animals/resource/animals/*",
        "explore_monuments/resource/*/*",
        "explore_world_animals/resource/animals/*",
        "explore_world_music/resource/music/*",
        "leftright/resource/*",
        "paintings/resource/image/*",
    ),
    "plasma-workspace-wallpapers": tuple(
        f"*/wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in (
            "Autumn",
            "BytheWater",
            "Canopee",
            "Cascade",
            "ColdRipple",
            "ColorfulCups",
            "DarkestHour",
            "EveningGlow",
            "FallenLeaf",
            "Kite",
            "OneStandsOut",
            "Path",
            "summer_1am",
        )
    ),
    "mate-backgrounds": ("*/mate/nature/*.jpg",),
    "lomiri-wallpapers-16.04": ("*.jpg",),
    "lomiri-wallpapers-20.04": ("*.jpg",),
    "palapeli-data": ("*/collection/*.jpg",),
    "kphotoalbum": ("*/kphotoalbum/demo/*.jpg",),
    "stellarium-data": (
        "*/landscapes/hurricane/hurricane[0-9].png",
        "*/landscapes/guereins/guereins[0-9].png",
        "*/landscapes/garching/garching-g*.png",
        "*/landscapes/grossmugl/*crop11.25_2048.png",
        "*/landscapes/ocean/ocean[0-9].png",
    ),
    "tuxpaint-stamps-default": ("*/stamps/*.png",),
    "budgie-backgrounds": tuple(
        f"*/budgie/{name}.jpg"
        for name in (
            "beacon-street-sunset",
            "blue-periwinkle",
            "canyon-wren",
            "casa-mila",
            "extreme-desert-hike",
            "lake-sherburne",
            "oakland-zoo-otters",
            "perched-osprey",
            "roman-colosseum",
            "singaporean-cityscape",
            "tea-gardens",
        )
    ),
    "scratch": tuple(
        f"*/Media/Backgrounds/{name}.jpg"
        for name in (
            "Indoors/chalkboard",
            "Indoors/hall",
            "Indoors/the-movies-inside",
            "Nature/garden-rock",
            "Nature/tree",
            "Nature/wave",
            "Outdoors/all-sports-mural",
            "Outdoors/atom-playground",
            "Outdoors/berkeley-mural",
            "Outdoors/brick-wall2",
            "Outdoors/brick-wall-and-stairs",
            "Outdoors/mural-faro",
            "Outdoors/parking-ramp",
            "Outdoors/pool",
            "Outdoors/route66",
            "Outdoors/train-tracks2",
            "Outdoors/village",
            "Sports/*",
        )
    ),
}
"""Of scratch, whose other photographs are the quality gate's, only these; each shows another place than the gate's."""

LEFT_OUT: Final = (
    "*details/resource/image/GogH*",
    "*details/resource/image/Gogh*",
    "*details/resource/image/Eglise_dAuvers*",
    "*/others/blackslate*",
    "*analogpattern*",
    "*Painting-Colors*",
    "*Infinite-Sea*",
    "*qt-logo*",
    "*/CategoryImages/*",
    "*/cartoon/*",
    "*/clipart/*",
    "*/symbols/*",
    "*_mirror*",
    "*_flip*",
)
"""Drawings, patterns and logos that the patterns above would take."""

SAMPLES: Final = (
    "*details/resource/image/EilanDonanCastle*",
    "*erase/resource/calf*",
    "*erase/resource/gosling*",
    "*erase/resource/kingfisher*",
    "*erase/resource/squirrel*",
    "*explore_farm_animals/resource/animals/sheep*",
    "*explore_monuments/resource/france/pontduGard*",
    "*explore_monuments/resource/france/rocamadour*",
    "*explore_monuments/resource/germany/schwerinPalace*",
    "*explore_monuments/resource/usa/georgeWashingtonBirthplace*",
    "*explore_monuments/resource/usa/fortSumter*",
    "*explore_monuments/resource/wonders/machuPicchu*",
    "*explore_world_animals/resource/animals/koala*",
    "*renewable/dam1*",
    "*renewable/windmill3*",
    "*skimage/data/astronaut*",
    "*skimage/data/coffee*",
)
"""Set apart by hand, besides those held out by hash, for `samples.py` to choose from: never trained on."""

HELD_OUT_PER_256: Final = 28
TRAINING_ONLY: Final = frozenset({"tuxpaint-stamps-default", "stellarium-data", "budgie-backgrounds", "scratch"})
"""No figures on these: cut-outs, panoramas, and what came later, so that figures of all versions compare."""


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """One candidate picture and where it comes from; *path* is the name inside the package."""

    package: str
    path: str
    licence: str
    author: str
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Licence:
    """What a package's copyright file says of the files that match *patterns*."""

    patterns: tuple[str, ...]
    name: str
    author: str


def read_rcc(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Walk a compiled Qt resource file: yield each file's name and content.

    Raises:
        ValueError: The blob is no Qt resource file.
    """
    if blob[:4] != b"qres":
        msg = "not a Qt resource file"
        raise ValueError(msg)
    version, tree, data, names = struct.unpack(">4I", blob[4:20])
    node_bytes = 14 if version < 2 else 22

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", blob, names + offset)
        start = names + offset + 6
        return blob[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * node_bytes
        name_offset, flags = struct.unpack_from(">IH", blob, at)
        here = f"{path}/{name_at(name_offset)}" if index else path
        if flags & 2:
            count, first = struct.unpack_from(">II", blob, at + 6)
            for child in range(count):
                yield from walk(first + child, here)
            return
        (data_offset,) = struct.unpack_from(">I", blob, at + 10)
        (size,) = struct.unpack_from(">I", blob, data + data_offset)
        content = blob[data + data_offset + 4 : data + data_offset + 4 + size]
        if flags & 4:  # zstd: no picture in these packages is stored so
            return
        yield here, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")


def read_licences(copyright_file: Path) -> list[Licence]:
    """Read a machine-readable Debian copyright file; older free-form files give one entry for everything."""
    text = copyright_file.read_text(encoding="utf-8", errors="replace")
    if "Format:" not in text:
        name = "GPL-2+" if "either version 2" in text else "see the package's copyright file"
        return [Licence(patterns=("*",), name=name, author="see the package's copyright file")]
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                fields[key] = fields.get(key, "") + "\n" + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        if "Files" in fields and "License" in fields:
            found.append(
                Licence(
                    patterns=tuple(fields["Files"].split()),
                    name=fields["License"].splitlines()[0],
                    author="; ".join(fields.get("Copyright", "").splitlines()),
                )
            )
    return found


def find_licence(licences: list[Licence], path: str) -> Licence:
    """The last matching paragraph wins; a converted picture (.webp) is looked up without its suffix."""
    stem, name = path.rsplit(".", 1)[0], path.rpartition("/")[2]
    best = licences[0]
    for licence in licences:
        for pattern in licence.patterns:
            same_stem = pattern.rsplit(".", 1)[0] == stem
            same_file = pattern.rpartition("/")[2] == name  # installed elsewhere than in the source tree
            if same_stem or same_file or fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"*/{pattern}"):
                best = licence
    return best


def read_package(root: Path, package: str) -> Iterator[Picture]:
    """Yield the pictures of one unpacked Debian package."""
    patterns = PATTERNS[package]
    licences = read_licences(root / package / "usr/share/doc" / package / "copyright")
    for file in sorted((root / package).rglob("*")):
        if not file.is_file():
            continue
        inside = file.relative_to(root / package).as_posix()
        if file.suffix == ".rcc":
            for name, data in read_rcc(file.read_bytes()):
                short = name.removeprefix(ACTIVITIES)
                if name.endswith(".webp") and any(fnmatch.fnmatch(short, pattern) for pattern in patterns):
                    licence = find_licence(licences, name.removeprefix("/gcompris/"))
                    yield Picture(package, name, licence.name, licence.author, data)
        elif not file.is_symlink() and any(fnmatch.fnmatch("/" + inside, pattern) for pattern in patterns):
            licence = find_licence(licences, inside)
            yield Picture(package, inside, licence.name, licence.author, file.read_bytes())


def read_wheels() -> Iterator[Picture]:
    """Yield the photographs inside the installed scikit-image and scikit-learn, if they are there."""
    chosen = {
        "skimage": (
            "scikit-image",
            ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg"),
        ),
        "sklearn.datasets": ("scikit-learn", ("china.jpg", "flower.jpg")),
    }
    licences = {
        "astronaut.png": ("public domain", "NASA"),
        "coffee.png": ("CC0-1.0", "Rachel Michetti"),
        "chelsea.png": ("CC0-1.0", "Stefan van der Walt"),
        "rocket.jpg": ("CC0-1.0", "SpaceX"),
        "hubble_deep_field.jpg": ("public domain", "NASA and ESA"),
        "china.jpg": ("CC-BY-2.0", "danielbuechele"),
        "flower.jpg": ("CC-BY-2.0", "vultilion"),
    }
    for module, (package, names) in chosen.items():
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        for name in names:
            for file in Path(spec.origin).parent.rglob(name):
                licence, author = licences[name]
                inside = f"{module.replace('.', '/')}/{file.parent.name}/{name}"
                yield Picture(package, inside, licence, author, file.read_bytes())


def decode(picture: Picture) -> Image.Image | None:
    """Open and shrink *picture*; None when it is too small, or grey."""
    with Image.open(io.BytesIO(picture.data)) as opened:
        opened.draft("RGB", (LONG_SIDE_PX, LONG_SIDE_PX))
        has_alpha = opened.mode in {"RGBA", "LA", "P", "PA"}
        image = opened.convert("RGBA" if has_alpha else "RGB")
    if has_alpha and np.asarray(image.getchannel("A")).min() > 250:
        image = image.convert("RGB")
    if has_alpha and image.mode == "RGBA":
        box = image.getchannel("A").getbbox()
        if box is None:
            return None
        image = image.crop(box)
    if min(image.size) < MIN_SIDE_PX or max(image.size) > 12 * min(image.size):
        return None
    scale = SHORT_SIDE_PX / min(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if max(image.size) > LONG_SIDE_PX:
        left = (image.width - min(image.width, LONG_SIDE_PX)) // 2
        top = (image.height - min(image.height, LONG_SIDE_PX)) // 2
        image = image.crop((left, top, left + min(image.width, 720), top + min(image.height, 720)))
    pixels = np.asarray(image, dtype=np.float32)
    colours = pixels[..., :3].reshape(-1, 3)
    if image.mode == "RGBA":
        colours = colours[pixels[..., 3].reshape(-1) > 128]
    if colours.size == 0 or np.mean(colours.max(axis=1) - colours.min(axis=1)) < MIN_MEAN_CHANNEL_SPREAD:
        return None
    return image


def choose_split(picture: Picture) -> str:
    """Name the picture's use: `sample` (demo), `held_out` (figures) or `train`; stable across runs."""
    if any(fnmatch.fnmatch(picture.path, pattern) for pattern in SAMPLES):
        return "sample"
    if picture.package in TRAINING_ONLY or "paintings" in picture.path:
        return "train"
    first = hashlib.sha256(f"{picture.package}:{Path(picture.path).stem}".encode()).digest()[0]
    return "held_out" if first < HELD_OUT_PER_256 else "train"


def main() -> None:
    """Write every chosen picture and `sources.jsonl` into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unpacked", type=Path, required=True, help="folder with one unpacked package each")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    counts: dict[str, int] = {}
    with (args.out / "sources.jsonl").open("w", encoding="utf-8") as log:
        packages = [package for package in PATTERNS if (args.unpacked / package).is_dir()]
        pictures = [picture for package in packages for picture in read_package(args.unpacked, package)]
        for picture in [*pictures, *read_wheels()]:
            digest = hashlib.sha256(picture.data).hexdigest()[:16]
            if digest in seen or any(fnmatch.fnmatch(picture.path, pattern) for pattern in LEFT_OUT):
                continue
            seen.add(digest)
            image = decode(picture)
            if image is None or (image.mode == "RGBA" and "paintings" in picture.path):
                continue  # the latter are puzzle pieces
            split = choose_split(picture)
            image.save(args.out / f"{digest}.png")
            row = {
                "file": f"{digest}.png",
                "package": picture.package,
                "path": picture.path,
                "licence": picture.licence,
                "author": picture.author,
                "split": split,
                "masked": image.mode == "RGBA",
            }
            log.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[f"{picture.package} {split}"] = counts.get(f"{picture.package} {split}", 0) + 1
    for name, count in sorted(counts.items()):
        print(f"{count:5d}  {name}")


if __name__ == "__main__":
    main()
