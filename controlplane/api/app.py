"""The REST API: one factory for all of its routes."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry

from controlplane.api import (
    applying,
    audit,
    callback_routes,
    event_stream,
    explanations,
    fleet,
    gates,
    job_events,
    job_operations,
    job_routes,
    keys,
    kinds,
    link_pages,
    logins,
    notify_routes,
    operations,
    owners,
    quality,
    recent,
    replays,
    rollouts,
    schema_routes,
    series,
    services,
    sessions,
    shares,
    steering,
)
from controlplane.api.access import BodyLimit, Parts
from controlplane.api.discovery import Discovery, make_router
from controlplane.api.headers import StrictHeaders
from controlplane.api.job_metrics import JobCollector
from controlplane.api.job_routes import JOBS
from controlplane.api.metrics import RequestMetrics
from controlplane.api.permissions import check_complete
from controlplane.api.reference import TITLE, VERSION, add_reference, complete, name_operation
from controlplane.api.refusals import add_refusals
from controlplane.api.sse import Streams
from controlplane.clock import Clock
from controlplane.pictures.facts import MAX_PHOTO_BYTES

MAX_BODY_BYTES = 1024 * 1024

ROUTED: Final = (
    sessions,
    shares,
    logins,
    keys,
    audit,
    services,
    applying,
    schema_routes,
    rollouts,
    steering,
    explanations,
    quality,
    replays,
    recent,
    fleet,
    gates,
    job_events,
    job_routes,
    job_operations,
    kinds,
    owners,
    callback_routes,
    notify_routes,
    link_pages,
    operations,
    event_stream,
    series,
)
"""The modules whose routes make up the API."""


def served() -> Iterator[str]:
    """Yield method and path of each route under /v1/."""
    for module in ROUTED:
        for route in module.router.routes:
            if isinstance(route, APIRoute) and route.path.startswith("/v1/"):
                yield from (f"{method} {route.path}" for method in sorted(route.methods or ()))


def create_app(
    parts: Parts,
    *,
    registry: CollectorRegistry,
    discovery: Discovery | None = None,
    pages: Callable[[FastAPI], None] | None = None,
) -> FastAPI:
    """Build the API.

    Args:
        parts: What the routes need.
        registry: Where /metrics reads, and where the API's own counters go.
        discovery: What answers Envoys that poll; without it those paths are not there.
        pages: Adds the web pages; without it there are none.
    """
    app = _bare()
    app.state.parts = parts
    app.state.registry = registry
    registry.register(JobCollector(parts.overseer.meter))
    app.state.watchers = 0
    app.state.replays = 0
    app.state.uploads = 0
    app.state.streams = Streams(registry)
    _add_routes(app)
    check_complete(served())
    if discovery is not None:
        app.include_router(make_router(discovery))
    if pages is not None:
        pages(app)
    _finish(app, registry, parts.clock)
    return app


def create_discovery_app(*, discovery: Discovery, registry: CollectorRegistry, clock: Clock) -> FastAPI:
    """Build what a process serves that has Envoys but no API: the paths that Envoy polls, and nothing else."""
    app = _bare()
    app.include_router(make_router(discovery))
    _finish(app, registry, clock)
    return app


def describe() -> dict[str, Any]:
    """Return the OpenAPI document; nothing is opened or started for it."""
    app = _bare()
    _add_routes(app)
    return complete(app)


def _bare() -> FastAPI:
    app = FastAPI(
        title=TITLE,
        version=VERSION,
        # The interactive pages load scripts from a third party, and people would type keys into them.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=name_operation,
    )
    add_reference(app)
    return app


def _add_routes(app: FastAPI) -> None:
    for module in ROUTED:
        app.include_router(module.router)


def _finish(app: FastAPI, registry: CollectorRegistry, clock: Clock) -> None:
    add_refusals(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, larger={JOBS: MAX_PHOTO_BYTES + MAX_BODY_BYTES})
    app.add_middleware(StrictHeaders)
    app.add_middleware(RequestMetrics, registry=registry, clock=clock)
