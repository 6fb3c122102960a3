"""The newest answer of the gate that a rollout stands before: a row, and an entry of the history when it changes."""

import datetime as dt
from typing import Any

import sqlalchemy as sa

from controlplane.errors import NotFoundError
from controlplane.ports import RolloutId
from controlplane.rollout.gate import Before, Decision, GateAnswer
from controlplane.rollout.model import Baking, Preparing
from controlplane.store import tables
from controlplane.store.engine import Tx
from controlplane.store.notify_tables import gate_answer
from controlplane.store.queries import Part, append_history, audit, rollout_of, upsert
from controlplane.wake import Topic


class SqlGates(Part):
    """The port `GateStore` on SQL."""

    __slots__ = ()

    async def load_gate(self, rollout: RolloutId) -> GateAnswer | None:
        query = sa.select(gate_answer).where(gate_answer.c.rollout == rollout)

        def work(tx: Tx) -> GateAnswer | None:
            row = tx.conn.execute(query).first()
            return None if row is None else _answer_of(row)

        return await self.database.read(work)

    async def answer_gate(self, rollout: RolloutId, answer: GateAnswer, *, words: str, now: dt.datetime) -> bool:
        return await self.database.write(lambda tx: _answer(tx, rollout, answer, words, now))


def _answer(tx: Tx, rollout: RolloutId, answer: GateAnswer, words: str, now: dt.datetime) -> bool:
    # The controller's saves take the same row: what it decides next, it decides with this answer or without it.
    query = sa.select(tables.rollout).where(tables.rollout.c.id == rollout).with_for_update()
    row = tx.conn.execute(query).first()
    if row is None:
        raise NotFoundError("rollout", rollout)
    state = rollout_of(row).state
    if not isinstance(state, Preparing | Baking) or state.since != answer.since:
        return False
    found = tx.conn.execute(sa.select(gate_answer).where(gate_answer.c.rollout == rollout)).first()
    before = None if found is None else _answer_of(found)
    same = before is not None and (before.step, before.before, before.since) == (
        answer.step,
        answer.before,
        answer.since,
    )
    if before is not None and same and before.by and not answer.by:
        return False  # what somebody has said holds
    began_at = before.began_at if before is not None and same else answer.began_at
    upsert(
        tx.conn,
        gate_answer,
        [
            {
                "rollout": rollout,
                "step": answer.step,
                "before": answer.before.value,
                "since": answer.since,
                "began_at": began_at,
                "asked_at": answer.asked_at,
                "decision": answer.decision.value,
                "words": answer.words,
                "by": answer.by,
            }
        ],
    )
    news = before is None or not same
    if (
        news
        or before is None
        or (before.decision, before.words, before.by) != (answer.decision, answer.words, answer.by)
    ):
        by = answer.by or "hueshift"
        append_history(tx.conn, [audit(row.service, "webhook", by=by, words=words, at=now, rollout=rollout)])
    tx.announce(Topic.COMMANDS)
    return True


def _answer_of(row: sa.Row[Any]) -> GateAnswer:
    return GateAnswer(
        step=row.step,
        before=Before(row.before),
        since=row.since,
        began_at=row.began_at,
        asked_at=row.asked_at,
        decision=Decision(row.decision),
        words=row.words,
        by=row.by,
    )
