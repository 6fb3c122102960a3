"""What a service's requests have been like of late, from Envoy's own telemetry."""

from typing import Annotated

from fastapi import APIRouter, Query

from controlplane.api.access import Reader, UseParts
from controlplane.api.answers import TrafficView
from controlplane.api.routing import ApiRoute
from controlplane.api.services import Name
from controlplane.rollout.recent import sum_up

MAX_MINUTES = 10

router = APIRouter(prefix="/v1", tags=["services"], route_class=ApiRoute)


@router.get("/services/{name}/traffic")
async def show_traffic(
    name: Name,
    parts: UseParts,
    _: Reader,
    minutes: Annotated[int, Query(ge=1, le=MAX_MINUTES, description="How far back to look.")] = MAX_MINUTES,
) -> TrafficView:
    """Show how many requests the service has had, how many failed and how long they took, over all its versions."""
    record = await parts.store.load_service(name)
    clusters = tuple(dict.fromkeys(version.cluster for version in record.served.spec.versions))
    now = int(parts.clock.now().timestamp())
    ticks = await parts.store.load_ticks(clusters, after=now - minutes * 60, limit=minutes * 60)
    found = sum_up((counts for tick in ticks for counts in tick.counts.values()), seconds=len(ticks))
    return TrafficView(
        service=name,
        seconds=found.seconds,
        requests=found.requests,
        rate=found.rate,
        error_ratio=found.error_ratio,
        p50_ms=found.p50_ms,
        p95_ms=found.p95_ms,
    )
