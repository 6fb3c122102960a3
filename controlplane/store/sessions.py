"""Sessions, log-ins that have begun, and share links; of each secret only the digest."""

import dataclasses
import datetime as dt
from collections.abc import Collection
from typing import Final

import sqlalchemy as sa

from controlplane.auth.logins import Login
from controlplane.auth.sessions import Session, Standing
from controlplane.auth.shares import Share
from controlplane.errors import NotFoundError
from controlplane.ports import Change
from controlplane.store.access_tables import login, session, share
from controlplane.store.audit import append_change
from controlplane.store.engine import Tx
from controlplane.store.queries import Part

MAX_LOGINS: Final = 10_000
"""Log-ins that may have begun at once; one more ends the oldest."""
_SHARE: Final = tuple(share.c[field.name] for field in dataclasses.fields(Share))


class SqlSessions(Part):
    """The ports `SessionStore`, `LoginStore` and `ShareStore` on SQL."""

    __slots__ = ()

    async def add_session(self, session_: Session, *, most_each: int) -> None:
        def work(tx: Tx) -> None:
            tx.conn.execute(session.delete().where(session.c.expires_at <= session_.created_at))
            newest = (
                sa.select(session.c.digest)
                .where(session.c.subject == session_.subject)
                .order_by(session.c.created_at.desc(), session.c.digest)
                .limit(most_each - 1)
            )
            others = session.c.digest.not_in(tx.conn.scalars(newest).all())
            tx.conn.execute(session.delete().where(session.c.subject == session_.subject, others))
            row = {field.name: getattr(session_, field.name) for field in dataclasses.fields(session_)}
            tx.conn.execute(
                session.insert(), {**row, "standing": session_.standing.value, "claims": dict(row["claims"])}
            )

        await self.database.write(work)

    async def find_session(self, digest: str) -> Session | None:
        query = sa.select(session).where(session.c.digest == digest)

        def work(tx: Tx) -> Session | None:
            row = tx.conn.execute(query).mappings().first()
            return None if row is None else Session(**{**row, "standing": Standing(row["standing"])})

        return await self.database.read(work)

    async def touch_session(self, digest: str, *, now: dt.datetime) -> None:
        change = session.update().where(session.c.digest == digest).values(seen_at=now)
        await self.database.write(lambda tx: _run(tx, change))

    async def end_session(self, digest: str) -> None:
        await self.database.write(lambda tx: _run(tx, session.delete().where(session.c.digest == digest)))

    async def add_login(self, login_: Login, *, keep: dt.timedelta) -> None:
        def work(tx: Tx) -> None:
            tx.conn.execute(login.delete().where(login.c.at < login_.at - keep))
            newest = sa.select(login.c.at).order_by(login.c.at.desc()).offset(MAX_LOGINS - 1).limit(1)
            too_old = tx.conn.scalar(newest)
            if too_old is not None:
                tx.conn.execute(login.delete().where(login.c.at <= too_old))
            tx.conn.execute(login.insert(), dataclasses.asdict(login_))

        await self.database.write(work)

    async def take_login(self, digest: str) -> Login | None:
        def work(tx: Tx) -> Login | None:
            row = tx.conn.execute(login.delete().where(login.c.digest == digest).returning(login)).mappings().first()
            return None if row is None else Login(**row)

        return await self.database.write(work)

    async def add_share(self, share_: Share, change: Change) -> None:
        def work(tx: Tx) -> None:
            tx.conn.execute(share.insert(), dataclasses.asdict(share_))
            words = f"link {share_.id} shares {share_.service} until {share_.expires_at:%Y-%m-%d %H:%M} UTC"
            append_change(tx.conn, "share-create", words, change, service=share_.service)

        await self.database.write(work)

    async def find_share(self, id: str) -> Share | None:  # noqa: A002 - what it is called
        return await self._share(share.c.id == id)

    async def find_shared(self, digest: str) -> Share | None:
        return await self._share(share.c.digest == digest)

    async def page_shares(
        self, *, services: Collection[str] | None, before: int | None, limit: int
    ) -> tuple[tuple[int, Share], ...]:
        query = sa.select(share.c.number.label("place"), *_SHARE).order_by(share.c.number.desc()).limit(limit)
        if services is not None:
            query = query.where(share.c.service.in_(tuple(services)))
        if before is not None:
            query = query.where(share.c.number < before)
        return await self.database.read(
            lambda tx: tuple((row["place"], _share_of(row)) for row in tx.conn.execute(query).mappings())
        )

    async def revoke_share(self, id: str, change: Change) -> None:  # noqa: A002 - what it is called
        def work(tx: Tx) -> None:
            live = sa.and_(share.c.id == id, share.c.revoked_at.is_(None))
            ended = tx.conn.execute(share.update().where(live).values(revoked_at=change.at).returning(share.c.service))
            service = ended.scalar_one_or_none()
            if service is None:
                raise NotFoundError("live share", id, None)
            append_change(tx.conn, "share-revoke", f"link {id} was revoked", change, service=service)

        await self.database.write(work)

    async def _share(self, condition: sa.ColumnElement[bool]) -> Share | None:
        def work(tx: Tx) -> Share | None:
            row = tx.conn.execute(sa.select(*_SHARE).where(condition)).mappings().first()
            return None if row is None else _share_of(row)

        return await self.database.read(work)


def _share_of(row: sa.RowMapping) -> Share:
    return Share(**{field.name: row[field.name] for field in dataclasses.fields(Share)})


def _run(tx: Tx, statement: sa.Update | sa.Delete) -> None:
    tx.conn.execute(statement)
