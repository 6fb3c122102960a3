"""What a service's versions did over time, in as few points as a page can draw."""

import dataclasses
import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Query

from controlplane.api.access import Reader, UseParts
from controlplane.api.answers import View
from controlplane.api.objectives import describe_slo, slo_of
from controlplane.api.routing import ApiRoute
from controlplane.api.services import Name
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.ports import RolloutId, ServiceRecord, Store
from controlplane.rollout.model import Promoted, RolledBack
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.series import METHODS, Counted, Point, Quantile, points, starts, step_s
from controlplane.rollout.slo import LatencySlo, Slo, with_defaults
from controlplane.rollout.windows import snap_threshold

router = APIRouter(prefix="/v1", tags=["services"], route_class=ApiRoute)

DEFAULT_SPAN: Final = dt.timedelta(minutes=15)
MAX_POINTS: Final = 2_000
PAGE: Final = 600
FAR: Final = dt.timedelta(days=400)
"""Further back than anything is kept."""


class QuantileView(View):
    """A latency over time in milliseconds, and where it lies with 95 % confidence; null without a request."""

    quantile: float
    value: list[float | None]
    low: list[float | None]
    high: list[float | None]


class VersionSeriesView(View):
    """What one version did, point by point; null where nothing is known, or (rates, latencies) nothing came.

    *in_flight* is at the end of a point.
    """

    version: str
    requests: list[int | None]
    errors: list[int | None]
    error_rate: list[float | None]
    error_low: list[float | None]
    error_high: list[float | None]
    latency: list[QuantileView]
    in_flight: list[int | None]


class LineView(View):
    """A line to draw: an objective's bound, as a fraction of 1, and (*threshold_ms*) its latency."""

    name: str
    kind: str
    words: str
    bound: float | None
    threshold_ms: float | None


class SeriesView(View):
    """A service over time. *at* are the points' beginnings in unix seconds, *step_s* their length."""

    service: str
    rollout: str | None
    since: dt.datetime
    until: dt.datetime
    step_s: int
    at: list[int]
    versions: list[VersionSeriesView]
    objectives: list[LineView]
    methods: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """From when to when, in unix seconds, the end not included, of which versions and held to what."""

    since: int
    until: int
    clusters: Mapping[str, str]
    slos: tuple[Slo, ...]
    rollout: str | None = None


@router.get("/services/{name}/series")
async def show_series(
    name: Name,
    parts: UseParts,
    _: Reader,
    since: Annotated[dt.datetime | None, Query(description="From when; 15 minutes before the end by default.")] = None,
    until: Annotated[dt.datetime | None, Query(description="To when; now by default.")] = None,
    max_points: Annotated[int, Query(ge=2, le=MAX_POINTS, description="As many points at most.")] = 300,
    rollout: Annotated[str | None, Query(description="Only this rollout's time and versions.", max_length=100)] = None,
) -> SeriesView:
    """Show how many requests each version had, how many failed and how long they took, over time.

    Points are summed up here, so that a day and a minute are as many; what is older than the telemetry that is kept is
    null. Every rate and latency has its 95 % interval; ``methods`` names how it is computed.
    """
    record = await parts.store.load_service(name)
    now = parts.clock.now()
    span = await _span(parts.store, record, now, since=since, until=until, rollout=rollout)
    step = step_s(span.since, span.until, max_points)
    counted = await _read(parts.store, span)
    bad = policy_of(span.slos).error_bad
    return SeriesView(
        service=name,
        rollout=span.rollout,
        since=_moment(span.since),
        until=_moment(span.until),
        step_s=step,
        at=list(starts(span.since, span.until, step)),
        versions=[
            _version(version, points(counted.get(cluster, ()), span.since, span.until, step, bad=bad))
            for version, cluster in span.clusters.items()
        ],
        objectives=[_line(slo) for slo in with_defaults(span.slos)],
        methods=METHODS,
    )


async def _span(
    store: Store,
    record: ServiceRecord,
    now: dt.datetime,
    *,
    since: dt.datetime | None,
    until: dt.datetime | None,
    rollout: str | None,
) -> Span:
    spec = record.served.spec
    clusters = {version.name: version.cluster for version in spec.versions}
    slos = spec.slos
    if rollout is not None:
        found = await store.load(RolloutId(rollout))
        if found.service != record.name:
            raise NotFoundError(f"rollout of {record.name}", rollout)
        state = found.state
        ended = state.at if isinstance(state, Promoted | RolledBack) else now
        since, until = since or found.started_at, until or ended
        clusters = {name: cluster for name, cluster in clusters.items() if name in {found.baseline, found.candidate}}
        slos = found.slos
    end = min(_aware("until", until), now) if until is not None else now
    begin = _aware("since", since) if since is not None else end - DEFAULT_SPAN
    if begin >= end:
        raise InvalidInputError("since", f"{begin.isoformat()} is not before {end.isoformat()}", "use an earlier time")
    begin = max(begin, now - FAR)
    return Span(math.floor(begin.timestamp()), math.ceil(end.timestamp()), clusters, slos, rollout)


def _aware(field: str, moment: dt.datetime) -> dt.datetime:
    if moment.tzinfo is None:
        raise InvalidInputError(field, f"{moment.isoformat()} has no time zone", "add one: 2026-11-27T10:00:00Z")
    return moment.astimezone(dt.UTC)


async def _read(store: Store, span: Span) -> Mapping[str, Sequence[Counted]]:
    """Read the counts of the span, by cluster."""
    found: dict[str, list[Counted]] = {}
    after, clusters = span.since - 1, tuple(span.clusters.values())
    while ticks := await store.load_ticks(clusters, after=after, limit=PAGE):
        for tick in ticks:
            for cluster, counts in tick.counts.items():
                found.setdefault(cluster, []).append(Counted(tick.tick, counts))
        after = ticks[-1].tick
        if after >= span.until - 1 or len(ticks) < PAGE:
            break
    return found


def _version(version: str, found: Sequence[Point | None]) -> VersionSeriesView:
    return VersionSeriesView(
        version=version,
        requests=[point and point.requests for point in found],
        errors=[point and point.errors for point in found],
        error_rate=[point and point.error_rate for point in found],
        error_low=[point.error_interval[0] if point and point.error_interval else None for point in found],
        error_high=[point.error_interval[1] if point and point.error_interval else None for point in found],
        latency=[
            _quantiles(share, [point.quantiles[place] if point else None for point in found])
            for place, share in enumerate((0.50, 0.95, 0.99))
        ],
        in_flight=[point and point.active for point in found],
    )


def _quantiles(share: float, found: Sequence[Quantile | None]) -> QuantileView:
    return QuantileView(
        quantile=share,
        value=[each and each.value for each in found],
        low=[each and each.low for each in found],
        high=[each and each.high for each in found],
    )


def _line(slo: Slo) -> LineView:
    bound = getattr(slo, "max_ratio", None)
    threshold = None
    if isinstance(slo, LatencySlo):
        bound, threshold = 1 - slo.quantile, snap_threshold(slo.threshold_ms)
    return LineView(name=slo.name, kind=slo_of(slo).kind, words=describe_slo(slo), bound=bound, threshold_ms=threshold)


def _moment(second: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(second, dt.UTC)
