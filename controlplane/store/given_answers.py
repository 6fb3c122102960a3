"""What requests with idempotency keys were answered."""

import datetime as dt
from typing import Final

import sqlalchemy as sa

from controlplane.errors import ConflictError, UnavailableError
from controlplane.ports import ANSWERS_KEPT, CLAIMED_FOR, GivenAnswer
from controlplane.store.engine import Tx
from controlplane.store.queries import Part
from controlplane.store.tables import given_answer, idempotency_key

CLEARED_AT_ONCE: Final = 100
"""Old answers that one new one clears away: more than it adds, so that they cannot pile up."""


class SqlGivenAnswers(Part):
    """The port `AnswerStore` on SQL."""

    __slots__ = ()

    async def claim_answer(self, key: str, *, request: str, digest: str, now: dt.datetime) -> GivenAnswer | None:
        return await self.database.write(lambda tx: _claim(tx, key, request, digest, now))

    async def keep_answer(self, key: str, answer: GivenAnswer, *, claimed_at: dt.datetime) -> None:
        values = {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}
        change = given_answer.update().where(_is_mine(key, claimed_at)).values(values)
        await self.database.write(lambda tx: tx.conn.execute(change))

    async def drop_claim(self, key: str, *, claimed_at: dt.datetime) -> None:
        removal = given_answer.delete().where(_is_mine(key, claimed_at))
        await self.database.write(lambda tx: tx.conn.execute(removal))


def _is_mine(key: str, claimed_at: dt.datetime) -> sa.ColumnElement[bool]:
    table = given_answer
    return sa.and_(table.c.key == key, table.c.at == claimed_at, table.c.status.is_(None))


def _claim(tx: Tx, key: str, request: str, digest: str, now: dt.datetime) -> GivenAnswer | None:
    tx.lock(f"answer.{key}")  # or two copies of one request would both find nothing
    table = given_answer
    for each in (given_answer, idempotency_key):
        old = sa.select(each.c.key).where(each.c.at < now - ANSWERS_KEPT).limit(CLEARED_AT_ONCE)
        tx.conn.execute(each.delete().where(each.c.key.in_(old)))
    found = tx.conn.execute(sa.select(table).where(table.c.key == key, table.c.at >= now - ANSWERS_KEPT)).first()
    if found is not None:
        if found.digest != digest:
            raise ConflictError(
                f"idempotency key {_bare(key)!r} was used for {found.request!r} with other content;"
                " send a new one with each request"
            )
        if found.status is not None:
            return GivenAnswer(found.status, found.headers, found.body)
        if found.at > now - CLAIMED_FOR:
            raise UnavailableError(f"{request!r} with this idempotency key is being answered; ask again in a moment")
    row = {"request": request, "digest": digest, "at": now, "status": None, "headers": {}, "body": b""}
    tx.conn.execute(table.delete().where(table.c.key == key))
    tx.conn.execute(table.insert(), {"key": key, **row})
    return None


def _bare(key: str) -> str:
    return key.partition("/")[2]
