"""The one picture that snapshots are made from."""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from controlplane.ports import Desired, DesiredService
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.queries import (
    Part,
    active_rollouts,
    load_splits,
    proven_revision,
    rollout_of,
    unrejected_revisions,
    upsert,
)
from controlplane.store.specs import revision_of
from controlplane.wake import Topic


class SqlDesired(Part):
    """The port `DesiredStore` on SQL."""

    __slots__ = ()

    async def load_desired(self) -> Desired:
        return await self.database.read(self._load_desired)

    def _load_desired(self, tx: Tx) -> Desired:
        splits = load_splits(tx.conn)
        rollouts = active_rollouts(tx.conn)
        services = []
        # A service whose every revision was refused is left out: none of them ever carried traffic.
        for name, row in sorted(unrejected_revisions(tx.conn).items()):
            active = rollouts.get(name)
            service = DesiredService(
                revision=revision_of(row, self.specs.load(tx.conn, row)),
                split=splits[name],
                rollout=None if active is None else rollout_of(active),
            )
            services.append(self._with_revision_before(tx, service) if service.on_trial else service)
        return Desired(services=tuple(services), addresses=_addresses(tx.conn))

    def _with_revision_before(self, tx: Tx, service: DesiredService) -> DesiredService:
        row = proven_revision(tx.conn, service.revision.spec.name)
        if row is None:
            return service
        return dataclasses.replace(service, before=revision_of(row, self.specs.load(tx.conn, row)))

    async def save_addresses(self, addresses: Mapping[str, tuple[str, ...]], *, now: dt.datetime) -> None:
        def work(tx: Tx) -> None:
            known = _addresses(tx.conn)
            if known == addresses:
                return
            gone = sorted(known.keys() - addresses.keys())
            if gone:
                tx.conn.execute(tables.resolved_address.delete().where(tables.resolved_address.c.host.in_(gone)))
            upsert(
                tx.conn,
                tables.resolved_address,
                [
                    {"host": host, "addresses": list(found), "resolved_at": now}
                    for host, found in sorted(addresses.items())
                    if known.get(host) != found
                ],
            )
            tx.announce(Topic.DESIRED)

        await self.database.write(work)


_ADDRESSES: Final = sa.select(tables.resolved_address).order_by(tables.resolved_address.c.host)


def _addresses(conn: sa.Connection) -> dict[str, tuple[str, ...]]:
    return {row.host: tuple(row.addresses) for row in conn.execute(_ADDRESSES)}
