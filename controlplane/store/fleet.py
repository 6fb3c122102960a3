"""Which Envoys are connected and what they run; which snapshots were published."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.ports import NAMED, EnvoyAnswer, NodeStatus, SnapshotRecord, SnapshotStatus
from controlplane.store import tables
from controlplane.store.codec import types_from_text, types_to_text
from controlplane.store.engine import Tx
from controlplane.store.event_log import append_answers
from controlplane.store.queries import Part, insert_or
from controlplane.wake import Topic


class SqlFleet(Part):
    """The port `FleetStore` on SQL."""

    __slots__ = ()

    async def record_nodes(self, nodes: Sequence[NodeStatus], *, answers: Sequence[EnvoyAnswer] = ()) -> None:
        def work(tx: Tx) -> None:
            if nodes:
                _record_nodes(tx, nodes)
            append_answers(tx.conn, answers)
            tx.announce(Topic.FLEET)

        if nodes or answers:
            await self.database.write(work)

    async def load_nodes(self) -> tuple[NodeStatus, ...]:
        return await self.database.read(lambda tx: tuple(_node_of(row) for row in tx.conn.execute(_NODES).all()))

    async def forget_replica(self, replica: str, *, now: dt.datetime) -> None:
        def work(tx: Tx) -> None:
            table = tables.node_status
            mine = sa.and_(table.c.replica == replica, table.c.disconnected_at.is_(None))
            if tx.conn.execute(table.update().where(mine).values(disconnected_at=now)).rowcount:
                tx.announce(Topic.FLEET)

        await self.database.write(work)

    async def propose_snapshot(self, snapshot: SnapshotRecord) -> None:
        await self.database.write(lambda tx: _propose_snapshot(tx, snapshot))

    async def mark_snapshot(self, group: str, version: str, status: SnapshotStatus, words: str) -> None:
        def work(tx: Tx) -> None:
            table = tables.snapshot
            changed = tx.conn.execute(
                table.update()
                .where(table.c.node_group == group, table.c.version == version)
                .where(table.c.status != SnapshotStatus.GOOD.value)
                .where(sa.or_(table.c.status != status.value, table.c.words != words))
                .values(status=status.value, words=words)
            )
            if changed.rowcount:
                tx.announce(Topic.FLEET)

        await self.database.write(work)

    async def load_newest_snapshot(self, group: str) -> SnapshotRecord | None:
        return await self._snapshot(_NEWEST, group=group)

    async def load_last_good_snapshot(self, group: str) -> SnapshotRecord | None:
        return await self._snapshot(_LAST_GOOD, group=group)

    async def find_snapshot(self, group: str, version: str) -> SnapshotRecord | None:
        return await self._snapshot(_BY_VERSION, group=group, version=version)

    async def list_snapshot_groups(self) -> tuple[str, ...]:
        return await self.database.read(lambda tx: tuple(tx.conn.scalars(_GROUPS)))

    async def find_config(self, kind: str, version: str) -> SnapshotRecord | None:
        keys = (kind, f"{kind}{NAMED}")
        has_version = sa.or_(*(tables.snapshot.c.versions[key].as_string() == version for key in keys))
        newest = sa.select(tables.snapshot).where(has_version).order_by(tables.snapshot.c.serial.desc()).limit(1)
        return await self._snapshot(newest)

    async def prune_snapshots(self, *, keep: int) -> None:
        def work(tx: Tx) -> None:
            table = tables.snapshot
            serial = table.c.serial
            kept: set[int] = set(tx.conn.scalars(_LAST_GOOD_SERIALS))
            for group in tx.conn.scalars(_GROUPS).all():
                newest = sa.select(serial).where(table.c.node_group == group).order_by(serial.desc()).limit(keep)
                kept |= set(tx.conn.scalars(newest))
            tx.conn.execute(table.delete().where(serial.not_in(kept)))

        await self.database.write(work)

    async def _snapshot(self, query: sa.Select[Any], **values: str) -> SnapshotRecord | None:
        def work(tx: Tx) -> SnapshotRecord | None:
            row = tx.conn.execute(query, values).first()
            return None if row is None else _snapshot_of(row)

        return await self.database.read(work)


# What Envoys said stays text until it is known to be new: of a thousand rows, most say the same.
_NODES: Final = sa.select(
    *(column for column in tables.node_status.c if column.name != "types"),
    sa.cast(tables.node_status.c.types, sa.Text).label("types"),
).order_by(tables.node_status.c.node)
_OF_GROUP: Final = sa.select(tables.snapshot).where(tables.snapshot.c.node_group == sa.bindparam("group"))
_BY_SERIAL: Final = _OF_GROUP.order_by(tables.snapshot.c.serial.desc()).limit(1)
_NEWEST: Final = _BY_SERIAL.where(tables.snapshot.c.status != SnapshotStatus.REJECTED.value)
_LAST_GOOD: Final = _BY_SERIAL.where(tables.snapshot.c.status == SnapshotStatus.GOOD.value)
_BY_VERSION: Final = _OF_GROUP.where(tables.snapshot.c.version == sa.bindparam("version"))
_GROUPS: Final = sa.select(tables.snapshot.c.node_group).distinct().order_by(tables.snapshot.c.node_group)
_LAST_GOOD_SERIALS: Final = (
    sa.select(sa.func.max(tables.snapshot.c.serial))
    .where(tables.snapshot.c.status == SnapshotStatus.GOOD.value)
    .group_by(tables.snapshot.c.node_group)
)


# An Envoy that moved to another replica is connected there; the one it left may say so late.
_REPLACE_NODE: Final = insert_or(
    tables.node_status,
    """(node) DO UPDATE SET
        cluster = excluded.cluster, replica = excluded.replica, variant = excluded.variant,
        connected_at = excluded.connected_at, disconnected_at = excluded.disconnected_at, types = excluded.types,
        node_group = excluded.node_group, user_agent = excluded.user_agent, is_envoy = excluded.is_envoy
    WHERE excluded.disconnected_at IS NULL OR excluded.replica = node_status.replica""",
).bindparams(sa.bindparam("types", type_=sa.types.NULLTYPE))  # it is JSON text already


def _record_nodes(tx: Tx, nodes: Sequence[NodeStatus]) -> None:
    tx.conn.execute(
        _REPLACE_NODE,
        [
            {
                "node": node.node,
                "cluster": node.cluster,
                "replica": node.replica,
                "variant": node.variant,
                "connected_at": node.connected_at,
                "disconnected_at": node.disconnected_at,
                "types": types_to_text(tuple(node.types.items())),
                "node_group": node.group,
                "user_agent": node.user_agent,
                "is_envoy": node.is_envoy,
            }
            for node in nodes
        ],
    )


def _node_of(row: sa.Row[Any]) -> NodeStatus:
    return NodeStatus(
        node=row.node,
        cluster=row.cluster,
        replica=row.replica,
        variant=row.variant,
        connected_at=row.connected_at,
        disconnected_at=row.disconnected_at,
        types=types_from_text(row.types),
        group=row.node_group,
        user_agent=row.user_agent,
        is_envoy=row.is_envoy,
    )


def _propose_snapshot(tx: Tx, snapshot: SnapshotRecord) -> None:
    tx.lock("snapshot")  # or two replicas would take the same serial
    table = tables.snapshot
    serial = (tx.conn.scalar(sa.select(sa.func.max(table.c.serial))) or 0) + 1
    known = tx.conn.execute(
        table.update()
        .where(table.c.node_group == snapshot.group, table.c.version == snapshot.version)
        .values(serial=serial)
    )
    if known.rowcount == 0:
        tx.conn.execute(
            table.insert(),
            {
                "node_group": snapshot.group,
                "version": snapshot.version,
                "serial": serial,
                "versions": dict(snapshot.versions),
                "revisions": dict(snapshot.revisions),
                "content": snapshot.content,
                "status": snapshot.status.value,
                "words": snapshot.words,
                "at": snapshot.at,
            },
        )


def _snapshot_of(row: sa.Row[Any]) -> SnapshotRecord:
    return SnapshotRecord(
        version=row.version,
        versions=row.versions,
        revisions=row.revisions,
        content=row.content,
        status=SnapshotStatus(row.status),
        words=row.words,
        at=row.at,
        group=row.node_group,
    )
