"""Writes the demo's photographs into the package: none was trained on, each has a licence of its own that allows it."""

import argparse
import fnmatch
import json
from pathlib import Path
from typing import Any, Final

from PIL import Image

LONG_SIDE_PX: Final = 384
CHOSEN: Final[dict[str, str]] = {
    "*/renewable/dam1.webp": "dam",
    "*/renewable/dam2.webp": "reservoir",
    "*/renewable/solar6.webp": "roof",
    "*/renewable/solar7.webp": "solar_panel",
    "*/renewable/windmill1.webp": "windmill_by_the_sea",
    "*/renewable/windmill3.webp": "windmill",
    "*/animals/koala.webp": "koala",
    "*/animals/dragon.webp": "komodo_dragon",
    "*Dragonfly_by_Bolly.jpg": "dragonfly",
    "*Kleiber_by_Lukas_Baubkus.jpg": "nuthatch",
    "*astronaut.png": "astronaut",
    "*/others/bucket.webp": "bucket",
}
HEADER: Final = """# The demo's photographs

Real photographs, scaled down to at most 384 pixels and saved as JPEG; nothing else was changed. The demo makes them
grey before it sends them. None of them was used for training. Each stays under its author's licence.

| file | author | licence | taken from |
| --- | --- | --- | --- |
"""


def main() -> None:
    """Write the JPEG files and LICENCES.md.

    Raises:
        SystemExit: A chosen photograph is missing, was trained on, or stands only under its package's licence.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="what collect.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the samples folder")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.photos / "sources.jsonl").read_text(encoding="utf-8").splitlines()]
    args.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for pattern, name in CHOSEN.items():
        found: list[dict[str, Any]] = [row for row in rows if fnmatch.fnmatch(row["path"], pattern)]
        if len(found) != 1 or found[0]["split"] == "train" or "GPL" in found[0]["licence"]:
            raise SystemExit(f"{pattern}: not one unseen photograph with a licence of its own")
        row = found[0]
        with Image.open(args.photos / row["file"]) as image:
            image.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.LANCZOS)
            image.convert("RGB").save(args.out / f"{name}.jpg", "JPEG", quality=90)
        where = f"{row['package']}: {row['path'].removeprefix('/gcompris/src/activities/')}"
        lines.append(f"| {name}.jpg | {row['author'].replace('|', '/')} | {row['licence']} | {where} |")
    (args.out / "LICENCES.md").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
