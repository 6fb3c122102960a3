"""Starts that wait their turn, ways back, and the one stop for everything."""

import dataclasses
import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import ConflictError, InvalidInputError, NotFoundError, StaleWriteError
from controlplane.ports import Agenda, HistoryEntry, NewRollout, Rollout, RolloutId, Stopped, Undone
from controlplane.rollout.freezing import Freeze, freeze_of
from controlplane.rollout.lifecycle import weight_bp
from controlplane.rollout.model import Abort, Promoted, RolledBack, RollingBack, Undo
from controlplane.rollout.past import REMEMBERED, Failure, Past, failure_of, plan_back, way_back
from controlplane.rollout.waiting import MAX_WAITING, WaitingEnd, WaitingStart, in_line
from controlplane.store import tables
from controlplane.store.codec import plan_from_json, plan_to_json, state_from_json
from controlplane.store.engine import Tx
from controlplane.store.freezes import end_freeze, insert_freeze, load_freezes
from controlplane.store.queries import (
    Part,
    active_rollouts,
    append_history,
    audit,
    load_splits,
    lock_service,
    newest_revisions,
    next_number,
    rollout_of,
    unrejected_revisions,
    with_why,
)
from controlplane.store.rollouts import insert_command, insert_rollout, load_rollout
from controlplane.store.specs import SpecCache
from controlplane.store.steering_tables import waiting_start as table
from controlplane.traffic.model import ServiceSpec
from controlplane.wake import Topic


class SqlSteering(Part):
    """The port `SteeringStore` on SQL."""

    __slots__ = ()

    async def line_up(self, asked: WaitingStart, *, key: str | None, now: dt.datetime) -> WaitingStart:
        return await self.database.write(lambda tx: _line_up(tx, self.specs, asked, key=key, now=now))

    async def load_agenda(self, *, since: dt.datetime) -> Agenda:
        return await self.database.read(
            lambda tx: Agenda(tuple(_open(tx.conn)), load_freezes(tx.conn, since=since)),
        )

    async def load_waiting(self, start: str) -> WaitingStart:
        def work(tx: Tx) -> WaitingStart:
            row = tx.conn.execute(_BY_ID, {"of": start}).first()
            if row is None:
                raise NotFoundError("rollout", start, tuple(each.id for each in _open(tx.conn)))
            return _waiting_of(row)

        return await self.database.read(work)

    async def begin(self, waiting: WaitingStart, new: NewRollout, *, now: dt.datetime) -> Rollout:
        return await self.database.write(lambda tx: _begin(tx, self.specs, waiting, new, now=now))

    async def drop(self, waiting: WaitingStart, *, words: str, now: dt.datetime) -> None:
        def work(tx: Tx) -> None:
            lock_service(tx, waiting.service)
            _drop(tx.conn, [waiting], words=words, now=now)

        await self.database.write(work)

    async def cancel(
        self, service: str, start: str | None, *, by: str, why: str, now: dt.datetime
    ) -> tuple[WaitingStart, ...]:
        def work(tx: Tx) -> tuple[WaitingStart, ...]:
            lock_service(tx, service)
            line = _open(tx.conn, service)
            found = [each for each in line if start in {None, each.id}]
            if not found and start is not None:
                raise NotFoundError("waiting start", start, tuple(each.id for each in line))
            for each in found:
                _cancel(tx.conn, each, by=by, why=why, now=now)
            return tuple(found)

        return await self.database.write(work)

    async def load_misfortune(self, start: str) -> str:
        def work(tx: Tx) -> str:
            row = tx.conn.execute(_BY_ID, {"of": start}).first()
            if row is not None and row.ended in {WaitingEnd.CANCELLED.value, WaitingEnd.DROPPED.value}:
                return f"{start} was {row.ended}"
            try:
                state = load_rollout(tx.conn, RolloutId(start)).state
            except NotFoundError:
                return ""
            return f"{start} was rolled back" if isinstance(state, RolledBack) else ""

        return await self.database.read(work)

    async def load_failure(self, service: str, version: str) -> Failure | None:
        return await self.database.read(lambda tx: failure_of(_past(tx.conn, service), version))

    async def undo(self, service: str, to: str, *, by: str, why: str, key: str | None, now: dt.datetime) -> Undone:
        return await self.database.write(lambda tx: _undo(tx, self.specs, service, to, Undo(by, why), key=key, now=now))

    async def stop_all(self, *, by: str, why: str, now: dt.datetime) -> Stopped:
        return await self.database.write(lambda tx: _stop_all(tx, by=by, why=why, now=now))

    async def freeze(self, service: str, *, until: dt.datetime, by: str, why: str, now: dt.datetime) -> Freeze:
        return await self.database.write(lambda tx: insert_freeze(tx, service, until=until, by=by, why=why, now=now))

    async def unfreeze(self, service: str, *, by: str, why: str, now: dt.datetime) -> Freeze:
        return await self.database.write(lambda tx: end_freeze(tx, service, by=by, why=why, now=now))


# -- waiting -----------------------------------------------------------------------------------------------------------


_BY_ID: Final = sa.select(table).where(table.c.id == sa.bindparam("of"))
_ALL_OPEN: Final = sa.select(table).where(table.c.ended_at.is_(None)).order_by(table.c.number)
_OPEN: Final = _ALL_OPEN.where(table.c.service == sa.bindparam("of"))


def _open(conn: sa.Connection, service: str | None = None) -> list[WaitingStart]:
    rows = conn.execute(_ALL_OPEN) if service is None else conn.execute(_OPEN, {"of": service})
    return [_waiting_of(row) for row in rows]


def _waiting_of(row: sa.Row[Any]) -> WaitingStart:
    return WaitingStart(
        id=row.id,
        service=row.service,
        candidate=row.candidate,
        baseline=row.baseline,
        plan=None if row.plan is None else plan_from_json(row.plan),
        supersede=row.supersede,
        only_after_success=row.only_after_success,
        again=row.again,
        after=row.after,
        not_before=row.not_before,
        by=row.by,
        why=row.why,
        at=row.at,
        end=None if row.ended is None else WaitingEnd(row.ended),
        ended_at=row.ended_at,
        words=row.words,
    )


def _line_up(tx: Tx, specs: SpecCache, asked: WaitingStart, *, key: str | None, now: dt.datetime) -> WaitingStart:
    lock_service(tx, asked.service)
    if key is not None:
        used = tx.conn.execute(sa.select(table).where(table.c.key == key)).first()
        if used is not None:
            return _same(_waiting_of(used), asked, key)
    _spec(tx.conn, specs, asked.service).version(asked.candidate)
    row = active_rollouts(tx.conn, asked.service).get(asked.service)
    active = None if row is None else rollout_of(row)
    line = in_line(_open(tx.conn, asked.service), now=now)
    number = next_number(tx.conn, asked.service)
    front = line[-1].id if line else active.id if active else ""
    waiting = _with_place(asked, RolloutId(f"{asked.service}-{number}"), front)
    if asked.supersede and asked.is_due(now):
        if active and active.candidate == asked.candidate and not isinstance(active.state, RollingBack):
            raise ConflictError(f"rollout {active.id} moves {asked.service!r} to {asked.candidate!r} already")
        _drop(tx.conn, line, words=f"superseded by {waiting.id}", now=now)
    elif len(_open(tx.conn, asked.service)) >= MAX_WAITING:
        raise ConflictError(
            f"{MAX_WAITING} starts of {asked.service!r} wait already; cancel one: hueshift queue {asked.service}"
            " --cancel ID"
        )
    tx.conn.execute(
        table.insert(),
        {
            "id": waiting.id,
            "service": waiting.service,
            "rollout_number": number,
            "candidate": waiting.candidate,
            "baseline": waiting.baseline,
            "plan": sa.null() if waiting.plan is None else plan_to_json(waiting.plan),
            "supersede": waiting.supersede,
            "only_after_success": waiting.only_after_success,
            "again": waiting.again,
            "after": waiting.after,
            "not_before": waiting.not_before,
            "by": waiting.by,
            "why": waiting.why,
            "at": now,
            "key": key,
        },
    )
    words = with_why(_asked_words(waiting, active, now=now), waiting.why)
    append_history(tx.conn, [audit(waiting.service, "queue", by=waiting.by, words=words, at=now)])
    tx.announce(Topic.COMMANDS)
    return waiting


def _with_place(asked: WaitingStart, start: str, front: str) -> WaitingStart:
    return dataclasses.replace(asked, id=start, after=front)


def _same(used: WaitingStart, asked: WaitingStart, key: str) -> WaitingStart:
    if (used.service, used.candidate, used.supersede) != (asked.service, asked.candidate, asked.supersede):
        raise ConflictError(
            f"idempotency key {key!r} was used for 'start {used.service} {used.candidate}'; send a new one with each"
            " request"
        )
    return used


def _asked_words(waiting: WaitingStart, active: Rollout | None, *, now: dt.datetime) -> str:
    asked = f"start of {waiting.id} to {waiting.candidate}"
    if not waiting.is_due(now):
        return f"{asked} scheduled for {waiting.due_at:%F %T} UTC"
    if waiting.supersede and active is not None:
        return f"{asked} in place of {active.id}"
    return f"{asked} queued behind {waiting.after}" if waiting.after else f"{asked} queued"


def _begin(tx: Tx, specs: SpecCache, waiting: WaitingStart, new: NewRollout, *, now: dt.datetime) -> Rollout:
    lock_service(tx, waiting.service)
    row = tx.conn.execute(_BY_ID, {"of": waiting.id}).first()
    if row is None or row.ended_at is not None:
        raise StaleWriteError(f"start {waiting.id} does not wait any more")
    if active_rollouts(tx.conn, waiting.service):
        raise StaleWriteError(f"a rollout of {waiting.service} is active; {waiting.id} waits on")
    if freeze_of(load_freezes(tx.conn, since=now), waiting.service, now=now) is not None:
        raise StaleWriteError(f"{waiting.service} is frozen; {waiting.id} waits on")
    rollouts = tables.rollout
    taken = sa.select(rollouts.c.id).where(
        rollouts.c.service == waiting.service, rollouts.c.number == row.rollout_number
    )
    # The release before this one keeps no number free.
    number = row.rollout_number if tx.conn.scalar(taken) is None else None
    rollout = insert_rollout(tx, specs, new, key=None, now=now, number=number)
    _end(tx.conn, waiting.id, WaitingEnd.STARTED, words=f"started as {rollout.id}", now=now)
    return rollout


def _end(conn: sa.Connection, start: str, end: WaitingEnd, *, words: str, now: dt.datetime) -> bool:
    ended = conn.execute(
        table.update()
        .where(table.c.id == start, table.c.ended_at.is_(None))
        .values(ended=end.value, ended_at=now, words=words)
    )
    return bool(ended.rowcount)


def drop_line(conn: sa.Connection, service: str, *, words: str, now: dt.datetime) -> None:
    """Give up all starts of *service* that wait."""
    _drop(conn, _open(conn, service), words=words, now=now)


def _drop(conn: sa.Connection, line: Iterable[WaitingStart], *, words: str, now: dt.datetime) -> None:
    for each in line:
        if _end(conn, each.id, WaitingEnd.DROPPED, words=words, now=now):
            append_history(conn, [_dropped(each, words, now)])


def _cancel(conn: sa.Connection, waiting: WaitingStart, *, by: str, why: str, now: dt.datetime) -> None:
    _end(conn, waiting.id, WaitingEnd.CANCELLED, words=with_why(f"cancelled by {by}", why), now=now)
    words = with_why(f"start of {waiting.id} to {waiting.candidate} cancelled", why)
    append_history(conn, [audit(waiting.service, "cancel", by=by, words=words, at=now)])


def _dropped(waiting: WaitingStart, words: str, at: dt.datetime) -> HistoryEntry:
    return HistoryEntry(
        number=0,
        at=at,
        kind="transition",
        service=waiting.service,
        rollout=None,
        what="Dropped",
        by="hueshift",
        words=f"gave up the start of {waiting.id} to {waiting.candidate}: {words}",
        before="Queued",
        after="Dropped",
    )


# -- undo and stop -----------------------------------------------------------------------------------------------------


def _spec(conn: sa.Connection, specs: SpecCache, service: str) -> ServiceSpec:
    rows = unrejected_revisions(conn, service) or newest_revisions(conn, service)
    return specs.load(conn, rows[service])


def _past(conn: sa.Connection, service: str) -> list[Past]:
    rollouts = tables.rollout
    query = sa.select(rollouts).where(rollouts.c.service == service).order_by(rollouts.c.number.desc())
    return [
        Past(
            row.id,
            row.baseline,
            row.candidate,
            state_from_json(row.state_kind, row.state),
            direct=row.plan.get("direct", False),
            by=row.by,
            why=row.why,
        )
        for row in conn.execute(query.limit(REMEMBERED))
    ]


def _undo(
    tx: Tx, specs: SpecCache, service: str, to: str, command: Undo, *, key: str | None, now: dt.datetime
) -> Undone:
    lock_service(tx, service)
    done = None if key is None else _undone_before(tx.conn, service, key)
    if done is not None:
        return done
    row = active_rollouts(tx.conn, service).get(service)
    if row is not None:
        active = rollout_of(row)
        _refuse_undo(active, to)
        pending = insert_command(tx, service, command, key=key, now=now)
        return Undone(active.id, active.baseline, pending.number)
    traffic = {share.version: share.weight_bp for share in load_splits(tx.conn, service)[service]}
    baseline, target = way_back(service, _past(tx.conn, service), traffic, to)
    spec = _spec(tx.conn, specs, service)
    if not spec.version(target).endpoints:
        raise InvalidInputError(
            f"versions.{target}.endpoints", "is empty", "add an endpoint, host:port, and apply the service again"
        )
    new = NewRollout(service, target, plan_back(spec.plan), spec.slos, command.by, command.why, baseline, "undo")
    return Undone(insert_rollout(tx, specs, new, key=key, now=now).id, target, None)


def _undone_before(conn: sa.Connection, service: str, key: str) -> Undone | None:
    """Return what the undo with this idempotency key became, if there was one."""
    keys = tables.idempotency_key
    used = conn.execute(sa.select(keys).where(keys.c.key == key)).first()
    if used is None:
        return None
    if used.request != f"undo {service}" and not used.request.startswith(f"undo {service} "):
        raise ConflictError(f"idempotency key {key!r} was used for {used.request!r}; send a new one with each request")
    rollout = load_rollout(conn, RolloutId(used.rollout))
    version = rollout.candidate if used.command is None else rollout.baseline
    return Undone(rollout.id, version, used.command)


def _refuse_undo(active: Rollout, to: str) -> None:
    if active.plan.direct:
        raise ConflictError(f"rollout {active.id} is an undo itself; abort it to leave the traffic where it was")
    if isinstance(active.state, RollingBack):
        raise ConflictError(f"rollout {active.id} gives its traffic back to {active.baseline} already")
    if weight_bp(active.plan, active.state) is None:
        raise ConflictError(f"nothing to undo: rollout {active.id} has moved no traffic yet; abort it to end it")
    if to not in {"", active.baseline}:
        raise ConflictError(
            f"rollout {active.id} moves {active.baseline} to {active.candidate}, so its undo gives back to"
            f" {active.baseline}, not {to}; undo it first"
        )


def _stop_all(tx: Tx, *, by: str, why: str, now: dt.datetime) -> Stopped:
    stopped: list[RolloutId] = []
    left: list[RolloutId] = []
    cancelled: list[str] = []
    for service in sorted({each.service for each in _open(tx.conn)} | set(active_rollouts(tx.conn))):
        lock_service(tx, service)
    for each in _open(tx.conn):
        _cancel(tx.conn, each, by=by, why=why, now=now)
        cancelled.append(each.id)
    for service, row in sorted(active_rollouts(tx.conn).items()):
        rollout = rollout_of(row)
        if rollout.plan.direct or isinstance(rollout.state, RollingBack | Promoted):
            left.append(rollout.id)
        else:
            insert_command(tx, service, Abort(by, why), key=None, now=now)
            stopped.append(rollout.id)
    return Stopped(tuple(stopped), tuple(cancelled), tuple(left))
