"""Keys and the audit over REST."""

import httpx
import pytest

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant, Role
from tests.unit.api.world import World


async def make(http: httpx.AsyncClient, name: str, *grants: dict[str, str]) -> str:
    answer = await http.post("/v1/keys", json={"name": name, "grants": list(grants)})
    assert answer.status_code == 201
    key: str = answer.json()["key"]
    return key


async def test_a_key_is_made_shown_once_used_and_revoked(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    key = await make(http, "ci", {"role": "operator", "service": "colorize"}, {"role": "viewer"})
    async with world.http(key) as ci:
        assert (await ci.get("/v1/services/colorize")).status_code == 200
        assert (await ci.get("/v1/keys")).status_code == 403
        listed = (await http.get("/v1/keys")).json()
        assert [each["name"] for each in listed["items"]] == ["ci", "ada"]
        assert key not in str(listed)
        assert listed["items"][0]["grants"] == [
            {"role": "viewer", "service": "*"},
            {"role": "operator", "service": "colorize"},
        ]
        assert (await http.delete("/v1/keys/ci")).status_code == 204
        assert (await ci.get("/v1/services")).status_code == 401
    assert (await http.delete("/v1/keys/ci")).status_code == 404
    assert (await http.get("/v1/keys", params={"limit": 1})).json()["items"][0]["revoked_at"] is not None


async def test_grants_are_replaced_and_the_last_admin_stays(world: World, http: httpx.AsyncClient) -> None:
    key = await make(http, "ci")
    answer = await http.put("/v1/keys/ci/grants", json={"grants": [{"role": "Admin"}, {"role": "viewer"}]})
    assert answer.json() == {"name": "ci", "grants": [{"role": "admin", "service": "*"}]}
    assert (await http.put("/v1/keys/ada/grants", json={"grants": []})).status_code == 200
    assert (await http.get("/v1/keys")).status_code == 403
    async with world.http(key) as ci:
        for answer in (
            await ci.put("/v1/keys/ci/grants", json={"grants": [{"role": "viewer"}]}),
            await ci.delete("/v1/keys/ci"),
        ):
            assert answer.status_code == 409
            assert "'ci' is the last key that may do everything" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "ada", "grants": []}, 409, "'ada' is taken by a live key"),
        ({"name": "a b", "grants": []}, 422, "name: 'a b' cannot name a key"),
        ({"name": "user:ada", "grants": []}, 422, "cannot name a key"),
        ({"name": "ci", "grants": [{"role": "king"}]}, 422, "grants[0].role: 'king' is no role; use viewer, operator"),
        ({"name": "ci", "grants": [{"role": "viewer", "service": "A*"}]}, 422, "grants[0].service: 'A*' cannot name"),
        ({"name": "ci"}, 422, "grants"),
        (
            {"name": "ci", "grants": [{"role": "viewer", "service": f"s{n}"} for n in range(101)]},
            422,
            "grants: are 101",
        ),
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, body: dict[str, object], status: int, words: str
) -> None:
    answer = await http.post("/v1/keys", json=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


async def test_keys_come_in_pages(http: httpx.AsyncClient) -> None:
    for number in range(4):
        await make(http, f"key-{number}")
    found, cursor = [], None
    for _ in range(3):
        page = (await http.get("/v1/keys", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        found += [each["name"] for each in page["items"]]
        cursor = page["next"]
    assert (found, cursor) == (["key-3", "key-2", "key-1", "key-0", "ada"], None)
    assert (await http.get("/v1/keys", params={"cursor": "nonsense"})).status_code == 422


# -- audit -------------------------------------------------------------------------------------------------------------


async def test_the_audit_tells_who_did_what_and_what_was_denied(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.roll()
    key = await make(http, "bob", {"role": "viewer", "service": "colorize"})
    async with world.http(key) as bob:
        for _ in range(2):
            await bob.post("/v1/services/colorize/rollout/abort")
        mine = (await bob.get("/v1/audit")).json()["items"]
    whole = (await http.get("/v1/audit")).json()["items"]
    by_what = {each["what"]: each for each in whole}
    assert set(by_what) == {"apply", "start", "key-create", "POST /v1/services/{name}/rollout/abort"}
    denied = by_what["POST /v1/services/{name}/rollout/abort"]
    assert (denied["by"], denied["outcome"], denied["service"], denied["count"]) == ("bob", "denied", "colorize", 2)
    assert {each["what"] for each in mine} == {"apply", "start"}, "keys and denials are for admins of everything"
    only = (await http.get("/v1/audit", params={"outcome": "denied", "service": "colorize", "by": "bob"})).json()
    assert only == {"items": [denied], "next": None}
    hidden = await KeyRing(store=world.store, clock=world.clock).create("eve", (Grant(Role.ADMIN, "other"),))
    async with world.http(hidden) as eve:
        assert (await eve.get("/v1/audit")).json() == {"items": [], "next": None}
        assert (await eve.get("/v1/audit", params={"service": "colorize"})).json()["items"] == []


async def test_the_audit_comes_in_pages_and_refuses_foreign_cursors(http: httpx.AsyncClient) -> None:
    for number in range(3):
        await make(http, f"key-{number}")
    found, cursor = [], None
    while True:
        page = (await http.get("/v1/audit", params={"limit": 1, **({"cursor": cursor} if cursor else {})})).json()
        found += [each["words"] for each in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert [words.split("'")[1] for words in found] == ["key-2", "key-1", "key-0", "ada"]
    keys = (await http.get("/v1/keys", params={"limit": 1})).json()["next"]
    for wrong in (keys, "AAAA", "YXVkaXQ6eCB5"):
        answer = await http.get("/v1/audit", params={"cursor": wrong})
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
