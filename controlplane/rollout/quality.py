"""What a comparison of both versions' pictures is, and what its verdict amounts to. Pure.

Context: a defective version must be stopped before a user sees it, and what a picture should look like is no share of
bad requests. Choice: the comparison is a fact of its own beside the judge's ticks, a row that says when it began and
what it came to, and its verdict either stops the rollout, asks a person, or lets a step be taken. Consequence: the
judge's odds know nothing of it, and a replay of the judge's record needs no pictures.
"""

import dataclasses
import datetime as dt
import enum
from collections.abc import Sequence
from typing import Final

from controlplane.errors import InvalidInputError
from controlplane.rollout.model import Plan
from controlplane.rollout.slo import OnBreach, OnDrift, QualitySlo, Slo, quality_slo


class QualityVerdict(enum.Enum):
    """What became of a comparison; later ones are worse."""

    OK = "ok"
    DRIFT = "drift"
    BLOCK = "block"


class RunStatus(enum.Enum):
    """How far a comparison is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """Nothing came of it, so nothing is known; its words say why."""


@dataclasses.dataclass(frozen=True, slots=True)
class QualityRun:
    """One comparison of a rollout's two versions, begun at *at*.

    *words* are the verdict's sentence, or why there is none. *old* and *new* are what the versions' workers call
    themselves. A run that came to nothing is begun anew under its own number.
    """

    number: int
    at: dt.datetime
    status: RunStatus = RunStatus.RUNNING
    ended_at: dt.datetime | None = None
    verdict: QualityVerdict | None = None
    words: str = ""
    old: str = ""
    new: str = ""


class Consequence(enum.Enum):
    """What a verdict leads to."""

    NOTHING = "nothing"
    QUESTION = "question"
    BREACH = "breach"


_RANKS: Final = list(QualityVerdict)


def consequence(slo: QualitySlo, verdict: QualityVerdict, asked: QualityVerdict | None) -> Consequence:
    """Return what *verdict* leads to; *asked* is the worst that a person was asked about in this rollout already."""
    if slo.terms.muted or verdict is QualityVerdict.OK:
        return Consequence.NOTHING
    if verdict is QualityVerdict.DRIFT and slo.on_drift is OnDrift.ALLOW:
        return Consequence.NOTHING
    asks = slo.terms.on_breach is OnBreach.PAUSE
    if verdict is QualityVerdict.DRIFT and slo.on_drift is OnDrift.ASK:
        asks = True
    if not asks:
        return Consequence.BREACH
    answered = asked is not None and _RANKS.index(asked) >= _RANKS.index(verdict)
    return Consequence.NOTHING if answered else Consequence.QUESTION


def is_compared_before(plan: Plan, slos: Sequence[Slo], step: int) -> bool:
    """Whether the pictures are compared before the traffic of *step* (an index)."""
    if quality_slo(slos) is None:
        return False
    wanted = plan.steps[step].quality
    return step == 0 if wanted is None else wanted


def check_demands(plan: Plan, slos: Sequence[Slo]) -> None:
    """Refuse a step that waits for a verdict on pictures which nobody compares.

    Raises:
        InvalidInputError: There is no objective about pictures.
    """
    for number, step in enumerate(plan.steps, start=1):
        if step.quality and quality_slo(slos) is None:
            raise InvalidInputError(
                f"plan.steps[{number}].quality",
                "waits for pictures that nobody compares",
                "add {name: pictures, kind: quality} to slos",
            )
