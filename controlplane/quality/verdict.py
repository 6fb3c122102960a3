"""The gate's decision about a new version: blocked, drifted or ok, each in one sentence with what was measured.

Sanity blocks: a picture that is grey, another size, or of another lightness is a bug whatever the model's style. Drift
informs: two versions may be meant to differ, and how far is the owner's to say. All means are over photos, with paired
bootstrap intervals: the photos are a sample, and both versions saw the same ones. The same cases and seed give the same
decision, to the last digit.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from controlplane.errors import UnavailableError
from controlplane.quality.features import FEATURE_DISTANCE, LPIPS, Meter
from controlplane.quality.pairs import MIX_UPS, Pair, compare
from controlplane.quality.sanity import FATAL, Bounds, Flaw, Unusable, View, find_flaws

Doubles: TypeAlias = npt.NDArray[np.float64]

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
MIN_PAIRS: Final = 8
WORST: Final = 3
ROUNDING: Final = 1e-9


class Verdict(enum.StrEnum):
    """What becomes of a new version; later ones are worse."""

    OK = "ok"
    DRIFT = "drift"
    BLOCK = "block"


class TooFewPairsError(UnavailableError):
    """The old version gives too few pictures to hold the new one against."""

    def __init__(self, name: str, usable: int, asked: int, words: str) -> None:
        super().__init__(
            f"{name}: only {usable} of {asked} pictures of the old version can be used{words}; "
            f"{MIN_PAIRS} are needed, so mend it or take more photos"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an owner allows; the defaults let a twin in other clothes (JPEG of quality 60) pass with a wide margin."""

    delta_e: float = 3.0
    """Mean CIEDE2000 over the photos. The twin has 1.2; the shipped v1 and v2 are 4.8 apart."""
    hue_deg: float = 10.0
    """Mean distance of hues, in degrees. The twin has 1.4, v1 and v2 6.8."""
    chroma: float = 0.25
    """How much more or less colour there may be in all: 0.25 allows 0.8 to 1.25 times as much."""
    ssim_ab: float = 0.9
    """Least mean similarity of the colour planes. The twin has 0.97, v1 and v2 0.79."""
    feature_distance: float = 0.15
    """Largest mean feature distance. The twin has 0.05 (0.08 as JPEG of quality 60), v1 and v2 0.07, grey 0.2."""
    lpips: float | None = None
    """Largest mean LPIPS, where the owner's network measures it; None lets it decide nothing."""
    flawed: float = 0.2
    """Share of pictures that may newly be pale, garish, clipped or of one tint. More is a bug, not a style."""
    chroma_bug: float = 2.5
    """Blocked when there is more than so many times, or less than one so-manieth, of the old colour in all."""
    lightness_bug: float = 2.0
    """Blocked when L changes by more than this on average, 99 % of each picture at 128 px: by little, but everywhere. A
    JPEG of quality 60 has 1.3, a picture that was halved and enlarged again 3.7."""
    offset_bug: float = 0.008
    """Blocked when colours lie further beside the old ones than this share of the longer side (1 px of 128)."""
    bounds: Bounds = dataclasses.field(default_factory=Bounds)


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A mean over photos, and where it lies if the photos are taken for a sample (95 %)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} (95 % interval {self.low:.3g} to {self.high:.3g})"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One photo and what both versions made of it."""

    name: str
    stratum: str
    old: View | Unusable
    new: View | Unusable
    old_flaws: tuple[Flaw, ...]
    new_flaws: tuple[Flaw, ...]
    pair: Pair | None
    """None where one of the pictures cannot be measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One reason, as a sentence."""

    verdict: Verdict
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a new version with everything that it rests on."""

    verdict: Verdict
    sentence: str
    findings: tuple[Finding, ...]
    """All reasons, the worst first; for OK what was measured."""
    notes: tuple[str, ...]
    """What a person should know besides, as flaws of the old version."""
    measures: Mapping[str, Interval]
    strata: Mapping[str, Interval]
    """Mean CIEDE2000 by stratum."""
    worst: tuple[str, ...]
    """The three photos that speak most against the new version."""
    cases: tuple[Case, ...]


def make_case(
    name: str, stratum: str, old: View | Unusable, new: View | Unusable, bounds: Bounds, meters: Sequence[Meter] = ()
) -> Case:
    """Put both versions' answers to one photo together; *meters* look at the two as well."""
    both = (old, new)
    pair = compare(old, new, meters) if isinstance(old, View) and isinstance(new, View) else None
    old_flaws, new_flaws = (find_flaws(seen, bounds) for seen in both)
    return Case(name, stratum, old, new, old_flaws, new_flaws, pair)


def judge(old_name: str, new_name: str, cases: Sequence[Case], limits: Limits, *, seed: int = 0) -> Judgement:
    """Decide about the version *new_name*.

    Args:
        old_name: What the old version is called in sentences.
        new_name: What the new one is called.
        cases: One for each photo.
        limits: What the owner allows.
        seed: Where the resampling starts.

    Raises:
        TooFewPairsError: No flaw decides, and fewer than 8 photos have two usable pictures.
    """
    findings = [*_fatal(cases, limits.bounds), *_frequent(cases, limits.flawed)]
    pairs = [case.pair for case in cases if case.pair is not None]
    measures: dict[str, Interval] = {}
    strata: dict[str, Interval] = {}
    if len(pairs) >= MIN_PAIRS:
        sample = _Sample(pairs, seed)
        measures = sample.measure()
        findings += [*_mixed_up(sample), *_out_of_range(measures, limits)]
        strata = _by_stratum(cases, seed)
        findings += _drift(measures, limits)
    elif not any(finding.verdict is Verdict.BLOCK for finding in findings):
        usable = sum(isinstance(case.old, View) for case in cases)
        reasons = [case.old.words for case in cases if isinstance(case.old, Unusable)]
        raise TooFewPairsError(old_name, usable, len(cases), f" ({reasons[0]})" if reasons else "")
    ranks = list(Verdict)
    findings.sort(key=lambda finding: -ranks.index(finding.verdict))
    verdict = findings[0].verdict if findings else Verdict.OK
    return Judgement(
        verdict=verdict,
        sentence=_sentence(verdict, findings, old_name, new_name, measures, len(cases), limits),
        findings=tuple(findings),
        notes=_notes(cases, old_name),
        measures=measures,
        strata=strata,
        worst=tuple(case.name for case in by_badness(cases)[:WORST]),
        cases=tuple(cases),
    )


class _Sample:
    """The pairs as arrays, and the same resamples of photos for every figure."""

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        self._pairs = pairs
        count = len(pairs)
        self._drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))

    def read(self, figure: Callable[[Pair], float | tuple[float, ...]]) -> Doubles:
        """One row for each pair."""
        return np.array([figure(pair) for pair in self._pairs], dtype=np.float64)

    def mean(self, values: Doubles) -> Interval:
        return _interval(float(values.mean()), values[self._drawn].mean(axis=1))

    def ratio(self, above: Doubles, below: Doubles) -> Interval:
        drawn = above[self._drawn].sum(axis=1) / below[self._drawn].sum(axis=1)
        return _interval(float(above.sum() / below.sum()), drawn)

    def offset(self) -> Interval:
        right, down = self.read(lambda pair: pair.offset).T
        drawn = np.hypot(np.median(right[self._drawn], axis=1), np.median(down[self._drawn], axis=1))
        return _interval(float(np.hypot(np.median(right), np.median(down))), drawn)

    def measure(self) -> dict[str, Interval]:
        """Every figure, by the name that reports give it."""
        old_chroma, new_chroma = self.read(lambda pair: pair.old_chroma), self.read(lambda pair: pair.new_chroma)
        lost = self.read(lambda pair: pair.new_colourfulness - pair.old_colourfulness)
        looks = [name for name in (FEATURE_DISTANCE, LPIPS) if all(name in pair.distances for pair in self._pairs)]
        return {
            "delta_e": self.mean(self.read(lambda pair: pair.delta_e)),
            "delta_e_p95": self.mean(self.read(lambda pair: pair.delta_e_p95)),
            "hue_deg": self.mean(self.read(lambda pair: pair.hue_deg)),
            "chroma_ratio": self.ratio(new_chroma, np.maximum(old_chroma, 1e-6)),
            "colourfulness_change": self.mean(lost),
            "ssim_ab": self.mean(self.read(lambda pair: pair.ssim_ab)),
            "lightness": self.mean(self.read(lambda pair: pair.lightness)),
            "offset": self.offset(),
            **{name: self.mean(self.read(_distance(name))) for name in looks},
        }


def _distance(name: str) -> Callable[[Pair], float]:
    return lambda pair: pair.distances[name]


def _interval(value: float, drawn: Doubles) -> Interval:
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))


def _by_stratum(cases: Sequence[Case], seed: int) -> dict[str, Interval]:
    found = {}
    for stratum in dict.fromkeys(case.stratum for case in cases):
        pairs = [case.pair for case in cases if case.stratum == stratum and case.pair is not None]
        if pairs:
            sample = _Sample(pairs, seed)
            found[stratum] = sample.mean(sample.read(lambda pair: pair.delta_e))
    return found


def _fatal(cases: Sequence[Case], bounds: Bounds) -> list[Finding]:
    findings = []
    for flaw in FATAL:
        flawed = [case for case in cases if flaw in case.new_flaws]
        if flawed:
            words = (
                f"{flaw} in {len(flawed)} of {len(cases)} pictures{_details(flaw, flawed, bounds)}: {_names(flawed)}"
            )
            findings.append(Finding(Verdict.BLOCK, words))
    return findings


def _details(flaw: Flaw, flawed: Sequence[Case], bounds: Bounds) -> str:
    views = [case.new for case in flawed if isinstance(case.new, View)]
    match flaw:
        case Flaw.LIGHTNESS:
            return f" (L by up to {max(view.lightness for view in views):.1f}, allowed {bounds.lightness:g})"
        case Flaw.GREY:
            least = min(view.colourfulness for view in views)
            return f" (colourfulness down to {least:.1f}, at least {bounds.grey:g} wanted)"
        case _:
            words = next((case.new.words for case in flawed if isinstance(case.new, Unusable)), "")
            return f" ({words})" if words else ""


def _frequent(cases: Sequence[Case], tolerated: float) -> list[Finding]:
    """Flaws that a style may have here and there: compared with the old version, photo by photo."""
    findings = []
    for flaw in (flaw for flaw in Flaw if flaw not in FATAL):
        fresh = [case for case in cases if flaw in case.new_flaws and flaw not in case.old_flaws]
        if len(fresh) >= 2 and len(fresh) > tolerated * len(cases):
            words = f"newly {flaw} in {len(fresh)} of {len(cases)} pictures (allowed {tolerated:.0%}): {_names(fresh)}"
            findings.append(Finding(Verdict.BLOCK, words))
    return findings


def _mixed_up(sample: _Sample) -> list[Finding]:
    """The one mix-up, if any, whose undoing makes the colours agree better with the old ones, beyond chance."""
    values = sample.read(lambda pair: pair.mix_ups).T
    best = int(values.mean(axis=1).argmax())
    gain, better = sample.mean(values[best]), int((values[best] > 0).sum())
    if gain.low <= 0:
        return []
    words = f"{list(MIX_UPS)[best]}: undone, they match the old ones better in {better} of {values.shape[1]} pictures"
    return [Finding(Verdict.BLOCK, f"{words}; agreement rises by {gain}")]


def _out_of_range(measures: Mapping[str, Interval], limits: Limits) -> list[Finding]:
    findings = []
    ratio, offset, most = measures["chroma_ratio"], measures["offset"], limits.chroma_bug
    if ratio.low > most or ratio.high < 1 / most:
        words = f"{ratio} times as much colour, allowed {1 / most:.2g} to {most:.2g}"
        findings.append(Finding(Verdict.BLOCK, words))
    if (change := measures["lightness"]).low > limits.lightness_bug:
        findings.append(Finding(Verdict.BLOCK, f"L changed by {change} on average, allowed {limits.lightness_bug:g}"))
    if offset.low > limits.offset_bug:
        shares = " to ".join(f"{100 * bound:.2g} %" for bound in (offset.low, offset.high))
        words = (
            f"colours lie {100 * offset.value:.2g} % of the picture's side beside the old ones (95 % interval {shares})"
        )
        findings.append(Finding(Verdict.BLOCK, f"{words}, allowed {100 * limits.offset_bug:.2g} %"))
    return findings


def _drift(measures: Mapping[str, Interval], limits: Limits) -> list[Finding]:
    """Whatever is not shown, by its whole interval, to be within the owner's limits."""
    least, most = 1 / (1 + limits.chroma), 1 + limits.chroma
    checks: tuple[tuple[str, str, float, float, str], ...] = (
        ("mean CIEDE2000 {}", "delta_e", 0.0, limits.delta_e, f"at most {limits.delta_e:g}"),
        ("hues turned by {} degrees", "hue_deg", 0.0, limits.hue_deg, f"at most {limits.hue_deg:g}"),
        ("{} times as much colour", "chroma_ratio", least, most, f"{least:.2g} to {most:.3g}"),
        ("colour planes alike by {}", "ssim_ab", limits.ssim_ab, 1.0, f"at least {limits.ssim_ab:g}"),
    )
    looks = (("feature distance {}", FEATURE_DISTANCE, limits.feature_distance), ("LPIPS {}", LPIPS, limits.lpips))
    checks += tuple(
        (words, name, 0.0, most, f"at most {most:g}")
        for words, name, most in looks
        if most is not None and name in measures
    )
    return [
        Finding(Verdict.DRIFT, f"{words.format(measures[name])}, allowed {allowed}")
        for words, name, low, high, allowed in checks
        if measures[name].low < low - ROUNDING or measures[name].high > high + ROUNDING
    ]


def _sentence(
    verdict: Verdict,
    findings: Sequence[Finding],
    old_name: str,
    new_name: str,
    measures: Mapping[str, Interval],
    count: int,
    limits: Limits,
) -> str:
    same = [finding for finding in findings if finding.verdict is verdict]
    more = f"; and {len(same) - 1} more" if len(same) > 1 else ""
    match verdict:
        case Verdict.BLOCK:
            return f"{new_name} is blocked: {same[0].words}{more}"
        case Verdict.DRIFT:
            return f"{new_name} drifts from {old_name}: {same[0].words}{more}"
        case Verdict.OK:
            found = measures["delta_e"]
            allowed = f"allowed {limits.delta_e:g}"
            return (
                f"{new_name} is like {old_name} in {count} pictures: mean CIEDE2000 {found}, {allowed}; none is broken"
            )


def _notes(cases: Sequence[Case], old_name: str) -> tuple[str, ...]:
    notes = []
    for flaw in FATAL:
        flawed = [case for case in cases if flaw in case.old_flaws]
        if flawed:
            notes.append(f"{old_name} itself: {flaw} in {len(flawed)} of {len(cases)} pictures: {_names(flawed)}")
    return tuple(notes)


def _names(cases: Sequence[Case]) -> str:
    shown = ", ".join(case.name for case in cases[:WORST])
    return shown + (", …" if len(cases) > WORST else "")


def by_badness(cases: Sequence[Case]) -> list[Case]:
    """The cases with what speaks most against the new version first: bugs, then the distance of colours."""

    def badness(case: Case) -> tuple[int, float]:
        fatal = sum(flaw in FATAL for flaw in case.new_flaws)
        return fatal, case.pair.delta_e if case.pair else 0.0

    return sorted(cases, key=badness, reverse=True)
