"""What the demo saw, measured as its clients saw it: the closing table, and the pictures side by side."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from rich.table import Table

from controlplane.lab.load import Outcome, Records

Bools = npt.NDArray[np.bool_]

GAP_PX, TITLE_PX = 6, 22

VERSION_HEADER = "x-model-version"
FAULT_HEADER = "x-injected-fault"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One rollout in the closing table; the field names are the keys of ``--json``."""

    service: str
    version: str
    expected: str
    outcome: str
    evidence: str
    first_bad_to_last_bad_s: float | None
    bad_responses: int
    requests: int

    @property
    def is_right(self) -> bool:
        """Whether it ended as the story wants."""
        return self.outcome == self.expected


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """When a version was on trial, in steady seconds, and what a bad answer of it looks like.

    A request that hangs names no version; with *hangs* every time-out of the span is the version's.
    """

    version: str
    began: float
    ended: float
    hangs: bool


def bad_requests(records: Records, span: Span) -> Bools:
    """Return which requests the version on trial spoilt: errors, answers it held back, time-outs of a hang."""
    within = (records.start >= span.began) & (records.start <= span.ended)
    own = records.has(VERSION_HEADER, span.version)
    spoilt = own & (~records.ok | records.has(FAULT_HEADER))
    if span.hangs:
        spoilt |= records.outcome == Outcome.TIMED_OUT
    result: Bools = within & spoilt
    return result


def measure(records: Records, span: Span) -> tuple[float | None, int, int]:
    """Return seconds from the first bad answer to the last, bad answers, and requests that the version got.

    An answer counts when it came, a hung request when it was sent.
    """
    bad = bad_requests(records, span)
    moments = np.where(records.outcome == Outcome.TIMED_OUT, records.start, records.end)[bad]
    served = int((bad | (records.has(VERSION_HEADER, span.version) & (records.start >= span.began))).sum())
    lasted = float(moments.max() - moments.min()) if len(moments) else None
    return (None if lasted is None else round(lasted, 1)), int(bad.sum()), served


def config_failures(records: Records, spans: Sequence[Span]) -> int:
    """Count what failed although no worker was told to fail it: the price of configuration changes, which must be 0."""
    failed = ~records.ok & ~records.has(FAULT_HEADER)
    for span in spans:
        if span.hangs:
            failed &= ~(
                (records.outcome == Outcome.TIMED_OUT) & (records.start >= span.began) & (records.start <= span.ended)
            )
    return int(failed.sum())


def closing_table(rows: Sequence[Row]) -> Table:
    """Return the table that the demo ends with."""
    table = Table(title="What happened", title_justify="left", show_lines=True)
    for name, justify in (
        ("rollout", "left"),
        ("outcome", "left"),
        ("evidence", "left"),
        ("first to last\nbad response", "right"),
        ("bad\nresponses", "right"),
        ("requests\nto it", "right"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left")
    for row in rows:
        mark = "[green]✔[/]" if row.is_right else "[red]✖[/]"
        seconds = "" if row.first_bad_to_last_bad_s is None else f"{row.first_bad_to_last_bad_s:g} s"
        table.add_row(
            f"{row.service} → {row.version}",
            f"{mark} {row.outcome.replace('_', ' ')}",
            row.evidence,
            seconds,
            str(row.bad_responses),
            str(row.requests),
        )
    return table


def contact_sheet(columns: Mapping[str, Sequence[bytes]], *, tile_px: int = 224) -> Image.Image:
    """Lay encoded pictures out side by side: a column per title, a row per photo."""
    tiles = {title: [_tile(encoded, tile_px) for encoded in pictures] for title, pictures in columns.items()}
    heights = [max(tile.height for tile in row) + GAP_PX for row in zip(*tiles.values(), strict=True)]
    sheet = Image.new("RGB", (len(tiles) * (tile_px + GAP_PX), TITLE_PX + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    for at, (title, pictures) in enumerate(tiles.items()):
        left = at * (tile_px + GAP_PX)
        pen.text((left + GAP_PX, GAP_PX), title, fill="black")
        for row, tile in enumerate(pictures):
            sheet.paste(tile, (left + GAP_PX // 2, TITLE_PX + sum(heights[:row])))
    return sheet


def _tile(encoded: bytes, tile_px: int) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as picture:
        tile = picture.convert("RGB")
    tile.thumbnail((tile_px, tile_px))
    return tile


def mean_chroma(encoded: bytes) -> float:
    """Return how far a picture is from grey: the mean distance of its RGB channels from their mean, 0..255."""
    with Image.open(io.BytesIO(encoded)) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    return float(np.abs(pixels - pixels.mean(axis=2, keepdims=True)).mean())


def json_report(rows: Sequence[Row], *, failures: int, requests: int, seconds: float, sheet: str) -> dict[str, Any]:
    """Return what ``--json`` writes."""
    return {
        "rollouts": [dataclasses.asdict(row) for row in rows],
        "config_failures": failures,
        "requests": requests,
        "seconds": round(seconds, 1),
        "contact_sheet": sheet,
    }
