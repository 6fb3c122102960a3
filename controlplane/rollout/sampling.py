"""What Prometheus told of a rollout, as its judge sees it: from numbers asked for now and then to counts per tick.

Context: counters are read at moments of our choosing, by whichever process leads, and sometimes cannot be read.
Choice: what was read is kept raw, and the differences are taken here, between neighbours in time, each time anew.
Consequence: a restart, a change of leader, or two that ask at the same time neither lose anything nor count it twice.
"""

import bisect
import dataclasses
import datetime as dt
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

from controlplane.rollout.slo import QuerySlo, RatioQuerySlo
from controlplane.rollout.windows import Counted, Sample

LEAST_FRESH: Final = dt.timedelta(seconds=15)
MISSES: Final = 3
"""Askings in a row that may fail before nothing is known any more; `LEAST_FRESH` where that is longer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What the queries of an objective gave for one version; None is no data.

    *value* is the number that was asked for, or of a ratio its total, and *bad* a ratio's other counter: None where
    nothing bad has happened yet, since few programs export a counter before it counts.
    """

    value: float | None = None
    bad: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class QuerySample:
    """What one asking gave, raw. With *words* it gave nothing that counts, and they say why.

    It belongs to *tick*, which must be one that no judge has seen when the sample is stored.
    """

    name: str
    tick: int
    baseline: Reading = Reading()
    candidate: Reading = Reading()
    words: str = ""

    def __post_init__(self) -> None:
        if not self.words and self.candidate.value is None:
            raise ValueError(f"{self.name}: nothing is known of the candidate; give words that say why")


def fresh_for(slo: QuerySlo) -> dt.timedelta:
    """Return how old the newest answer may be before nothing is known any more."""
    return max(MISSES * slo.interval, LEAST_FRESH)


def read(slo: QuerySlo, answers: Sequence[float | None]) -> Reading:
    """Make a version's reading of what its queries gave, in the order of `slo.queries`.

    NaN is no data: a division by nothing gives it, so it says that nothing happened. An infinite value is a value,
    but not a count.
    """
    if isinstance(slo, RatioQuerySlo):
        bad, total = (None if each is None or not math.isfinite(each) else each for each in answers)
        return Reading(total, None if total is None else bad)
    (value,) = answers
    return Reading(None if value is None or math.isnan(value) else value)


def sampled(slo: QuerySlo, tick: int, baseline: Reading, candidate: Reading, *, version: str) -> QuerySample:
    """Make the sample of an asking that was answered. Without data of the candidate, *version*, nothing counts.

    Without data of the baseline there is only nothing to compare with: at 100 % it has no traffic, and many queries
    give nothing for a version without traffic.
    """
    what = "the query for the total" if isinstance(slo, RatioQuerySlo) else "the query"
    words = "" if candidate.value is not None else f"{what} gives nothing for {version}"
    return QuerySample(slo.name, tick, baseline, candidate, words)


class Sampling:
    """The samples of one rollout, laid out to be read tick by tick.

    Args:
        slos: The objectives that are asked for.
        told: What is known of them, in any order; besides what is new, of each objective what counted last before.
        since: The tick since which the candidate carries the traffic that it has; None while it carries none.
    """

    def __init__(self, slos: Iterable[QuerySlo], told: Iterable[QuerySample], *, since: int | None) -> None:
        by_name: dict[str, list[QuerySample]] = {}
        for sample in sorted(told, key=lambda sample: sample.tick):
            by_name.setdefault(sample.name, []).append(sample)
        self._objectives = tuple(_Objective(slo, by_name.get(slo.name, []), since) for slo in slos)

    def at(self, tick: int, *, previous: int | None) -> tuple[Sample, ...]:
        """Return what is known of each objective in *tick*, and of what came since the *previous* that was judged."""
        after = tick - 1 if previous is None else previous
        return tuple(objective.at(tick, after) for objective in self._objectives)


class _Objective:
    def __init__(self, slo: QuerySlo, told: Sequence[QuerySample], since: int | None) -> None:
        good = [sample for sample in told if not sample.words]
        self._slo = slo
        self._told = told
        self._good = [sample.tick for sample in good]
        self._since = since
        self._baseline = _Version(slo, [(each.tick, each.baseline) for each in good if each.baseline.value is not None])
        self._candidate = _Version(slo, [(each.tick, each.candidate) for each in good])

    def at(self, tick: int, after: int) -> Sample:
        return Sample(
            self._slo.name,
            baseline=self._baseline.between(after, tick),
            candidate=self._candidate.between(after, tick),
            missing=self._missing(tick),
        )

    def _missing(self, tick: int) -> str:
        """Say what is wrong when the last answer is too old, or there should be one by now.

        Until then silence is no trouble. Nor does it prove anything: a step up asks for evidence of its own.
        """
        if self._since is None:
            return ""
        answered = bisect.bisect_right(self._good, tick)
        age = tick - (self._good[answered - 1] if answered else self._since)
        if age <= fresh_for(self._slo).total_seconds():
            return ""
        last = bisect.bisect_right(self._told, tick, key=lambda sample: sample.tick)
        words = self._told[last - 1].words if last else ""
        return f"no data for {age} s: {words or 'nobody asked for it'}"


class _Version:
    """One version's readings, oldest first, and what each adds to the one before it."""

    def __init__(self, slo: QuerySlo, readings: Sequence[tuple[int, Reading]]) -> None:
        self._ticks = [tick for tick, _ in readings]
        found = [reading for _, reading in readings]
        if isinstance(slo, RatioQuerySlo):
            # The first only says from where to count.
            self._adds: list[Counted] = [(0, 0)] * bool(found)
            self._adds += [_growth(*pair) for pair in itertools.pairwise(found)]
        else:
            self._adds = [(1, int(slo.is_bad(_known(reading.value)))) for reading in found]

    def between(self, after: int, until: int) -> Counted:
        """Return what the readings later than *after*, up to *until*, add."""
        adds = self._adds[bisect.bisect_right(self._ticks, after) : bisect.bisect_right(self._ticks, until)]
        return sum(total for total, _ in adds), sum(bad for _, bad in adds)


def _growth(before: Reading, now: Reading) -> Counted:
    """Return by how much both counters grew, in whole things.

    One that went down began anew, or is the sum of several of which one is gone. Counted from zero, the whole past of
    the others would be news; so nothing is counted, which loses one interval.
    """
    (total, bad), (total_before, bad_before) = _counters(now), _counters(before)
    if total < total_before or bad < bad_before:
        return 0, 0
    # The difference of what is rounded, not the rounded difference: so that fractions are not lost at each asking.
    worse = round(bad) - round(bad_before)
    # The two may be read a moment apart: what is bad has happened, even where the total does not know it yet.
    return max(round(total) - round(total_before), worse), worse


def _counters(reading: Reading) -> tuple[float, float]:
    return _known(reading.value), 0.0 if reading.bad is None else reading.bad


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("a reading without a value counts nothing; leave it out")
    return value
