"""Writes the list of every picture that was trained on, with its licence and author, for the model card."""

import argparse
import json
import re
from pathlib import Path
from typing import Final

from inference_worker.training.collect import ACTIVITIES

MAX_AUTHOR_CHARS: Final = 120
HEADER: Final = "package\tfile\tlicence\tauthor as the package names it\n"


def name_author(text: str) -> str:
    """The author without e-mail addresses; a whole project's list is cut short."""
    plain = " ".join(re.sub(r"<[^>]*>\u00b4?", "", text).split())
    return plain if len(plain) <= MAX_AUTHOR_CHARS else plain[: MAX_AUTHOR_CHARS - 3].rstrip() + "..."


def main() -> None:
    """Write the table, sorted by package and file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="what collect.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the .tsv file")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.photos / "sources.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = sorted((row for row in rows if row["split"] == "train"), key=lambda row: (row["package"], row["path"]))
    lines = []
    for row in trained:
        path = row["path"].removeprefix(ACTIVITIES).lstrip("/")
        lines.append("\t".join((row["package"], path, row["licence"], name_author(row["author"]))) + "\n")
    args.out.write_text(HEADER + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
