"""For whoever runs the control plane: is it alive, can it be used, how does it do. None of these needs a key."""

import http
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from controlplane.api.access import UseParts
from controlplane.api.answering import View
from controlplane.errors import UnavailableError

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def show_health() -> dict[str, str]:
    """Answer as long as the process does."""
    return {"status": "ok"}


class ReadinessView(View):
    """Whether this process can be used, and what is missing if not."""

    status: str
    missing: tuple[str, ...] = ()


_NOT_READY: Final[dict[int | str, dict[str, Any]]] = {503: {"model": ReadinessView, "description": "Not yet."}}


@router.get("/readyz", response_model=ReadinessView, response_model_exclude_defaults=True, responses=_NOT_READY)
async def show_readiness(parts: UseParts) -> Response:
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
async def show_metrics(request: Request) -> Response:
    """Show counters and gauges in Prometheus' text format."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
