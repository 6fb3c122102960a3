"""Sessions of browsers: a cookie that stands for a key, a person or a share link, for a while.

Context: pages must not keep API keys, and what a session may must be what its key may at that moment. Choice: the
cookie is 32 random bytes of which a digest is stored, beside whose session it is; what they may is looked up at each
request, in the key's row, in the settings' mapping of claims, or in the share's row. Consequence: a revoked key, a
smaller grant and a revoked link end what a session may at once, on every replica, and a stolen database opens nothing.

The token against forged requests (CSRF) is derived from the cookie, so it is bound to the session and stored nowhere.
"""

import dataclasses
import datetime as dt
import enum
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from controlplane.auth.keys import principal_of
from controlplane.auth.ports import KeyStore
from controlplane.auth.roles import Grant, Principal, PrincipalKind
from controlplane.auth.shares import ShareStore, share_principal
from controlplane.clock import Clock
from controlplane.errors import RevokedKeyError, UnauthorizedError

MAX_EACH: Final = 100
"""Sessions that one key, person or link may have; one more ends the oldest."""
SEEN_EVERY: Final = dt.timedelta(minutes=1)
"""How often it is written down that a session is used."""

_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_OVER: Final = "the session has ended; log in again"

Claims: TypeAlias = Mapping[str, Any]
"""What an OIDC provider says of somebody."""
GrantsOf: TypeAlias = Callable[[Claims], tuple[Grant, ...]]
"""Tells what somebody may of whom a provider says that."""


class Standing(enum.StrEnum):
    """What a session stands for."""

    KEY = "key"
    USER = "user"
    SHARE = "share"


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """A session as it is stored: *digest* is of the cookie, *subject* whom it stands for.

    *subject* is a key's digest, a person's name or a share's id; *claims* are what is kept of a person's.
    """

    digest: str
    standing: Standing
    subject: str
    claims: Claims
    created_at: dt.datetime
    seen_at: dt.datetime
    expires_at: dt.datetime


class SessionStore(Protocol):
    """Sessions, by SHA-256 digest; cookies themselves are never stored."""

    async def add_session(self, session: Session, *, most_each: int) -> None:
        """Store a new one; remove those that have expired, and the oldest of its subject beyond *most_each*."""

    async def find_session(self, digest: str) -> Session | None:
        """Return the session with this digest, expired or not."""

    async def touch_session(self, digest: str, *, now: dt.datetime) -> None:
        """Write down that it is used."""

    async def end_session(self, digest: str) -> None:
        """Remove it, if it is there."""


def digest(token: str) -> str:
    """Return what is stored of a secret of 32 random bytes."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_of(token: str) -> str:
    """Return what a request that changes something must show beside the cookie *token*."""
    return hmac.digest(token.encode(), b"hueshift csrf", "sha256").hex()


def is_csrf_of(token: str, shown: str) -> bool:
    """Whether *shown* is what belongs to the cookie *token*."""
    return hmac.compare_digest(csrf_of(token).encode(), shown.encode())


def nobody(_: Claims) -> tuple[Grant, ...]:
    """Grant nothing, where no provider is set: what it once said of somebody counts no more."""
    return ()


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """Whose a session is, and until when it lasts without being renewed by use."""

    principal: Principal
    expires_at: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SessionDesk:
    """Begins, recognises and ends sessions.

    A session ends *idle* after its last use and *longest* after its beginning, whatever comes first.
    """

    store: SessionStore
    keys: KeyStore
    shares: ShareStore
    clock: Clock
    idle: dt.timedelta
    longest: dt.timedelta
    grants_of: GrantsOf = nobody

    async def begin(
        self,
        standing: Standing,
        subject: str,
        *,
        claims: Claims | None = None,
        replaces: str | None = None,
        until: dt.datetime | None = None,
    ) -> tuple[str, dt.datetime]:
        """Begin a session and return its cookie and its end.

        Args:
            standing: What it stands for,
            subject: and for whom, as `Session` has it.
            claims: What is kept of a person's claims.
            replaces: The cookie that the browser had: whoever else may know it, it opens nothing any more.
            until: When it ends at the latest, if that is before *longest*.
        """
        if replaces is not None:
            await self.end(replaces)
        token, now = secrets.token_urlsafe(32), self.clock.now()
        expires_at = min(now + self.longest, until or dt.datetime.max.replace(tzinfo=dt.UTC))
        session = Session(digest(token), standing, subject, claims or {}, now, now, expires_at)
        await self.store.add_session(session, most_each=MAX_EACH)
        return token, expires_at

    async def recognise(self, token: str) -> Known:
        """Return whose session *token* is, and what they may now.

        Raises:
            UnauthorizedError: It is none, or none any more.
            RevokedKeyError: Its key was revoked.
        """
        found = await self.store.find_session(digest(token)) if _FORM.fullmatch(token) else None
        now = self.clock.now()
        if found is None or now >= min(found.expires_at, found.seen_at + self.idle):
            raise UnauthorizedError(_OVER)
        principal = await self._principal(found, now)
        if now - found.seen_at >= SEEN_EVERY:
            await self.store.touch_session(found.digest, now=now)
        return Known(principal, found.expires_at)

    async def end(self, token: str) -> None:
        """End the session of *token*, if it is one."""
        if _FORM.fullmatch(token):
            await self.store.end_session(digest(token))

    async def _principal(self, session: Session, now: dt.datetime) -> Principal:
        match session.standing:
            case Standing.KEY:
                key = await self.keys.find_key(session.subject)
                if key is None:
                    raise UnauthorizedError(_OVER)
                if key.revoked_at is not None:
                    raise RevokedKeyError(_OVER, name=key.name)
                return principal_of(key)
            case Standing.USER:
                return Principal(session.subject, PrincipalKind.USER, self.grants_of(session.claims))
            case Standing.SHARE:
                share = await self.shares.find_share(session.subject)
                if share is None or share.has_ended(now):
                    raise UnauthorizedError("the share link has expired or was revoked; ask for another one")
                return share_principal(share)
