"""What this package needs from outside: something that remembers keys, and what was changed or refused."""

import dataclasses
import datetime as dt
import enum
from collections.abc import Collection, Sequence
from typing import Protocol

from controlplane.auth.roles import EVERYTHING, Grant
from controlplane.ports import Change


@dataclasses.dataclass(frozen=True, slots=True)
class ApiKey:
    """A key's public half: its name is the actor in the audit, its prefix helps people recognise it.

    *grants* is None for a key from before there were any, which may do everything.
    """

    name: str
    prefix: str
    digest: str
    created_at: dt.datetime
    revoked_at: dt.datetime | None = None
    grants: tuple[Grant, ...] | None = None

    @property
    def may(self) -> tuple[Grant, ...]:
        """What it may do."""
        return EVERYTHING if self.grants is None else self.grants


class KeyStore(Protocol):
    """API keys, by SHA-256 digest; the keys themselves are never stored."""

    async def add_key(self, key: ApiKey, change: Change) -> None:
        """Store a new key. Raises ConflictError when the name is taken by a live key."""

    async def find_key(self, digest: str) -> ApiKey | None:
        """Return the key with this digest, revoked or not."""

    async def find_live_key(self, name: str) -> ApiKey | None:
        """Return the live key of this name."""

    async def list_keys(self) -> tuple[ApiKey, ...]:
        """Return all keys, newest first."""

    async def page_keys(self, *, before: int | None, limit: int) -> tuple[tuple[int, ApiKey], ...]:
        """Return the *limit* newest keys that are older than number *before*, with their numbers, newest first."""

    async def revoke_key(self, name: str, change: Change, *, spare_last_admin: bool = False) -> None:
        """End a key.

        Raises:
            NotFoundError: There is no live one of this name.
            ConflictError: It is the last one that may do everything, and that is to be spared.
        """

    async def set_grants(
        self, name: str, grants: tuple[Grant, ...], change: Change, *, spare_last_admin: bool = False
    ) -> bool:
        """Have a live key have these grants from now on; say whether that is new. Raises as `revoke_key` does."""


class Outcome(enum.StrEnum):
    """What became of an attempt."""

    DONE = "done"
    REFUSED = "refused"
    """It was allowed, but not possible when its turn came."""
    DENIED = "denied"
    """Whoever tried it may not."""


@dataclasses.dataclass(frozen=True, slots=True)
class AuditEntry:
    """Somebody changed something, or tried to. *count* attempts are told as one, from *at* to *last_at*.

    *place* orders entries of one moment and is part of what names them.
    """

    place: str
    at: dt.datetime
    last_at: dt.datetime
    by: str
    what: str
    service: str
    rollout: str | None
    outcome: Outcome
    words: str
    count: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted; None is all.

    *services* are those that the reader may know of; *whole* is with what no history tells: keys, and what was denied.
    """

    by: str | None = None
    service: str | None = None
    outcome: Outcome | None = None
    services: Collection[str] | None = None
    whole: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Denial:
    """An attempt that was denied, before it is a row. Those with one *bucket* are one row."""

    bucket: str
    by: str
    what: str
    service: str
    words: str
    at: dt.datetime
    count: int = 1


class AuditStore(Protocol):
    """Who changed what, who tried to: what rollouts' history tells of people, and what no history tells."""

    async def add_denial(self, denial: Denial, *, keep: dt.timedelta) -> None:
        """Count it to its bucket's row, which is made if need be; forget what was denied longer ago than *keep*."""

    async def page_audit(
        self, wanted: AuditFilter, *, before: tuple[dt.datetime, str] | None, limit: int
    ) -> Sequence[AuditEntry]:
        """Return the *limit* newest entries older than *before* (moment and place), newest first."""
