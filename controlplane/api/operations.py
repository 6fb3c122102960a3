"""For whoever runs the control plane: is it alive, can it be used, how does it do. None of these needs a key."""

import http

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from controlplane.api.access import UseParts
from controlplane.errors import UnavailableError

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer as long as the process does."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "What is still missing"}})
async def readyz(parts: UseParts) -> JSONResponse:
    """Say whether the database answers and a snapshot is served."""
    try:
        await parts.auth.keys.store.find_live_key("")  # the cheapest question that there is
        missing = list(await parts.missing())
    except UnavailableError as exc:
        missing = [str(exc)]
    if missing:
        body = {"status": "not ready", "missing": missing}
        return JSONResponse(body, status_code=http.HTTPStatus.SERVICE_UNAVAILABLE.value)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Show counters and gauges in Prometheus' text format."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
