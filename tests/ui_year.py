"""A year of a control plane, written by its store as if it had been there: traffic by the hour, rollouts, services."""

import dataclasses
import datetime as dt
import math
from typing import Any, Final

from controlplane.api.documents import spec_from
from controlplane.api.reading import read_document
from controlplane.controller.narrate import actor, sentence
from controlplane.ports import NewRollout, Occurrence, Rollout
from controlplane.rollout.lifecycle import advance
from controlplane.rollout.model import Acked, Advance, Breach, Event, Promoted, Ready, is_final
from controlplane.rollout.windows import BUCKETS
from controlplane.store import SqlStore
from controlplane.store.codec import histogram_to_bytes
from controlplane.store.queries import upsert
from controlplane.store.telemetry_tables import telemetry_rollup
from controlplane.traffic.model import Share
from tests.ui_place import document

HOUR_S: Final = 3600
HOURS: Final = 365 * 24
HOURS_PER_ROLLOUT: Final = 18
ELSEWHERE: Final = "elsewhere"
"""A group without Envoys: what is only there to be listed costs the one that runs nothing."""
WORKERS: Final = {"v1": 1, "twin": 2}


def listed(name: str, port: int) -> dict[str, Any]:
    """Return the declaration of a service that no Envoy of ours serves."""
    return {**document(name, port, WORKERS), "groups": [ELSEWHERE]}


async def write_services(store: SqlStore, count: int, *, now: dt.datetime) -> None:
    """Declare *count* services; every tenth has a rollout behind it."""
    for number in range(count):
        name = f"service-{number:03d}"
        await store.apply(spec_from(read_document(listed(name, 20_000 + number))), by="bench", why="", now=now)
        if number % 10 == 0:
            await _roll(store, name, "v1", "twin", fails=number % 20 == 0, now=now)


async def write_year(store: SqlStore, name: str, *, now: dt.datetime) -> int:
    """Declare a service, and give it a year of hours and of rollouts; return how many of these."""
    begun = now - dt.timedelta(hours=HOURS)
    spec = spec_from(read_document(listed(name, 19_999)))
    await store.apply(spec, by="bench", why="", now=begun)
    await _write_hours(store, [version.cluster for version in spec.versions], now=now)
    versions = ("v1", "twin")
    count = HOURS // HOURS_PER_ROLLOUT
    for number in range(count):
        at = begun + dt.timedelta(hours=HOURS_PER_ROLLOUT * number + 1)
        if await _roll(store, name, *versions, fails=number % 5 == 0, now=at):
            versions = versions[::-1]
    return count


async def _write_hours(store: SqlStore, clusters: list[str], *, now: dt.datetime) -> None:
    newest = int(now.timestamp()) // HOUR_S * HOUR_S
    of_day = [_hour(round(40_000 + 30_000 * math.sin(math.tau * hour / 24))) for hour in range(24)]
    rows = [
        {"span_s": HOUR_S, "begin": begin, "cluster": cluster, **of_day[begin // HOUR_S % 24]}
        for begin in range(newest - HOURS * HOUR_S, newest, HOUR_S)
        for cluster in clusters
    ]
    await store.database.write(lambda tx: upsert(tx.conn, telemetry_rollup, rows))


def _hour(requests: int) -> dict[str, Any]:
    """Return an hour's counts: latencies spread as those of a worker that takes about 100 ms."""
    shares = [math.exp(-(((bucket - BUCKETS / 2) / (BUCKETS / 12)) ** 2)) for bucket in range(BUCKETS)]
    latency = [round(requests * share / sum(shares)) for share in shares]
    completed = sum(latency)
    counts = {"completed": completed, "errors": completed // 500, "started": completed, "active": 3}
    return {**counts, "latency": histogram_to_bytes(latency), "codes": {"503": completed // 500}}


async def _roll(store: SqlStore, name: str, old: str, new: str, *, fails: bool, now: dt.datetime) -> bool:
    """Lead a rollout to its end, as the controller would; whether *new* has all traffic then."""
    record = await store.load_service(name)
    spec = record.served.spec
    plan = dataclasses.replace(
        spec.plan, steps=tuple(dataclasses.replace(step, pause=False, quality=False) for step in spec.plan.steps)
    )
    rollout = await store.start(NewRollout(name, new, plan, spec.slos, "ada", "nightly model", old), key=None, now=now)
    evidence = Advance("error rate 0.2 % of 9,120 requests, at most 20 % allowed")
    breach = Breach("error rate 31 % of 1,204 requests, at most 20 % allowed: odds of 12,400 : 1")
    events: list[Event] = [Ready(), Acked(), evidence, Acked(), breach, Acked()]
    if not fails:
        events[4:] = [evidence, Acked(), evidence]
    for event in events:
        now += dt.timedelta(minutes=5)
        rollout = await _move(store, rollout, event, now=now)
    assert is_final(rollout.state), rollout.state
    return isinstance(rollout.state, Promoted)


async def _move(store: SqlStore, rollout: Rollout, event: Event, *, now: dt.datetime) -> Rollout:
    before, after = rollout.state, advance(rollout.plan, rollout.state, event, now=now)
    words = sentence(rollout, event, after)
    names = type(before).__name__, type(after).__name__
    occurred = Occurrence("transition", type(event).__name__, actor(event), words, *names)
    split = None
    if is_final(after):
        split = (Share(rollout.candidate if isinstance(after, Promoted) else rollout.baseline, 10_000),)
    moved = dataclasses.replace(rollout, state=after)
    return await store.save(moved, occurred=(occurred,), split=split, now=now)
