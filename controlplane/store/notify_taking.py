"""Which rows of messages are told now: in order per target and rollout, together where some waited, no flood."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from controlplane.notify.kinds import URGENT
from controlplane.store.notify_tables import notify_delivery

LATE: Final = dt.timedelta(minutes=1)
"""What waited for longer is told together with what came after it."""
WINDOW: Final = dt.timedelta(minutes=1)
BURST: Final = 6
"""Messages to one target about one rollout within `WINDOW`; what comes then waits, and is told together."""
MAX_TOGETHER: Final = 500
MOST: Final = 1_000
"""Lanes that are looked at in one go."""

_table = notify_delivery
_PENDING: Final = _table.c.ended_at.is_(None)


def take(
    conn: sa.Connection,
    *,
    until: dt.datetime,
    now: dt.datetime,
    room: Mapping[str, int],
    each: int,
    limit: int,
) -> list[tuple[sa.Row[Any], ...]]:
    """Take what is due, as `Outbox.take_notices` says; return the rows of each message, in order.

    The rows are as they were before; their tries count one more from now on.
    """
    left = dict(room)
    taken: list[tuple[sa.Row[Any], ...]] = []
    for head in conn.execute(_heads(now, room, each)):
        key = f"{head.service}/{head.target}"
        if len(taken) >= limit:
            break
        if left.get(key, each) <= 0:
            continue
        batch = _batch(conn, head, now)
        pause = _pause(conn, head, batch, now)
        if pause is not None:
            conn.execute(_table.update().where(_table.c.number == head.number).values(due_at=pause))
            continue
        if _claim(conn, batch, until=until, now=now):
            left[key] = left.get(key, each) - 1
            taken.append(batch)
    return taken


def _heads(now: dt.datetime, room: Mapping[str, int], each: int) -> sa.Select[Any]:
    """Find the first row of each lane, where it is due, of targets that may be told something."""
    key = _table.c.service + "/" + _table.c.target
    full = [target for target, count in room.items() if count <= 0]
    open_ = [target for target, count in room.items() if count > 0]
    which = key.not_in(full) if each else key.in_(open_)
    before = _table.alias()
    earlier = sa.exists().where(
        before.c.lane == _table.c.lane, before.c.ended_at.is_(None), before.c.number < _table.c.number
    )
    due = sa.select(_table).where(_PENDING, _table.c.due_at <= now, which, ~earlier)
    return due.order_by(_table.c.due_at, _table.c.number).limit(MOST)


def _batch(conn: sa.Connection, head: sa.Row[Any], now: dt.datetime) -> tuple[sa.Row[Any], ...]:
    """Return the rows that are told with *head*: alone, unless it has waited."""
    waited = head.tries > 0 or now - head.made_at > LATE or head.due_at > head.made_at
    if not waited:
        return (head,)
    lane = sa.select(_table).where(_table.c.lane == head.lane, _PENDING).order_by(_table.c.number).limit(MAX_TOGETHER)
    return tuple(conn.execute(lane))


def _pause(
    conn: sa.Connection, head: sa.Row[Any], batch: tuple[sa.Row[Any], ...], now: dt.datetime
) -> dt.datetime | None:
    """Return until when *head* waits, since its target was told much of its rollout just now; None: not at all."""
    told = (
        sa.select(_table.c.message, sa.func.max(_table.c.ended_at).label("at"))
        .where(_table.c.lane == head.lane, _table.c.delivered, _table.c.ended_at > now - WINDOW)
        .group_by(_table.c.message)
        .order_by(sa.text("at"))
    )
    moments = [row.at for row in conn.execute(told)]
    if len(moments) < BURST or {row.kind for row in batch} & {kind.value for kind in URGENT}:
        return None
    waits: dt.datetime = moments[-BURST] + WINDOW
    return waits


def _claim(conn: sa.Connection, batch: tuple[sa.Row[Any], ...], *, until: dt.datetime, now: dt.datetime) -> bool:
    """Take the rows of a message, unless another process has taken the first of them since."""
    head = batch[0]
    mine = sa.and_(_table.c.number == head.number, _PENDING, _table.c.due_at <= now, _table.c.tries == head.tries)
    taken = {"due_at": until, "tries": _table.c.tries + 1}
    if not conn.execute(_table.update().where(mine).values(taken)).rowcount:
        return False
    rest = sa.and_(_table.c.number.in_([row.number for row in batch[1:]]), _PENDING)
    conn.execute(_table.update().where(rest).values(tries=_table.c.tries + 1))
    return True
