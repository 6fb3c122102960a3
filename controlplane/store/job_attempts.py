"""Attempts at jobs, and the outbox. Every change is one guarded UPDATE: who lost the claim changes none."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Final

import sqlalchemy as sa

from controlplane.jobs.model import Again, AttemptOutcome, Claim, Job, JobId, JobState, Picture
from controlplane.jobs.ports import MAX_BATCH, EndedAttempt, OutboxEntry, WakeUp
from controlplane.store.columns import later
from controlplane.store.engine import Tx
from controlplane.store.job_callbacks import has_callbacks, record_end
from controlplane.store.job_drains import DRAINED
from controlplane.store.job_rows import job_of, shortest_keep, wake
from controlplane.store.job_tables import job, job_attempt, job_kind, job_outbox
from controlplane.store.queries import Part
from controlplane.wake import Topic

_UNDELETED: Final = job.c.deleted_at.is_(None)
_IS: Final = job.c.id == sa.bindparam("of")
_CLAIMED: Final = sa.and_(_IS, job.c.state == "running", job.c.attempts == sa.bindparam("attempt"))
IDLE: Final = {"lease_until": None, "holder": ""}
"""What a job has that nobody runs."""


class SqlAttempts(Part):
    """The port `JobStore`'s part for those who run jobs."""

    __slots__ = ()

    # -- outbox --------------------------------------------------------------------------------------------------------

    async def load_outbox(self, *, now: dt.datetime, limit: int = MAX_BATCH) -> tuple[OutboxEntry, ...]:
        query = sa.select(job_outbox).where(job_outbox.c.due_at <= now).order_by(job_outbox.c.due_at).limit(limit)
        return await self.database.read(
            lambda tx: tuple(
                OutboxEntry(row.number, WakeUp(JobId(row.job), row.queue, row.vip)) for row in tx.conn.execute(query)
            )
        )

    async def drop_outbox(self, numbers: Collection[int]) -> None:
        removal = job_outbox.delete().where(job_outbox.c.number.in_(numbers))
        await self.database.write(lambda tx: tx.conn.execute(removal).rowcount)

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def claim_job(self, job: JobId, *, holder: str, until: dt.datetime, now: dt.datetime) -> Job | None:
        facts = {"of": job, "by": holder, "until": until, "now": now}
        # Streams at other processes see a second later that it runs: what tells them would double what this costs.
        rows = await self.database.run(_CLAIM, facts, announces=Topic.JOB_STATES)
        return job_of(rows[0]) if rows else None

    async def renew_jobs(self, claims: Collection[Claim], *, until: dt.datetime) -> frozenset[Claim]:
        def work(tx: Tx) -> frozenset[Claim]:
            return frozenset(claim for claim in claims if _change(tx, _RENEW, claim, until=until))

        return await self.database.write(work)

    async def attach_photo(self, claim: Claim, photo: Picture) -> bool:
        facts = {"key": photo.key, "media_type": photo.media_type, "length": photo.size_bytes, "digest": photo.sha256}
        return await self.database.write(lambda tx: _change(tx, _ATTACH, claim, **facts))

    async def finish_job(self, claim: Claim, result: Picture, *, version: str, now: dt.datetime) -> bool:
        facts = {
            "key": result.key,
            "media_type": result.media_type,
            "length": result.size_bytes,
            "digest": result.sha256,
            "by_version": version,
        }
        ended = EndedAttempt(AttemptOutcome.DONE, "", version)
        return await self.database.write(lambda tx: _end(tx, _FINISH, claim, ended, now, **facts))

    async def retry_job(self, claim: Claim, ended: EndedAttempt, *, again: Again, now: dt.datetime) -> bool:
        due = now + again.pause

        def work(tx: Tx) -> bool:
            if not _change(
                tx, _RETRY, claim, why=again.words, more=int(again.counts), due=due, only_stable=again.stable
            ):
                return False
            record_attempts(tx, [claim.job], ended, now)
            wake(tx, job.c.id == claim.job, due)
            return True

        return await self.database.write(work)

    async def bury_job(self, claim: Claim, ended: EndedAttempt, *, words: str, now: dt.datetime) -> bool:
        return await self.database.write(lambda tx: _end(tx, _BURY, claim, ended, now, why=words))

    async def revive_jobs(self, *, lost_before: dt.datetime, now: dt.datetime) -> int:
        return await self.database.write(lambda tx: _revive(tx, lost_before, now))


def _moment(name: str) -> sa.BindParameter[dt.datetime]:
    return sa.bindparam(name, type_=job.c.due_at.type)


_CLAIM: Final = (
    job.update()
    .where(_IS, job.c.state == "waiting", _UNDELETED, ~DRAINED)
    .values(
        state="running",
        attempts=job.c.attempts + 1,
        holder=sa.bindparam("by"),
        lease_until=_moment("until"),
        started_at=_moment("now"),
        first_started_at=sa.func.coalesce(job.c.first_started_at, _moment("now")),
    )
    .returning(job)
)
_RENEW: Final = job.update().where(_CLAIMED).values(lease_until=_moment("until"))
_ATTACH: Final = (
    job.update()
    .where(_CLAIMED)
    .values(
        photo_key=sa.bindparam("key"),
        photo_type=sa.bindparam("media_type"),
        photo_bytes=sa.bindparam("length"),
        photo_sha256=sa.bindparam("digest"),
    )
)
_GONE_AT: Final = later(_moment("now"), shortest_keep(job.c.kind, job.c.owner))
_IS_HEARD: Final = has_callbacks(job.c.owner)
_FINISH: Final = (
    job.update()
    .where(_CLAIMED)
    .values(
        state="done",
        result_key=sa.bindparam("key"),
        result_type=sa.bindparam("media_type"),
        result_bytes=sa.bindparam("length"),
        result_sha256=sa.bindparam("digest"),
        version=sa.bindparam("by_version"),
        finished_at=_moment("now"),
        expires_at=_GONE_AT,
        words="",
        **IDLE,
    )
    .returning(_IS_HEARD)
)
_RETRY: Final = (
    job.update()
    .where(_CLAIMED)
    .values(
        state="waiting",
        words=sa.bindparam("why"),
        failures=job.c.failures + sa.bindparam("more"),
        due_at=_moment("due"),
        stable_only=sa.or_(job.c.stable_only, sa.bindparam("only_stable", type_=sa.Boolean)),
        **IDLE,
    )
)
_BURY: Final = (
    job.update()
    .where(_CLAIMED)
    .values(
        state="dead",
        words=sa.bindparam("why"),
        failures=job.c.failures + 1,
        finished_at=_moment("now"),
        expires_at=_GONE_AT,
        **IDLE,
    )
    .returning(_IS_HEARD)
)


def _change(tx: Tx, statement: sa.Update, claim: Claim, **facts: object) -> bool:
    """Change the job of a claim that is still good; return whether it was."""
    return tx.conn.execute(statement, {"of": claim.job, "attempt": claim.attempt, **facts}).rowcount == 1


def _end(
    tx: Tx, statement: sa.UpdateBase, claim: Claim, ended: EndedAttempt, now: dt.datetime, **facts: object
) -> bool:
    """Bring a job to its end: from now on its pictures have their time, and its owner is told. False as `_change`."""
    found = {"of": claim.job, "attempt": claim.attempt}
    is_heard = tx.conn.scalar(statement, {**found, "now": now, **facts})
    if is_heard is None:
        return False
    record_attempts(tx, [claim.job], ended, now)
    if is_heard:
        record_end(tx, tx.conn.execute(sa.select(job).where(_IS), found).one())
    return True


_RECORD: Final = job_attempt.insert().from_select(
    ["job", "attempt", "kind", "service", "version", "started_at", "ended_at", "outcome", "words"],
    sa.select(
        job.c.id,
        job.c.attempts,
        job.c.kind,
        sa.case((sa.bindparam("was_called", type_=sa.Boolean), job_kind.c.service), else_=""),
        sa.bindparam("at_version", type_=sa.Text),
        job.c.started_at,
        _moment("now"),
        sa.bindparam("outcome", type_=sa.Text),
        sa.bindparam("why", type_=sa.Text),
    )
    .join(job_kind, job_kind.c.name == job.c.kind)
    .where(job.c.id.in_(sa.bindparam("these", expanding=True))),
)


def record_attempts(tx: Tx, of: Sequence[str], ended: EndedAttempt, now: dt.datetime) -> None:
    """Remember how the last attempts of these jobs ended; the caller has just ended them."""
    facts = {"at_version": ended.version, "outcome": ended.outcome.value, "why": ended.words, "now": now}
    tx.conn.execute(_RECORD, {"these": list(of), "was_called": ended.was_called, **facts})
    tx.announce(Topic.JOB_STATES)


def _revive(tx: Tx, lost_before: dt.datetime, now: dt.datetime) -> int:
    over = sa.and_(job.c.state == "running", job.c.lease_until < now)
    freed = {
        "state": JobState.WAITING.value,
        "words": "whoever ran it went away; it runs again",
        "due_at": now,
        **IDLE,
    }
    ids = list(tx.conn.scalars(job.update().where(over).values(freed).returning(job.c.id)))
    if ids:
        record_attempts(tx, ids, EndedAttempt(AttemptOutcome.LOST, "whoever ran it went away"), now)
    told = sa.exists().where(job_outbox.c.job == job.c.id)
    lost = sa.and_(job.c.state == "waiting", job.c.due_at < lost_before, _UNDELETED, ~told, ~DRAINED)
    ids += tx.conn.scalars(job.update().where(lost).values(due_at=now).returning(job.c.id))
    if ids:
        wake(tx, job.c.id.in_(ids), now)
    return len(ids)
