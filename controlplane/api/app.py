"""The REST API: one factory for all of its routes."""

import http
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from controlplane.api import (
    callback_routes,
    explanations,
    fleet,
    job_events,
    job_operations,
    job_routes,
    kinds,
    operations,
    owners,
    quality,
    recent,
    replays,
    rollouts,
    services,
)
from controlplane.api.access import Authenticate, BodyLimit, Certificates, Missing, Parts
from controlplane.api.answers import ProblemView
from controlplane.api.discovery import Discovery, make_router
from controlplane.api.job_metrics import JobCollector
from controlplane.api.job_routes import JOBS
from controlplane.api.metrics import RequestMetrics
from controlplane.api.refusals import PROBLEM_TYPE, STATUS, add_refusals
from controlplane.api.sse import Streams
from controlplane.clock import Clock
from controlplane.controller.inspection import Inspector
from controlplane.controller.preview import Preview
from controlplane.jobs.callback_desk import CallbackDesk
from controlplane.jobs.desk import JobDesk
from controlplane.jobs.feed import JobFeed
from controlplane.jobs.overseer import Overseer
from controlplane.pictures.facts import MAX_PHOTO_BYTES
from controlplane.ports import Store

MAX_BODY_BYTES = 1024 * 1024

_DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status.value: {
        "model": ProblemView,
        "description": status.phrase,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}},
    }
    for status in sorted({*STATUS.values(), http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
}


async def _nothing_missing() -> Sequence[str]:
    return ()


def create_app(  # noqa: PLR0913 - one per thing that the API stands on
    *,
    store: Store,
    clock: Clock,
    registry: CollectorRegistry,
    authenticate: Authenticate,
    inspector: Inspector,
    desk: JobDesk,
    callbacks: CallbackDesk,
    feed: JobFeed,
    overseer: Overseer,
    missing: Missing = _nothing_missing,
    public_reads: bool = False,
    certificates: Certificates | None = None,
    preview: Preview | None = None,
    discovery: Discovery | None = None,
    compares_pictures: bool = True,
    pages: Callable[[FastAPI], None] | None = None,
) -> FastAPI:
    """Build the API.

    Args:
        store: What remembers.
        clock: What tells the time.
        registry: Where /metrics reads, and where the API's own counters go.
        inspector: Knows what each Envoy runs.
        desk: Where jobs are handed in and collected.
        callbacks: Where owners say whom they want told of their jobs' ends.
        feed: Tells what becomes of them; somebody has to run it.
        overseer: Who looks after them.
        authenticate: Tells whose API key it is; `auth.keys.KeyRing.authenticate`.
        missing: What /readyz reports.
        public_reads: Whether reading needs no key.
        certificates: Those that listeners may name; None where this process does not know.
        preview: Tries declarations before they are stored; None stores what the documents' own checks let through.
        discovery: What answers Envoys that poll; without it those paths are not there.
        compares_pictures: Whether objectives about pictures can be kept here: the extra `quality` is installed.
        pages: Adds the web pages; without it there are none.
    """
    app = FastAPI(
        title="Hueshift",
        summary="Moves live traffic from one model version to the next, on evidence.",
        version="1",
        # The interactive pages load scripts from a third party, and people would type keys into them.
        docs_url=None,
        redoc_url=None,
        responses=_DOCUMENTED,
    )
    app.state.parts = Parts(
        store=store,
        clock=clock,
        authenticate=authenticate,
        missing=missing,
        public_reads=public_reads,
        certificates=certificates,
        preview=preview,
        inspector=inspector,
        desk=desk,
        callbacks=callbacks,
        feed=feed,
        overseer=overseer,
        compares_pictures=compares_pictures,
    )
    app.state.registry = registry
    registry.register(JobCollector(overseer.meter))
    app.state.watchers = 0
    app.state.replays = 0
    app.state.uploads = 0
    app.state.streams = Streams(registry)
    for router in (
        services.router,
        rollouts.router,
        explanations.router,
        quality.router,
        replays.router,
        recent.router,
        fleet.router,
        job_events.router,
        job_routes.router,
        job_routes.changes,
        job_operations.router,
        kinds.router,
        owners.router,
        callback_routes.router,
        operations.router,
    ):
        app.include_router(router)
    if discovery is not None:
        app.include_router(make_router(discovery))
    if pages is not None:
        pages(app)
    _finish(app, registry, clock)
    return app


def create_discovery_app(*, discovery: Discovery, registry: CollectorRegistry, clock: Clock) -> FastAPI:
    """Build what a process serves that has Envoys but no API: the paths that Envoy polls, and nothing else."""
    app = FastAPI(title="Hueshift", version="1", docs_url=None, redoc_url=None, responses=_DOCUMENTED)
    app.include_router(make_router(discovery))
    _finish(app, registry, clock)
    return app


def _finish(app: FastAPI, registry: CollectorRegistry, clock: Clock) -> None:
    add_refusals(app)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, larger={JOBS: MAX_PHOTO_BYTES + MAX_BODY_BYTES})
    app.add_middleware(RequestMetrics, registry=registry, clock=clock)
