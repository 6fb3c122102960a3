"""Targets of messages, and what each is told: rows made of the history, in its order, and of nothing else."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from controlplane.courier.model import GivenUp, Heard, Later
from controlplane.courier.signatures import OLD_SECRET_FOR
from controlplane.errors import ConflictError, NotFoundError
from controlplane.notify.kinds import NotifyKind
from controlplane.notify.model import MAX_TARGETS, Delivery, Parcel, Place, Report, Target, Telling, telling_of
from controlplane.notify.ports import Applied
from controlplane.ports import Change
from controlplane.store import tables
from controlplane.store.audit import append_change
from controlplane.store.engine import Tx
from controlplane.store.event_log import entries_after
from controlplane.store.notify_tables import notify_delivery, notify_link, notify_place, notify_target
from controlplane.store.notify_taking import take
from controlplane.store.queries import Part

_PENDING: Final = notify_delivery.c.ended_at.is_(None)
_NEWEST: Final = sa.select(sa.func.coalesce(sa.func.max(tables.history.c.number), 0))


class SqlNotify(Part):
    """The port `NotifyStore`, but for the links."""

    __slots__ = ()

    async def apply_target(self, target: Target, change: Change, *, secret: str | None, spare: str) -> Applied:
        def work(tx: Tx) -> Applied:
            applied = _apply(tx, target, secret, spare, change.at)
            if applied.changed:
                words = f"{target.key} is told: {', '.join(sorted(target.kinds))}"
                append_change(tx.conn, "target-apply", words, change, service=target.service)
            return applied

        return await self.database.write(work)

    async def renew_target_secret(self, service: str, name: str, change: Change, *, secret: str) -> None:
        def work(tx: Tx) -> None:
            row = tx.conn.execute(sa.select(notify_target).where(_is(service, name)).with_for_update()).first()
            if row is None:
                raise _missing(tx.conn, service, name)
            if row.secret is None:
                raise ConflictError(f"target {name!r} is not signed: only webhooks are")
            tx.conn.execute(notify_target.update().where(_is(service, name)).values(_renewed(row, secret, change.at)))
            words = f"the secret of {service}/{name} was renewed"
            append_change(tx.conn, "target-secret", words, change, service=service)

        await self.database.write(work)

    async def list_targets(self) -> tuple[Target, ...]:
        query = sa.select(notify_target).order_by(notify_target.c.service, notify_target.c.name)
        return await self.database.read(lambda tx: tuple(_target_of(row) for row in tx.conn.execute(query)))

    async def load_target_secrets(self, service: str, name: str, *, now: dt.datetime) -> tuple[str, ...]:
        query = sa.select(notify_target).where(_is(service, name))

        def work(tx: Tx) -> tuple[str, ...]:
            row = tx.conn.execute(query).first()
            return () if row is None else _secrets_of(row, now)

        return await self.database.read(work)

    async def delete_target(self, service: str, name: str, change: Change) -> None:
        def work(tx: Tx) -> None:
            told = sa.and_(notify_delivery.c.service == service, notify_delivery.c.target == name)
            tx.conn.execute(notify_link.delete().where(notify_link.c.target == f"{service}/{name}"))
            tx.conn.execute(notify_delivery.delete().where(told))
            if not tx.conn.execute(notify_target.delete().where(_is(service, name))).rowcount:
                raise _missing(tx.conn, service, name)
            words = f"{service}/{name} is told no more"
            append_change(tx.conn, "target-delete", words, change, service=service)

        await self.database.write(work)

    # -- the outbox ----------------------------------------------------------------------------------------------------

    async def sort_history(self, *, limit: int, now: dt.datetime) -> int:
        if not await self.database.read(_has_news):
            return 0
        return await self.database.write(lambda tx: _sort(tx, limit, now))

    async def take_messages(
        self, *, until: dt.datetime, now: dt.datetime, room: Mapping[str, int], each: int, limit: int
    ) -> tuple[Parcel, ...]:
        def work(tx: Tx) -> tuple[Parcel, ...]:
            found = []
            for batch in take(tx.conn, until=until, now=now, room=room, each=each, limit=limit):
                first = batch[0]
                row = tx.conn.execute(sa.select(notify_target).where(_is(first.service, first.target))).first()
                found.append(_parcel_of(batch, row, now))
            return tuple(found)

        return await self.database.write(work)

    async def settle_message(self, message: Parcel, outcome: Heard | Later | GivenUp, *, now: dt.datetime) -> bool:
        def work(tx: Tx) -> bool:
            table, values = notify_delivery, _settled(outcome, message, now)
            mine = sa.and_(table.c.number == message.number, table.c.tries == message.tries, _PENDING)
            if not tx.conn.execute(table.update().where(mine).values(values)).rowcount:
                return False
            rest = sa.and_(table.c.number.in_(message.rows[1:]), _PENDING)
            tx.conn.execute(table.update().where(rest).values(values))
            return True

        return await self.database.write(work)

    async def list_deliveries(
        self, service: str, name: str, *, before: int | None = None, limit: int
    ) -> tuple[Delivery, ...]:
        table = notify_delivery
        mine = sa.select(table).where(table.c.service == service, table.c.target == name)
        if before is not None:
            mine = mine.where(table.c.number < before)

        def work(tx: Tx) -> tuple[Delivery, ...]:
            if tx.conn.execute(sa.select(notify_target.c.name).where(_is(service, name))).first() is None:
                raise _missing(tx.conn, service, name)
            rows = tx.conn.execute(mine.order_by(table.c.number.desc()).limit(limit))
            return tuple(_delivery_of(row) for row in rows)

        return await self.database.read(work)

    async def replay_delivery(self, service: str, name: str, number: int, *, now: dt.datetime) -> None:
        table = notify_delivery
        mine = sa.and_(table.c.service == service, table.c.target == name, table.c.number == number)
        # Its patience begins again; what it says is of when it happened.
        anew = {"due_at": now, "made_at": now, "tries": 0, "words": "", "delivered": False, "ended_at": None}

        def work(tx: Tx) -> None:
            if not tx.conn.execute(table.update().where(mine).values(**anew, message=None)).rowcount:
                raise NotFoundError(f"delivery to {service}/{name}", str(number))

        await self.database.write(work)

    async def prune_deliveries(self, before: dt.datetime, *, limit: int) -> int:
        table = notify_delivery
        old = sa.select(table.c.number).where(table.c.ended_at < before).order_by(table.c.ended_at).limit(limit)

        def work(tx: Tx) -> int:
            tx.conn.execute(notify_link.delete().where(notify_link.c.expires_at < before))
            return tx.conn.execute(table.delete().where(table.c.number.in_(old))).rowcount

        return await self.database.write(work)


# -- rows --------------------------------------------------------------------------------------------------------------


def _is(service: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(notify_target.c.service == service, notify_target.c.name == name)


def _missing(conn: sa.Connection, service: str, name: str) -> NotFoundError:
    known = conn.scalars(
        sa.select(notify_target.c.name).where(notify_target.c.service == service).order_by(notify_target.c.name)
    )
    return NotFoundError("notification target", f"{service}/{name}", tuple(known))


def _apply(tx: Tx, target: Target, secret: str | None, spare: str, now: dt.datetime) -> Applied:
    tx.lock("notify_target")
    before = tx.conn.execute(sa.select(notify_target).where(_is(target.service, target.name))).first()
    values: dict[str, Any] = {
        "address": target.address,
        "kinds": sorted(target.kinds),
        "links": target.links,
        "applied_at": now,
    }
    fresh = target.is_signed and secret is None and (before is None or before.secret is None)
    given = spare if fresh else secret
    if before is None:
        of_service = sa.select(sa.func.count()).where(notify_target.c.service == target.service)
        if (tx.conn.scalar(of_service) or 0) >= MAX_TARGETS:
            raise ConflictError(f"{target.service} has {MAX_TARGETS} notification targets already; remove one first")
        key = {"service": target.service, "name": target.name, "secret": given, "after": tx.conn.scalar(_NEWEST)}
        tx.conn.execute(notify_target.insert(), {**key, **values})
        return Applied(changed=True, fresh=fresh)
    if not target.is_signed:
        values |= {"secret": None, "old_secret": None, "old_until": None}
    elif given is not None and given != before.secret:
        values |= _renewed(before, given, now)
    if _target_of(before) == target and values.get("secret", before.secret) == before.secret:
        return Applied(changed=False, fresh=False)
    tx.conn.execute(notify_target.update().where(_is(target.service, target.name)).values(values))
    if target.address != before.address:
        mine = sa.and_(notify_delivery.c.service == target.service, notify_delivery.c.target == target.name, _PENDING)
        tx.conn.execute(notify_delivery.update().where(mine).values(due_at=now))
    return Applied(changed=True, fresh=fresh)


def _renewed(row: sa.Row[Any], secret: str, now: dt.datetime) -> dict[str, Any]:
    until = None if row.secret is None else now + OLD_SECRET_FOR
    return {"secret": secret, "old_secret": row.secret, "old_until": until}


def _has_news(tx: Tx) -> bool:
    """Whether there is an entry that was not sorted, so that nothing is written in vain."""
    place = tx.conn.scalar(sa.select(notify_place.c.history))
    return place is None or place < (tx.conn.scalar(_NEWEST) or 0)


def _sort(tx: Tx, limit: int, now: dt.datetime) -> int:
    tx.lock("notify_place")
    place = tx.conn.scalar(sa.select(notify_place.c.history))
    if place is None:
        # What happened before there were notifications is told to nobody.
        tx.conn.execute(notify_place.insert(), {"id": 1, "history": tx.conn.scalar(_NEWEST)})
        return 0
    entries = entries_after(tx.conn, after=place, limit=limit)
    if not entries:
        return 0
    wanted = [(_target_of(row), row.after) for row in tx.conn.execute(sa.select(notify_target))]
    rows = []
    for logged in entries:
        told = telling_of(logged)
        if told is None:
            continue
        rows += [
            {
                "service": target.service,
                "target": target.name,
                "lane": f"{target.key}/{told.rollout or told.service}",
                "kind": told.kind.value,
                "telling": told.to_json(),
                "made_at": now,
                "due_at": now,
                "tries": 0,
                "words": "",
                "delivered": False,
            }
            for target, after in wanted
            if told.history > after and target.wants(told.service, told.kind)
        ]
    if rows:
        tx.conn.execute(notify_delivery.insert(), rows)
    tx.conn.execute(notify_place.update().values(history=entries[-1].entry.number))
    return len(entries)


def _settled(outcome: Heard | Later | GivenUp, message: Parcel, now: dt.datetime) -> dict[str, Any]:
    match outcome:
        case Heard():
            return {"delivered": True, "ended_at": now, "words": "", "message": message.number}
        case Later(words, due):
            return {"due_at": due, "words": words}
        case GivenUp(words):
            return {"ended_at": now, "words": words, "message": message.number}


def _target_of(row: sa.Row[Any]) -> Target:
    # A kind that only a newer release knows is left out.
    kinds = frozenset(NotifyKind(each) for each in row.kinds if each in set(NotifyKind))
    return Target(
        service=row.service,
        name=row.name,
        address=row.address,
        kinds=kinds or frozenset(NotifyKind),
        links=row.links,
    )


def _secrets_of(row: sa.Row[Any], now: dt.datetime) -> tuple[str, ...]:
    if row.secret is None:
        return ()
    if row.old_secret is None or row.old_until <= now:
        return (row.secret,)
    return (row.secret, row.old_secret)


def _parcel_of(batch: tuple[sa.Row[Any], ...], target: sa.Row[Any] | None, now: dt.datetime) -> Parcel:
    first, tellings = batch[0], [Telling.from_json(row.telling) for row in batch]
    return Parcel(
        number=first.number,
        rows=tuple(row.number for row in batch),
        host=f"{first.service}/{first.target}",
        tries=first.tries + 1,
        made_at=first.made_at,
        message=Report(telling=tellings[-1], earlier=tuple(tellings[:-1]), place=Place()),
        wants_links=bool(target and target.links),
        address=target.address if target else "",
        secrets=_secrets_of(target, now) if target else (),
    )


def _delivery_of(row: sa.Row[Any]) -> Delivery:
    told = Telling.from_json(row.telling)
    return Delivery(
        number=row.number,
        service=row.service,
        target=row.target,
        kind=told.kind,
        rollout=told.rollout,
        event=told.event,
        sentence=told.sentence,
        tries=row.tries,
        words=row.words,
        delivered=row.delivered,
        made_at=row.made_at,
        due_at=row.due_at,
        ended_at=row.ended_at,
    )
