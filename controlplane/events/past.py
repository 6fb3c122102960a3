"""Reads what is needed to draw a service's past, from the finest rows that are few enough.

Two hours are read as seconds, a week as minutes, more as hours; what is not summed up yet, and what was summed up and
is gone, is filled in from the rows beside.
"""

import dataclasses
import datetime as dt
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from controlplane.ports import ClusterTick, HistoryEntry, Store
from controlplane.rollout.series import Counted, step_s
from controlplane.rollout.slo import Slo

MINUTE_S: Final = 60
HOUR_S: Final = 3600
MOST_SECONDS: Final = 2 * HOUR_S
MOST_MINUTES_S: Final = 8 * 24 * HOUR_S
PAGE: Final = 600
ACKED: Final = frozenset({"Baking", "Promoted", "RolledBack"})
"""States of rollouts whose weights all Envoys have acknowledged."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From when to when, in unix seconds, the end not included; clusters by version, and what they are held to.

    *rollout* is the one that was asked for, *judged* the one whose evidence is shown.
    """

    service: str
    since: int
    until: int
    clusters: Mapping[str, str]
    slos: tuple[Slo, ...]
    rollout: str | None = None
    judged: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """Counts by cluster in order of time, none of which spans more than *resolution_s*; entries that tell weights."""

    resolution_s: int
    counted: Mapping[str, Sequence[Counted]]
    weights: Sequence[HistoryEntry]


@dataclasses.dataclass(frozen=True, slots=True)
class WeightsOverTime:
    """A version's weight at the end of each point, basis points: asked for, and acknowledged by all Envoys last."""

    asked: tuple[int | None, ...]
    acked: tuple[int | None, ...]


async def read_past(store: Store, span: Span, *, max_points: int) -> Past:
    """Read it, for so many points at most: what falls into one of them may come as one.

    Raises:
        UnavailableError: The store does not answer.
    """
    length = span.until - span.since
    if length <= MOST_SECONDS:
        resolution, counted = await _read_seconds(store, span)
    else:
        resolution = MINUTE_S if length <= MOST_MINUTES_S else HOUR_S
        step = step_s(span.since, span.until, max_points, at_least=resolution)
        counted = await _read_summed(store, span, resolution, step)
    moment = _moment(span.since)
    return Past(resolution, _by_cluster(counted), await store.load_weights(span.service, since=moment))


def weights_at(entries: Sequence[HistoryEntry], version: str, at: range) -> WeightsOverTime:
    """Return a version's weights at the end of each point that begins *at*; None where nothing is known yet."""
    asked: list[int | None] = []
    acked: list[int | None] = []
    coming = list(reversed(entries))
    now_asked: int | None = None
    now_acked: int | None = None
    for begin in at:
        while coming and coming[-1].at.timestamp() < begin + at.step:
            entry = coming.pop()
            now_asked = (entry.weights or {}).get(version, 0)
            if entry.rollout is None:
                now_acked = None
            elif entry.after in ACKED:
                now_acked = now_asked
        asked.append(now_asked)
        acked.append(now_acked)
    return WeightsOverTime(tuple(asked), tuple(acked))


def odds_at(odds: Sequence[tuple[int, Mapping[str, float]]], name: str, at: range) -> list[float | None]:
    """Return the evidence about one objective at each point; None where it was not judged."""
    found: list[float | None] = [None] * len(at)
    for tick, each in odds:
        place = (tick - at.start) // at.step
        if 0 <= place < len(found):
            found[place] = each.get(name)
    return found


async def _read_seconds(store: Store, span: Span) -> tuple[int, list[ClusterTick]]:
    ticks = await _ticks(store, span, since=span.since)
    first = ticks[0].tick if ticks else span.until
    if first - span.since <= MINUTE_S:
        return 1, ticks
    older = await _summed(store, span, MINUTE_S, since=span.since, until=first - first % MINUTE_S)
    return (MINUTE_S, [*older, *ticks]) if older else (1, ticks)


async def _read_summed(store: Store, span: Span, resolution: int, step: int) -> list[ClusterTick]:
    found: list[ClusterTick] = []
    since = span.since
    for span_s in (HOUR_S, MINUTE_S):
        if span_s <= resolution:
            part = await _summed(store, span, span_s, since=since, until=span.until, step=step)
            found += part
            since = part[-1].tick + span_s if part else since
    return found + await _ticks(store, span, since=max(since, span.until - MOST_SECONDS))


async def _summed(
    store: Store, span: Span, span_s: int, *, since: int, until: int, step: int = 1
) -> tuple[ClusterTick, ...]:
    clusters = tuple(span.clusters.values())
    return await store.load_summed(clusters, span_s, since=since - since % span_s, until=until, step_s=step)


async def _ticks(store: Store, span: Span, *, since: int) -> list[ClusterTick]:
    found: list[ClusterTick] = []
    after, clusters = since - 1, tuple(span.clusters.values())
    while ticks := await store.load_ticks(clusters, after=after, limit=PAGE):
        for tick in itertools.takewhile(lambda each: each.tick < span.until, ticks):
            found += [ClusterTick(cluster, tick.tick, counts) for cluster, counts in tick.counts.items()]
        after = ticks[-1].tick
        if after >= span.until - 1 or len(ticks) < PAGE:
            break
    return found


def _by_cluster(counted: Sequence[ClusterTick]) -> Mapping[str, Sequence[Counted]]:
    found: dict[str, list[Counted]] = {}
    for each in counted:
        found.setdefault(each.cluster, []).append(Counted(each.tick, each.counts))
    return found


def _moment(second: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(second, dt.UTC)
