"""What the REST API answers about comparisons of pictures."""

import datetime as dt
from typing import Any

from controlplane.api.answering import View


class MeasureView(View):
    """A mean over photos, and where it lies if the photos are taken for a sample (95 %)."""

    value: float
    low: float
    high: float


class QualityRunView(View):
    """A comparison of both versions' pictures. *status* is running, done or failed; *verdict* ok, drift or block.

    *words* are the verdict's sentence, or why there is none; *old* and *new* what the workers call themselves.
    *measures* are there where the rollout is explained.
    """

    number: int
    status: str
    verdict: str | None
    words: str
    at: dt.datetime
    ended_at: dt.datetime | None
    old: str
    new: str
    measures: dict[str, MeasureView] = {}


class WorstPictureView(View):
    """One of a comparison's worst pictures: its *place*, 1 is the worst, the photo's name, and what is wrong."""

    place: int
    name: str
    words: str


class QualityReportView(QualityRunView):
    """A comparison whole. *report* has every figure, by photo too, and the limits; it is empty without a verdict."""

    report: dict[str, Any]
    worst: list[WorstPictureView]
