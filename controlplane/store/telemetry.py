"""Counts and histograms per version and tick; what Envoys say of their members."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.ports import (
    ClusterHealth,
    ClusterTick,
    CounterBase,
    HistogramGap,
    TelemetryBatch,
    TickRead,
)
from controlplane.rollout.windows import VersionTick
from controlplane.store import telemetry_tables as tables
from controlplane.store.codec import codes_from_json, histogram_from_bytes, histogram_to_bytes
from controlplane.store.engine import Tx
from controlplane.store.quality import prune_quality
from controlplane.store.queries import Part, upsert
from controlplane.store.tables import envoy_answer
from controlplane.wake import Topic

DEAD_AFTER_TICKS: Final = 10
"""A source that has not beaten for so long while others have holds no tick open: its process is gone."""


class SqlTelemetry(Part):
    """The port `TelemetryStore` on SQL."""

    __slots__ = ()

    async def record(self, batch: TelemetryBatch) -> None:
        await self.database.write(lambda tx: _record(tx, batch))

    async def load_bases(self) -> tuple[CounterBase, ...]:
        query = sa.select(tables.counter_base).order_by(tables.counter_base.c.node)
        return await self.database.read(
            lambda tx: tuple(
                CounterBase(node=row.node, epoch=row.epoch, counters=row.counters, at=row.at)
                for row in tx.conn.execute(query)
            )
        )

    async def load_ticks(self, clusters: Sequence[str], *, after: int, limit: int = 600) -> tuple[TickRead, ...]:
        return await self.database.read(lambda tx: _load_ticks(tx.conn, clusters, after=after, limit=limit))

    async def load_health(self) -> tuple[ClusterHealth, ...]:
        return await self.database.read(
            lambda tx: tuple(ClusterHealth(**row) for row in tx.conn.execute(_HEALTH).mappings())
        )

    async def forget_health(self, nodes: Sequence[str]) -> None:
        def work(tx: Tx) -> None:
            table = tables.cluster_health
            if tx.conn.execute(table.delete().where(table.c.node.in_(nodes))).rowcount:
                tx.announce(Topic.FLEET)

        if nodes:
            await self.database.write(work)

    async def load_gaps(self, *, since: dt.datetime) -> tuple[HistogramGap, ...]:
        table = tables.histogram_gap
        query = sa.select(table).where(table.c.until > since).order_by(table.c.since, table.c.node)
        return await self.database.read(
            lambda tx: tuple(HistogramGap(**row) for row in tx.conn.execute(query).mappings())
        )

    async def prune_telemetry(self, *, before_tick: int) -> None:
        def work(tx: Tx) -> None:
            before = dt.datetime.fromtimestamp(before_tick, dt.UTC)
            tx.conn.execute(tables.telemetry_tick.delete().where(tables.telemetry_tick.c.tick < before_tick))
            tx.conn.execute(tables.telemetry_beat.delete().where(tables.telemetry_beat.c.tick < before_tick))
            tx.conn.execute(tables.judged_tick.delete().where(tables.judged_tick.c.tick < before_tick))
            tx.conn.execute(tables.query_sample.delete().where(tables.query_sample.c.tick < before_tick))
            tx.conn.execute(tables.counter_base.delete().where(tables.counter_base.c.at < before))
            tx.conn.execute(tables.histogram_gap.delete().where(tables.histogram_gap.c.until < before))
            tx.conn.execute(envoy_answer.delete().where(envoy_answer.c.at < before))
            prune_quality(tx.conn, before)

        await self.database.write(work)


_HEALTH: Final = sa.select(tables.cluster_health).order_by(
    tables.cluster_health.c.node, tables.cluster_health.c.cluster
)


def _record(tx: Tx, batch: TelemetryBatch) -> None:
    conn = tx.conn
    upsert(conn, tables.telemetry_tick, [_tick_to_row(batch.source, tick) for tick in batch.ticks])
    upsert(
        conn,
        tables.telemetry_beat,
        [
            {
                "tick": beat.tick,
                "source": batch.source,
                "reporting": beat.reporting,
                "silent": beat.silent,
                "closed": beat.closed,
            }
            for beat in batch.beats
        ],
    )
    upsert(
        conn,
        tables.counter_base,
        [
            {"node": base.node, "epoch": base.epoch, "counters": dict(base.counters), "at": base.at}
            for base in batch.bases
        ],
    )
    upsert(
        conn,
        tables.cluster_health,
        [
            {"node": health.node, "cluster": health.cluster, "healthy": health.healthy, "total": health.total}
            for health in batch.health
        ],
    )
    upsert(
        conn,
        tables.histogram_gap,
        [{"node": gap.node, "since": gap.since, "until": gap.until} for gap in batch.gaps],
    )
    tx.announce(Topic.TELEMETRY)


def _tick_to_row(source: str, tick: ClusterTick) -> dict[str, Any]:
    counts = tick.counts
    return {
        "tick": tick.tick,
        "cluster": tick.cluster,
        "source": source,
        "completed": counts.completed,
        "errors": counts.errors,
        "started": counts.started,
        "active": counts.active,
        "latency": histogram_to_bytes(counts.latency),
        "codes": dict(counts.codes),
    }


# -- reading -----------------------------------------------------------------------------------------------------------


_BEATS: Final = tables.telemetry_beat
_AFTER: Final = sa.bindparam("after", type_=sa.BigInteger)
_LAST: Final = sa.bindparam("last", type_=sa.BigInteger)

_FIRST_TICKS: Final = (
    sa.select(_BEATS.c.tick)
    .distinct()
    .where(_BEATS.c.tick > _AFTER)
    .order_by(_BEATS.c.tick)
    .limit(sa.bindparam("limit", type_=sa.Integer))
    .subquery()
)
_LAST_TICK: Final = sa.select(sa.func.max(_FIRST_TICKS.c.tick))
_BEATS_BETWEEN: Final = sa.select(_BEATS).where(_BEATS.c.tick > _AFTER, _BEATS.c.tick <= _LAST).order_by(_BEATS.c.tick)
_SOURCES: Final = (
    sa.select(
        sa.func.min(_BEATS.c.tick).label("oldest"),
        sa.func.max(_BEATS.c.tick).label("newest"),
        sa.func.max(sa.case((_BEATS.c.closed, _BEATS.c.tick), else_=_AFTER)).label("closed"),
    )
    .where(_BEATS.c.tick > _AFTER)
    .group_by(_BEATS.c.source)
)
_COUNTS: Final = sa.select(tables.telemetry_tick).where(
    tables.telemetry_tick.c.tick > _AFTER,
    tables.telemetry_tick.c.tick <= _LAST,
    tables.telemetry_tick.c.cluster.in_(sa.bindparam("clusters", expanding=True)),
)


def _load_ticks(conn: sa.Connection, clusters: Sequence[str], *, after: int, limit: int) -> tuple[TickRead, ...]:
    last: int | None = conn.scalar(_LAST_TICK, {"after": after, "limit": limit})
    if last is None:
        return ()
    open_spans = _open_spans(conn, after)
    reporting: dict[int, int] = {}
    silent: dict[int, int] = {}
    for row in conn.execute(_BEATS_BETWEEN, {"after": after, "last": last}):
        reporting[row.tick] = reporting.get(row.tick, 0) + row.reporting
        silent[row.tick] = silent.get(row.tick, 0) + row.silent
    counts = _sum_counts(conn, clusters, after=after, last=last)
    return tuple(
        TickRead(
            tick=tick,
            counts=counts.get(tick, {}),
            reporting=reporting[tick],
            silent=silent[tick],
            closed=not any(tick in span for span in open_spans),
        )
        for tick in reporting
    )


def _open_spans(conn: sa.Connection, after: int) -> list[range]:
    """Return, per living source, the ticks since its first beat that it has not closed.

    Closing a tick closes those before it. A source that has just come holds up none of the ticks before it: a restart
    of ours must not make the past look unfinished.
    """
    sources = conn.execute(_SOURCES, {"after": after}).all()
    newest = max(source.newest for source in sources)
    return [
        range(max(source.closed + 1, source.oldest), source.newest + 1)
        for source in sources
        if newest - source.newest < DEAD_AFTER_TICKS
    ]


def _sum_counts(
    conn: sa.Connection, clusters: Sequence[str], *, after: int, last: int
) -> dict[int, dict[str, VersionTick]]:
    sums: dict[int, dict[str, VersionTick]] = {}
    for row in conn.execute(_COUNTS, {"after": after, "last": last, "clusters": list(clusters)}):
        counts = VersionTick(
            completed=row.completed,
            errors=row.errors,
            started=row.started,
            active=row.active,
            latency=histogram_from_bytes(row.latency),
            codes=codes_from_json(row.codes),
        )
        of_tick = sums.setdefault(row.tick, {})
        known = of_tick.get(row.cluster)
        of_tick[row.cluster] = counts if known is None else known + counts
    return sums
