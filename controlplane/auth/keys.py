"""API keys: made once, shown once, kept only as a SHA-256 digest.

A key is 32 random bytes, so a fast digest is enough: nobody can guess what a slow one would have to protect.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import os
import pathlib
import re
import secrets
from collections.abc import Iterable

from controlplane.auth.ports import ApiKey, KeyStore
from controlplane.auth.roles import EVERYTHING, Grant, Principal, PrincipalKind, settle
from controlplane.clock import Clock
from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, RevokedKeyError, UnauthorizedError
from controlplane.ports import Change

MARK = "hs_"
ADMIN = "admin"
CONSOLE = "console"
"""Who changes keys on the control plane's own machine, where nobody asks for one."""

_UNKNOWN = "the API key is not known or was revoked; make one with: hueshift keys create NAME"
SHOWN_CHARS = len(MARK) + 6
_FORM = re.compile(rf"{MARK}[0-9a-f]{{64}}")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,61}[A-Za-z0-9])?")


def make_key() -> str:
    """Return a new key."""
    return MARK + secrets.token_hex(32)


def digest(key: str) -> str:
    """Return what is stored of *key*."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_key_name(name: str) -> None:
    """Refuse a name that would be hard to read in the audit.

    Raises:
        InvalidInputError: It has other characters, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError("name", f"{name[:80]!r} cannot name a key", "use 1 to 63 of a-z, 0-9, . _ @ and -")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """The keys that are known: tells who calls, makes new ones."""

    store: KeyStore
    clock: Clock

    async def authenticate(self, key: str) -> Principal:
        """Return who has the live key *key*, and what they may do now.

        Raises:
            UnauthorizedError: It is not one.
            RevokedKeyError: It was one.
        """
        wanted = digest(key)
        found = await self.store.find_key(wanted) if _FORM.fullmatch(key) else None
        if found is None or not hmac.compare_digest(found.digest, wanted):
            raise UnauthorizedError(_UNKNOWN)
        if found.revoked_at is not None:
            raise RevokedKeyError(_UNKNOWN, name=found.name)
        return principal_of(found)

    async def create(
        self, name: str, grants: tuple[Grant, ...] = EVERYTHING, *, by: str = CONSOLE, why: str = ""
    ) -> str:
        """Make a key for *name* and return it; it cannot be shown again.

        Raises:
            InvalidInputError: *name* cannot name a key.
            ConflictError: A live key has that name.
        """
        check_key_name(name)
        key = make_key()
        await self._add(name, key, settle(grants), self._change(by, why))
        return key

    async def revoke(self, name: str, *, by: str = CONSOLE, why: str = "", spare_last_admin: bool = False) -> None:
        """End the live key of *name*.

        Raises:
            NotFoundError: There is none.
            ConflictError: It is the last one that may do everything, and that is to be spared.
        """
        await self.store.revoke_key(name, self._change(by, why), spare_last_admin=spare_last_admin)

    async def set_grants(
        self,
        name: str,
        grants: Iterable[Grant],
        *,
        by: str = CONSOLE,
        why: str = "",
        spare_last_admin: bool = False,
    ) -> tuple[Grant, ...]:
        """Have the live key of *name* have *grants* and no others; return them. Raises as `revoke` does."""
        settled = settle(grants)
        await self.store.set_grants(name, settled, self._change(by, why), spare_last_admin=spare_last_admin)
        return settled

    async def find(self, name: str) -> ApiKey:
        """Return the live key of *name*.

        Raises:
            NotFoundError: There is none.
        """
        found = await self.store.find_live_key(name)
        if found is None:
            known = {key.name for key in await self.store.list_keys() if key.revoked_at is None}
            raise NotFoundError("API key", name, tuple(sorted(known)))
        return found

    async def ensure_admin_key(self, path: pathlib.Path) -> bool:
        """Make the first key if there has never been one, and write it to *path*, mode 0600. Say whether it was made.

        The file comes first: a crash in between leaves a key that the next start makes valid, never a lost one.

        Raises:
            InvalidInputError: *path* cannot be written, or holds something else.
        """
        if await self.store.list_keys():
            return False
        key, written = await asyncio.to_thread(_write_or_read, path)
        try:
            await self._add(ADMIN, key, EVERYTHING, self._change(CONSOLE, "the first start"))
        except ConflictError:
            # Another replica was faster. Its key is the one that counts; ours must not lie around.
            if written:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            return False
        return True

    async def _add(self, name: str, key: str, grants: tuple[Grant, ...], change: Change) -> None:
        made = ApiKey(name, key[:SHOWN_CHARS], digest(key), change.at, grants=grants)
        await self.store.add_key(made, change)

    def _change(self, by: str, why: str) -> Change:
        return Change(by, why, self.clock.now())


def principal_of(key: ApiKey) -> Principal:
    """Return who has a key."""
    return Principal(key.name, PrincipalKind.KEY, key.may)


async def ensure_admin_key(store: KeyStore, path: pathlib.Path, clock: Clock) -> bool:
    """Make the first key of an empty table; see `KeyRing.ensure_admin_key`."""
    return await KeyRing(store=store, clock=clock).ensure_admin_key(path)


def _write_or_read(path: pathlib.Path) -> tuple[str, bool]:
    """Return a new key that only the owner can read at *path*, or the one that is there already."""
    key = make_key()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - the mode must hold from the first byte
            file.write(f"{key}\n")
        try:
            os.link(draft, path)  # appears whole, and never over another
        except FileExistsError:
            return _read(path), False
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
    except OSError as exc:
        raise InvalidInputError(str(path), f"cannot be written ({exc.strerror})", "set HUESHIFT_API_KEY_FILE") from exc
    return key, True


def _read(path: pathlib.Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
        path.chmod(0o600)
    except (OSError, UnicodeError) as exc:
        raise InvalidInputError(str(path), "cannot be read", "remove it, or set HUESHIFT_API_KEY_FILE") from exc
    if not _FORM.fullmatch(key):
        raise InvalidInputError(str(path), "holds something else than a key", "remove it, or set HUESHIFT_API_KEY_FILE")
    return key
