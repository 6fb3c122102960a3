"""A judgement as plain data, for `report.json` and programs."""

import dataclasses
from typing import Any, Final

from controlplane.quality.sanity import Unusable, View
from controlplane.quality.verdict import Case, Interval, Judgement, Limits, by_badness

DIGITS: Final = 4


def as_data(judgement: Judgement, *, old: str, new: str, limits: Limits, seed: int) -> dict[str, Any]:
    """Return everything that was measured; pictures come with the worst first."""
    return {
        "verdict": judgement.verdict.value,
        "sentence": judgement.sentence,
        "old": old,
        "new": new,
        "findings": [{"verdict": finding.verdict.value, "words": finding.words} for finding in judgement.findings],
        "notes": list(judgement.notes),
        "worst": list(judgement.worst),
        "measures": {name: _interval(interval) for name, interval in judgement.measures.items()},
        "delta_e_by_stratum": {name: _interval(interval) for name, interval in judgement.strata.items()},
        "limits": dataclasses.asdict(limits),
        "seed": seed,
        "pictures": [_picture(case) for case in by_badness(judgement.cases)],
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in dataclasses.asdict(interval).items()}


def _picture(case: Case) -> dict[str, Any]:
    pair: dict[str, Any] = {}
    if case.pair is not None:
        names = ("delta_e", "delta_e_p95", "hue_deg", "ssim_ab")
        pair = {name: round(getattr(case.pair, name), DIGITS) for name in names}
        pair |= {name: round(distance, DIGITS) for name, distance in case.pair.distances.items()}
        pair["offset"] = [round(part, DIGITS) for part in case.pair.offset]
    return {"name": case.name, "stratum": case.stratum, **pair, "old": _side(case.old, case.old_flaws)} | {
        "new": _side(case.new, case.new_flaws)
    }


def _side(seen: View | Unusable, flaws: tuple[str, ...]) -> dict[str, Any]:
    data: dict[str, Any] = {"flaws": [str(flaw) for flaw in flaws]}
    if isinstance(seen, Unusable):
        return data | {"words": seen.words}
    names = ("colourfulness", "chroma", "clipped", "lightness", "residual")
    return data | {name: round(getattr(seen, name), DIGITS) for name in names}
