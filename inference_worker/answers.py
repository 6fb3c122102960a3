"""The one table from errors to statuses, and what every answer carries."""

import re
import uuid
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
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
    ComeAgainError,
    DeadlineError,
    DeviceLostError,
    DeviceMemoryError,
    InjectedError,
    LateError,
    ModelError,
    NoModelError,
    NoSampleError,
    NotReadyError,
    QueueFullError,
    SlowUploadError,
    TokenError,
    TooManyPixelsError,
    UnreadableImageError,
    UnsupportedTypeError,
    WorkerError,
)
from inference_worker.faults import HEADER, Outcome
from inference_worker.metrics import Metrics

STATUSES: Final[dict[type[WorkerError], int]] = {
    BadRequestError: 400,
    TokenError: 401,
    NoModelError: 404,
    NoSampleError: 404,
    SlowUploadError: 408,
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
    LateError: 503,
    DeviceMemoryError: 503,
    DeviceLostError: 503,
    DeadlineError: 504,
}
MAX_RETRY_AFTER_S: Final = 60
REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
FIXES: Final = {
    404: "path: unknown; post photos to /repair or /transform",
    405: "method: not allowed here; POST photos to /repair or /transform, GET the rest",
}


class Observed:
    """Counts and times every answer, and gives it the model's version and the request's id."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        clock: Clock,
        find_version: Callable[[str], str],
        is_leaving: Callable[[], bool],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._find_version = find_version
        self._is_leaving = is_leaving

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
                headers["x-model-version"] = self._find_version(scope["path"])
                if self._is_leaving():
                    headers["connection"] = "close"  # the next request must find another worker
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._metrics.count_answer(scope["path"], status, self._clock.read_s() - started)


def tell_wait(exc: ComeAgainError) -> str:
    """The value of `retry-after`: whole seconds, at least one."""
    return str(min(MAX_RETRY_AFTER_S, max(1, round(exc.wait_s + 0.499))))


def add_error_answers(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error as one line of JSON that names the field and the fix."""

    @app.exception_handler(WorkerError)
    async def tell(_: Request, exc: WorkerError) -> Response:
        status = next((STATUSES[kind] for kind in type(exc).__mro__ if kind in STATUSES), 500)
        metrics.refused.labels(type(exc).__name__.removesuffix("Error")).inc()
        headers = {"retry-after": tell_wait(exc)} if isinstance(exc, ComeAgainError) else {}
        if isinstance(exc, TokenError):
            headers["www-authenticate"] = "Bearer"
        if isinstance(exc, InjectedError):
            headers[HEADER] = Outcome.ERROR.value
        return JSONResponse({"error": str(exc)}, status, headers)

    @app.exception_handler(HTTPException)
    async def tell_http(_: Request, exc: HTTPException) -> Response:
        return JSONResponse({"error": FIXES.get(exc.status_code, str(exc.detail))}, exc.status_code, exc.headers)

    @app.exception_handler(ClientDisconnect)
    async def tell_nobody(request: Request, _: ClientDisconnect) -> Response:
        return await tell(request, ClientGoneError())

    @app.exception_handler(Exception)
    async def tell_bug(_: Request, __: Exception) -> Response:
        return JSONResponse({"error": "internal: a bug in the worker; see its log for this x-request-id"}, 500)
