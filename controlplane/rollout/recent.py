"""What a service's requests have been like of late: how many, how many fail, how long they take. Pure."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from controlplane.rollout.windows import LATENCY_EDGES_MS, VersionTick


@dataclasses.dataclass(frozen=True, slots=True)
class RecentTraffic:
    """Requests that ended in some seconds. Quantiles are in milliseconds, None without a request."""

    seconds: int
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def error_ratio(self) -> float:
        """The share of requests that failed, as a fraction of 1."""
        return self.errors / self.requests if self.requests else 0.0


def sum_up(counts: Iterable[VersionTick], *, seconds: int) -> RecentTraffic:
    """Sum up what versions did in *seconds* seconds."""
    total = sum(counts, VersionTick.zero())
    return RecentTraffic(
        seconds=seconds,
        requests=total.completed,
        errors=total.errors,
        p50_ms=quantile_ms(total.latency, 0.50),
        p95_ms=quantile_ms(total.latency, 0.95),
    )


def quantile_ms(histogram: Sequence[int], share: float) -> float | None:
    """Return the latency that *share* of the requests in *histogram* stay within; None where there are none.

    Within a bucket the logarithm is taken to grow evenly, which for edges 10 % apart is wrong by a few percent at most.
    """
    total = sum(histogram)
    if not total:
        return None
    below = 0
    for place, count in enumerate(histogram):
        if below + count >= share * total:
            if place == 0 or place >= len(LATENCY_EDGES_MS):
                return LATENCY_EDGES_MS[min(place, len(LATENCY_EDGES_MS) - 1)]
            low, high = LATENCY_EDGES_MS[place - 1], LATENCY_EDGES_MS[place]
            return math.exp(math.log(low) + (share * total - below) / count * math.log(high / low))
        below += count
    return LATENCY_EDGES_MS[-1]
