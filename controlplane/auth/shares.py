"""Share links: whoever has one may look at one service, until it expires or is revoked."""

import dataclasses
import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Collection
from typing import Final, Protocol

from controlplane.auth.roles import Grant, Principal, PrincipalKind, Role
from controlplane.clock import Clock
from controlplane.errors import InvalidInputError, UnauthorizedError
from controlplane.ports import Change

LONGEST: Final = dt.timedelta(days=90)
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """A link, without what makes it one: *digest* is of its token. *rollout* is what it opens at, "" for the newest."""

    id: str
    digest: str
    service: str
    rollout: str
    by: str
    why: str
    created_at: dt.datetime
    expires_at: dt.datetime
    revoked_at: dt.datetime | None = None

    def has_ended(self, now: dt.datetime) -> bool:
        """Whether it opens nothing any more."""
        return self.revoked_at is not None or now >= self.expires_at


class ShareStore(Protocol):
    """Share links, by SHA-256 digest; tokens themselves are never stored."""

    async def add_share(self, share: Share, change: Change) -> None:
        """Store a new one."""

    async def find_share(self, id: str) -> Share | None:  # noqa: A002 - what it is called
        """Return the share of this id, ended or not."""

    async def find_shared(self, digest: str) -> Share | None:
        """Return the share with this digest, ended or not."""

    async def page_shares(
        self, *, services: Collection[str] | None, before: int | None, limit: int
    ) -> tuple[tuple[int, Share], ...]:
        """Return the *limit* newest of *services* (None for all) older than number *before*, with their numbers."""

    async def revoke_share(self, id: str, change: Change) -> None:  # noqa: A002 - what it is called
        """End a share. Raises NotFoundError when there is no live one of this id."""


def share_principal(share: Share) -> Principal:
    """Return who came by *share*."""
    return Principal(f"share:{share.id}", PrincipalKind.SHARE, (Grant(Role.VIEWER, share.service),))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShareDesk:
    """Makes share links and opens them."""

    store: ShareStore
    clock: Clock

    async def create(
        self, service: str, rollout: str, *, expires_in: dt.timedelta, by: str, why: str
    ) -> tuple[str, Share]:
        """Make a link to *service*; return its token, which cannot be shown again, and what is stored.

        Raises:
            InvalidInputError: It would last for no time, or longer than `LONGEST`.
        """
        if not dt.timedelta(0) < expires_in <= LONGEST:
            raise InvalidInputError("expires_in", "is out of range", f"use more than nothing, at most {LONGEST.days}d")
        token, now = secrets.token_urlsafe(32), self.clock.now()
        share = Share(secrets.token_hex(6), _digest(token), service, rollout, by, why, now, now + expires_in)
        await self.store.add_share(share, Change(by, why, now))
        return token, share

    async def open(self, token: str) -> Share:
        """Return the live share of *token*.

        Raises:
            UnauthorizedError: It is none, or none any more.
        """
        found = await self.store.find_shared(_digest(token)) if _FORM.fullmatch(token) else None
        if found is None or found.has_ended(self.clock.now()):
            raise UnauthorizedError("the share link is not known, has expired or was revoked; ask for another one")
        return found

    async def revoke(self, id: str, *, by: str, why: str) -> None:  # noqa: A002 - what it is called
        """End a link, with the sessions that it opened. Raises NotFoundError."""
        await self.store.revoke_share(id, Change(by, why, self.clock.now()))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
