"""API keys, by digest; the keys themselves are never stored."""

import dataclasses
import datetime as dt

import sqlalchemy as sa

from controlplane.errors import ConflictError, NotFoundError
from controlplane.ports import ApiKey
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.queries import Part

_COLUMNS = tuple(tables.api_key.c[field.name] for field in dataclasses.fields(ApiKey))


class SqlKeys(Part):
    """The port `KeyStore` on SQL."""

    __slots__ = ()

    async def add_key(self, key: ApiKey) -> None:
        def work(tx: Tx) -> None:
            tx.lock("api_key")
            table = tables.api_key
            live = sa.select(table.c.number).where(table.c.name == key.name, table.c.revoked_at.is_(None))
            if tx.conn.scalar(live) is not None:
                raise ConflictError(
                    f"name: {key.name!r} is taken by a live key; revoke that one or choose another name"
                )
            tx.conn.execute(table.insert(), dataclasses.asdict(key))

        await self.database.write(work)

    async def find_key(self, digest: str) -> ApiKey | None:
        table = tables.api_key
        query = sa.select(*_COLUMNS).where(table.c.digest == digest, table.c.revoked_at.is_(None))

        def work(tx: Tx) -> ApiKey | None:
            row = tx.conn.execute(query).mappings().first()
            return None if row is None else ApiKey(**row)

        return await self.database.read(work)

    async def list_keys(self) -> tuple[ApiKey, ...]:
        query = sa.select(*_COLUMNS).order_by(tables.api_key.c.number.desc())
        return await self.database.read(lambda tx: tuple(ApiKey(**row) for row in tx.conn.execute(query).mappings()))

    async def revoke_key(self, name: str, *, now: dt.datetime) -> None:
        def work(tx: Tx) -> None:
            table = tables.api_key
            live = table.c.revoked_at.is_(None)
            if tx.conn.execute(table.update().where(table.c.name == name, live).values(revoked_at=now)).rowcount == 0:
                known = tx.conn.scalars(sa.select(table.c.name).where(live).order_by(table.c.name))
                raise NotFoundError("API key", name, tuple(known))

        await self.database.write(work)
