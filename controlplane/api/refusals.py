"""How the API says no: problem details (RFC 9457) for every error, and the one table from errors to HTTP statuses.

``detail`` is one line that names the field and the fix; ``code`` is what a program decides by, and the end of ``type``.
"""

import dataclasses
import http
import math
from collections.abc import Mapping

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from controlplane.api.answering import Problem, ProblemView
from controlplane.api.problems import from_pydantic
from controlplane.api.schemas import EXAMPLES, known_fields
from controlplane.auth.roles import Principal
from controlplane.errors import (
    ConflictError,
    ControlPlaneError,
    ForbiddenError,
    GoneError,
    HiddenError,
    InvalidInputError,
    NotFoundError,
    OverQuotaError,
    PreconditionFailedError,
    RevokedKeyError,
    StaleWriteError,
    TooManyError,
    UnauthorizedError,
    UnavailableError,
)

log = structlog.get_logger(__name__)

STATUS: Mapping[type[ControlPlaneError], http.HTTPStatus] = {
    InvalidInputError: http.HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: http.HTTPStatus.NOT_FOUND,
    ConflictError: http.HTTPStatus.CONFLICT,
    StaleWriteError: http.HTTPStatus.CONFLICT,
    PreconditionFailedError: http.HTTPStatus.PRECONDITION_FAILED,
    UnavailableError: http.HTTPStatus.SERVICE_UNAVAILABLE,
    TooManyError: http.HTTPStatus.TOO_MANY_REQUESTS,
    UnauthorizedError: http.HTTPStatus.UNAUTHORIZED,
    ForbiddenError: http.HTTPStatus.FORBIDDEN,
    GoneError: http.HTTPStatus.GONE,
    OverQuotaError: http.HTTPStatus.TOO_MANY_REQUESTS,
}
"""The one place where an error gets its status."""

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "https://hueshift.dev/problems/"
RETRY_AFTER_S = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What all problems of one type share: the code that programs read, and a title for people."""

    code: str
    title: str


OVER_QUOTA = Kind("over_quota", "More than was agreed")
INTERNAL = Kind("internal", "A fault of the control plane")
KINDS: Mapping[int, Kind] = {
    400: Kind("bad_request", "The request cannot be read"),
    401: Kind("unauthorized", "No valid API key"),
    403: Kind("forbidden", "Not for this key to do"),
    404: Kind("not_found", "There is no such thing"),
    405: Kind("method_not_allowed", "The path does not take this method"),
    409: Kind("conflict", "Not in the present state"),
    410: Kind("gone", "No longer there"),
    412: Kind("precondition_failed", "Changed by someone else"),
    413: Kind("request_entity_too_large", "The body is too large"),
    422: Kind("invalid_input", "The input is wrong"),
    429: Kind("too_many_requests", "Too many at once"),
    500: INTERNAL,
    503: Kind("service_unavailable", "Cannot answer now"),
}
"""The type of problem behind each status; `OVER_QUOTA` is the other one of 429."""

_WORDS: Mapping[int, str] = {
    400: "body: cannot be read; send valid JSON in UTF-8",
    404: "there is nothing at this path; GET /openapi.json lists what there is",
    405: "this path does not take that method; GET /openapi.json lists what it takes",
}


def add_refusals(app: FastAPI) -> None:
    """Let *app* answer whatever goes wrong in it as a problem."""
    app.add_exception_handler(ControlPlaneError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _crashed)


def problem_of(exc: ControlPlaneError) -> ProblemView:
    """Say what *exc* is to a client."""
    status = next((code for kind, code in STATUS.items() if isinstance(exc, kind)), None)
    if status is None:
        return _view(http.HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL, str(exc))
    kind = KINDS[status]
    if isinstance(exc, InvalidInputError):
        problems = [Problem(detail=str(one), field=one.field, fix=one.fix) for one in exc.problems]
        return _view(status, kind, str(exc), field=exc.field, fix=exc.fix, problems=problems)
    if isinstance(exc, OverQuotaError):
        return _view(status, OVER_QUOTA, str(exc), field=exc.quota, fix=exc.fix)
    return _view(status, kind, str(exc), field=exc.kind if isinstance(exc, NotFoundError) else None)


def _view(
    status: http.HTTPStatus,
    kind: Kind,
    detail: str,
    *,
    field: str | None = None,
    fix: str | None = None,
    problems: list[Problem] | None = None,
) -> ProblemView:
    return ProblemView(
        type=TYPE_PREFIX + kind.code,
        title=kind.title,
        status=status.value,
        detail=detail,
        code=kind.code,
        field=field,
        fix=fix,
        problems=problems or [],
    )


async def _refused(request: Request, exc: Exception) -> JSONResponse:
    if not isinstance(exc, ControlPlaneError):
        raise exc
    await _tell_denial(request, exc)
    view = problem_of(_without_hints(request, exc))
    headers = {}
    if view.status == http.HTTPStatus.SERVICE_UNAVAILABLE or isinstance(exc, TooManyError):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if view.status == http.HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(exc, OverQuotaError) and exc.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(exc.retry_after.total_seconds()))
    return _answer(view, headers)


async def _tell_denial(request: Request, exc: ControlPlaneError) -> None:
    """Have the audit tell of what somebody known tried, and may not."""
    parts = getattr(request.app.state, "parts", None)
    if parts is None or not isinstance(exc, ForbiddenError | HiddenError | RevokedKeyError):
        return
    service = ""
    if isinstance(exc, RevokedKeyError):
        by, words = exc.name, "with a key that was revoked"
    else:
        principal, service, words = _principal(request), exc.service, str(exc)
        by = principal.name if principal else getattr(exc, "who", "")
    route = getattr(request.scope.get("route"), "path", "unknown")
    await parts.auth.denials.add(by=by, what=f"{request.method} {route}", service=service, words=words)


def _without_hints(request: Request, exc: ControlPlaneError) -> ControlPlaneError:
    """Name nothing that there is to somebody from whom some of it is hidden."""
    principal = _principal(request)
    if isinstance(exc, NotFoundError) and principal is not None and not principal.sees_all:
        return NotFoundError(exc.kind, exc.name, None)
    return exc


def _principal(request: Request) -> Principal | None:
    return getattr(request.state, "principal", None)


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
    kind = KINDS.get(status.value) or Kind(status.phrase.lower().replace(" ", "_"), status.phrase)
    return _answer(_view(status, kind, _WORDS.get(status.value, str(exc.detail))), dict(exc.headers or {}))


async def _crashed(request: Request, exc: Exception) -> JSONResponse:
    log.error("api.request_crashed", method=request.method, path=request.url.path, exc_info=exc)
    words = "internal error; nothing is known to have changed, and the log of `hueshift serve` has the details"
    return _answer(_view(http.HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL, words))


def _answer(view: ProblemView, headers: Mapping[str, str] | None = None) -> JSONResponse:
    body = view.model_dump(exclude_none=True)
    return JSONResponse(body, status_code=view.status, headers=headers, media_type=PROBLEM_TYPE)
