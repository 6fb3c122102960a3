"""The judge's arithmetic: evidence that may be looked at after every tick without inflating false alarms.

Two kinds. *Bets* speak for a rollback: each tick is one observation x in [0, 1] of which a null hypothesis says
"on average at most pi"; the stake grows by (1 + x*k) / (1 + pi*k), so its mean cannot grow while the null is true,
and by Ville's inequality P(the stake ever reaches 1/a) <= a. A burst of errors within a tick is one x. *Bounds*
speak for an advance: a likelihood over single requests, deflated by how bursty errors are.

All functions work element by element on arrays of any shape; the last axis of stakes is the grid of bets.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RHO: Final = (1.5, 2.5, 6.0, 20.0, 100.0)
"""Odds ratios that the bets on shares are best against."""
GRID: Final = len(RHO)

RHO_BETS: Final = np.array(RHO) - 1
RHO_PRIOR: Final = np.array((0.27, 0.27, 0.2, 0.13, 0.13))
"""More on the small ratios: they take the longest, and a large one that is caught a fraction of a tick later is not
missed."""
REFERENCE_PRIOR: Final = np.full(GRID, 1 / len(RHO))
"""The prior of the reference that the published oracles were computed with, as are the two named so below."""

SHIFTS: Final = np.array((0.05, 0.12))
"""Differences of two shares that `shift_bets` fit best, near a half: a slight and a plain shift of latency."""
LARGE_SHIFTS: Final = np.array((0.5, 0.9))
"""Stakes that fit whatever is larger, at any traffic."""
SHIFT_PRIOR: Final = np.array((0.3, 0.3, 0.2, 0.2, 0.0))
AT_HALF, AT_TAIL = 4.0, 21.0
"""Inverse variances of a request's being slower than the median, and than the 95th percentile."""

DIFFERENCES: Final = np.array((0.025, 0.14))
"""Differences of two shares that `difference_bets` fit best: barely within a tolerance, and no slower at all."""
MAX_LAM: Final = 0.62
"""They never stake more: however many requests, a version that slows down by and by must not pass in a moment."""
DIFFERENCE_PRIOR: Final = np.array([0.5, 0.5] + [0.0] * (GRID - DIFFERENCES.size))

START_WEIGHT: Final = 0.4
SPREADS: Final = ((0.15, 20.0), (0.15, 600.0))
"""Weight spread over time, half of it by a count of observations: a defect that begins soon after a start is the more
common and the more urgent one, and is caught some ticks earlier; one that begins late costs 0.7 nats more."""
REFERENCE_START: Final = 0.3
REFERENCE_SPREADS: Final = ((0.3, 600.0),)
PROBE_WEIGHT: Final = 0.3
"""What a probe starts with: the breach is beyond doubt, only whose it is is not."""
CHANGE_WEIGHT: Final = 0.06
MAX_CHANGES: Final = 5
"""Start weights: at the start, spread over time, and at each of the first weight changes; their sum stays <= 1."""

LOWER: Final = np.array((0.02, 0.1, 0.3, 0.6, 0.85))
"""Where the true share may lie below a bound, as fractions of it."""

_LOG_LOWER: Final = np.log(LOWER)

MAX_DISPERSION: Final = 50.0
BURST_ERRORS: Final = 10.0
"""Bad requests that say as much about their dispersion as the expectation that they are independent."""

HARD_NULL: Final = 0.5
HARD_ALTERNATIVE: Final = 0.98
_LOG_HARD_BAD: Final = float(np.log(HARD_ALTERNATIVE / HARD_NULL))
_LOG_HARD_GOOD: Final = float(np.log((1 - HARD_ALTERNATIVE) / (1 - HARD_NULL)))


def start_weight(
    count: Ints, spreads: Sequence[tuple[float, float]] = SPREADS, *, start: float = START_WEIGHT
) -> Floats:
    """Weigh a fresh start at the *count*-th observation: a defect may begin late.

    *start* is the weight of the first; each of *spreads* is a weight and the count of observations over which half of
    it is spread.
    """
    spread: Floats = np.zeros(np.shape(count))
    for weight, half in spreads:
        spread = spread + weight * half / ((half + count) * (half + count + 1.0))
    return np.where(count == 0, start + spread, spread)


def factor(x: Floats, pi: Floats, bets: Floats) -> Floats:
    """Give what the stakes are multiplied by when *x* is observed where the null allows *pi* on average."""
    return (1.0 + x[..., None] * bets) / (1.0 + pi[..., None] * bets)


def difference_bets(baseline: Floats, candidate: Floats) -> Floats:
    """Give the stakes on a difference of two shares near a half.

    The fewer requests, the more of a difference is chance and the less is staked: as much as lets the evidence grow
    fastest where the true difference is one of `DIFFERENCES`.

    Args:
        baseline: Requests of the baseline that are expected in an observation, as known before its outcome.
        candidate: The candidate's.
    """
    lam = np.minimum(_fitted(DIFFERENCES, AT_HALF, baseline, candidate), MAX_LAM)
    return np.concatenate((lam, np.zeros((*lam.shape[:-1], GRID - DIFFERENCES.size))), axis=-1)


def shift_bets(baseline: Floats, candidate: Floats) -> Floats:
    """Give the stakes on the candidate's being slower, at the median and at the 95th percentile (the axis but one).

    As `difference_bets`, with `LARGE_SHIFTS` beside what fits.
    """
    fitted = [np.minimum(_fitted(SHIFTS, at, baseline, candidate), LARGE_SHIFTS[-1]) for at in (AT_HALF, AT_TAIL)]
    bets = np.zeros((*np.shape(baseline), 2, GRID))
    bets[..., : SHIFTS.size] = np.stack(fitted, axis=-2)
    bets[..., SHIFTS.size : SHIFTS.size + LARGE_SHIFTS.size] = LARGE_SHIFTS
    return bets


def _fitted(differences: Floats, inverse_variance: float, baseline: Floats, candidate: Floats) -> Floats:
    certainty = inverse_variance * ratio(baseline * candidate, baseline + candidate)[..., None]
    lam: Floats = differences * certainty / (1 + differences**2 * certainty)
    return lam


def ratio(part: Floats, whole: Floats) -> Floats:
    """Divide, with 0 where the whole is 0."""
    positive = whole > 0
    return np.where(positive, part / np.where(positive, whole, 1.0), 0.0)


def relative_share(baseline: Floats, candidate: Floats, odds_ratio: Floats) -> Floats:
    """Give the candidate's part of all bad requests if its odds of a bad one are *odds_ratio* times the baseline's."""
    return ratio(odds_ratio * candidate, odds_ratio * candidate + baseline)


def log_hard(bad: Floats, total: Floats, dispersion: Floats) -> Floats:
    """Weigh "nearly every request fails" against "at most half do", in nats."""
    return (bad * _LOG_HARD_BAD + (total - bad) * _LOG_HARD_GOOD) / dispersion


def log_below(bad: Floats, total: Floats, bound: Floats) -> Floats:
    """Give the log evidence that the share of bad requests is below *bound* (0 < bound < 1).

    Of requests that are not independent, give what they are worth (see `deflate`).
    """
    return _log_mean_exp(_log_likelihoods(bad, total, bound))


def _log_likelihoods(bad: Floats, total: Floats, bound: Floats) -> Floats:
    c = bound[..., None]
    gain: Floats = bad[..., None] * _LOG_LOWER + (total - bad)[..., None] * np.log((1 - c * LOWER) / (1 - c))
    return gain


def _log_mean_exp(values: Floats) -> Floats:
    top = values.max(axis=-1)
    result: Floats = top + np.log(np.exp(values - top[..., None]).mean(axis=-1))
    return result


def upper_bound(bad: Floats, total: Floats, log_needed: Floats) -> Floats:
    """Give the highest share of bad requests that is not yet ruled out; 1 without requests."""
    low, high = ratio(bad, total), np.ones_like(total)
    for _ in range(50):
        middle = (low + high) / 2
        ruled_out = log_below(bad, total, np.clip(middle, 1e-12, 1 - 1e-12)) >= log_needed
        low, high = np.where(ruled_out, low, middle), np.where(ruled_out, middle, high)
    return high


def still_needed(bad: Floats, total: Floats, bound: Floats, log_needed: Floats) -> Floats:
    """Estimate how many more requests of the kind seen so far show that the bound is kept.

    Infinite where the share seen so far is not below the bound.
    """
    now = _log_likelihoods(bad, total, bound)
    share = ratio(bad, total)
    each = _log_likelihoods(share, np.ones_like(share), bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where one value of the grid alone would carry the proof; Newton's steps come down from there.
        more = np.where(each > 0, (log_needed[..., None] + np.log(LOWER.size) - now) / each, np.inf).min(axis=-1)
    more = np.maximum(more, 0.0)
    for _ in range(3):
        tried = np.where(np.isfinite(more), more, 0.0)
        values = now + tried[..., None] * each
        weights = np.exp(values - values.max(axis=-1, keepdims=True))
        slope = (weights * each).sum(axis=-1) / weights.sum(axis=-1)
        step = np.divide(_log_mean_exp(values) - log_needed, slope, out=np.zeros_like(slope), where=slope > 0)
        more = np.maximum(more - step, 0.0)
    result: Floats = np.ceil(more - 1e-6)
    return result


# -- dispersion: how much burstier than independent errors ----------------------------------------------------------

MOMENTS: Final = 5


def moments(bad: Floats, total: Floats) -> Floats:
    """Give the sums that `dispersion` is made of, for one tick; they add up over ticks."""
    return np.stack((total, bad, bad * bad, bad * total, total * total), axis=-1)


def dispersion(sums: Floats) -> Floats:
    """Give the index of dispersion of bad requests per tick: 1 for independent ones, 20 for bursts of 20."""
    total, bad, bad_bad, bad_total, total_total = (sums[..., moment] for moment in range(MOMENTS))
    share = ratio(bad, total)
    spread = bad_bad - 2 * share * bad_total + share * share * total_total
    index = ratio(spread, bad * (1 - share))
    believed = 1.0 + (index - 1.0) * bad / (bad + BURST_ERRORS)
    return np.minimum(np.maximum(believed, 1.0), MAX_DISPERSION)


DISPERSIONS: Final = np.array((1.0, 2.0, 4.0, 8.0, 16.0, MAX_DISPERSION))


def deflate(counts: Floats) -> Floats:
    """Give what one tick's (requests, bad) are worth as independent requests, for each of `DISPERSIONS`.

    However bursty, the requests of one tick are worth at least one: a burst has no more bad ones than there are.
    """
    together = np.clip(counts[..., :1], 1.0, DISPERSIONS)
    result: Floats = counts[..., None, :] / together[..., None]
    return result


def at_dispersion(deflated: Floats, dispersion: Floats) -> Floats:
    """Read sums of `deflate` at a dispersion between those of the grid."""
    above = np.clip(np.searchsorted(DISPERSIONS, dispersion), 1, DISPERSIONS.size - 1)
    low, high = 1 / DISPERSIONS[above - 1], 1 / DISPERSIONS[above]
    part = ((1 / dispersion - high) / (low - high))[..., None]
    place = above[..., None, None]
    at_low = np.take_along_axis(deflated, place - 1, axis=-2)[..., 0, :]
    at_high = np.take_along_axis(deflated, place, axis=-2)[..., 0, :]
    result: Floats = part * at_low + (1 - part) * at_high
    return result
