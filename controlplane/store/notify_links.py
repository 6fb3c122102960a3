"""Links that decide at gates: digests, and the transaction in which one is used up and the rollout is told."""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import NotFoundError
from controlplane.notify.links import Link, LinkAction, check_link, gate_of
from controlplane.ports import Rollout
from controlplane.rollout.model import Abort, Command, Promote
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.notify_tables import notify_link
from controlplane.store.queries import Part, lock_service, rollout_of
from controlplane.store.rollouts import insert_command

_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Link))


class SqlNotifyLinks(Part):
    """The port `NotifyStore`'s part about links."""

    __slots__ = ()

    async def keep_links(self, links: Sequence[Link]) -> bool:
        def work(tx: Tx) -> bool:
            gate = gate_of(_rollout(tx.conn, links[0].rollout))
            if gate is None or (gate.step, gate.since) != (links[0].step, links[0].since):
                return False
            tx.conn.execute(notify_link.insert(), [dataclasses.asdict(link) for link in links])
            return True

        return await self.database.write(work)

    async def load_link(self, digest: str) -> tuple[Link, Rollout]:
        def work(tx: Tx) -> tuple[Link, Rollout]:
            link = _link(tx.conn, digest)
            return link, _rollout(tx.conn, link.rollout)

        return await self.database.read(work)

    async def use_link(self, digest: str, *, why: str, now: dt.datetime) -> Link:
        return await self.database.write(lambda tx: _use(tx, digest, why, now))


def _use(tx: Tx, digest: str, why: str, now: dt.datetime) -> Link:
    # Of two links of one gate, one is first. Before the rollout's row, in the order of all other writers.
    lock_service(tx, _link(tx.conn, digest).service)
    link = _link(tx.conn, digest)
    row = tx.conn.execute(sa.select(tables.rollout).where(tables.rollout.c.id == link.rollout).with_for_update()).one()
    check_link(link, rollout_of(row), now=now)
    of_gate = sa.and_(notify_link.c.rollout == link.rollout, notify_link.c.since == link.since)
    tx.conn.execute(notify_link.update().where(of_gate, notify_link.c.used_at.is_(None)).values(used_at=now))
    approves = link.action is LinkAction.APPROVE
    command: Command = Promote(by=link.by, why=why) if approves else Abort(by=link.by, why=why)
    insert_command(tx, link.service, command, key=None, now=now)
    # A turn that has read the rollout before, without this command, must not move it: it looks again.
    tx.conn.execute(tables.rollout.update().where(tables.rollout.c.id == link.rollout).values(version=row.version + 1))
    return dataclasses.replace(link, used_at=now)


def _link(conn: sa.Connection, digest: str) -> Link:
    row = conn.execute(sa.select(notify_link).where(notify_link.c.digest == digest)).first() if digest else None
    if row is None:
        raise NotFoundError("link", "that you have opened")
    return Link(**{**{name: getattr(row, name) for name in _FIELDS}, "action": LinkAction(row.action)})


def _rollout(conn: sa.Connection, rollout: str) -> Rollout:
    found: sa.Row[Any] = conn.execute(sa.select(tables.rollout).where(tables.rollout.c.id == rollout)).one()
    return rollout_of(found)
