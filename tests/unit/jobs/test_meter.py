"""Totals that no replica gets wrong: rows are counted, once each, whatever is started when."""

import dataclasses
import datetime as dt

from controlplane.jobs.meter import SETTLED, JobMeter, Totals
from controlplane.jobs.model import AttemptOutcome
from controlplane.store.job_tables import job_attempt
from tests.builders import NOW
from tests.unit.jobs.conftest import Works

SECOND = dt.timedelta(seconds=1)


async def end(works: Works, job: str, *, at: dt.datetime, version: str = "v1", attempt: int = 1) -> None:
    row = {
        "job": job,
        "attempt": attempt,
        "kind": "person",
        "service": "colorize",
        "version": version,
        "started_at": at - 3 * SECOND,
        "ended_at": at,
        "outcome": "done",
        "words": "",
    }
    await works.store.database.write(lambda tx: tx.conn.execute(job_attempt.insert(), row).rowcount)


def done(meter: JobMeter, version: str = "v1") -> int:
    assert meter.latest is not None
    return meter.latest.totals.attempts.get(("person", version, AttemptOutcome.DONE), 0)


async def test_every_attempt_is_counted_once_however_often_and_from_where_one_looks(works: Works) -> None:
    first = JobMeter(store=works.store, clock=works.clock)
    await first.look()
    for counted in range(1, 41):
        await end(works, f"{counted}", at=works.clock.now() - SECOND)
        works.clock.move(17 * SECOND)
        await first.look()
        assert done(first) == counted
        if counted % 8 == 0:
            started = JobMeter(store=works.store, clock=works.clock)
            await started.look()
            assert done(started) == counted, "a replica that was started just now says the same"
    assert first.latest is not None
    buckets = first.latest.totals.runs["person", "v1"]
    assert (buckets.counts[-1], buckets.sum_s) == (40, 120.0)


async def test_a_row_that_is_committed_late_is_counted_too(works: Works) -> None:
    meter = JobMeter(store=works.store, clock=works.clock)
    await meter.look()
    late = works.clock.now()
    works.clock.move(SETTLED - SECOND)
    await meter.look()
    await end(works, "late", at=late)
    await meter.look()
    assert done(meter) == 1


def test_only_the_newest_versions_are_shown() -> None:
    seen = {("person", f"v{number}"): NOW + number * SECOND for number in range(150)}
    attempts = {(kind, version, AttemptOutcome.DONE): 1 for kind, version in seen}
    totals = Totals(attempts=attempts, seen=seen)
    shown = totals.newest(100)
    assert {version for _, version in shown.seen} == {f"v{number}" for number in range(50, 150)}
    assert len(shown.attempts) == 100
    assert dataclasses.replace(shown, attempts={}).newest(100).seen == shown.seen
