"""API keys, by digest, and what they may do; the keys themselves are never stored."""

from typing import Any, Final

import sqlalchemy as sa

from controlplane.auth.ports import ApiKey
from controlplane.auth.roles import EVERYTHING, Grant, Role
from controlplane.errors import ConflictError, NotFoundError
from controlplane.ports import Change
from controlplane.store import tables
from controlplane.store.audit import append_change
from controlplane.store.engine import Tx
from controlplane.store.queries import Part

_TABLE: Final = tables.api_key
_LIVE: Final = _TABLE.c.revoked_at.is_(None)


class SqlKeys(Part):
    """The port `KeyStore` on SQL."""

    __slots__ = ()

    async def add_key(self, key: ApiKey, change: Change) -> None:
        def work(tx: Tx) -> None:
            tx.lock("api_key")
            if _live(tx, key.name) is not None:
                raise ConflictError(
                    f"name: {key.name!r} is taken by a live key; revoke that one or choose another name"
                )
            tx.conn.execute(_TABLE.insert(), _row_of(key))
            append_change(tx.conn, "key-create", f"the key {key.name!r} was made: {_shown(key.may)}", change)

        await self.database.write(work)

    async def find_key(self, digest: str) -> ApiKey | None:
        query = sa.select(_TABLE).where(_TABLE.c.digest == digest)

        def work(tx: Tx) -> ApiKey | None:
            row = tx.conn.execute(query).first()
            return None if row is None else _key_of(row)

        return await self.database.read(work)

    async def find_live_key(self, name: str) -> ApiKey | None:
        def work(tx: Tx) -> ApiKey | None:
            row = _live(tx, name)
            return None if row is None else _key_of(row)

        return await self.database.read(work)

    async def list_keys(self) -> tuple[ApiKey, ...]:
        query = sa.select(_TABLE).order_by(_TABLE.c.number.desc())
        return await self.database.read(lambda tx: tuple(_key_of(row) for row in tx.conn.execute(query)))

    async def page_keys(self, *, before: int | None, limit: int) -> tuple[tuple[int, ApiKey], ...]:
        query = sa.select(_TABLE).order_by(_TABLE.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(_TABLE.c.number < before)
        return await self.database.read(lambda tx: tuple((row.number, _key_of(row)) for row in tx.conn.execute(query)))

    async def revoke_key(self, name: str, change: Change, *, spare_last_admin: bool = False) -> None:
        def work(tx: Tx) -> None:
            found = _changed(tx, name)
            if spare_last_admin:
                _refuse_last_admin(tx, found, ())
            tx.conn.execute(_TABLE.update().where(_TABLE.c.number == found.number).values(revoked_at=change.at))
            append_change(tx.conn, "key-revoke", f"the key {name!r} was revoked", change)

        await self.database.write(work)

    async def set_grants(
        self, name: str, grants: tuple[Grant, ...], change: Change, *, spare_last_admin: bool = False
    ) -> bool:
        def work(tx: Tx) -> bool:
            found = _changed(tx, name)
            if _key_of(found).grants == grants:
                return False
            if spare_last_admin:
                _refuse_last_admin(tx, found, grants)
            tx.conn.execute(
                _TABLE.update().where(_TABLE.c.number == found.number).values(grants=grants_to_json(grants))
            )
            words = f"the key {name!r} may now: {_shown(grants)}; before: {_shown(_key_of(found).may)}"
            append_change(tx.conn, "key-grants", words, change)
            return True

        return await self.database.write(work)


def grants_to_json(grants: tuple[Grant, ...]) -> list[dict[str, str]]:
    """Return what is stored of *grants*."""
    return [{"role": grant.role.word, "service": grant.service} for grant in grants]


def grants_from_json(stored: list[dict[str, str]]) -> tuple[Grant, ...]:
    """Return the grants that were stored."""
    return tuple(Grant(Role[each["role"].upper()], each["service"]) for each in stored)


def _row_of(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "prefix": key.prefix,
        "digest": key.digest,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        "grants": sa.null() if key.grants is None else grants_to_json(key.grants),
    }


def _key_of(row: sa.Row[Any]) -> ApiKey:
    grants = None if row.grants is None else grants_from_json(row.grants)
    return ApiKey(row.name, row.prefix, row.digest, row.created_at, row.revoked_at, grants)


def _live(tx: Tx, name: str) -> sa.Row[Any] | None:
    return tx.conn.execute(sa.select(_TABLE).where(_TABLE.c.name == name, _LIVE)).first()


def _changed(tx: Tx, name: str) -> sa.Row[Any]:
    tx.lock("api_key")
    found = _live(tx, name)
    if found is None:
        known = tx.conn.scalars(sa.select(_TABLE.c.name).where(_LIVE).order_by(_TABLE.c.name))
        raise NotFoundError("API key", name, tuple(known))
    return found


def _refuse_last_admin(tx: Tx, changing: sa.Row[Any], grants: tuple[Grant, ...]) -> None:
    def is_admin(of: tuple[Grant, ...]) -> bool:
        return any(grant.covers(*_FULL) for grant in of)

    if is_admin(grants) or not is_admin(_key_of(changing).may):
        return
    others = tx.conn.execute(sa.select(_TABLE).where(_LIVE, _TABLE.c.number != changing.number))
    if not any(is_admin(_key_of(row).may) for row in others):
        raise ConflictError(
            f"{changing.name!r} is the last key that may do everything; make another one first, or do it on the"
            " control plane's own machine: hueshift keys"
        )


_FULL: Final = (EVERYTHING[0].role, EVERYTHING[0].service)


def _shown(grants: tuple[Grant, ...]) -> str:
    return ", ".join(str(grant) for grant in grants) or "nothing but jobs of its own"
