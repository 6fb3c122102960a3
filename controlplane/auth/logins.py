"""Logging in at an OIDC provider: the authorization code flow, with PKCE, state and nonce.

The state is also a cookie, so that only the browser that began a log-in can end it, and it is taken from the database,
so that it can be used once. What a provider says of somebody becomes grants by a table in the settings.
"""

import base64
import dataclasses
import datetime as dt
import hashlib
import hmac
import re
import secrets
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final, Protocol

from controlplane.auth.roles import EVERY, Grant, read_grant, settle
from controlplane.auth.sessions import Claims, digest
from controlplane.clock import Clock
from controlplane.errors import ForbiddenError, InvalidInputError, UnauthorizedError

KEPT: Final = dt.timedelta(minutes=10)
"""How long somebody may take at the provider."""
MAX_NAME_CHARS: Final = 200
MAX_VALUES: Final = 200
"""Values of the claim that a session keeps."""
MAX_VALUE_CHARS: Final = 200
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_BACK: Final = re.compile(r"/(?:[A-Za-z0-9_.~-][A-Za-z0-9_.~/-]*)?")
_UNKNOWN: Final = "the log-in is not known, took too long or was used already; begin again at /login/oidc"


@dataclasses.dataclass(frozen=True, slots=True)
class Login:
    """A log-in that has begun; *digest* is of its state."""

    digest: str
    nonce: str
    verifier: str
    back_to: str
    at: dt.datetime


class LoginStore(Protocol):
    """Log-ins that have begun."""

    async def add_login(self, login: Login, *, keep: dt.timedelta) -> None:
        """Store one; forget those that began longer ago than *keep*."""

    async def take_login(self, digest: str) -> Login | None:
        """Return and remove the one with this digest: it is never returned twice."""


class IdentityProvider(Protocol):
    """Tells who somebody is."""

    async def authorize_url(self, parameters: Mapping[str, str]) -> str:
        """Return where a browser is sent to log in. Raises UnavailableError."""

    async def redeem(self, code: str, *, verifier: str, redirect_uri: str) -> str:
        """Return the ID token of a *code*. Raises UnauthorizedError, UnavailableError."""

    async def verify(self, token: str, *, nonce: str | None) -> Claims:
        """Return what a token says, if it was signed by the provider for us, is not expired and has this *nonce*.

        Raises:
            UnauthorizedError: It was not, or it is.
            UnavailableError: The provider does not answer.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class RoleTable:
    """Which grants the values of one claim mean; `EVERY` is whoever the provider knows."""

    claim: str
    grants: Mapping[str, tuple[Grant, ...]]

    def grants_of(self, claims: Claims) -> tuple[Grant, ...]:
        """Return what somebody may of whom the provider says *claims*."""
        found = list(self.grants.get(EVERY, ()))
        for value in self._values(claims):
            if value != EVERY:
                found += self.grants.get(value, ())
        return settle(found)

    def kept(self, claims: Claims) -> Claims:
        """Return of *claims* what a session must keep: all values, as the table may be another one tomorrow.

        Of very many, those that the table knows now come first.
        """
        values = sorted(self._values(claims), key=lambda value: value not in self.grants)
        kept = [value for value in values if len(value) <= MAX_VALUE_CHARS][:MAX_VALUES]
        return {self.claim: kept, "email_verified": claims.get("email_verified") is True}

    def _values(self, claims: Claims) -> list[str]:
        if self.claim == "email" and claims.get("email_verified") is not True:
            return []
        value = claims.get(self.claim)
        values = value if isinstance(value, list) else [value]
        return [each for each in values if isinstance(each, str)]


def read_roles(text: str, *, field: str = "HUESHIFT_OIDC_ROLES") -> RoleTable:
    """Read ``groups: sre=admin, ml-team=operator:colorize, *=viewer``.

    Raises:
        InvalidInputError: It is not written like that, or a role is unknown.
    """
    fix = "write it like: groups: sre=admin, ml=operator:colorize, *=viewer"
    claim, colon, rest = text.partition(":")
    if not colon or not claim.strip() or "=" in claim:
        raise InvalidInputError(field, "does not begin with a claim and a colon", fix)
    grants: dict[str, list[Grant]] = {}
    for each in filter(None, (part.strip() for part in rest.split(","))):
        value, equals, grant = each.rpartition("=")
        if not equals or not value.strip():
            raise InvalidInputError(field, f"{each[:80]!r} is no value with a role", fix)
        grants.setdefault(value.strip(), []).append(read_grant(grant, field=field))
    if not grants:
        raise InvalidInputError(field, "gives nobody a role", fix)
    return RoleTable(claim.strip(), {value: settle(given) for value, given in grants.items()})


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """Somebody whom a provider knows: *name* is theirs alone, and no key can have it."""

    name: str
    grants: tuple[Grant, ...]
    kept: Claims
    back_to: str = "/"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoginDesk:
    """Sends people to the provider and takes them back."""

    provider: IdentityProvider
    store: LoginStore
    roles: RoleTable
    clock: Clock
    redirect_uri: str

    async def begin(self, back_to: str) -> tuple[str, str]:
        """Begin a log-in: return the state, which the browser keeps as a cookie, and where it is sent.

        Raises:
            UnavailableError: The provider does not answer.
        """
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        where = await self.provider.authorize_url(
            {
                "response_type": "code",
                "redirect_uri": self.redirect_uri,
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        begun = Login(digest(state), nonce, verifier, safe_path(back_to), self.clock.now())
        await self.store.add_login(begun, keep=KEPT)
        return state, where

    async def finish(self, *, state: str, cookie: str, code: str, error: str = "") -> Person:
        """Return who came back from the provider with *state* and *code*, or with an *error*.

        Raises:
            UnauthorizedError: This browser did not begin it, it was used already, or the provider's answer is not good.
            ForbiddenError: The provider knows them, but nothing is granted to them.
            UnavailableError: The provider does not answer.
        """
        if not _STATE.fullmatch(state) or not hmac.compare_digest(state.encode(), cookie.encode()):
            raise UnauthorizedError(_UNKNOWN)
        begun = await self.store.take_login(digest(state))
        if begun is None or self.clock.now() - begun.at >= KEPT:
            raise UnauthorizedError(_UNKNOWN)
        if error:
            raise UnauthorizedError(f"the provider says {error[:100]!r}; try again, or ask its administrator")
        if not code:
            raise UnauthorizedError("the provider sent no code; begin again at /login/oidc")
        token = await self.provider.redeem(code, verifier=begun.verifier, redirect_uri=self.redirect_uri)
        claims = await self.provider.verify(token, nonce=begun.nonce)
        return dataclasses.replace(self.person(claims), back_to=begun.back_to)

    def person(self, claims: Claims) -> Person:
        """Return who it is of whom the provider says *claims*.

        Raises:
            ForbiddenError: Nothing is granted to them.
        """
        name, grants = name_of(claims), self.roles.grants_of(claims)
        if not grants:
            raise ForbiddenError(
                f"{name} has no role here: no value of the claim {self.roles.claim!r} is in HUESHIFT_OIDC_ROLES; ask an"
                " admin",
                who=name,
            )
        return Person(name, grants, self.roles.kept(claims))


def name_of(claims: Claims) -> str:
    """Return what somebody is called: an address that the provider has verified, or the provider's own name for them.

    Other claims may be chosen freely by whoever they are about, and names own jobs.
    """
    email: Any = claims.get("email")
    if isinstance(email, str) and email and email.isprintable() and claims.get("email_verified") is True:
        return f"user:{email[:MAX_NAME_CHARS].lower()}"
    return f"user:{str(claims['sub'])[:MAX_NAME_CHARS]}"


def safe_path(path: str) -> str:
    """Return *path* if it is one of ours, else ``/``: nobody is sent elsewhere by a link to us."""
    return path if _BACK.fullmatch(path) and not urllib.parse.urlsplit(path).netloc else "/"
