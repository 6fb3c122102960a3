"""The worker's HTTP face: routes, the one table from errors to statuses, and what every answer carries."""

import asyncio
import contextlib
import datetime as dt
import logging
import re
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_worker import tracing
from inference_worker.clock import Clock
from inference_worker.errors import (
    BadRequestError,
    BodyTooLargeError,
    ClientGoneError,
    ColourInputError,
    DeadlineError,
    InjectedError,
    ModelError,
    NotReadyError,
    QueueFullError,
    TooManyPixelsError,
    UnreadableImageError,
    UnsupportedTypeError,
    WorkerError,
)
from inference_worker.faults import HEADER, FaultDice, FaultPlan, Outcome
from inference_worker.imaging import choose_encoding
from inference_worker.metrics import Metrics
from inference_worker.service import Phase, Service
from inference_worker.uploads import read_upload

log = logging.getLogger(__name__)

R = TypeVar("R")

STATUSES: Final[dict[type[WorkerError], int]] = {
    BadRequestError: 400,
    BodyTooLargeError: 413,
    TooManyPixelsError: 413,
    UnsupportedTypeError: 415,
    UnreadableImageError: 422,
    ColourInputError: 422,
    QueueFullError: 429,
    ClientGoneError: 499,
    InjectedError: 500,
    ModelError: 500,
    NotReadyError: 503,
    DeadlineError: 503,
}
COME_AGAIN: Final = (QueueFullError, NotReadyError, DeadlineError)
REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
FORCE_VALUES: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Observed:
    """Counts and times every answer, and gives it the model's version and the request's id."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, clock: Clock, version: str) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._version = version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = self._clock.read_s()
        status = 500
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        tracing.REQUEST_ID.set(request_id)

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-model-version"] = self._version
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._metrics.count_answer(scope["path"], status, self._clock.read_s() - started)


async def run_unless_gone(receive: Receive, work: Coroutine[Any, Any, R]) -> R:
    """Await *work*, but cancel it when the client closes the connection; the request's body must have been read.

    Raises:
        ClientGoneError: The client left first.
    """

    async def wait_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def attempt() -> R | WorkerError:
        try:
            return await work
        except WorkerError as exc:  # told by value: a task group would wrap it
            return exc

    async with asyncio.TaskGroup() as tasks:
        job = tasks.create_task(attempt())
        gone = tasks.create_task(wait_gone())
        await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
        job.cancel()
        gone.cancel()
    if job.cancelled():
        raise ClientGoneError
    answer = job.result()
    if isinstance(answer, WorkerError):
        raise answer
    return answer


def read_force(request: Request) -> bool:
    """The query parameter `force`; absent means no.

    Raises:
        BadRequestError: Not a yes or a no.
    """
    text = request.query_params.get("force", "false").lower()
    if text not in FORCE_VALUES:
        raise BadRequestError(f"force: {text[:40]!r} is neither true nor false; use ?force=true or leave it out")
    return FORCE_VALUES[text]


def add_error_answers(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error as one line of JSON that names the field and the fix."""

    @app.exception_handler(WorkerError)
    async def tell(_: Request, exc: WorkerError) -> Response:
        status = next((STATUSES[kind] for kind in type(exc).__mro__ if kind in STATUSES), 500)
        metrics.refused.labels(type(exc).__name__.removesuffix("Error")).inc()
        headers = {"retry-after": "1"} if isinstance(exc, COME_AGAIN) else {}
        if isinstance(exc, InjectedError):
            headers[HEADER] = Outcome.ERROR.value
        return JSONResponse({"error": str(exc)}, status, headers)

    @app.exception_handler(HTTPException)
    async def tell_http(_: Request, exc: HTTPException) -> Response:
        fixes = {404: "path: unknown; post photos to /repair", 405: "method: not allowed here; POST /repair"}
        return JSONResponse({"error": fixes.get(exc.status_code, str(exc.detail))}, exc.status_code, exc.headers)

    @app.exception_handler(ClientDisconnect)
    async def tell_nobody(request: Request, _: ClientDisconnect) -> Response:
        return await tell(request, ClientGoneError())

    @app.exception_handler(Exception)
    async def tell_bug(_: Request, __: Exception) -> Response:
        return JSONResponse({"error": "internal: a bug in the worker; see its log for this x-request-id"}, 500)


def add_probes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """What orchestrators and Prometheus ask; drills never touch these."""

    @app.get("/healthz")
    async def show_health() -> dict[str, object]:
        return {"status": "healthy", "model_loaded": service.phase is Phase.READY}

    @app.get("/readyz")
    async def show_readiness() -> Response:
        return JSONResponse({"status": service.phase.value}, 200 if service.phase is Phase.READY else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def create_app(*, service: Service, metrics: Metrics, clock: Clock, version: str, faults: FaultPlan) -> FastAPI:
    """Build the application; its lifespan runs the service.

    Args:
        service: What colours the photos.
        metrics: Shown at `/metrics`.
        clock: Times answers, and holds them back in a drill.
        version: Sent as `x-model-version` with every answer.
        faults: What a drill injects; decided here, once, never by a request.
    """

    @contextlib.asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(service.run(), name="service")
            try:
                yield
            finally:
                running.cancel()

    app = FastAPI(title="Hueshift inference worker", version=version, lifespan=live, docs_url=None, redoc_url=None)
    app.add_middleware(Observed, metrics=metrics, clock=clock, version=version)
    dice = FaultDice(faults)

    add_error_answers(app, metrics)
    add_probes(app, service, metrics)

    @app.post("/repair")
    async def repair(request: Request) -> Response:
        service.check_ready()
        is_forced = read_force(request)
        upload = await read_upload(request, service.settings.max_bytes)
        outcome = dice.draw()
        if outcome is not Outcome.NORMAL:
            metrics.faults.labels(outcome).inc()
        match outcome:
            case Outcome.ERROR:
                raise InjectedError
            case Outcome.HANG:
                await run_unless_gone(request.receive, service.stopping.wait())
                raise NotReadyError(Phase.STOPPING)
            case Outcome.NORMAL:
                pass
        encoding = choose_encoding(request.headers.get("accept", ""))

        async def work() -> tuple[bytes, list[str]]:
            started = clock.read_s()
            picture = await service.repair(upload, encoding=encoding, is_forced=is_forced)
            shown = [] if faults.picture is None else ["picture"]
            delay = dice.compute_delay(dt.timedelta(seconds=clock.read_s() - started))
            if delay > dt.timedelta(0):
                await clock.sleep(delay)
                shown.append("delay")
            return picture, shown

        picture, shown = await run_unless_gone(request.receive, work())
        for kind in shown:
            metrics.faults.labels(kind).inc()
        headers = {HEADER: ",".join(shown)} if shown else {}
        return Response(picture, media_type=encoding.value, headers=headers)

    return app
