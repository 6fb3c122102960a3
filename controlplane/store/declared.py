"""What documents declared, and by whom; and the end of a service."""

import datetime as dt
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from controlplane.errors import ConflictError, PreconditionFailedError
from controlplane.ports import Revision
from controlplane.store import tables
from controlplane.store.catalogue import apply_spec
from controlplane.store.declared_tables import declaration
from controlplane.store.engine import Tx
from controlplane.store.queries import (
    Part,
    active_rollouts,
    append_history,
    audit,
    lock_service,
    newest_revisions,
    upsert,
    with_why,
)
from controlplane.store.steering import drop_line
from controlplane.traffic.declared import Declaration, DocumentKey
from controlplane.traffic.model import ServiceSpec
from controlplane.wake import Topic


class SqlDeclared(Part):
    """The port `DeclarationStore` on SQL."""

    __slots__ = ()

    async def load_declarations(self) -> tuple[Declaration, ...]:
        query = sa.select(declaration).order_by(declaration.c.kind, declaration.c.name)
        return await self.database.read(
            lambda tx: tuple(Declaration(**row) for row in tx.conn.execute(query).mappings())
        )

    async def apply_declared(
        self, spec: ServiceSpec, *, expected: int, by: str, why: str, now: dt.datetime
    ) -> tuple[Revision, bool]:
        def work(tx: Tx) -> tuple[Revision, bool]:
            tx.lock("catalogue")
            _check_newest(tx.conn, spec.name, expected)
            return apply_spec(tx, self.specs, spec, by=by, why=why, now=now)

        return await self.database.write(work)

    async def delete_service(self, name: str, *, expected: int | None, by: str, why: str, now: dt.datetime) -> None:
        def work(tx: Tx) -> None:
            tx.lock("catalogue")
            lock_service(tx, name)
            newest = newest_revisions(tx.conn, name)[name].number
            if expected is not None:
                _check_newest(tx.conn, name, expected)
            active = active_rollouts(tx.conn, name).get(name)
            if active is not None:
                raise ConflictError(
                    f"rollout {active.id} of {name!r} is active; abort it or wait until it has ended, then delete"
                )
            tx.conn.execute(tables.split_share.delete().where(tables.split_share.c.service == name))
            tx.conn.execute(tables.service.update().where(tables.service.c.name == name).values(gone_through=newest))
            tx.conn.execute(declaration.delete().where(declaration.c.service == name))
            # Or one would begin, long after, in a service that was declared anew.
            drop_line(tx.conn, name, words="the service was deleted", now=now)
            words = with_why("deleted; its history is kept", why)
            append_history(tx.conn, [audit(name, "delete", by=by, words=words, at=now)])
            tx.announce(Topic.DESIRED)

        await self.database.write(work)

    async def save_declarations(self, kept: Sequence[Declaration], *, removed: Collection[DocumentKey]) -> None:
        def work(tx: Tx) -> None:
            for kind, name in sorted(removed):
                tx.conn.execute(declaration.delete().where(declaration.c.kind == kind, declaration.c.name == name))
            rows = [
                {
                    "kind": one.kind,
                    "name": one.name,
                    "service": one.service,
                    "owner": one.owner,
                    "document": dict(one.document),
                    "generation": one.generation,
                    "by": one.by,
                    "at": one.at,
                    "rollout": one.rollout,
                }
                for one in kept
            ]
            upsert(tx.conn, declaration, rows)

        await self.database.write(work)


def _check_newest(conn: sa.Connection, service: str, expected: int) -> None:
    row = newest_revisions(conn, service).get(service)
    number = 0 if row is None else row.number
    if number != expected:
        raise PreconditionFailedError(
            f"service {service!r} is at revision {number}, not {expected}: someone else changed it; look again"
        )
