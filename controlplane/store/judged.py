"""What the judge saw and said, one row per rollout and tick; `rollout.recorded` says why it is kept whole."""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.ports import RolloutId
from controlplane.rollout.recorded import JudgedTick, Look
from controlplane.rollout.verdict import Exposure, Verdict
from controlplane.rollout.windows import BUCKETS, Sample, TickWindow, VersionTick
from controlplane.store import telemetry_tables as tables

_APPEND: Final = tables.judged_tick.insert()
_OF: Final = (
    sa.select(tables.judged_tick)
    .where(
        tables.judged_tick.c.rollout == sa.bindparam("of"),
        tables.judged_tick.c.tick > sa.bindparam("after", type_=sa.BigInteger),
    )
    .order_by(tables.judged_tick.c.tick)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


_LASTS: Final = (
    sa.select(sa.func.max(tables.judged_tick.c.tick))
    .where(
        tables.judged_tick.c.rollout == sa.bindparam("of"),
        tables.judged_tick.c.tick >= sa.bindparam("since", type_=sa.BigInteger),
        tables.judged_tick.c.tick < sa.bindparam("until", type_=sa.BigInteger),
    )
    .group_by(tables.judged_tick.c.tick // sa.bindparam("step", type_=sa.BigInteger))
)
_ODDS: Final = (
    sa.select(tables.judged_tick.c.tick, tables.judged_tick.c.odds)
    .where(tables.judged_tick.c.rollout == sa.bindparam("of"), tables.judged_tick.c.tick.in_(_LASTS))
    .order_by(tables.judged_tick.c.tick)
)


def append_judged(conn: sa.Connection, rollout: RolloutId, judged: Sequence[JudgedTick]) -> None:
    """Add what the judge of *rollout* has seen."""
    if judged:
        conn.execute(_APPEND, [_to_row(rollout, tick) for tick in judged])


def load_judged(conn: sa.Connection, rollout: RolloutId, *, after: int, limit: int) -> tuple[JudgedTick, ...]:
    """Return it as far as it is kept, oldest first."""
    return tuple(_from_row(row) for row in conn.execute(_OF, {"of": rollout, "after": after, "limit": limit}))


def load_odds(
    conn: sa.Connection, rollout: RolloutId, *, since: int, until: int, step: int
) -> tuple[tuple[int, Mapping[str, float]], ...]:
    """Return the evidence as of the last tick in each step."""
    rows = conn.execute(_ODDS, {"of": rollout, "since": since, "until": until, "step": step})
    return tuple((row.tick, row.odds) for row in rows if row.odds)


def _to_row(rollout: RolloutId, tick: JudgedTick) -> dict[str, Any]:
    return {
        "rollout": rollout,
        "tick": tick.tick,
        "previous": tick.previous,
        "look": tick.look.value,
        "gap": tick.window.gap,
        "counts": counts_to_bytes(tick.window),
        "exposure": {} if tick.exposure is None else {name: getattr(tick.exposure, name) for name in _EXPOSURE},
        "heeded": [verdict.name.lower() for verdict in tick.heeded],
        "verdict": tick.verdict.name.lower(),
        "words": tick.words,
        "odds": dict(tick.odds),
    }


def _from_row(row: sa.Row[Any]) -> JudgedTick:
    baseline, candidate, samples = counts_from_bytes(row.counts)
    return JudgedTick(
        previous=row.previous,
        window=TickWindow(row.tick, baseline, candidate, gap=row.gap, samples=samples),
        look=Look(row.look),
        exposure=Exposure(**_known(_EXPOSURE, row.exposure)) if row.exposure else None,
        heeded=tuple(Verdict[name.upper()] for name in row.heeded),
        verdict=Verdict[row.verdict.upper()],
        words=row.words,
        odds=tuple(sorted(row.odds.items())),
    )


# -- counts ------------------------------------------------------------------------------------------------------------


_EXPOSURE: Final = tuple(field.name for field in dataclasses.fields(Exposure))
_COUNTS: Final = tuple(field.name for field in dataclasses.fields(VersionTick))
_WINDOW: Final = -10  # 1 KiB, without a header: as for histograms, setting up a larger one takes longer than packing


def counts_to_bytes(window: TickWindow) -> bytes:
    """Pack both versions' counts and the samples: deflated JSON, some 200 bytes, and nothing is lost."""
    versions: list[Any] = [_counts_to_json(version) for version in (window.baseline, window.candidate)]
    versions += [[sample.name, sample.baseline, sample.candidate, sample.missing] for sample in window.samples]
    deflate = zlib.compressobj(level=1, wbits=_WINDOW, memLevel=3)
    return deflate.compress(json.dumps(versions, separators=(",", ":")).encode()) + deflate.flush()


def counts_from_bytes(data: bytes) -> tuple[VersionTick, VersionTick, tuple[Sample, ...]]:
    """Unpack them. What only a newer release counts is left out; what an older one did not takes its default."""
    baseline, candidate, *samples = json.loads(zlib.decompress(data, wbits=_WINDOW))
    found = tuple(Sample(*_frozen(sample)) for sample in samples)
    return _counts_from_json(baseline), _counts_from_json(candidate), found


def _counts_to_json(counts: VersionTick) -> dict[str, Any]:
    values = {name: getattr(counts, name) for name in _COUNTS}
    latency = counts.latency
    end = len(latency)
    while end and not latency[end - 1]:
        end -= 1
    values["latency"] = latency[:end]
    return values


def _counts_from_json(values: Mapping[str, Any]) -> VersionTick:
    known = {name: _frozen(value) for name, value in _known(_COUNTS, values).items()}
    missing = (0,) * (BUCKETS - len(known["latency"]))
    return VersionTick(**{**known, "latency": known["latency"] + missing})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _known(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
