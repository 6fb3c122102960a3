"""Owners' callbacks, and the outbox of notices: written by whatever ends a job, in the same transaction."""

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from controlplane.courier.addresses import host_of
from controlplane.courier.model import GivenUp, Heard, Later
from controlplane.courier.signatures import OLD_SECRET_FOR
from controlplane.errors import ConflictError, NotFoundError
from controlplane.jobs.callback_ports import Applied
from controlplane.jobs.callbacks import MAX_CALLBACKS, OWN, TYPE, Callback, Message, Notice, NoticeState, facts_of
from controlplane.jobs.expected import Expected, check_expected
from controlplane.jobs.model import JobId, JobState
from controlplane.store.engine import Tx
from controlplane.store.job_rows import job_of
from controlplane.store.job_tables import job, job_callback, job_notice
from controlplane.store.queries import Part
from controlplane.wake import Topic

_PENDING: Final = job_notice.c.ended_at.is_(None)


class SqlCallbacks(Part):
    """The port `CallbackStore`."""

    __slots__ = ()

    # -- callbacks -----------------------------------------------------------------------------------------------------

    async def apply_callback(
        self,
        callback: Callback,
        *,
        secret: str | None,
        spare: str,
        now: dt.datetime,
        expected: Expected[Callback] | None = None,
    ) -> Applied:
        return await self.database.write(lambda tx: _apply(tx, callback, secret, spare, now, expected))

    async def renew_secret(self, owner: str, name: str, *, secret: str, now: dt.datetime) -> None:
        def work(tx: Tx) -> None:
            row = tx.conn.execute(sa.select(job_callback).where(_is(owner, name)).with_for_update()).first()
            if row is None:
                raise _missing(tx.conn, owner, name)
            if row.secret is None:
                raise ConflictError(f"callback {name!r} is not signed: only webhooks are")
            tx.conn.execute(job_callback.update().where(_is(owner, name)).values(_renewed(row, secret, now)))

        await self.database.write(work)

    async def list_callbacks(self, owner: str) -> tuple[Callback, ...]:
        query = sa.select(job_callback).where(job_callback.c.owner == owner).order_by(job_callback.c.name)
        return await self.database.read(lambda tx: tuple(_callback_of(row) for row in tx.conn.execute(query)))

    async def load_secrets(self, owner: str, name: str, *, now: dt.datetime) -> tuple[str, ...]:
        query = sa.select(job_callback).where(_is(owner, name))

        def work(tx: Tx) -> tuple[str, ...]:
            row = tx.conn.execute(query).first()
            return () if row is None else _secrets_of(row, now)

        return await self.database.read(work)

    async def delete_callback(self, owner: str, name: str) -> None:
        def work(tx: Tx) -> None:
            if not tx.conn.execute(job_callback.delete().where(_is(owner, name))).rowcount:
                raise _missing(tx.conn, owner, name)

        await self.database.write(work)

    # -- notices -------------------------------------------------------------------------------------------------------

    async def take_notices(
        self, *, until: dt.datetime, now: dt.datetime, room: Mapping[str, int], each: int, limit: int
    ) -> tuple[Notice, ...]:
        due = _due(room, each, now).limit(limit)

        def work(tx: Tx) -> tuple[Notice, ...]:
            left = dict(room)
            numbers = []
            for row in tx.conn.execute(due):
                left[row.host] = left.get(row.host, each) - 1
                if left[row.host] >= 0:
                    numbers.append(row.number)
            # Another process may have taken some since: its write moved their due_at.
            still = sa.and_(job_notice.c.number.in_(numbers), _PENDING, job_notice.c.due_at <= now)
            taken = {"due_at": until, "tries": job_notice.c.tries + 1}
            change = job_notice.update().where(still).values(taken).returning(job_notice.c.number)
            mine = list(tx.conn.scalars(change)) if numbers else []
            query = _WITH_ADDRESS.where(job_notice.c.number.in_(mine)).order_by(job_notice.c.number)
            return tuple(_notice_of(row, now) for row in tx.conn.execute(query)) if mine else ()

        return await self.database.write(work)

    async def settle_notice(self, notice: Notice, outcome: Heard | Later | GivenUp, *, now: dt.datetime) -> bool:
        values = _settled(outcome, now)
        mine = sa.and_(job_notice.c.number == notice.number, job_notice.c.tries == notice.tries, _PENDING)
        change = job_notice.update().where(mine).values(values)
        return await self.database.write(lambda tx: tx.conn.execute(change).rowcount == 1)

    async def load_notices(self, job: JobId) -> tuple[NoticeState, ...]:
        query = sa.select(job_notice).where(job_notice.c.job == job).order_by(job_notice.c.number)
        return await self.database.read(lambda tx: tuple(_state_of(row) for row in tx.conn.execute(query)))


# -- for whatever ends a job -------------------------------------------------------------------------------------------


def has_callbacks(owner: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Say in SQL whether *owner* has named anybody to tell, so that `record_end` is not asked in vain."""
    return sa.exists().where(job_callback.c.owner == owner)


def record_end(tx: Tx, ended: sa.Row[Any]) -> None:
    """Have those told who want to hear of the end of the job in *ended*, which this transaction has just brought."""
    rows = []
    event = f"evt_{uuid.uuid4().hex}"
    facts = facts_of(job_of(ended))
    for row in tx.conn.execute(sa.select(job_callback).where(job_callback.c.owner == ended.owner)):
        address = ended.callback_url if row.name == OWN else row.address
        if address and ended.state in row.events:
            rows.append(
                {
                    "event": event,
                    "job": ended.id,
                    "owner": ended.owner,
                    "callback": row.name,
                    "state": ended.state,
                    "facts": facts,
                    "host": host_of(address),
                    "made_at": ended.finished_at,
                    "due_at": ended.finished_at,
                    "tries": 0,
                    "words": "",
                    "delivered": False,
                }
            )
    if rows:
        tx.conn.execute(job_notice.insert(), rows)
        tx.announce(Topic.NOTICES)


def forget_notices(tx: Tx, of: JobId) -> None:
    """Tell nobody of a job any more."""
    tx.conn.execute(job_notice.delete().where(job_notice.c.job == of))


# -- rows --------------------------------------------------------------------------------------------------------------

_WITH_ADDRESS: Final = (
    sa.select(
        job_notice,
        sa.case((job_notice.c.callback == OWN, job.c.callback_url), else_=job_callback.c.address).label("address"),
        job_callback.c.secret,
        job_callback.c.old_secret,
        job_callback.c.old_until,
    )
    .join(job, job.c.id == job_notice.c.job)
    .join(
        job_callback,
        sa.and_(job_callback.c.owner == job_notice.c.owner, job_callback.c.name == job_notice.c.callback),
        isouter=True,
    )
)


def _is(owner: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(job_callback.c.owner == owner, job_callback.c.name == name)


def _missing(conn: sa.Connection, owner: str, name: str) -> NotFoundError:
    known = conn.scalars(
        sa.select(job_callback.c.name).where(job_callback.c.owner == owner).order_by(job_callback.c.name)
    )
    return NotFoundError("callback", name, tuple(known))


def _apply(
    tx: Tx,
    callback: Callback,
    secret: str | None,
    spare: str,
    now: dt.datetime,
    expected: Expected[Callback] | None,
) -> Applied:
    tx.lock(f"job_callback.{callback.owner}")
    of_owner = job_callback.c.owner == callback.owner
    before = tx.conn.execute(sa.select(job_callback).where(_is(callback.owner, callback.name))).first()
    found = None if before is None else _callback_of(before)
    check_expected(expected, found, what=f"callback {callback.name!r}")
    values: dict[str, Any] = {"address": callback.address, "events": sorted(callback.events), "applied_at": now}
    fresh = callback.is_signed and secret is None and (before is None or before.secret is None)
    given = spare if fresh else secret
    if before is None:
        if (tx.conn.scalar(sa.select(sa.func.count()).where(of_owner)) or 0) >= MAX_CALLBACKS:
            raise ConflictError(f"you have {MAX_CALLBACKS} callbacks already; delete one first")
        row = {"owner": callback.owner, "name": callback.name, "secret": given, **values}
        tx.conn.execute(job_callback.insert(), row)
        return Applied(changed=True, fresh=fresh)
    if not callback.is_signed:
        values |= {"secret": None, "old_secret": None, "old_until": None}
    elif given is not None and given != before.secret:
        values |= _renewed(before, given, now)
    if found == callback and values.get("secret", before.secret) == before.secret:
        return Applied(changed=False, fresh=False)
    tx.conn.execute(job_callback.update().where(_is(callback.owner, callback.name)).values(values))
    if callback.address != before.address:
        waiting = sa.and_(job_notice.c.owner == callback.owner, job_notice.c.callback == callback.name, _PENDING)
        tx.conn.execute(job_notice.update().where(waiting).values(host=host_of(callback.address), due_at=now))
        tx.announce(Topic.NOTICES)
    return Applied(changed=True, fresh=fresh)


def _renewed(row: sa.Row[Any], secret: str, now: dt.datetime) -> dict[str, Any]:
    until = None if row.secret is None else now + OLD_SECRET_FOR
    return {"secret": secret, "old_secret": row.secret, "old_until": until}


def _due(room: Mapping[str, int], each: int, now: dt.datetime) -> sa.Select[Any]:
    """Find what is due, no more of a host than it may be sent, oldest first."""
    table = job_notice
    full = [host for host, count in room.items() if count <= 0]
    open_ = [host for host, count in room.items() if count > 0]
    which = table.c.host.not_in(full) if each else table.c.host.in_(open_)
    place = sa.func.row_number().over(partition_by=table.c.host, order_by=(table.c.due_at, table.c.number))
    found = (
        sa.select(table.c.number, table.c.host, table.c.due_at, place.label("place"))
        .where(_PENDING, table.c.due_at <= now, which)
        .subquery()
    )
    most = max([each, *room.values()])
    return sa.select(found.c.number, found.c.host).where(found.c.place <= most).order_by(found.c.due_at, found.c.number)


def _settled(outcome: Heard | Later | GivenUp, now: dt.datetime) -> dict[str, Any]:
    match outcome:
        case Heard():
            return {"delivered": True, "ended_at": now, "words": ""}
        case Later(words, due):
            return {"due_at": due, "words": words}
        case GivenUp(words):
            return {"ended_at": now, "words": words}


def _callback_of(row: sa.Row[Any]) -> Callback:
    events = frozenset(JobState(name) for name in row.events)
    return Callback(owner=row.owner, name=row.name, address=row.address, events=events)


def _secrets_of(row: sa.Row[Any], now: dt.datetime) -> tuple[str, ...]:
    if row.secret is None:
        return ()
    if row.old_secret is None or row.old_until <= now:
        return (row.secret,)
    return (row.secret, row.old_secret)


def _notice_of(row: sa.Row[Any], now: dt.datetime) -> Notice:
    message = Message(event=row.event, type=f"{TYPE}.{row.state}", subject=row.job, at=row.made_at, facts=row.facts)
    return Notice(
        number=row.number,
        job=JobId(row.job),
        callback=row.callback,
        host=row.host,
        tries=row.tries,
        made_at=row.made_at,
        message=message,
        address=row.address or "",
        secrets=_secrets_of(row, now),
    )


def _state_of(row: sa.Row[Any]) -> NoticeState:
    return NoticeState(
        callback=row.callback,
        event=row.event,
        state=JobState(row.state),
        host=row.host,
        tries=row.tries,
        words=row.words,
        delivered=row.delivered,
        made_at=row.made_at,
        due_at=row.due_at,
        ended_at=row.ended_at,
    )
