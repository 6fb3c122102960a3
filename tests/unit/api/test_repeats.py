"""A request that is sent twice with one idempotency key is done once, and answered as the first one was."""

import datetime as dt
from typing import Any

import httpx
import pytest

from controlplane.auth.keys import KeyRing
from controlplane.errors import UnavailableError
from controlplane.ports import ANSWERS_KEPT, CLAIMED_FOR
from controlplane.store.tables import given_answer
from tests.unit.api.documented import operation_of
from tests.unit.api.filled import HOOK, KIND
from tests.unit.api.test_services import document
from tests.unit.api.world import World

SECOND = dt.timedelta(seconds=1)
SERVICE = "/v1/services/colorize"
PERSON = "/v1/job-kinds/person"

CHANGES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("PUT", SERVICE, document(), {**document(), "domains": ["other.example.org"]}),
    ("PUT", f"{SERVICE}/split", {"weights": {"v1": "90%", "v2": "10%"}}, {"weights": {"v1": "100%"}}),
    ("POST", f"{SERVICE}/rollouts", {"to": "v2"}, {"to": "v2", "why": "another reason"}),
    ("PUT", "/v1/job-owners/bob", {"owner": "bob", "max_waiting": 1}, {"owner": "bob", "max_waiting": 2}),
    ("PUT", PERSON, KIND, {**KIND, "attempts": 7}),
]


async def send(http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], key: str) -> httpx.Response:
    return await http.request(method, path, json=body, headers={"Idempotency-Key": key})


@pytest.mark.parametrize(("method", "path", "body", "other"), CHANGES, ids=lambda value: str(value)[:40])
async def test_the_same_request_is_answered_the_same_and_another_is_refused(
    world: World, http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], other: dict[str, Any]
) -> None:
    if path != SERVICE and path.startswith(SERVICE):
        await world.declare()
    first = await send(http, method, path, body, "k")
    assert first.is_success, first.text
    before = len(await world.store.history("colorize"))
    again = await send(http, method, path, body, "k")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers.get("ETag") == first.headers.get("ETag")
    assert len(await world.store.history("colorize")) == before
    refused = await send(http, method, path, other, "k")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert refused.json()["detail"] == (
        f"idempotency key 'k' was used for '{method} {path}' with other content; send a new one with each request"
    )


async def test_an_answer_stays_even_when_the_thing_has_moved_on(world: World, http: httpx.AsyncClient) -> None:
    first = await send(http, "PUT", SERVICE, document(), "k")
    changed = await http.put(SERVICE, json={**document(), "domains": ["other.example.org"]})
    assert changed.json()["revision"] == 2
    again = await send(http, "PUT", SERVICE, document(), "k")
    assert again.json() == first.json()
    assert (await world.store.load_service("colorize")).newest.number == 2, "the copy overwrites nothing"


async def test_keys_of_two_callers_have_nothing_to_do_with_each_other(world: World, http: httpx.AsyncClient) -> None:
    async with world.http(await KeyRing(store=world.store, clock=world.clock).create("bob")) as bobs:
        mine = await send(http, "PUT", PERSON, KIND, "k")
        theirs = await send(bobs, "PUT", PERSON, KIND, "k")
    assert (mine.json()["changed"], theirs.json()["changed"]) == (True, False)


async def test_what_was_refused_is_decided_anew(world: World, http: httpx.AsyncClient) -> None:
    start = (http, "POST", f"{SERVICE}/rollouts", {"to": "v2"}, "k")
    assert (await send(*start)).status_code == 404
    assert (await send(http, "POST", f"{SERVICE}/rollouts", {"too": "v2"}, "k")).status_code == 422
    await world.declare()
    assert (await send(*start)).status_code == 202


async def test_only_its_owner_gets_an_answer_again(world: World, http: httpx.AsyncClient) -> None:
    await send(http, "PUT", SERVICE, document(), "k")
    await KeyRing(store=world.store, clock=world.clock).revoke("ada")
    assert (await send(http, "PUT", SERVICE, document(), "k")).status_code == 401


async def test_a_copy_that_comes_while_the_first_is_at_work_is_told_to_wait(
    world: World, http: httpx.AsyncClient
) -> None:
    now = world.clock.now()
    store = world.store
    first = await send(http, "PUT", PERSON, KIND, "done")
    assert first.is_success
    digest = "of the first"
    assert await store.claim_answer("ada/k", request=f"PUT {PERSON}", digest=digest, now=now) is None
    other = await send(http, "PUT", PERSON, KIND, "k")
    assert other.status_code == 409, "another request"
    with pytest.raises(UnavailableError, match="is being answered"):
        await store.claim_answer("ada/k", request=f"PUT {PERSON}", digest=digest, now=now)
    await store.drop_claim("ada/k", claimed_at=now)
    assert (await send(http, "PUT", PERSON, KIND, "k")).is_success


async def test_a_claim_whose_holder_died_is_taken_over_and_answers_are_forgotten_in_time(world: World) -> None:
    store, now = world.store, world.clock.now()

    async def claim(at: dt.datetime) -> object:
        return await store.claim_answer("ada/k", request="POST /x", digest="x", now=at)

    assert await claim(now) is None
    with pytest.raises(Exception, match="is being answered; ask again in a moment"):
        await claim(now + CLAIMED_FOR - SECOND)
    assert await claim(now + CLAIMED_FOR) is None
    first = await send(world.http(), "PUT", PERSON, KIND, "kept")
    assert first.is_success
    world.clock.move(ANSWERS_KEPT + SECOND)
    second = await send(world.http(), "PUT", PERSON, KIND, "kept")
    assert second.json() != first.json(), "after a day the key is as good as new"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/v1/job-callbacks/shop", HOOK),
        ("POST", "/v1/job-callbacks/task/secret", {}),
        ("PUT", "/v1/notifications/colorize/team", {"address": HOOK["address"]}),
        ("POST", "/v1/notifications/colorize/group/secret", {}),
        ("POST", "/v1/keys", {"name": "ci", "grants": [{"role": "viewer"}]}),
        ("POST", "/v1/shares", {"service": "colorize", "expires_in": "7d"}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_answer_with_a_secret_is_kept_nowhere(
    world: World, http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any]
) -> None:
    await world.declare()
    await http.put("/v1/notifications/colorize/group", json={"address": HOOK["address"]})
    answer = await send(http, method, path, body, "k")
    assert answer.is_success, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert (answer.json().keys() & {"secret", "key", "url"}) != set()
    assert await world.store.database.read(lambda tx: tx.conn.execute(given_answer.select()).all()) == []
    operation = operation_of(method, path)
    assert operation is not None
    assert "Idempotency-Key" not in {each["name"] for each in operation["parameters"]}, "it would have no effect"


@pytest.mark.parametrize("key", ["", "x" * 129, "smörgås".encode().decode("latin-1")])
async def test_what_is_no_key_is_refused(http: httpx.AsyncClient, key: str) -> None:
    answer = await http.put(SERVICE, json=document(), headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")
