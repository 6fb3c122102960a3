"""The contact sheet: grey photo, old and new version side by side, the worst first and those three framed."""

import io
from collections.abc import Mapping
from typing import Final

from PIL import Image, ImageDraw

from controlplane.quality.photoset import Photo
from controlplane.quality.sanity import Unusable
from controlplane.quality.verdict import WORST, Case, Judgement, by_badness

TILE_PX: Final = 168
GAP_PX: Final = 6
LABEL_PX: Final = 16
GROUPS: Final = 3
"""Photos beside each other, three tiles each."""
STRIP_TILE_PX: Final = 240
MAX_STRIP_BYTES: Final = 40_000
RED: Final = (200, 30, 30)


def draw_sheet(
    judgement: Judgement, photos: Mapping[str, Photo], old: Mapping[str, bytes], new: Mapping[str, bytes]
) -> Image.Image:
    """Lay all pictures out; *old* and *new* are files by the photos' names, as far as there are any."""
    cases = by_badness(judgement.cases)
    rows = [cases[start : start + GROUPS] for start in range(0, len(cases), GROUPS)]
    tiles = {
        case.name: [
            _tile(photos[case.name].data, TILE_PX),
            _answer(case.old, old.get(case.name), TILE_PX),
            _answer(case.new, new.get(case.name), TILE_PX),
        ]
        for case in cases
    }
    heights = [max(tile.height for case in row for tile in tiles[case.name]) + LABEL_PX + GAP_PX for row in rows]
    group_px = 3 * (TILE_PX + 2) + 2 * GAP_PX
    sheet = Image.new("RGB", (GROUPS * group_px, 2 * LABEL_PX + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX, 2), _plain(judgement.sentence)[:180], fill=RED if judgement.verdict == "block" else "black")
    pen.text((GAP_PX, LABEL_PX), "photo | old | new, the worst first", fill="black")
    top = 2 * LABEL_PX
    for row, height in zip(rows, heights, strict=True):
        for place, case in enumerate(row):
            left = place * group_px + GAP_PX
            pen.text((left, top), _plain(_label(case)), fill=RED if case.new_flaws else "black")
            for column, tile in enumerate(tiles[case.name]):
                sheet.paste(tile, (left + column * (TILE_PX + 2), top + LABEL_PX))
            if case.name in judgement.worst[:WORST]:
                pen.rectangle((left - 3, top - 1, left + 3 * (TILE_PX + 2) + 1, top + height - 4), outline=RED, width=2)
        top += height
    return sheet


def draw_strip(case: Case, photo: bytes, old: bytes | None, new: bytes | None) -> bytes:
    """Draw one photo and both versions' pictures of it side by side, as a JPEG of at most 40 kB."""
    tiles = [
        _tile(photo, STRIP_TILE_PX),
        _answer(case.old, old, STRIP_TILE_PX),
        _answer(case.new, new, STRIP_TILE_PX),
    ]
    strip = Image.new("RGB", (3 * STRIP_TILE_PX + 2 * GAP_PX, max(tile.height for tile in tiles)), "white")
    for column, tile in enumerate(tiles):
        strip.paste(tile, (column * (STRIP_TILE_PX + GAP_PX), 0))
    codings = (_encode(strip, quality) for quality in (88, 75, 60, 40))
    return next((coded for coded in codings if len(coded) <= MAX_STRIP_BYTES), _encode(strip, 10))


def _encode(picture: Image.Image, quality: int) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality)
    return target.getvalue()


def _label(case: Case) -> str:
    difference = f"dE {case.pair.delta_e:.1f}" if case.pair else ""
    return f"{case.name}  {difference}  {', '.join(case.new_flaws)}"


def _plain(text: str) -> str:
    """What Pillow's own font can draw."""
    return text.encode("latin-1", errors="replace").decode("latin-1")


def _answer(seen: object, encoded: bytes | None, side_px: int) -> Image.Image:
    if isinstance(seen, Unusable) or encoded is None:
        empty = Image.new("RGB", (side_px, side_px // 2), (245, 225, 225))
        words = f"{seen.flaw}\n{seen.words[:26]}" if isinstance(seen, Unusable) else ""
        ImageDraw.Draw(empty).text((GAP_PX, GAP_PX), _plain(words), fill=RED)
        return empty
    return _tile(encoded, side_px)


def _tile(encoded: bytes, side_px: int) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as picture:
        tile = picture.convert("RGB")
    tile.thumbnail((side_px, side_px))
    return tile
