"""What requests with idempotency keys were answered: each key is one caller's at a time, and forgotten after a day."""

import asyncio
import datetime as dt

import pytest

from controlplane.errors import ConflictError, UnavailableError
from controlplane.ports import ANSWERS_KEPT, CLAIMED_FOR, GivenAnswer, Store
from controlplane.store import SqlStore
from tests.builders import NOW, make_new_rollout, make_spec

ANSWER = GivenAnswer(202, {"etag": '"7"', "content-type": "application/json"}, b'{"words": "\xc3\xa9"}')
SECOND = dt.timedelta(seconds=1)


async def claim(store: Store, key: str = "ada/k", *, digest: str = "d", at: dt.datetime = NOW) -> GivenAnswer | None:
    return await store.claim_answer(key, request="POST /v1/x", digest=digest, now=at)


async def test_a_kept_answer_is_given_again_as_it_was(store: Store) -> None:
    assert await claim(store) is None
    await store.keep_answer("ada/k", ANSWER, claimed_at=NOW)
    assert await claim(store, at=NOW + ANSWERS_KEPT) == ANSWER
    assert await claim(store, "bob/k") is None, "another caller's key"
    with pytest.raises(ConflictError, match="idempotency key 'k' was used for 'POST /v1/x' with other content"):
        await claim(store, digest="other")


async def test_a_claim_is_one_callers_until_it_is_dropped_or_too_old(store: Store) -> None:
    assert await claim(store) is None
    with pytest.raises(UnavailableError, match="is being answered; ask again in a moment"):
        await claim(store, at=NOW + CLAIMED_FOR - SECOND)
    await store.drop_claim("ada/k", claimed_at=NOW)
    assert await claim(store, at=NOW + SECOND) is None
    late = NOW + SECOND + CLAIMED_FOR
    assert await claim(store, at=late) is None, "whoever had it has died"
    await store.keep_answer("ada/k", ANSWER, claimed_at=NOW + SECOND)
    with pytest.raises(UnavailableError):
        await claim(store, at=late)
    await store.keep_answer("ada/k", ANSWER, claimed_at=late)
    await store.drop_claim("ada/k", claimed_at=late)
    assert await claim(store, at=late) == ANSWER, "an answer is not dropped"


async def test_answers_are_forgotten_after_their_time(store: SqlStore) -> None:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    await store.start(make_new_rollout(), key="ada/start", now=NOW)
    for number in range(3):
        await claim(store, f"ada/{number}")
        await store.keep_answer(f"ada/{number}", ANSWER, claimed_at=NOW)
    assert await claim(store, "bob/k", at=NOW + ANSWERS_KEPT + SECOND) is None

    async def count(table: str) -> int:
        query = f"SELECT count(*) FROM {table}"  # noqa: S608 - our own names
        return await store.database.read(lambda tx: int(tx.conn.exec_driver_sql(query).scalar_one()))

    assert await count("given_answer") == 1
    assert await count("idempotency_key") == 0


async def test_of_two_copies_at_once_one_is_done(store: SqlStore, other: SqlStore) -> None:
    outcomes: list[object] = []

    async def one(which: SqlStore) -> None:
        try:
            outcomes.append(await claim(which))
        except UnavailableError as exc:
            outcomes.append(str(exc))

    async with asyncio.TaskGroup() as tasks:
        for which in (store, other) * 4:
            tasks.create_task(one(which))
    assert outcomes.count(None) == 1
    assert len(outcomes) == 8
