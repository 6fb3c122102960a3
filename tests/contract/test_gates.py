"""Answers of gates in the store: the newest is a row, changes are history, and what somebody said holds."""

import dataclasses
import datetime as dt

import pytest

from controlplane.errors import NotFoundError
from controlplane.ports import GateStore, Rollout, RolloutId
from controlplane.rollout.gate import Before, Decision, Gate, GateAnswer, OnTimeout
from controlplane.rollout.model import Acked, Ready
from controlplane.store import SqlStore
from tests.builders import NOW, make_new_rollout, make_plan, make_spec
from tests.contract.test_notify import happen

IS_A_STORE: type[GateStore] = SqlStore  # mypy sits this exam

SECOND = dt.timedelta(seconds=1)
GATE = Gate("https://checks.example.org/gate?token=s3cret", Before.STEP, 60 * SECOND, 5 * SECOND, OnTimeout.ABORT)


@pytest.fixture
async def rollout(store: SqlStore) -> Rollout:
    plan = make_plan()
    plan = dataclasses.replace(plan, steps=(dataclasses.replace(plan.steps[0], gate=GATE), *plan.steps[1:]))
    await store.apply(make_spec(plan=plan), by="ada", why="", now=NOW)
    return await store.start(make_new_rollout(plan=plan), key=None, now=NOW)


def answer(decision: Decision, *, words: str = "", at: dt.datetime = NOW, by: str = "") -> GateAnswer:
    return GateAnswer(0, Before.STEP, NOW, at, at, decision, words, by)


async def test_a_gate_is_read_back_in_a_declaration_and_in_a_rollout(store: SqlStore, rollout: Rollout) -> None:
    assert (await store.load_service("colorize")).newest.spec.plan.steps[0].gate == GATE
    assert (await store.load_service("colorize")).newest.spec.plan.steps[1].gate is None
    assert (await store.load(rollout.id)).plan.steps[0].gate == GATE


async def test_the_newest_answer_is_a_row_and_only_changes_are_told(store: SqlStore, rollout: Rollout) -> None:
    assert await store.load_gate(rollout.id) is None
    first = answer(Decision.CLOSED, words="tests run")
    assert await store.answer_gate(rollout.id, first, words="one", now=NOW)
    assert await store.load_gate(rollout.id) == first
    later = answer(Decision.CLOSED, words="tests run", at=NOW + SECOND)
    assert await store.answer_gate(rollout.id, later, words="two", now=NOW)
    assert await store.load_gate(rollout.id) == dataclasses.replace(later, began_at=NOW), "it waits since the first"
    opened = answer(Decision.OPEN, at=NOW + 2 * SECOND)
    assert await store.answer_gate(rollout.id, opened, words="three", now=NOW)
    told = [entry.words for entry in await store.history("colorize") if entry.what == "webhook"]
    assert told == ["one", "three"]


async def test_what_somebody_said_holds_for_the_visit(store: SqlStore, rollout: Rollout) -> None:
    said = answer(Decision.CLOSED, by="ci")
    assert await store.answer_gate(rollout.id, said, words="ci says no", now=NOW)
    assert not await store.answer_gate(rollout.id, answer(Decision.OPEN), words="late", now=NOW)
    assert await store.load_gate(rollout.id) == said
    assert await store.answer_gate(rollout.id, answer(Decision.OPEN, by="ci"), words="ci says yes", now=NOW)


async def test_an_answer_that_comes_when_the_rollout_has_moved_on_is_nothing(store: SqlStore, rollout: Rollout) -> None:
    await happen(store, rollout, Ready(), Acked(), at=NOW + SECOND)
    assert not await store.answer_gate(rollout.id, answer(Decision.ABORT), words="late", now=NOW)
    assert await store.load_gate(rollout.id) is None
    with pytest.raises(NotFoundError, match="rollout 'colorize-9' does not exist"):
        await store.answer_gate(RolloutId("colorize-9"), answer(Decision.OPEN), words="", now=NOW)
