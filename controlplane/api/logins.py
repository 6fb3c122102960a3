"""The two ways into a session that begin with a link: an OIDC provider, and somebody's share.

Both end with a page of ours that leads on by itself: the cookie is ``SameSite=Strict``, and after a redirect that began
at another site a browser would not send it.
"""

import html
import urllib.parse
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from controlplane.api.access import UseParts
from controlplane.api.identity import address_of, is_secure, recognise, session_token, set_session
from controlplane.auth.logins import KEPT, LoginDesk
from controlplane.auth.parts import AuthParts
from controlplane.auth.sessions import Standing
from controlplane.errors import ForbiddenError, NotFoundError, UnauthorizedError

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

STATE_COOKIE: Final = "hueshift_login"
CALLBACK: Final = "/login/oidc/callback"
LANDING: Final = "/"
_MAX_CHARS: Final = 4_096
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} - Hueshift</title>{refresh}</head>
<body><p>{words}</p><p><a href="{href}">{link}</a></p></body></html>
"""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}

_Answer = Annotated[str, Query(max_length=_MAX_CHARS)]


@router.get("/login/oidc")
async def begin_login(
    request: Request, parts: UseParts, back_to: Annotated[str, Query(max_length=500)] = "/"
) -> Response:
    """Send the browser to the provider."""
    state, where = await _desk(parts.auth).begin(back_to)
    answer = RedirectResponse(where, status_code=303, headers=_HEADERS)
    # Lax, since the browser comes back from another site with it.
    answer.set_cookie(
        STATE_COOKIE,
        state,
        max_age=int(KEPT.total_seconds()),
        path="/login",
        secure=is_secure(request, parts.auth),
        httponly=True,
        samesite="lax",
    )
    return answer


@router.get(CALLBACK)
async def finish_login(
    request: Request, parts: UseParts, state: _Answer = "", code: _Answer = "", error: _Answer = ""
) -> Response:
    """Take the browser back from the provider, with a session or with the reason why not."""
    auth = parts.auth
    whose = address_of(request, auth)
    auth.attempts.check(whose)
    try:
        cookie = request.cookies.get(STATE_COOKIE, "")
        person = await _desk(auth).finish(state=state, cookie=cookie, code=code, error=error)
    except UnauthorizedError as exc:
        auth.attempts.failed(whose)
        log.warning("login.refused", words=str(exc))
        answer = _page("Not logged in", str(exc), "/login/oidc", "Begin again", status=401)
    except ForbiddenError as exc:
        await auth.denials.add(by=exc.who, what=f"GET {CALLBACK}", service="", words=str(exc))
        answer = _page("Not allowed", str(exc), LANDING, "Go back", status=403)
    else:
        token, _ = await auth.sessions.begin(
            Standing.USER, person.name, claims=person.kept, replaces=session_token(request, auth)
        )
        log.info("session.begun", by=person.name)
        answer = _page("Logged in", f"You are logged in as {person.name}.", person.back_to, "Go on", leads_on=True)
        set_session(request, answer, auth, token)
    answer.delete_cookie(STATE_COOKIE, path="/login")
    return answer


@router.get("/share/{token}")
async def open_share(request: Request, parts: UseParts, token: Annotated[str, Path(max_length=_MAX_CHARS)]) -> Response:
    """Let whoever has a share link look at what it shares; who may see it anyway stays who they are."""
    auth = parts.auth
    if request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
        # The cookie of a session is not sent with another site's link: come again, from a page of ours.
        return _page("Shared with you", "One moment.", request.url.path, "Go on", leads_on=True)
    whose = address_of(request, auth)
    auth.attempts.check(whose)
    try:
        share = await auth.shares.open(token)
    except UnauthorizedError as exc:
        auth.attempts.failed(whose)
        return _page("Not shared", str(exc), LANDING, "Go to Hueshift", status=404)
    at = f"?{urllib.parse.urlencode({'rollout': share.rollout})}" if share.rollout else ""
    href = f"/services/{urllib.parse.quote(share.service, safe='')}{at}"
    answer = _page("Shared with you", f"You may look at {share.service}.", href, "Go on", leads_on=True)
    known = await recognise(request, auth)
    if known is not None and known.principal.sees(share.service):
        return answer
    cookie, _ = await auth.sessions.begin(
        Standing.SHARE, share.id, replaces=session_token(request, auth), until=share.expires_at
    )
    log.info("session.begun", by=f"share:{share.id}")
    set_session(request, answer, auth, cookie)
    return answer


def _desk(auth: AuthParts) -> LoginDesk:
    if auth.logins is None:
        raise NotFoundError("OIDC provider", "HUESHIFT_OIDC_ISSUER", None)
    return auth.logins


def _page(title: str, words: str, href: str, link: str, *, status: int = 200, leads_on: bool = False) -> HTMLResponse:
    where = html.escape(href, quote=True)
    refresh = f'<meta http-equiv="refresh" content="0;url={where}">' if leads_on else ""
    text = _PAGE.format(title=title, words=html.escape(words), href=where, link=link, refresh=refresh)
    return HTMLResponse(text, status_code=status, headers=_HEADERS)
