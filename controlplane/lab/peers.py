"""How the peers decide, over the simulator's worlds: what rollouts meet with Flagger, Argo, Kayenta or alerts.

Each rule is written from what its project does (see each class), with the benchmark's SLO in place of its thresholds:
errors at most so many, requests over the latency threshold at most so many. Rules see what a Prometheus would show,
completed requests, and nothing else. Arrays run over rollouts, as in the simulator.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from controlplane.rollout.policy import BatchPolicy
from controlplane.rollout.processes import ERROR, LATENCY
from controlplane.rollout.verdict import BatchExposure, Cause, Verdict
from controlplane.rollout.windows import BASELINE, CANDIDATE, BatchTicks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

REQUESTS, BAD = 0, slice(1, 3)


class Peer(abc.ABC):
    """A rule that looks at all completed requests of an interval, every interval.

    Args:
        policy: The bounds, of every rollout.
        interval_s: Seconds between two looks.
    """

    def __init__(self, policy: BatchPolicy, *, interval_s: int) -> None:
        self.policy = policy
        self.interval_s = interval_s
        self.looks = 0
        self._second = 0
        self._window = np.zeros((policy.bound.shape[0], 2, 3))

    def observe(self, ticks: BatchTicks) -> None:  # noqa: B027 - there is nothing to add for any of them
        """Take in a second before the rollout: the peers' rules make nothing of it."""

    def judge(self, ticks: BatchTicks, exposure: BatchExposure) -> tuple[Ints, Ints]:  # noqa: ARG002 - theirs
        """Take in a second; return a verdict and its cause for every rollout."""
        self._window += _counts(ticks, self.policy)
        self._second += 1
        verdict = np.full(self._window.shape[0], Verdict.HOLD, np.int64)
        if self._second % self.interval_s == 0:
            self.looks += 1
            verdict = self._look(self._window)
            self._window = np.zeros_like(self._window)
        return verdict, np.full(verdict.size, Cause.BREACH, np.int64)

    def keep(self, rows: Bools) -> None:
        """Go on with these rollouts only."""
        self.policy = self.policy.take(rows)
        self._window = self._window[rows]

    @abc.abstractmethod
    def _look(self, window: Floats) -> Ints:
        """Return the verdicts after an interval of *window*: rollouts x versions x (requests, errors, slow)."""

    def _passes(self, counts: Floats) -> Bools:
        """Whether the counts (rollouts x 3) keep the bounds; without a request they do not, as no number does."""
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = counts[:, BAD] / counts[:, REQUESTS, None]
        return np.asarray((shares <= self.policy.bound).all(axis=-1))


class Flagger(Peer):
    """Flagger's canary analysis (fluxcd/flagger, pkg/controller/scheduler.go): fail *threshold* checks and be undone.

    A check is of the last interval; failures add up over the whole rollout; whether there are enough is looked at when
    the next interval begins; a check that passes moves on at once.
    """

    def __init__(self, policy: BatchPolicy, *, interval_s: int, threshold: int) -> None:
        super().__init__(policy, interval_s=interval_s)
        self._threshold = threshold
        self._failed = np.zeros(policy.bound.shape[0], np.int64)

    def keep(self, rows: Bools) -> None:
        super().keep(rows)
        self._failed = self._failed[rows]

    def _look(self, window: Floats) -> Ints:
        doomed = self._failed >= self._threshold
        passes = self._passes(window[:, CANDIDATE])
        self._failed = self._failed + ~passes
        return np.where(doomed, Verdict.ROLLBACK, np.where(passes, Verdict.ADVANCE, Verdict.HOLD))


class Argo(Peer):
    """A background analysis of Argo Rollouts (argoproj/argo-rollouts, analysis/analysis.go): steps go by the clock.

    More failed measurements than *limit* abort at once. A measurement without data compares as false, and fails.
    """

    def __init__(self, policy: BatchPolicy, *, interval_s: int, limit: int) -> None:
        super().__init__(policy, interval_s=interval_s)
        self._limit = limit
        self._failed = np.zeros(policy.bound.shape[0], np.int64)

    def keep(self, rows: Bools) -> None:
        super().keep(rows)
        self._failed = self._failed[rows]

    def _look(self, window: Floats) -> Ints:
        self._failed = self._failed + ~self._passes(window[:, CANDIDATE])
        return np.where(self._failed > self._limit, Verdict.ROLLBACK, Verdict.ADVANCE)


class BurnRate(Peer):
    """The SRE workbook's multiwindow, multi-burn-rate pages (chapter 5, table 5-8) as the only guard of steps by clock.

    A rollout is shorter than the long windows, which are then all that there is.
    """

    PAGES: Final = ((14.4, 5), (6.0, 30))
    """Burn rates, and the minutes of the short window; the long ones are 1 h and 6 h."""

    def __init__(self, policy: BatchPolicy) -> None:
        super().__init__(policy, interval_s=60)
        self._minutes: list[Floats] = []

    def keep(self, rows: Bools) -> None:
        super().keep(rows)
        self._minutes = [minute[rows] for minute in self._minutes]

    def _look(self, window: Floats) -> Ints:
        self._minutes.append(window[:, CANDIDATE])
        pages = np.zeros(window.shape[0], np.bool_)
        for burn, short in self.PAGES:
            pages |= ((self._burn(len(self._minutes)) > burn) & (self._burn(short) > burn)).any(axis=-1)
        return np.where(pages, Verdict.ROLLBACK, Verdict.ADVANCE)

    def _burn(self, minutes: int) -> Floats:
        counts: Floats = np.sum(self._minutes[-minutes:], axis=0)
        shares = counts[:, BAD] / np.maximum(counts[:, REQUESTS, None], 1)
        return np.asarray(shares / self.policy.bound)


class Kayenta(Peer):
    """Like Kayenta's NetflixACAJudge (spinnaker/kayenta, MannWhitneyClassifier): points of canary against baseline.

    A point is half a minute's share of bad requests, of one objective. After each ten points all so far are compared:
    the canary fails where the 98 % interval of the shift lies above a quarter of the estimated shift and its mean is
    no less. Both objectives are critical: one that fails fails all.
    """

    POINT_S: Final = 30
    POINTS_PER_STEP: Final = 10
    Z: Final = 2.3263478740408408
    TOLERANCE: Final = 0.25

    def __init__(self, policy: BatchPolicy) -> None:
        super().__init__(policy, interval_s=self.POINT_S)
        self._points: list[Floats] = []

    def keep(self, rows: Bools) -> None:
        super().keep(rows)
        self._points = [point[rows] for point in self._points]

    def _look(self, window: Floats) -> Ints:
        with np.errstate(invalid="ignore", divide="ignore"):
            self._points.append(window[:, :, BAD] / window[:, :, REQUESTS, None])
        if self.looks % self.POINTS_PER_STEP:
            return np.full(window.shape[0], Verdict.HOLD, np.int64)
        points = np.stack(self._points, axis=-1)
        high = [any(self._is_high(*each[:, objective]) for objective in (ERROR, LATENCY)) for each in points]
        return np.where(np.array(high, np.bool_), Verdict.ROLLBACK, Verdict.ADVANCE)

    def _is_high(self, baseline: Floats, candidate: Floats) -> bool:
        """Compare two series, in the order of the versions; without points there is nothing to hold against anybody."""
        baseline, candidate = baseline[~np.isnan(baseline)], candidate[~np.isnan(candidate)]
        if not baseline.size or not candidate.size or candidate.mean() < baseline.mean():
            return False
        shifts = np.sort((candidate[:, None] - baseline).ravel())
        spread = np.sqrt(shifts.size * (baseline.size + candidate.size + 1) / 12)
        place = max(int(shifts.size / 2 - self.Z * spread), 0)  # Hollander and Wolfe, section 4.3
        return bool(shifts[place] > self.TOLERANCE * abs(np.median(shifts)))


PEERS: Final[Mapping[str, Callable[[BatchPolicy], Peer]]] = {
    "flagger60_t5": lambda policy: Flagger(policy, interval_s=60, threshold=5),
    "flagger10_t5": lambda policy: Flagger(policy, interval_s=10, threshold=5),
    "argo60_f0": lambda policy: Argo(policy, interval_s=60, limit=0),
    "argo60_f3": lambda policy: Argo(policy, interval_s=60, limit=3),
    "kayenta": Kayenta,
    "sre_burn": BurnRate,
}
"""The peers by the names of the benchmark."""


def _counts(ticks: BatchTicks, policy: BatchPolicy) -> Floats:
    """Return rollouts x versions x (requests, errors, slow ones) of a second."""
    buckets = np.arange(ticks.latency.shape[-1])
    slow = np.where(buckets > policy.slow_edge[:, None, None], ticks.latency, 0).sum(axis=-1)
    return np.stack((ticks.completed, ticks.errors, slow), axis=-1).astype(np.float64)


assert (BASELINE, CANDIDATE) == (0, 1)  # noqa: S101 - `Kayenta` takes the versions in this order
