"""API keys: made once, shown once, and never a table without a way in."""

import dataclasses
import datetime as dt
import pathlib
import re
import stat
from typing import Any

import pytest

from controlplane.auth.keys import KeyRing, digest, ensure_admin_key, make_key
from controlplane.auth.ports import ApiKey, KeyStore
from controlplane.auth.roles import Grant
from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, UnauthorizedError
from controlplane.ports import Change
from tests import builders


class StillClock:
    """A clock that stands still."""

    def now(self) -> dt.datetime:
        return builders.NOW

    def steady(self) -> float:
        return 0.0

    async def sleep(self, delay: dt.timedelta) -> None:
        raise AssertionError(delay)


class MemoryKeys:
    """The keys' store, in a list; tests/contract holds the real one to the same promises."""

    def __init__(self) -> None:
        self.keys: list[ApiKey] = []

    async def add_key(self, key: ApiKey, change: Change) -> None:
        assert change.by
        if any(known.name == key.name and known.revoked_at is None for known in self.keys):
            raise ConflictError(f"name: {key.name!r} is taken by a live key")
        self.keys.append(key)

    async def find_key(self, digest: str) -> ApiKey | None:
        return next((key for key in self.keys if key.digest == digest), None)

    async def find_live_key(self, name: str) -> ApiKey | None:
        return next((key for key in self.keys if key.name == name and key.revoked_at is None), None)

    async def list_keys(self) -> tuple[ApiKey, ...]:
        return tuple(reversed(self.keys))

    async def page_keys(self, *, before: int | None, limit: int) -> tuple[tuple[int, ApiKey], ...]:
        found = [(number, key) for number, key in enumerate(self.keys) if before is None or number < before]
        return tuple(found[::-1][:limit])

    async def revoke_key(self, name: str, change: Change, *, spare_last_admin: bool = False) -> None:
        assert not spare_last_admin
        self._replace(name, revoked_at=change.at)

    async def set_grants(
        self, name: str, grants: tuple[Grant, ...], change: Change, *, spare_last_admin: bool = False
    ) -> bool:
        assert change.by
        assert not spare_last_admin
        return self._replace(name, grants=grants)

    def _replace(self, name: str, **changed: Any) -> bool:
        for place, key in enumerate(self.keys):
            if key.name == name and key.revoked_at is None:
                self.keys[place] = dataclasses.replace(key, **changed)
                return self.keys[place] != key
        raise NotFoundError("API key", name)


@pytest.fixture
def keys() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def ring(keys: MemoryKeys) -> KeyRing:
    return ring_of(keys)


def ring_of(store: KeyStore) -> KeyRing:
    return KeyRing(store=store, clock=StillClock())


def test_a_key_is_marked_long_and_never_the_same() -> None:
    made = {make_key() for _ in range(50)}
    assert len(made) == 50
    assert all(re.fullmatch(r"hs_[0-9a-f]{64}", key) for key in made)


async def test_a_key_opens_until_it_is_revoked(ring: KeyRing, keys: MemoryKeys) -> None:
    key = await ring.create("ci@github")
    assert (await ring.authenticate(key)).name == "ci@github"
    await ring.revoke("ci@github")
    with pytest.raises(UnauthorizedError, match="not known or was revoked"):
        await ring.authenticate(key)
    assert keys.keys[0].revoked_at == builders.NOW


async def test_what_is_stored_does_not_give_the_key_away(ring: KeyRing, keys: MemoryKeys) -> None:
    key = await ring.create("ada")
    (stored,) = keys.keys
    assert key not in repr(stored)
    assert stored.digest == digest(key)
    assert (stored.prefix, stored.created_at) == (key[:9], builders.NOW)


@pytest.mark.parametrize(
    "key", ["", "hs_", "hs_" + "0" * 63, "hs_" + "0" * 64, "hs_" + "Z" * 64, "é" * 67, "x" * 10_000]
)
async def test_anything_else_opens_nothing_and_is_not_repeated(ring: KeyRing, key: str) -> None:
    await ring.create("ada")
    with pytest.raises(UnauthorizedError) as refused:
        await ring.authenticate(key)
    assert not key or key not in str(refused.value)


async def test_a_digest_is_no_key(ring: KeyRing, keys: MemoryKeys) -> None:
    await ring.create("ada")
    with pytest.raises(UnauthorizedError):
        await ring.authenticate("hs_" + keys.keys[0].digest)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "-a", "x" * 64, "ä", "a/b"])
async def test_a_name_that_the_audit_could_not_show_is_refused(ring: KeyRing, name: str) -> None:
    with pytest.raises(InvalidInputError, match="name: "):
        await ring.create(name)


async def test_a_name_has_one_live_key(ring: KeyRing) -> None:
    await ring.create("ada")
    with pytest.raises(ConflictError):
        await ring.create("ada")
    await ring.revoke("ada")
    assert await ring.create("ada")
    with pytest.raises(NotFoundError):
        await ring.revoke("bob")


# -- the first key -----------------------------------------------------------------------------------------------------


async def test_the_first_start_writes_a_key_that_only_the_owner_can_read(
    ring: KeyRing, keys: MemoryKeys, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "new" / "admin.key"
    assert await ensure_admin_key(keys, path, StillClock())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await ring.authenticate(path.read_text("ascii").strip())).name == "admin"
    assert list(path.parent.iterdir()) == [path]


async def test_later_starts_make_no_key_even_if_all_were_revoked(
    ring: KeyRing, keys: MemoryKeys, tmp_path: pathlib.Path
) -> None:
    await ring.create("ada")
    await ring.revoke("ada")
    assert not await ring.ensure_admin_key(tmp_path / "admin.key")
    assert not (tmp_path / "admin.key").exists()
    assert len(keys.keys) == 1


async def test_a_crash_before_the_key_was_stored_leaves_one_that_the_next_start_makes_valid(
    ring: KeyRing, keys: MemoryKeys, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "admin.key"
    path.write_text(make_key())
    path.chmod(0o644)
    written = path.read_text("ascii")
    assert await ring.ensure_admin_key(path)
    assert path.read_text("ascii") == written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await ring.authenticate(written)).name == "admin"
    assert len(keys.keys) == 1


async def test_the_slower_of_two_replicas_keeps_no_key_of_its_own(tmp_path: pathlib.Path) -> None:
    class Overtaken(MemoryKeys):
        """Another replica stores its key between our look and our write."""

        async def list_keys(self) -> tuple[ApiKey, ...]:
            found = await super().list_keys()
            await ring_of(super()).create("admin")  # type: ignore[arg-type] # super() has the methods
            return found

    path = tmp_path / "admin.key"
    keys = Overtaken()
    assert not await ring_of(keys).ensure_admin_key(path)
    assert not path.exists()
    assert len(keys.keys) == 1


@pytest.mark.parametrize("content", ["something else", "hs_short", ""])
async def test_a_file_that_holds_something_else_is_not_touched(
    ring: KeyRing, keys: MemoryKeys, tmp_path: pathlib.Path, content: str
) -> None:
    path = tmp_path / "admin.key"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match="HUESHIFT_API_KEY_FILE"):
        await ring.ensure_admin_key(path)
    assert path.read_text() == content
    assert keys.keys == []


async def test_a_folder_that_cannot_be_written_is_named(ring: KeyRing, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        await ring.ensure_admin_key(tmp_path / "file" / "admin.key")
