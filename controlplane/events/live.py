"""The newest seconds of services' versions, for pages that draw them as they come."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from controlplane.events.model import EventType, encode
from controlplane.events.ring import Levels
from controlplane.ports import Store, TickRead
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.series import Counted, Point, points
from controlplane.traffic.model import ServiceSpec

SECONDS: Final = 5
"""Seconds in one event: a reader that missed one has the next four to make up for it."""
BACK_S: Final = 15
"""How far back the newest second that is over is looked for."""


async def read_series(store: Store, levels: Levels, specs: Sequence[ServiceSpec], *, now: int) -> bool:
    """Read the last seconds of services that were asked for by name; return whether anything is new.

    Raises:
        UnavailableError: The database does not answer.
    """
    clusters = tuple(version.cluster for spec in specs for version in spec.versions)
    ticks = [tick for tick in await store.load_ticks(clusters, after=now - BACK_S, limit=BACK_S) if tick.closed]
    news = [
        levels.put(EventType.SERIES, spec.name, encode(EventType.SERIES, series_data(spec, ticks[-SECONDS:])))
        for spec in specs
        if ticks
    ]
    levels.forget(frozenset(spec.name for spec in specs), EventType.SERIES)
    return any(news)


def series_data(spec: ServiceSpec, ticks: Sequence[TickRead]) -> Mapping[str, Any]:
    """Write *ticks* down as the API's series does, a second a point."""
    bad = policy_of(spec.slos).error_bad
    since, until = ticks[0].tick, ticks[-1].tick + 1
    versions = []
    for version in spec.versions:
        counted = [Counted(tick.tick, tick.counts[version.cluster]) for tick in ticks if version.cluster in tick.counts]
        found = points(counted, since, until, 1, bad=bad)
        versions.append({"version": version.name, **_columns(found)})
    return {"service": spec.name, "step_s": 1, "at": list(range(since, until)), "versions": versions}


def _columns(found: Sequence[Point | None]) -> Mapping[str, Any]:
    quantiles = {
        name: [
            round(each.value, 3) if point and (each := point.quantiles[place]) is not None else None for point in found
        ]
        for place, name in enumerate(("p50", "p95", "p99"))
    }
    return {
        "requests": [point.requests if point else None for point in found],
        "errors": [point.errors if point else None for point in found],
        "error_rate": [point.error_rate if point else None for point in found],
        "error_low": [point.error_interval[0] if point and point.error_interval else None for point in found],
        "error_high": [point.error_interval[1] if point and point.error_interval else None for point in found],
        "in_flight": [point.active if point else None for point in found],
        **quantiles,
    }
