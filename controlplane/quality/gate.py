"""The whole comparison: photos to both versions, pictures to figures, figures to a verdict, all of it to files."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import httpx

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.quality.answers import Answer, Asker, Target, read_folder
from controlplane.quality.features import LPIPS, Meter, open_shipped
from controlplane.quality.live import LivePairs, choose
from controlplane.quality.photoset import Photo
from controlplane.quality.pictures import read_answer
from controlplane.quality.report import as_data
from controlplane.quality.sanity import Unusable, View
from controlplane.quality.sheet import draw_sheet
from controlplane.quality.verdict import Case, Judgement, Limits, judge, make_case

Source: TypeAlias = Target | pathlib.Path
"""Where a version's pictures come from: its workers, or a folder."""

REPORT: Final = "report.json"
SHEET: Final = "contact-sheet.jpg"


async def collect(
    source: Source,
    photos: Sequence[Photo],
    *,
    client: httpx.AsyncClient,
    clock: Clock,
    parallel: int,
    progress: Callable[[], None],
) -> list[Answer]:
    """Return a version's answers, one for each photo.

    Raises:
        InvalidInputError: The folder cannot be used.
        UnavailableError: Nothing answers at the target.
    """
    match source:
        case Target():
            asker = Asker(source, client=client, clock=clock, parallel=parallel, progress=progress)
            return await asker.ask(photos)
        case pathlib.Path():
            return read_folder(source, photos)


def find_meters(lpips: pathlib.Path | None = None) -> tuple[Meter, ...]:
    """The networks that can look at pictures here: the shipped one, and the owner's file for LPIPS.

    Raises:
        InvalidInputError: The file cannot be used, or there is no onnxruntime for it.
    """
    shipped = open_shipped()
    if lpips is None:
        return () if shipped is None else (shipped,)
    if shipped is None:
        raise InvalidInputError("--lpips", "needs the package onnxruntime", "install it with: pip install onnxruntime")
    return shipped, Meter(lpips, LPIPS)


def weigh(
    names: tuple[str, str],
    photos: Sequence[Photo],
    answers: tuple[Sequence[Answer], Sequence[Answer]],
    limits: Limits,
    *,
    meters: Sequence[Meter] = (),
    seed: int = 0,
) -> Judgement:
    """Decide about the new version.

    Args:
        names: What the old and the new version are called.
        photos: What both were sent.
        answers: The old version's and the new one's, one for each photo.
        limits: What the owner allows.
        meters: Networks that look at each pair, as `find_meters` finds them.
        seed: Where the resampling starts.

    Raises:
        TooFewPairsError: The old version gives too few pictures to compare with.
    """
    return judge(*names, make_cases(photos, answers, limits, meters), limits, seed=seed)


def weigh_live(
    names: tuple[str, str], pairs: LivePairs, limits: Limits, *, meters: Sequence[Meter] = (), seed: int = 0
) -> Judgement:
    """Decide about the new version by live requests, of which the old version's pictures say what is to be expected.

    Args:
        names: What the old and the new version are called.
        pairs: What was collected.
        limits: What the owner allows.
        meters: Networks that look at each pair.
        seed: Where the resampling starts.

    Raises:
        TooFewLivePairsError: Too few can be compared.
    """
    cases, notes = choose(make_cases(pairs.photos, (pairs.old, pairs.new), limits, meters), pairs)
    judgement = judge(*names, cases, limits, seed=seed)
    return dataclasses.replace(judgement, notes=(*judgement.notes, *notes))


def make_cases(
    photos: Sequence[Photo],
    answers: tuple[Sequence[Answer], Sequence[Answer]],
    limits: Limits,
    meters: Sequence[Meter] = (),
) -> list[Case]:
    """Measure both versions' answers, photo by photo; a verdict takes such cases from wherever they come."""
    return [
        make_case(photo.name, photo.stratum, _look(old, photo), _look(new, photo), limits.bounds, meters)
        for photo, old, new in zip(photos, *answers, strict=True)
    ]


def _look(answer: Answer, photo: Photo) -> View | Unusable:
    return answer.content if isinstance(answer.content, Unusable) else read_answer(answer.content, photo.pixels)


def write_files(
    directory: pathlib.Path,
    judgement: Judgement,
    photos: Sequence[Photo],
    answers: tuple[Sequence[Answer], Sequence[Answer]],
    *,
    names: tuple[str, str],
    limits: Limits,
    seed: int,
) -> dict[str, object]:
    """Write the report and the contact sheet into *directory*; return the report.

    Raises:
        InvalidInputError: The folder cannot be written to.
    """
    old, new = (
        {photo.name: one.content for photo, one in zip(photos, side, strict=True) if isinstance(one.content, bytes)}
        for side in answers
    )
    said = [sorted({answer.said for answer in side if answer.said}) for side in answers]
    data = as_data(judgement, old=names[0], new=names[1], limits=limits, seed=seed)
    data |= {"workers_say": {"old": said[0], "new": said[1]}}
    sheet = draw_sheet(judgement, {photo.name: photo for photo in photos}, old, new)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / REPORT).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sheet.save(directory / SHEET, "JPEG", quality=88)
    except OSError as exc:
        raise InvalidInputError(
            "--out", f"{directory} cannot be written ({exc.strerror})", "name another folder"
        ) from exc
    return data
