"""The REST API: one factory, one table from errors to HTTP statuses.

Every refusal is a JSON body with one line in ``error`` that names the field and the fix.
"""

import http
import math
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from controlplane.api import (
    explanations,
    fleet,
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
from controlplane.api.answers import ErrorView, Problem
from controlplane.api.discovery import Discovery, make_router
from controlplane.api.job_routes import JOBS
from controlplane.api.metrics import RequestMetrics
from controlplane.api.problems import from_pydantic
from controlplane.api.schemas import EXAMPLES, known_fields
from controlplane.clock import Clock
from controlplane.controller.inspection import Inspector
from controlplane.controller.preview import Preview
from controlplane.errors import (
    ConflictError,
    ControlPlaneError,
    GoneError,
    InvalidInputError,
    NotFoundError,
    OverQuotaError,
    StaleWriteError,
    UnauthorizedError,
    UnavailableError,
)
from controlplane.jobs.desk import JobDesk
from controlplane.pictures.facts import MAX_PHOTO_BYTES
from controlplane.ports import Store

log = structlog.get_logger(__name__)

STATUS: Mapping[type[ControlPlaneError], http.HTTPStatus] = {
    InvalidInputError: http.HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: http.HTTPStatus.NOT_FOUND,
    ConflictError: http.HTTPStatus.CONFLICT,
    StaleWriteError: http.HTTPStatus.CONFLICT,
    UnavailableError: http.HTTPStatus.SERVICE_UNAVAILABLE,
    UnauthorizedError: http.HTTPStatus.UNAUTHORIZED,
    GoneError: http.HTTPStatus.GONE,
    OverQuotaError: http.HTTPStatus.TOO_MANY_REQUESTS,
}
"""The one place where an error gets its status."""

RETRY_AFTER_S = 2
MAX_BODY_BYTES = 1024 * 1024

_WORDS: Mapping[int, str] = {
    400: "body: cannot be read; send valid JSON in UTF-8",
    404: "there is nothing at this path; GET /openapi.json lists what there is",
    405: "this path does not take that method; GET /openapi.json lists what it takes",
}
_DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status.value: {"model": ErrorView, "description": status.phrase}
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
    missing: Missing = _nothing_missing,
    public_reads: bool = False,
    certificates: Certificates | None = None,
    preview: Preview | None = None,
    discovery: Discovery | None = None,
    compares_pictures: bool = True,
) -> FastAPI:
    """Build the API.

    Args:
        store: What remembers.
        clock: What tells the time.
        registry: Where /metrics reads, and where the API's own counters go.
        inspector: Knows what each Envoy runs.
        desk: Where jobs are handed in and collected.
        authenticate: Tells whose API key it is; `auth.keys.KeyRing.authenticate`.
        missing: What /readyz reports.
        public_reads: Whether reading needs no key.
        certificates: Those that listeners may name; None where this process does not know.
        preview: Tries declarations before they are stored; None stores what the documents' own checks let through.
        discovery: What answers Envoys that poll; without it those paths are not there.
        compares_pictures: Whether objectives about pictures can be kept here: the extra `quality` is installed.
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
        compares_pictures=compares_pictures,
    )
    app.state.registry = registry
    app.state.watchers = 0
    app.state.replays = 0
    app.state.uploads = 0
    for router in (
        services.router,
        rollouts.router,
        explanations.router,
        quality.router,
        replays.router,
        recent.router,
        fleet.router,
        job_routes.router,
        kinds.router,
        owners.router,
        operations.router,
    ):
        app.include_router(router)
    if discovery is not None:
        app.include_router(make_router(discovery))
    _finish(app, registry, clock)
    return app


def create_discovery_app(*, discovery: Discovery, registry: CollectorRegistry, clock: Clock) -> FastAPI:
    """Build what a process serves that has Envoys but no API: the paths that Envoy polls, and nothing else."""
    app = FastAPI(title="Hueshift", version="1", docs_url=None, redoc_url=None, responses=_DOCUMENTED)
    app.include_router(make_router(discovery))
    _finish(app, registry, clock)
    return app


def _finish(app: FastAPI, registry: CollectorRegistry, clock: Clock) -> None:
    app.add_exception_handler(ControlPlaneError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _crashed)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, larger={JOBS: MAX_PHOTO_BYTES + MAX_BODY_BYTES})
    app.add_middleware(RequestMetrics, registry=registry, clock=clock)


async def _refused(_: Request, exc: Exception) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(exc, kind)), None)
    if status is None:
        return _answer(http.HTTPStatus.INTERNAL_SERVER_ERROR, ErrorView(code="internal", error=str(exc)))
    headers = {}
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == http.HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(exc, OverQuotaError) and exc.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(exc.retry_after.total_seconds()))
    return _answer(status, _error_view(exc, status), headers)


def _error_view(exc: Exception, status: http.HTTPStatus) -> ErrorView:
    code = status.phrase.lower().replace(" ", "_")
    if isinstance(exc, InvalidInputError):
        problems = [Problem(error=str(one), field=one.field, fix=one.fix) for one in exc.problems]
        return ErrorView(code="invalid_input", error=str(exc), field=exc.field, fix=exc.fix, problems=problems)
    if isinstance(exc, OverQuotaError):
        return ErrorView(code="over_quota", error=str(exc), field=exc.quota, fix=exc.fix)
    field = exc.kind if isinstance(exc, NotFoundError) else None
    return ErrorView(code=code, error=str(exc), field=field)


async def _malformed(request: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, RequestValidationError):
        raise exc
    errors = [{**error, "loc": error["loc"][1:]} for error in exc.errors()]
    if isinstance(exc.body, bytes):
        wrong: InvalidInputError = InvalidInputError(
            "body", "is not JSON", "send it with Content-Type: application/json"
        )
    elif all(error["loc"][0] == "body" for error in exc.errors()):
        wrong = from_pydantic(errors, exc.body, known=known_fields(), examples=EXAMPLES, root="body")
    else:
        wrong = from_pydantic(errors, None, known=(), examples=EXAMPLES, root="request")
    return await _refused(request, wrong)


async def _not_served(_: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, HTTPException):
        raise exc
    status = http.HTTPStatus(exc.status_code)
    words = _WORDS.get(status.value, str(exc.detail))
    code = status.phrase.lower().replace(" ", "_")
    return _answer(status, ErrorView(code=code, error=words), dict(exc.headers or {}))


async def _crashed(request: Request, exc: Exception) -> JSONResponse:
    log.error("api.request_crashed", method=request.method, path=request.url.path, exc_info=exc)
    words = "internal error; nothing is known to have changed, and the log of `hueshift serve` has the details"
    return _answer(http.HTTPStatus.INTERNAL_SERVER_ERROR, ErrorView(code="internal", error=words))


def _answer(status: http.HTTPStatus, body: ErrorView, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status.value, headers=headers)
