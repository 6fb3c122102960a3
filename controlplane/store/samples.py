"""What queries told of rollouts: raw numbers, from which the judge's side takes the differences."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.ports import RolloutId
from controlplane.rollout.sampling import QuerySample, Reading
from controlplane.store.queries import Part, upsert
from controlplane.store.telemetry_tables import query_sample

_OF_ONE: Final = sa.select(query_sample).where(
    query_sample.c.rollout == sa.bindparam("of"), query_sample.c.name == sa.bindparam("name")
)
_AFTER: Final = sa.bindparam("after", type_=sa.BigInteger)
_NEWS: Final = _OF_ONE.where(query_sample.c.tick > _AFTER).order_by(query_sample.c.tick)
_LAST_GOOD: Final = (
    _OF_ONE.where(query_sample.c.tick <= _AFTER, query_sample.c.words == "")
    .order_by(query_sample.c.tick.desc())
    .limit(1)
)


class SqlSamples(Part):
    """The port `SampleStore` on SQL."""

    __slots__ = ()

    async def record_samples(self, samples: Mapping[RolloutId, Sequence[QuerySample]]) -> None:
        rows = [_to_row(rollout, sample) for rollout, told in samples.items() for sample in told]
        await self.database.write(lambda tx: upsert(tx.conn, query_sample, rows))

    async def load_samples(self, rollout: RolloutId, names: Sequence[str], *, after: int) -> tuple[QuerySample, ...]:
        return await self.database.read(lambda tx: tuple(_load(tx.conn, rollout, names, after)))


def _load(conn: sa.Connection, rollout: RolloutId, names: Sequence[str], after: int) -> list[QuerySample]:
    found: list[QuerySample] = []
    for name in names:
        for query in (_LAST_GOOD, _NEWS):
            found += map(_from_row, conn.execute(query, {"of": rollout, "name": name, "after": after}))
    return found


def _to_row(rollout: RolloutId, sample: QuerySample) -> dict[str, Any]:
    return {
        "rollout": rollout,
        "name": sample.name,
        "tick": sample.tick,
        "baseline": sample.baseline.value,
        "baseline_bad": sample.baseline.bad,
        "candidate": sample.candidate.value,
        "candidate_bad": sample.candidate.bad,
        "words": sample.words,
    }


def _from_row(row: sa.Row[Any]) -> QuerySample:
    return QuerySample(
        row.name,
        row.tick,
        Reading(row.baseline, row.baseline_bad),
        Reading(row.candidate, row.candidate_bad),
        row.words,
    )
