"""Builds what callers are known by, for `wiring`: keys, sessions, share links, an OIDC provider where one is set."""

import contextlib
import pathlib
import urllib.parse
from collections.abc import AsyncIterator

from controlplane.auth.attempts import Attempts
from controlplane.auth.denials import Denials
from controlplane.auth.keys import KeyRing
from controlplane.auth.logins import LoginDesk, read_roles
from controlplane.auth.parts import AuthParts
from controlplane.auth.sessions import SessionDesk, nobody
from controlplane.auth.shares import ShareDesk
from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.oidc.client import OidcClient
from controlplane.settings import Settings
from controlplane.store import SqlStore

CALLBACK = "/login/oidc/callback"


@contextlib.asynccontextmanager
async def open_auth(settings: Settings, *, store: SqlStore, keys: KeyRing, clock: Clock) -> AsyncIterator[AuthParts]:
    """Build a process's `AuthParts`; let go of the provider at the end.

    Raises:
        InvalidInputError: A setting makes no sense, or one that it needs is missing.
    """
    async with contextlib.AsyncExitStack() as opened:
        public_url = read_public_url(settings.public_url)
        logins = await _logins(settings, opened, store=store, clock=clock, public_url=public_url)
        sessions = SessionDesk(
            store=store,
            keys=store,
            shares=store,
            clock=clock,
            idle=settings.session_idle,
            longest=settings.session_longest,
            grants_of=nobody if logins is None else logins.roles.grants_of,
        )
        yield AuthParts(
            keys=keys,
            denials=Denials(store=store, clock=clock),
            audit=store,
            sessions=sessions,
            shares=ShareDesk(store=store, clock=clock),
            attempts=Attempts(clock=clock),
            logins=logins,
            public_url=public_url,
        )


async def _logins(
    settings: Settings, opened: contextlib.AsyncExitStack, *, store: SqlStore, clock: Clock, public_url: str
) -> LoginDesk | None:
    if not settings.oidc_issuer:
        return None
    needed = {
        "HUESHIFT_OIDC_CLIENT_ID": settings.oidc_client_id,
        "HUESHIFT_OIDC_ROLES": settings.oidc_roles,
        "HUESHIFT_PUBLIC_URL": public_url,
    }
    for name, value in needed.items():
        if not value:
            raise InvalidInputError(name, "is not set, although HUESHIFT_OIDC_ISSUER is", "set it, too")
    roles = read_roles(settings.oidc_roles)
    provider = OidcClient(
        settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=_read_secret(settings.oidc_client_secret_file),
        clock=clock,
    )
    return LoginDesk(
        provider=await opened.enter_async_context(provider),
        store=store,
        roles=roles,
        clock=clock,
        redirect_uri=public_url + CALLBACK,
    )


def _read_secret(file: pathlib.Path | None) -> str:
    if file is None:
        return ""
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as exc:
        raise InvalidInputError("HUESHIFT_OIDC_CLIENT_SECRET_FILE", f"{file} cannot be read", "name a file") from exc
    if not secret:
        raise InvalidInputError("HUESHIFT_OIDC_CLIENT_SECRET_FILE", f"{file} is empty", "write the secret into it")
    return secret


def read_public_url(text: str) -> str:
    """Return the address of our pages, without a slash at its end.

    Raises:
        InvalidInputError: It is no origin: it has a path, or is not of http or https.
    """
    if not text:
        return ""
    fix = "write it like https://hueshift.example.org"
    try:
        parts = urllib.parse.urlsplit(text)
        named = parts.hostname and (parts.port is None or parts.port)
    except ValueError as exc:
        raise InvalidInputError("HUESHIFT_PUBLIC_URL", f"{text[:200]!r} is no address", fix) from exc
    if (
        parts.scheme not in {"http", "https"}
        or not named
        or parts.username
        or parts.query
        or parts.path not in {"", "/"}
    ):
        raise InvalidInputError("HUESHIFT_PUBLIC_URL", f"{text[:200]!r} is no address without a path", fix)
    return f"{parts.scheme}://{parts.netloc.lower()}"
