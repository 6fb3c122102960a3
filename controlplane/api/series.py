"""What a service's versions did over time, in as few points as a page can draw."""

import datetime as dt
import math
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Query

from controlplane.api.access import Reader, UseParts
from controlplane.api.answering import View
from controlplane.api.objectives import describe_slo, slo_of
from controlplane.api.routing import ApiRoute
from controlplane.api.services import Name
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.events.past import Span, WeightsOverTime, odds_at, read_past, weights_at
from controlplane.ports import RolloutId, ServiceRecord, Store
from controlplane.rollout.model import Promoted, RolledBack
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.series import METHODS, Point, Quantile, points, starts, step_s
from controlplane.rollout.slo import LatencySlo, Slo, with_defaults
from controlplane.rollout.standing import place_of
from controlplane.rollout.windows import snap_threshold

router = APIRouter(prefix="/v1", tags=["services"], route_class=ApiRoute)

DEFAULT_SPAN: Final = dt.timedelta(minutes=15)
MAX_POINTS: Final = 2_000
SECOND: Final = dt.timedelta(seconds=1)
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

    *in_flight* is at the end of a point, and so are the weights, in basis points: the one that was asked for, and the
    last one that all Envoys had acknowledged (null where a person set it, until a rollout moves it).
    """

    version: str
    requests: list[int | None]
    errors: list[int | None]
    error_rate: list[float | None]
    error_low: list[float | None]
    error_high: list[float | None]
    latency: list[QuantileView]
    in_flight: list[int | None]
    weight_set_bp: list[int | None]
    weight_acked_bp: list[int | None]


class EvidenceSeriesView(View):
    """Evidence over time that a rollout breaks an objective, as 1 : odds; at *odds_limit* the judge undoes it."""

    rollout: str
    name: str
    odds_limit: float
    odds: list[float | None]


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
    evidence: list[EvidenceSeriesView]
    methods: dict[str, str]


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

    Points are summed up here, so that a year and a minute are as many. A year of hours, two weeks of minutes and
    `HUESHIFT_TELEMETRY_RETENTION` of seconds are kept; what is older is null. Every rate and latency has its 95 %
    interval; ``methods`` names how it is computed.
    """
    record = await parts.store.load_service(name)
    now = parts.clock.now()
    span = await _span(parts.store, record, now, since=since, until=until, rollout=rollout)
    found = await read_past(parts.store, span, max_points=max_points)
    step = step_s(span.since, span.until, max_points, at_least=found.resolution_s)
    at = starts(span.since, span.until, step)
    bad = policy_of(span.slos).error_bad
    return SeriesView(
        service=name,
        rollout=span.rollout,
        since=_moment(span.since),
        until=_moment(span.until),
        step_s=step,
        at=list(at),
        versions=[
            _version(
                version,
                points(found.counted.get(cluster, ()), span.since, span.until, step, bad=bad),
                weights_at(found.weights, version, at),
            )
            for version, cluster in span.clusters.items()
        ],
        objectives=[_line(slo) for slo in with_defaults(span.slos)],
        evidence=await _evidence(parts.store, span, at),
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
    slos, judged = spec.slos, rollout
    if rollout is not None:
        found = await store.load(RolloutId(rollout))
        if found.service != record.name:
            raise NotFoundError(f"rollout of {record.name}", rollout)
        ended = found.state.at if isinstance(found.state, Promoted | RolledBack) else now
        since, until = since or found.started_at, until or max(ended, found.started_at + SECOND)
        clusters = {name: cluster for name, cluster in clusters.items() if name in {found.baseline, found.candidate}}
        slos = found.slos
    elif (latest := await store.load_latest(record.name)) is not None:
        judged = latest.id
    end = min(_aware("until", until), now) if until is not None else now
    begin = _aware("since", since) if since is not None else end - DEFAULT_SPAN
    if begin >= end:
        raise InvalidInputError("since", f"{begin.isoformat()} is not before {end.isoformat()}", "use an earlier time")
    begin = max(begin, now - FAR)
    return Span(
        service=record.name,
        since=math.floor(begin.timestamp()),
        until=math.ceil(end.timestamp()),
        clusters=clusters,
        slos=slos,
        rollout=rollout,
        judged=judged,
    )


def _aware(field: str, moment: dt.datetime) -> dt.datetime:
    if moment.tzinfo is None:
        raise InvalidInputError(field, f"{moment.isoformat()} has no time zone", "add one: 2026-11-27T10:00:00Z")
    return moment.astimezone(dt.UTC)


async def _evidence(store: Store, span: Span, at: range) -> list[EvidenceSeriesView]:
    """Read the judge's evidence; of the service's newest rollout where none was asked for."""
    if span.judged is None:
        return []
    rollout = await store.load(RolloutId(span.judged))
    odds = await store.load_odds(rollout.id, since=at.start, until=span.until, step=at.step)
    policy = policy_of(rollout.slos)
    names = dict.fromkeys(name for _, each in odds for name in each)
    return [
        EvidenceSeriesView(
            rollout=rollout.id,
            name=name,
            odds_limit=policy.thresholds[place_of(name, policy)],
            odds=odds_at(odds, name, at),
        )
        for name in names
    ]


def _version(version: str, found: Sequence[Point | None], weights: WeightsOverTime) -> VersionSeriesView:
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
        weight_set_bp=list(weights.asked),
        weight_acked_bp=list(weights.acked),
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
