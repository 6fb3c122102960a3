"""Share links: what they show, for how long, and to whom."""

import datetime as dt
from typing import Any

import httpx
import pytest

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant, Role
from controlplane.store.access_tables import share as share_table
from tests import builders
from tests.unit.api.world import World


async def share(http: httpx.AsyncClient, **changed: object) -> dict[str, Any]:
    answer = await http.post("/v1/shares", json={"service": "colorize", "expires_in": "1h", **changed})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_link_shows_one_service_and_nothing_else(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.roll()
    await world.store.apply(builders.make_spec("other", port=8090), by="ada", why="", now=world.clock.now())
    made = await share(http, rollout="colorize-1", why="for the review")
    assert made["url"].startswith("http://hueshift.test/share/")
    async with world.http(None) as guest:
        page = await guest.get(made["url"])
        assert page.status_code == 200
        assert 'content="0;url=/services/colorize?rollout=colorize-1"' in page.text
        assert "script" not in page.headers["content-security-policy"].replace("default-src 'none'", "")
        view = (await guest.get("/v1/session")).json()
        assert (view["kind"], view["grants"]) == ("share", [{"role": "viewer", "service": "colorize"}])
        assert view["name"] == f"share:{made['id']}"
        for path in ("/v1/services/colorize/status", "/v1/rollouts/colorize-1", "/v1/services/colorize/history"):
            assert (await guest.get(path)).status_code == 200
        assert [each["name"] for each in (await guest.get("/v1/services")).json()["items"]] == ["colorize"]
        for path in ("/v1/services/other", "/v1/services/other/status"):
            assert (await guest.get(path)).status_code == 404
        for path in ("/v1/jobs", "/v1/job-kinds", "/v1/proxies", "/v1/keys", "/v1/shares", "/v1/job-callbacks"):
            assert (await guest.get(path)).status_code == 403
        csrf = {"X-Hueshift-CSRF": view["csrf"]}
        for path in ("/v1/services/colorize/rollout/abort", "/v1/services/colorize/rollouts", "/v1/jobs", "/v1/shares"):
            assert (await guest.post(path, json={}, headers=csrf)).status_code == 403


async def test_a_link_ends_when_it_expires_or_is_revoked_with_its_sessions(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    short, long = await share(http, expires_in="30m"), await share(http, expires_in="90d")
    async with world.http(None) as one, world.http(None) as two:
        await one.get(short["url"])
        await two.get(long["url"])
        assert (await one.get("/v1/services/colorize")).status_code == 200
        world.clock.move(dt.timedelta(minutes=30))
        assert (await one.get("/v1/services/colorize")).status_code == 401
        assert (await one.get(short["url"])).status_code == 404
        assert (await two.get("/v1/services/colorize")).status_code == 200
        assert (await http.delete(f"/v1/shares/{long['id']}")).status_code == 204
        assert (await two.get("/v1/services/colorize")).status_code == 401
        assert (await two.get(long["url"])).status_code == 404
    assert (await http.delete(f"/v1/shares/{long['id']}")).status_code == 404
    told = (await http.get("/v1/audit", params={"service": "colorize"})).json()["items"]
    assert [each["what"] for each in told][:1] == ["share-revoke"]
    assert {"share-create", "apply"} <= {each["what"] for each in told}


async def test_only_digests_are_stored_and_a_link_is_shown_once(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    made = await share(http)
    token = made["url"].rpartition("/")[2]
    rows = await world.store.database.read(lambda tx: tx.conn.execute(share_table.select()).all())
    listed = await http.get("/v1/shares")
    assert token not in str(rows) + listed.text
    assert [each["id"] for each in listed.json()["items"]] == [made["id"]]
    for wrong in ("x", "A" * 43, token[:-1], token + "A", "%2e%2e"):
        async with world.http(None) as guest:
            answer = await guest.get(f"/share/{wrong}")
            assert (answer.status_code, "set-cookie" in answer.headers) == (404, False)


async def test_who_may_see_it_anyway_stays_who_they_are(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    url = (await share(http))["url"]
    async with world.http(None) as ada:
        await ada.post("/v1/session", json={"key": world.key})
        from_a_chat = await ada.get(url, headers={"Sec-Fetch-Site": "cross-site", "Cookie": ""})
        assert "set-cookie" not in from_a_chat.headers
        assert f'content="0;url={url.removeprefix("http://hueshift.test")}"' in from_a_chat.text
        answer = await ada.get(url, headers={"Sec-Fetch-Site": "same-origin"})
        assert 'url=/services/colorize"' in answer.text
        assert (await ada.get("/v1/session")).json()["name"] == "ada"
    bobs = await KeyRing(store=world.store, clock=world.clock).create("bob", (Grant(Role.ADMIN, "other"),))
    async with world.http(None) as bob:
        await bob.post("/v1/session", json={"key": bobs})
        await bob.get(url)
        assert (await bob.get("/v1/session")).json()["kind"] == "share"


async def test_who_guesses_links_waits(world: World) -> None:
    async with world.http(None) as guest:
        found = [(await guest.get(f"/share/{'A' * 42}{number}")).status_code for number in range(10)]
        assert found == [404] * 10
        assert (await guest.get("/share/x")).status_code == 429


async def test_operators_of_a_service_share_it(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    made = await share(http)
    ring = KeyRing(store=world.store, clock=world.clock)
    keys = {role: await ring.create(role.word, (Grant(role, "colorize"),)) for role in (Role.VIEWER, Role.OPERATOR)}
    nobody = await ring.create("nobody", (Grant(Role.ADMIN, "other"),))
    body = {"service": "colorize", "expires_in": "1h"}
    for key, status, listed in ((keys[Role.VIEWER], 403, 0), (keys[Role.OPERATOR], 201, 2), (nobody, 404, 0)):
        async with world.http(key) as caller:
            assert (await caller.post("/v1/shares", json=body)).status_code == status
            assert len((await caller.get("/v1/shares")).json()["items"]) == listed
            ended = (await caller.delete(f"/v1/shares/{made['id']}")).status_code
            assert ended == (204 if status == 201 else status)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"service": "nowhere"}, 404),
        ({"rollout": "colorize-9"}, 404),
        ({"expires_in": "0s"}, 422),
        ({"expires_in": "91d"}, 422),
        ({"expires_in": "soon"}, 422),
        ({"until": "tomorrow"}, 422),
    ],
)
async def test_a_share_that_makes_no_sense_is_refused(
    world: World, http: httpx.AsyncClient, changed: dict[str, object], status: int
) -> None:
    await world.declare()
    answer = await http.post("/v1/shares", json={"service": "colorize", "expires_in": "1h", **changed})
    assert answer.status_code == status
