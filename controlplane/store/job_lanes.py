"""What jobs know of rollouts: how their services are split, and which jobs a rollout that went back has failed."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.jobs.lanes import Lane
from controlplane.jobs.model import AttemptOutcome, JobState
from controlplane.jobs.ports import Workload
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.job_drains import KIND_DRAINED
from controlplane.store.job_rows import kind_of, wake
from controlplane.store.job_tables import job, job_attempt, job_kind, job_reroute
from controlplane.store.queries import Part, active_rollouts, load_splits, unrejected_revisions

_KINDS: Final = sa.select(job_kind, KIND_DRAINED.label("is_drained")).order_by(job_kind.c.name)
_SERVICES: Final = sa.select(job_kind.c.service).where(job_kind.c.service != "").distinct()
_FAILURES: Final = (AttemptOutcome.FAILED.value, AttemptOutcome.REFUSED.value)
_UNHEEDED: Final = (
    sa.select(tables.rollout)
    .where(
        tables.rollout.c.state_kind == "rolled_back",
        tables.rollout.c.service.in_(_SERVICES),
        ~sa.exists().where(job_reroute.c.rollout == tables.rollout.c.id),
    )
    .order_by(tables.rollout.c.started_at)
)


class SqlLanes(Part):
    """The port `JobStore`'s part about rollouts."""

    __slots__ = ()

    async def load_workload(self) -> Workload:
        return await self.database.read(lambda tx: _workload(tx.conn))

    async def reroute_jobs(self, *, now: dt.datetime) -> int:
        if not await self.database.read(lambda tx: tx.conn.execute(_UNHEEDED.limit(1)).first()):
            return 0
        return await self.database.write(lambda tx: _reroute(tx, now))


def _workload(conn: sa.Connection) -> Workload:
    kinds = {row.name: (kind_of(row), row.is_drained) for row in conn.execute(_KINDS)}
    return Workload(
        kinds={name: kind for name, (kind, _) in kinds.items()},
        drained=frozenset(name for name, (_, is_drained) in kinds.items() if is_drained),
        lanes=_lanes(conn, sorted({kind.service for kind, _ in kinds.values() if kind.service})),
    )


def _lanes(conn: sa.Connection, services: Sequence[str]) -> dict[str, Lane]:
    found = {}
    for service in services:
        revision = unrejected_revisions(conn, service).get(service)
        split = load_splits(conn, service).get(service)
        if revision is None or split is None:
            continue
        rollout = active_rollouts(conn, service).get(service)
        found[service] = Lane(
            service=service,
            draw_header=revision.draw_header,
            split=tuple((share.version, share.weight_bp) for share in split),
            candidate="" if rollout is None else rollout.candidate,
        )
    return found


def _reroute(tx: Tx, now: dt.datetime) -> int:
    tx.lock("job_reroute")
    total = 0
    for rollout in tx.conn.execute(_UNHEEDED).all():
        jobs = _run_again(tx, rollout, now)
        tx.conn.execute(job_reroute.insert(), {"rollout": rollout.id, "jobs": jobs, "at": now})
        total += jobs
    return total


def _run_again(tx: Tx, rollout: sa.Row[Any], now: dt.datetime) -> int:
    """Have the jobs run again that failed at the candidate, or where nobody knows at which version."""
    failed_there = sa.exists().where(
        job_attempt.c.job == job.c.id,
        job_attempt.c.service == rollout.service,
        job_attempt.c.version.in_((rollout.candidate, "")),
        job_attempt.c.outcome.in_(_FAILURES),
        job_attempt.c.ended_at >= rollout.started_at,
    )
    idle = (JobState.WAITING.value, JobState.DEAD.value)
    again = {
        "state": JobState.WAITING.value,
        "failures": 0,
        "stable_only": True,
        "due_at": now,
        "finished_at": None,
        "expires_at": None,
        "words": f"failed at {rollout.candidate}, which was taken back; it runs again",
    }
    change = (
        job.update()
        .where(job.c.state.in_(idle), job.c.deleted_at.is_(None), job.c.swept_at.is_(None), failed_there)
        .values(again)
        .returning(job.c.id)
    )
    ids = tx.conn.scalars(change).all()
    if ids:
        wake(tx, job.c.id.in_(ids), now)
    return len(ids)
