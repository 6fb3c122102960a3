"""Telemetry summed up over minutes and hours: a year of a service is some thousand rows."""

import array
import collections
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from controlplane.ports import ClusterTick
from controlplane.rollout.windows import VersionTick
from controlplane.store.codec import codes_from_json, histogram_to_bytes
from controlplane.store.engine import Tx
from controlplane.store.queries import Part, upsert
from controlplane.store.telemetry_tables import telemetry_rollup, telemetry_tick

SOURCE_OF: Final = {60: 1, 3600: 60}
"""Seconds that a sum spans, and those of what it is made of."""

_NEWEST: Final = sa.select(sa.func.max(telemetry_rollup.c.begin)).where(
    telemetry_rollup.c.span_s == sa.bindparam("span", type_=sa.Integer)
)
_AFTER: Final = sa.bindparam("after", type_=sa.BigInteger)
_BEFORE: Final = sa.bindparam("before", type_=sa.BigInteger)
_MINUTES: Final = telemetry_rollup.c.span_s == 60
_NEXT: Final = {
    60: sa.select(sa.func.min(telemetry_tick.c.tick)).where(telemetry_tick.c.tick >= _AFTER),
    3600: sa.select(sa.func.min(telemetry_rollup.c.begin)).where(_MINUTES, telemetry_rollup.c.begin >= _AFTER),
}
_COUNTS: Final = ("cluster", "completed", "errors", "started", "active", "latency", "codes")
_PARTS: Final = {
    60: sa.select(telemetry_tick.c.tick.label("at"), *(telemetry_tick.c[name] for name in _COUNTS))
    .where(telemetry_tick.c.tick >= _AFTER, telemetry_tick.c.tick < _BEFORE)
    .order_by(telemetry_tick.c.tick),
    3600: sa.select(telemetry_rollup.c.begin.label("at"), *(telemetry_rollup.c[name] for name in _COUNTS))
    .where(_MINUTES, telemetry_rollup.c.begin >= _AFTER, telemetry_rollup.c.begin < _BEFORE)
    .order_by(telemetry_rollup.c.begin),
}
_SUMS: Final = (
    sa.select(telemetry_rollup)
    .where(
        telemetry_rollup.c.span_s == sa.bindparam("span", type_=sa.Integer),
        telemetry_rollup.c.begin >= _AFTER,
        telemetry_rollup.c.begin < _BEFORE,
        telemetry_rollup.c.cluster.in_(sa.bindparam("clusters", expanding=True)),
    )
    .order_by(telemetry_rollup.c.begin, telemetry_rollup.c.cluster)
)
_WINDOW: Final = -10  # as in `codec.histogram_to_bytes`


class SqlSums(Part):
    """The sums of the port `TelemetryStore` on SQL."""

    __slots__ = ()

    async def sum_up(self, span_s: int, *, until: int) -> bool:
        rows = await self.database.read(lambda tx: _sum_next(tx.conn, span_s, until))
        if rows:
            await self.database.write(lambda tx: upsert(tx.conn, telemetry_rollup, rows))
        return bool(rows)

    async def load_summed(
        self, clusters: Sequence[str], span_s: int, *, since: int, until: int, step_s: int = 1
    ) -> tuple[ClusterTick, ...]:
        values = {"span": span_s, "after": since, "before": until, "clusters": list(clusters)}
        return await self.database.read(lambda tx: _load_sums(tx.conn.execute(_SUMS, values), step_s))

    async def prune_sums(self, span_s: int, *, before: int) -> None:
        old = sa.and_(telemetry_rollup.c.span_s == span_s, telemetry_rollup.c.begin < before)

        def work(tx: Tx) -> None:
            tx.conn.execute(telemetry_rollup.delete().where(old))

        await self.database.write(work)


def _sum_next(conn: sa.Connection, span_s: int, until: int) -> list[dict[str, Any]]:
    newest = conn.scalar(_NEWEST, {"span": span_s})
    first = conn.scalar(_NEXT[span_s], {"after": 0 if newest is None else newest + span_s})
    if first is None:
        return []
    begin = first - first % span_s
    if begin + span_s > until:
        return []
    sums: dict[str, _Sum] = {}
    for row in conn.execute(_PARTS[span_s], {"after": begin, "before": begin + span_s}):
        sums.setdefault(row.cluster, _Sum()).add(row)
    return [{"span_s": span_s, "begin": begin, "cluster": cluster, **each.to_row()} for cluster, each in sums.items()]


def _load_sums(rows: Iterable[sa.Row[Any]], step_s: int) -> tuple[ClusterTick, ...]:
    gathered: dict[tuple[int, str], list[sa.Row[Any]]] = {}
    for row in rows:
        gathered.setdefault((row.begin // step_s, row.cluster), []).append(row)
    found = [_sum_of(parts) for parts in gathered.values()]
    return tuple(sorted(found, key=lambda tick: (tick.tick, tick.cluster)))


class _Sum:
    """Counts of one cluster, added up without making objects of the parts: there may be a hundred thousand."""

    def __init__(self) -> None:
        self._counts = {"completed": 0, "errors": 0, "started": 0}
        self._active = 0
        self._at = -1
        self._latency: list[int] = []
        self._codes: dict[str, int] = {}

    def add(self, row: sa.Row[Any]) -> None:
        for name in self._counts:
            self._counts[name] += getattr(row, name)
        self._active = row.active + (self._active if row.at == self._at else 0)
        self._at = row.at
        if row.completed:
            packed = array.array("I", zlib.decompress(row.latency, wbits=_WINDOW))
            if sys.byteorder == "big":
                packed.byteswap()
            if self._latency:
                self._latency = [mine + theirs for mine, theirs in zip(self._latency, packed, strict=True)]
            else:
                self._latency = packed.tolist()
        for code, count in row.codes.items():
            self._codes[code] = self._codes.get(code, 0) + count

    def to_row(self) -> dict[str, Any]:
        latency = self._latency or VersionTick.zero().latency
        return {
            **self._counts,
            "active": self._active,
            "latency": histogram_to_bytes(latency),
            "codes": dict(sorted(self._codes.items())),
        }


def _sum_of(rows: Sequence[sa.Row[Any]]) -> ClusterTick:
    """Add up the counts of one cluster, in order of time: a year of hours becomes its days here."""
    packed = b"".join(zlib.decompress(row.latency, wbits=_WINDOW) for row in rows)
    latency = np.frombuffer(packed, "<u4").reshape(len(rows), -1).sum(axis=0, dtype=np.int64)
    codes: collections.Counter[str] = collections.Counter()
    for row in rows:
        codes.update(row.codes)
    counts = VersionTick(
        completed=sum(row.completed for row in rows),
        errors=sum(row.errors for row in rows),
        started=sum(row.started for row in rows),
        active=rows[-1].active,
        latency=tuple(latency.tolist()),
        codes=codes_from_json(codes),
    )
    return ClusterTick(rows[-1].cluster, rows[-1].begin, counts)
