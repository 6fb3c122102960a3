"""Sessions of browsers: log in with an API key, see who one is, log out."""

import datetime as dt
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Request, Response, status
from pydantic import Field

from controlplane.api.access import UseParts, permitted_identity
from controlplane.api.access_schemas import GrantView, grant_views
from controlplane.api.answering import View
from controlplane.api.identity import (
    Identity,
    address_of,
    check_own_page,
    forget_session,
    session_token,
    set_session,
)
from controlplane.api.schemas import Document
from controlplane.auth.keys import SHOWN_CHARS
from controlplane.auth.roles import Principal
from controlplane.auth.sessions import Standing, csrf_of, digest
from controlplane.errors import UnauthorizedError

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/session", tags=["access"])

MAX_KEY_CHARS = 200


class LoginDocument(Document):
    """An API key to begin a session with."""

    key: Annotated[str, Field(max_length=MAX_KEY_CHARS, json_schema_extra={"format": "password"})]


class SessionView(View):
    """Who asks and what they may. Changes by cookie take *csrf* in the header X-Hueshift-CSRF; null without a cookie.

    *expires_at* is when the session ends at the latest; unused, it ends sooner.
    """

    name: str
    kind: str
    grants: list[GrantView]
    csrf: str | None
    expires_at: dt.datetime | None


@router.post("", responses={status.HTTP_200_OK: {"headers": {"Set-Cookie": {"schema": {"type": "string"}}}}})
async def begin_session(document: LoginDocument, request: Request, response: Response, parts: UseParts) -> SessionView:
    """Begin a session with an API key; the answer sets its cookie. A session that the browser had ends."""
    auth = parts.auth
    check_own_page(request, auth)
    whose = address_of(request, auth), f"key {document.key[:SHOWN_CHARS]}"
    auth.attempts.check(*whose)
    try:
        principal = await auth.keys.authenticate(document.key)
    except UnauthorizedError:
        auth.attempts.failed(*whose)
        raise
    token, expires_at = await auth.sessions.begin(
        Standing.KEY, digest(document.key), replaces=session_token(request, auth)
    )
    set_session(request, response, auth, token)
    log.info("session.begun", by=principal.name)
    response.headers["Cache-Control"] = "no-store"
    return _view(principal, token, expires_at)


@router.get("")
async def show_session(response: Response, identity: Annotated[Identity, Depends(permitted_identity)]) -> SessionView:
    """Show who you are and what you may, and the token that changes by cookie take."""
    response.headers["Cache-Control"] = "no-store"
    return _view(identity.principal, identity.session, identity.expires_at)


@router.delete("", status_code=status.HTTP_204_NO_CONTENT)
async def end_session(
    request: Request, parts: UseParts, identity: Annotated[Identity, Depends(permitted_identity)]
) -> Response:
    """End the session at once: log out, whoever else may have its cookie. Takes the header X-Hueshift-CSRF."""
    if identity.session is not None:
        await parts.auth.sessions.end(identity.session)
    response = Response(status_code=status.HTTP_204_NO_CONTENT)
    forget_session(request, response, parts.auth)
    log.info("session.ended", by=identity.principal.name)
    return response


def _view(principal: Principal, token: str | None, expires_at: dt.datetime | None) -> SessionView:
    return SessionView(
        name=principal.name,
        kind=principal.kind.value,
        grants=grant_views(principal.grants),
        csrf=None if token is None else csrf_of(token),
        expires_at=expires_at,
    )
