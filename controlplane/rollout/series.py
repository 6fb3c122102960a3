"""What versions did over time, in few points, each with how sure one can be of it. Pure.

Intervals are 95 % ones for a reader's eye; the judge's own evidence is anytime-valid and another matter (`evidence`).
They take requests as independent of each other, so a burst of errors looks more certain than it is.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from controlplane.rollout.recent import quantile_ms
from controlplane.rollout.windows import BUCKETS, VersionTick

Interval: TypeAlias = tuple[float, float]

Z95: Final = 1.959964
"""The normal distribution's 97.5 % point: two-sided 95 %."""
QUANTILES: Final = (0.50, 0.95, 0.99)
STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
"""Lengths of a point that people read easily; beyond the last, whole days."""
METHODS: Final = {
    "error_rate": "Wilson score interval, 95 % (E. B. Wilson 1927)",
    "latency": "order statistics: binomial ranks, normal approximation, 95 % (W. J. Conover 1999, section 3.2)",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Quantile:
    """A latency in milliseconds that a share of the requests stay within, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """What one version did in one step. Rates are fractions of 1, None without a request; *active* is at its end."""

    requests: int
    errors: int
    error_rate: float | None
    error_interval: Interval | None
    quantiles: tuple[Quantile | None, ...]
    active: int


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """Counts of one version that began at *at* (unix seconds) and lasted for a second or longer."""

    at: int
    counts: VersionTick


def step_s(since: int, until: int, max_points: int) -> int:
    """Return the shortest step with which the seconds from *since* to before *until* are at most *max_points*."""
    fitting = (step for step in _steps() if len(starts(since, until, step)) <= max_points)
    return next(fitting)


def starts(since: int, until: int, step: int) -> range:
    """Return when the points begin: whole multiples of *step*, so that two readers see the same ones."""
    return range(since - since % step, max(until, since + 1), step)


def points(
    counted: Iterable[Counted], since: int, until: int, step: int, *, bad: Sequence[str]
) -> tuple[Point | None, ...]:
    """Sum counts up into points, in the order of `starts`; None for one of which nothing is known.

    Args:
        counted: Of one version, in order of time.
        since: Unix seconds.
        until: Unix seconds, not included.
        step: Seconds.
        bad: Which answers are errors, as objectives say it (see `answers`).
    """
    places = starts(since, until, step)
    sums = np.zeros((len(places), 3 + BUCKETS), dtype=np.int64)
    known = np.zeros(len(places), dtype=np.bool_)
    for each in counted:
        place = (each.at - places.start) // step
        if 0 <= place < len(places):
            counts = each.counts
            sums[place, 0] += counts.completed
            sums[place, 1] += counts.count(bad)
            sums[place, 2] = counts.active
            sums[place, 3:] += counts.latency
            known[place] = True
    return tuple(_point(row) if is_known else None for row, is_known in zip(sums, known, strict=True))


def wilson(bad: int, total: int) -> Interval | None:
    """Return where a share lies with 95 % confidence; None where nothing was counted.

    Wilson's score interval keeps to [0, 1] and is sound for few requests and for none bad, where the textbook's normal
    one is a point.
    """
    if not total:
        return None
    share, z2 = bad / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def quantile(histogram: Sequence[int], share: float) -> Quantile | None:
    """Return the latency that *share* of the requests stay within, with its interval; None without requests.

    Free of any assumption on the distribution: how many of *n* requests lie below the true quantile is binomial, so
    the requests of the ranks around *n* x *share* that hold 95 % of it hold the quantile between them.
    """
    total = sum(histogram)
    value = quantile_ms(histogram, share)
    if value is None:
        return None
    spread = Z95 * math.sqrt(share * (1 - share) / total)
    low = quantile_ms(histogram, max(share - spread, 1 / total))
    high = quantile_ms(histogram, min(share + spread, 1.0))
    return Quantile(value, value if low is None else min(low, value), value if high is None else max(high, value))


def _point(row: npt.NDArray[np.int64]) -> Point:
    requests, errors, active = (int(value) for value in row[:3])
    histogram = row[3:].tolist()
    return Point(
        requests=requests,
        errors=errors,
        error_rate=errors / requests if requests else None,
        error_interval=wilson(errors, requests),
        quantiles=tuple(quantile(histogram, share) for share in QUANTILES),
        active=active,
    )


def _steps() -> Iterator[int]:
    yield from STEPS_S
    days = 2
    while True:
        yield days * STEPS_S[-1]
        days *= 2
