"""Who asks: by an API key, by a provider's token, or by the cookie of a session.

A cookie is sent by the browser whoever made it ask, so what changes something by cookie must also show the token that
only our own pages can read, and must come from our own pages as far as the browser says from where it comes.
"""

import dataclasses
import datetime as dt
import urllib.parse
from typing import Final

from fastapi import Request, Response

from controlplane.auth.parts import AuthParts
from controlplane.auth.roles import Principal, PrincipalKind
from controlplane.auth.sessions import Known, is_csrf_of
from controlplane.errors import ForbiddenError, UnauthorizedError

COOKIE: Final = "hueshift_session"
HOST_COOKIE: Final = "__Host-hueshift_session"
"""Its name over https: browsers then refuse one that another host of the same domain has set."""
SESSION_COOKIES: Final = frozenset({COOKIE, HOST_COOKIE})
CSRF_HEADER: Final = "X-Hueshift-CSRF"
BEARER: Final = "Bearer"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
NOBODY: Final = (
    "no API key was sent, and there is no session; send the header Authorization: Bearer hs_..., or log in with POST"
    " /v1/session"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Who asks; with a *session*, until when that lasts at most."""

    principal: Principal
    session: str | None = None
    expires_at: dt.datetime | None = None


async def identify(request: Request, auth: AuthParts) -> Identity:
    """Return who asks.

    Raises:
        UnauthorizedError: Nobody who is known.
        ForbiddenError: A browser asks for a change, but perhaps not of its user's own will.
        TooManyError: This address failed too often of late.
    """
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, value = header.partition(" ")
        if scheme.lower() != BEARER.lower() or not value.strip():
            raise UnauthorizedError("no API key was sent as it should be; send the header Authorization: Bearer hs_...")
        return Identity(await _bearer(auth, value.strip()))
    token = session_token(request, auth)
    if token is None:
        raise UnauthorizedError(NOBODY)
    known = await auth.sessions.recognise(token)
    request.state.principal = known.principal
    if request.method not in SAFE:
        check_own_page(request, auth)
        if not is_csrf_of(token, request.headers.get(CSRF_HEADER, "")):
            raise ForbiddenError(f"the header {CSRF_HEADER} is not this session's; GET /v1/session tells it as csrf")
    return Identity(known.principal, token, known.expires_at)


async def _bearer(auth: AuthParts, value: str) -> Principal:
    if value.startswith("eyJ") and auth.logins is not None:
        person = auth.logins.person(await auth.logins.provider.verify(value, nonce=None))
        return Principal(person.name, PrincipalKind.USER, person.grants)
    return await auth.keys.authenticate(value)


async def recognise(request: Request, auth: AuthParts) -> Known | None:
    """Return whose session the request's cookie is of, if it is of one."""
    token = session_token(request, auth)
    try:
        return None if token is None else await auth.sessions.recognise(token)
    except UnauthorizedError:
        return None


def check_own_page(request: Request, auth: AuthParts) -> None:
    """Refuse what another site's page has made a browser ask.

    Raises:
        ForbiddenError: The browser says that it comes from there.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and origin != own_origin(request, auth)) or site not in {"same-origin", "none"}:
        raise ForbiddenError("this was asked for by another site's page; HUESHIFT_PUBLIC_URL says where ours are")


def own_origin(request: Request, auth: AuthParts) -> str:
    """Return the origin of our own pages as browsers write it."""
    if auth.public_url:
        url = urllib.parse.urlsplit(auth.public_url)
        return f"{url.scheme}://{url.netloc}"
    return f"{request.url.scheme}://{request.headers.get('host', '')}"


def address_of(request: Request, auth: AuthParts) -> str:
    """Return from where somebody tries to log in, as `Attempts` counts it.

    Behind a proxy of ours, which a public URL means, it is what that proxy has added to ``X-Forwarded-For`` last: or
    one who fails would shut out all. A proxy that adds nothing lets them choose it, which only costs us the looks.
    """
    forwarded = request.headers.get("x-forwarded-for", "") if auth.public_url else ""
    peer = request.client.host if request.client else ""
    return f"from {(forwarded.rpartition(',')[2].strip() or peer)[:64]}"


def is_secure(request: Request, auth: AuthParts) -> bool:
    """Whether browsers reach us by https."""
    return own_origin(request, auth).startswith("https://")


def session_token(request: Request, auth: AuthParts) -> str | None:
    """Return the cookie of a session, if there is one."""
    return request.cookies.get(HOST_COOKIE if is_secure(request, auth) else COOKIE)


def set_session(request: Request, response: Response, auth: AuthParts, token: str) -> None:
    """Have the browser keep *token* until it is closed. Scripts cannot read it, other sites' links do not send it."""
    secure = is_secure(request, auth)
    name = HOST_COOKIE if secure else COOKIE
    response.set_cookie(name, token, path="/", secure=secure, httponly=True, samesite="strict")


def forget_session(request: Request, response: Response, auth: AuthParts) -> None:
    """Have the browser forget it."""
    secure = is_secure(request, auth)
    name = HOST_COOKIE if secure else COOKIE
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
