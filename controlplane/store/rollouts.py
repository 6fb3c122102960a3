"""Rollouts, the commands that wait for them, and what happened."""

import dataclasses
import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from controlplane.errors import ConflictError, NotFoundError, StaleWriteError
from controlplane.ports import HistoryEntry, NewRollout, Occurrence, PendingCommand, Rollout, RolloutId
from controlplane.rollout.lifecycle import weight_bp
from controlplane.rollout.model import Command, Preparing, is_final
from controlplane.rollout.recorded import JudgedTick
from controlplane.store import tables
from controlplane.store.codec import (
    command_from_row,
    command_to_row,
    ended_at,
    plan_to_json,
    slo_to_json,
    state_kind,
    state_to_json,
)
from controlplane.store.engine import Tx
from controlplane.store.freezes import refuse_frozen
from controlplane.store.judged import append_judged, load_judged, load_odds
from controlplane.store.queries import (
    Part,
    active_rollouts,
    append_history,
    audit,
    load_splits,
    lock_service,
    newest_revisions,
    next_number,
    replace_split,
    rollout_of,
    unrejected_revisions,
    weights_of,
    with_why,
)
from controlplane.store.specs import SpecCache
from controlplane.traffic.assemble import rollout_split
from controlplane.traffic.model import Split, check_split
from controlplane.wake import Topic

MAX_WEIGHTS: Final = 5_000
"""Changes of weights that are read at most: years of them."""


class SqlRollouts(Part):
    """The port `RolloutStore` on SQL."""

    __slots__ = ()

    async def start(self, new: NewRollout, *, key: str | None, now: dt.datetime) -> Rollout:
        return await self.database.write(lambda tx: insert_rollout(tx, self.specs, new, key=key, now=now))

    async def load(self, rollout: RolloutId) -> Rollout:
        return await self.database.read(lambda tx: load_rollout(tx.conn, rollout))

    async def load_latest(self, service: str) -> Rollout | None:
        def work(tx: Tx) -> Rollout | None:
            query = sa.select(tables.rollout).where(tables.rollout.c.service == service)
            row = tx.conn.execute(query.order_by(tables.rollout.c.number.desc()).limit(1)).first()
            return None if row is None else rollout_of(row)

        return await self.database.read(work)

    async def load_latest_of(self, services: Collection[str]) -> Mapping[str, Rollout]:
        return await self.database.read(
            lambda tx: {
                row.service: rollout_of(row) for row in tx.conn.execute(_LATEST_OF, {"services": list(services)})
            }
        )

    async def load_active(self) -> tuple[Rollout, ...]:
        return await self.database.read(lambda tx: tuple(rollout_of(row) for row in active_rollouts(tx.conn).values()))

    async def list_rollouts(
        self, service: str | None = None, *, before: RolloutId | None = None, limit: int = 50
    ) -> tuple[Rollout, ...]:
        table = tables.rollout
        query = sa.select(table)
        if service is None:
            query = query.order_by(table.c.started_at.desc(), table.c.service, table.c.number.desc())
        else:
            query = query.where(table.c.service == service).order_by(table.c.number.desc())
            if before is not None:
                theirs = sa.select(table.c.number).where(table.c.id == before, table.c.service == service)
                query = query.where(table.c.number < theirs.scalar_subquery())
        return await self.database.read(
            lambda tx: tuple(rollout_of(row) for row in tx.conn.execute(query.limit(limit)))
        )

    async def add_command(self, service: str, command: Command, *, key: str | None, now: dt.datetime) -> PendingCommand:
        return await self.database.write(lambda tx: insert_command(tx, service, command, key=key, now=now))

    async def load_pending(self, rollout: RolloutId) -> tuple[PendingCommand, ...]:
        return await self.database.read(
            lambda tx: tuple(
                PendingCommand(number=row["number"], command=command_from_row(row))
                for row in tx.conn.execute(_PENDING, {"of": rollout}).mappings()
            )
        )

    async def save(
        self,
        rollout: Rollout,
        *,
        occurred: Sequence[Occurrence] = (),
        handled: Sequence[int] = (),
        split: Split | None = None,
        judged: Sequence[JudgedTick] = (),
        now: dt.datetime,
    ) -> Rollout:
        if split is not None:
            check_split(split)

        def work(tx: Tx) -> Rollout:
            saved = _save(tx, rollout, occurred=occurred, handled=handled, split=split, now=now)
            append_judged(tx.conn, rollout.id, judged)
            return saved

        return await self.database.write(work)

    async def load_judged(self, rollout: RolloutId, *, after: int = 0, limit: int = 600) -> tuple[JudgedTick, ...]:
        return await self.database.read(lambda tx: load_judged(tx.conn, rollout, after=after, limit=limit))

    async def load_odds(
        self, rollout: RolloutId, *, since: int, until: int, step: int
    ) -> tuple[tuple[int, Mapping[str, float]], ...]:
        return await self.database.read(lambda tx: load_odds(tx.conn, rollout, since=since, until=until, step=step))

    async def load_weights(self, service: str, *, since: dt.datetime) -> tuple[HistoryEntry, ...]:
        table = tables.history
        tells = sa.and_(table.c.service == service, table.c.weights.is_not(None))
        before = sa.select(table).where(tells, table.c.at < since).order_by(table.c.number.desc()).limit(1)
        after = sa.select(table).where(tells, table.c.at >= since).order_by(table.c.number).limit(MAX_WEIGHTS)

        def work(tx: Tx) -> tuple[HistoryEntry, ...]:
            rows = [*tx.conn.execute(before).mappings(), *tx.conn.execute(after).mappings()]
            return tuple(HistoryEntry(**row) for row in rows)

        return await self.database.read(work)

    async def history(
        self, service: str, *, rollout: str | None = None, before: int | None = None, limit: int = 200
    ) -> tuple[HistoryEntry, ...]:
        table = tables.history
        query = sa.select(table).order_by(table.c.number.desc()).limit(limit)
        if rollout is None:
            query = query.where(table.c.service == service)
        else:  # one condition alone, so that there is no doubt which index finds it
            of = sa.select(tables.rollout.c.id).where(
                tables.rollout.c.id == rollout, tables.rollout.c.service == service
            )
            query = query.where(table.c.rollout == of.scalar_subquery())
        if before is not None:
            query = query.where(table.c.number < before)
        found = await self.database.read(lambda tx: tx.conn.execute(query).mappings().all())
        return tuple(HistoryEntry(**row) for row in reversed(found))

    async def history_since(self, service: str, after: int, *, limit: int = 200) -> tuple[HistoryEntry, ...]:
        table = tables.history
        query = sa.select(table).where(table.c.service == service, table.c.number > after)
        found = await self.database.read(
            lambda tx: tx.conn.execute(query.order_by(table.c.number).limit(limit)).mappings().all()
        )
        return tuple(HistoryEntry(**row) for row in found)


_LATEST: Final = (
    sa.select(tables.rollout.c.service, sa.func.max(tables.rollout.c.number).label("number"))
    .where(tables.rollout.c.service.in_(sa.bindparam("services", expanding=True)))
    .group_by(tables.rollout.c.service)
    .subquery()
)
_LATEST_OF: Final = sa.select(tables.rollout).join(
    _LATEST,
    sa.and_(tables.rollout.c.service == _LATEST.c.service, tables.rollout.c.number == _LATEST.c.number),
)

_PENDING: Final = (
    sa.select(tables.command)
    .where(tables.command.c.rollout == sa.bindparam("of"), tables.command.c.handled_at.is_(None))
    .order_by(tables.command.c.number)
)


def load_rollout(conn: sa.Connection, rollout: RolloutId) -> Rollout:
    """Return a rollout. Raises NotFoundError."""
    row = conn.execute(sa.select(tables.rollout).where(tables.rollout.c.id == rollout)).first()
    if row is None:
        newest = sa.select(tables.rollout.c.id).order_by(tables.rollout.c.started_at.desc()).limit(10)
        raise NotFoundError("rollout", rollout, tuple(conn.scalars(newest)))
    return rollout_of(row)


# -- start -------------------------------------------------------------------------------------------------------------


def insert_rollout(
    tx: Tx, specs: SpecCache, new: NewRollout, *, key: str | None, now: dt.datetime, number: int | None = None
) -> Rollout:
    """Do what `RolloutStore.start` does, under the *number* that was kept for it, if any is."""
    lock_service(tx, new.service)
    request = f"{new.what} {new.service} {new.candidate}{f' from {new.baseline}' if new.baseline else ''}"
    used = _find_key(tx.conn, key, request)
    if used is not None:
        return load_rollout(tx.conn, RolloutId(used.rollout))
    rows = unrejected_revisions(tx.conn, new.service) or newest_revisions(tx.conn, new.service)
    specs.load(tx.conn, rows[new.service]).version(new.candidate)
    active = active_rollouts(tx.conn, new.service)
    if active:
        raise ConflictError(
            f"rollout {active[new.service].id} of {new.service!r} is active; wait until it has ended (--queue), take"
            " its place (--supersede), or abort it"
        )
    if not new.plan.direct:
        refuse_frozen(tx.conn, new.service, now=now)
    baseline = _baseline(new, load_splits(tx.conn, new.service)[new.service])
    number = number or next_number(tx.conn, new.service)
    rollout = Rollout(
        id=RolloutId(f"{new.service}-{number}"),
        service=new.service,
        baseline=baseline,
        candidate=new.candidate,
        plan=new.plan,
        slos=new.slos,
        state=Preparing(since=now),
        version=1,
        started_at=now,
        deadline_at=now + new.plan.deadline,
        by=new.by,
        why=new.why,
    )
    tx.conn.execute(tables.rollout.insert(), _row_of(rollout, number))
    append_history(tx.conn, _beginning_of(rollout, what=new.what))
    _keep_key(tx.conn, key, request, rollout=rollout.id, now=now)
    tx.announce(Topic.DESIRED, Topic.COMMANDS)
    return rollout


def _row_of(rollout: Rollout, number: int) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "service": rollout.service,
        "number": number,
        "baseline": rollout.baseline,
        "candidate": rollout.candidate,
        "plan": plan_to_json(rollout.plan),
        "slos": [slo_to_json(slo) for slo in rollout.slos],
        "state_kind": state_kind(rollout.state),
        "state": state_to_json(rollout.state),
        "version": rollout.version,
        "started_at": rollout.started_at,
        "deadline_at": rollout.deadline_at,
        "by": rollout.by,
        "why": rollout.why,
    }


def _beginning_of(rollout: Rollout, *, what: str) -> list[HistoryEntry]:
    """Make the entries for who started a rollout, and for its first state."""
    way = f"from {rollout.baseline} {'back ' if rollout.plan.direct else ''}to {rollout.candidate}"
    words = with_why(f"rollout {rollout.id} {way} started", rollout.why)
    asked = audit(rollout.service, what, by=rollout.by, words=words, at=rollout.started_at, rollout=rollout.id)
    waits = f"waiting for healthy workers of {rollout.candidate}"
    began = dataclasses.replace(asked, kind="transition", words=waits, after=type(rollout.state).__name__)
    return [asked, began]


def _baseline(new: NewRollout, split: Split) -> str:
    others = [share.version for share in split if share.version != new.candidate and share.weight_bp]
    if not others:
        raise ConflictError(f"{new.candidate!r} already has all traffic of {new.service!r}; name another version")
    if new.baseline and new.baseline not in others:
        raise ConflictError(
            f"{new.baseline!r} has no traffic of {new.service!r} to give; versions that have: {', '.join(others)}"
        )
    if len(others) > 1 and not new.baseline:
        raise ConflictError(
            f"the split of {new.service!r} gives traffic to {' and '.join(others)} besides {new.candidate!r}; name the"
            " one whose traffic is to move (--from), and the others keep theirs"
        )
    return new.baseline or others[0]


# -- commands ----------------------------------------------------------------------------------------------------------


def insert_command(tx: Tx, service: str, command: Command, *, key: str | None, now: dt.datetime) -> PendingCommand:
    """Do what `RolloutStore.add_command` does."""
    lock_service(tx, service)
    row = command_to_row(command)
    verb = "undo" if row["undo"] else row["kind"]
    name = f"{verb} --full" if row["full"] else verb
    request = f"{name} {service}"
    used = _find_key(tx.conn, key, request)
    table = tables.command
    if used is not None:
        first = tx.conn.execute(sa.select(table).where(table.c.number == used.command)).mappings().one()
        return PendingCommand(number=first["number"], command=command_from_row(first))
    active = active_rollouts(tx.conn, service).get(service)
    if active is None:
        raise ConflictError(f"no rollout of {service!r} is active; start one first")
    number: int = tx.conn.execute(
        table.insert().returning(table.c.number), {**row, "rollout": active.id, "at": now}
    ).scalar_one()
    append_history(
        tx.conn,
        [
            audit(
                service,
                verb,
                by=command.by,
                words=with_why(f"{name} asked for", command.why),
                at=now,
                rollout=RolloutId(active.id),
            )
        ],
    )
    _keep_key(tx.conn, key, request, rollout=active.id, command=number, now=now)
    tx.announce(Topic.COMMANDS)
    return PendingCommand(number=number, command=command)


# -- idempotency keys --------------------------------------------------------------------------------------------------


def _find_key(conn: sa.Connection, key: str | None, request: str) -> sa.Row[tuple[str, str, int | None]] | None:
    if key is None:
        return None
    table = tables.idempotency_key
    query = sa.select(table.c.request, table.c.rollout, table.c.command).where(table.c.key == key)
    used = conn.execute(query).first()
    if used is not None and used.request != request:
        raise ConflictError(f"idempotency key {key!r} was used for {used.request!r}; send a new one with each request")
    return used


def _keep_key(
    conn: sa.Connection, key: str | None, request: str, *, rollout: str, command: int | None = None, now: dt.datetime
) -> None:
    if key is not None:
        conn.execute(
            tables.idempotency_key.insert(),
            {"key": key, "request": request, "rollout": rollout, "command": command, "at": now},
        )


# -- save --------------------------------------------------------------------------------------------------------------


_BEFORE: Final = (
    sa.select(tables.rollout.c.version, tables.rollout.c.state_kind, tables.rollout.c.state)
    .where(tables.rollout.c.id == sa.bindparam("of"))
    .with_for_update()
)
_UPDATE: Final = (
    tables.rollout.update()
    .where(tables.rollout.c.id == sa.bindparam("of"))
    .values(
        {
            name: sa.bindparam(name)
            for name in (
                "state_kind",
                "state",
                "version",
                "deadline_at",
                "ended_at",
                "judge",
                "evidence",
                "judged_tick",
                "asked",
            )
        }
    )
)
_HANDLE: Final = (
    tables.command.update()
    .where(
        tables.command.c.rollout == sa.bindparam("of"),
        tables.command.c.number.in_(sa.bindparam("numbers", expanding=True)),
        tables.command.c.handled_at.is_(None),
    )
    .values(handled_at=sa.bindparam("now"))
)


def _asked_meanwhile(conn: sa.Connection, rollout: RolloutId, handled: Sequence[int]) -> bool:
    """Whether a command waits that would be lost with the rollout's end: an undo in the moment of a promotion."""
    return any(row.number not in handled for row in conn.execute(_PENDING, {"of": rollout}))


def _save(
    tx: Tx,
    rollout: Rollout,
    *,
    occurred: Sequence[Occurrence],
    handled: Sequence[int],
    split: Split | None,
    now: dt.datetime,
) -> Rollout:
    if split is not None:
        lock_service(tx, rollout.service)  # before the rollout's row, in the order of all other writers
    before = tx.conn.execute(_BEFORE, {"of": rollout.id}).first()
    if before is None or before.version != rollout.version:
        raise StaleWriteError(f"rollout {rollout.id} was changed by someone else; load it again")
    kind, state = state_kind(rollout.state), state_to_json(rollout.state)
    ends = ended_at(rollout.state)
    if ends is not None and _asked_meanwhile(tx.conn, rollout.id, handled):
        raise StaleWriteError(f"rollout {rollout.id} was asked for something before it ended; load it again")
    tx.conn.execute(
        _UPDATE,
        {
            "of": rollout.id,
            "state_kind": kind,
            "state": state,
            "version": rollout.version + 1,
            "deadline_at": rollout.deadline_at,
            "ended_at": ends,
            "judge": rollout.judge,
            "evidence": rollout.evidence,
            "judged_tick": rollout.judged_tick,
            "asked": rollout.asked.value if rollout.asked else None,
        },
    )
    weights = _weights(tx.conn, rollout, split) if occurred else None
    append_history(
        tx.conn,
        [
            HistoryEntry(
                number=0,
                at=now,
                weights=weights if entry.kind == "transition" else None,
                kind=entry.kind,
                service=rollout.service,
                rollout=rollout.id,
                what=entry.what,
                by=entry.by,
                words=entry.words,
                before=entry.before,
                after=entry.after,
            )
            for entry in occurred
        ],
    )
    if handled:
        tx.conn.execute(_HANDLE, {"of": rollout.id, "numbers": list(handled), "now": now})
    if split is not None:
        replace_split(tx.conn, rollout.service, split)
    # A save of the judge's state alone, once a second, is no reason to project anew.
    if split is not None or (before.state_kind, before.state) != (kind, state):
        tx.announce(Topic.DESIRED)
    return dataclasses.replace(rollout, version=rollout.version + 1)


def _weights(conn: sa.Connection, rollout: Rollout, split: Split | None) -> dict[str, int]:
    """Return the weights that are asked for in the state that is saved."""
    if split is None:
        split = load_splits(conn, rollout.service)[rollout.service]
        candidate_bp = weight_bp(rollout.plan, rollout.state)
        if candidate_bp is not None and not is_final(rollout.state):
            split = rollout_split(split, rollout.baseline, rollout.candidate, candidate_bp)
    return weights_of(split)
