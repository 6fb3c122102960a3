"""Sessions of browsers: what a cookie opens, what it does not, and what takes it away."""

import contextlib
import dataclasses
import datetime as dt
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from controlplane.api.identity import COOKIE, CSRF_HEADER, HOST_COOKIE
from controlplane.auth import attempts
from controlplane.auth.attempts import Attempts
from controlplane.auth.keys import KeyRing
from controlplane.auth.ports import AuditFilter, Outcome
from controlplane.auth.roles import Grant, Role
from controlplane.auth.sessions import MAX_EACH, Standing, csrf_of
from controlplane.errors import TooManyError
from controlplane.store.access_tables import session as session_table
from tests.fakes import ManualClock
from tests.unit.api.world import World

ABORT = "/v1/services/colorize/rollout/abort"


@dataclasses.dataclass
class Browser:
    """A browser that is logged in."""

    http: httpx.AsyncClient
    view: dict[str, Any]

    @property
    def cookie(self) -> str:
        return self.http.cookies[COOKIE]

    @property
    def csrf(self) -> dict[str, str]:
        return {CSRF_HEADER: self.view["csrf"]}


@contextlib.asynccontextmanager
async def logged_in(world: World, key: str | None = None) -> AsyncIterator[Browser]:
    async with world.http(None) as http:
        answer = await http.post("/v1/session", json={"key": key or world.key})
        assert answer.status_code == 200
        yield Browser(http, answer.json())


async def test_a_key_becomes_a_session_that_scripts_and_other_sites_cannot_use(world: World) -> None:
    await world.declare()
    async with world.http(None) as http:
        answer = await http.post("/v1/session", json={"key": world.key})
        (cookie,) = answer.headers.get_list("set-cookie")
        assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; HttpOnly; Path=/; SameSite=strict", cookie)
        assert answer.headers["cache-control"] == "no-store"
        view = answer.json()
        assert (view["name"], view["kind"], view["grants"]) == ("ada", "key", [{"role": "admin", "service": "*"}])
        assert dt.datetime.fromisoformat(view["expires_at"]) == world.clock.now() + dt.timedelta(hours=12)
        assert (await http.get("/v1/services/colorize")).status_code == 200
        assert (await http.get("/v1/session")).json() == view
        assert http.cookies[COOKIE] not in answer.text


async def test_over_https_the_cookie_is_for_this_host_alone(world: World) -> None:
    auth = dataclasses.replace(world.app.state.parts.auth, public_url="https://hueshift.example.org")
    world.app.state.parts = dataclasses.replace(world.app.state.parts, auth=auth)
    async with world.http(None) as http:
        answer = await http.post("/v1/session", json={"key": world.key})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{HOST_COOKIE}=")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
        token = cookie.partition("=")[2].partition(";")[0]
        for name, status in ((HOST_COOKIE, 200), (COOKIE, 401)):
            assert (await http.get("/v1/session", headers={"Cookie": f"{name}={token}"})).status_code == status


async def test_only_the_digest_is_stored(world: World) -> None:
    async with logged_in(world) as browser:
        rows = await world.store.database.read(lambda tx: tx.conn.execute(session_table.select()).all())
        assert len(rows) == 1
        for secret in (browser.cookie, browser.view["csrf"], world.key):
            assert secret not in str(rows)


@pytest.mark.parametrize("forged", ["", "x", "A" * 43, "hs_" + "0" * 64, "../" + "A" * 40, "A" * 9999])
async def test_a_forged_cookie_opens_nothing(world: World, forged: str) -> None:
    async with logged_in(world), world.http(None) as http:
        assert (await http.get("/v1/session", headers={"Cookie": f"{COOKIE}={forged}"})).status_code == 401


async def test_a_session_ends_unused_and_at_the_latest(world: World) -> None:
    async with logged_in(world) as browser:
        for _ in range(7):
            world.clock.move(dt.timedelta(minutes=100))
            assert (await browser.http.get("/v1/session")).status_code == 200, "use renews it"
        world.clock.move(dt.timedelta(minutes=20))
        assert (await browser.http.get("/v1/session")).status_code == 401, "but not for ever"
    async with logged_in(world) as browser:
        world.clock.move(dt.timedelta(hours=2))
        answer = await browser.http.get("/v1/session")
        assert (answer.status_code, answer.json()["detail"]) == (401, "the session has ended; log in again")


async def test_a_change_takes_the_sessions_own_token(world: World) -> None:
    await world.declare()
    await world.roll()
    async with logged_in(world) as browser, logged_in(world) as other:
        for headers in ({}, {CSRF_HEADER: ""}, {CSRF_HEADER: "wrong"}, other.csrf, {CSRF_HEADER: browser.cookie}):
            answer = await browser.http.post(ABORT, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert CSRF_HEADER in answer.json()["detail"]
        assert (await browser.http.request("DELETE", "/v1/session")).status_code == 403
        assert await world.audit() == [("ada", "apply", "revision 1 declared"), *(await world.audit())[1:]]
        assert all(what != "abort" for _, what, _ in await world.audit())
        assert (await browser.http.post(ABORT, headers=browser.csrf)).status_code == 202
    denied = await world.store.page_audit(AuditFilter(outcome=Outcome.DENIED), before=None, limit=9)
    assert {(entry.by, entry.what) for entry in denied} == {
        ("ada", "POST /v1/services/{name}/rollout/abort"),
        ("ada", "DELETE /v1/session"),
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://hueshift.test"}, 202),
        ({"Origin": "http://hueshift.test", "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "https://hueshift.test"}, 403),
        ({"Origin": "http://hueshift.test:8080"}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
async def test_what_another_sites_page_asks_is_refused_even_with_the_token(
    world: World, headers: dict[str, str], status: int
) -> None:
    await world.declare()
    await world.roll()
    async with logged_in(world) as browser:
        answer = await browser.http.post(ABORT, headers={**browser.csrf, **headers})
        assert answer.status_code == status
        login = await browser.http.post("/v1/session", json={"key": world.key}, headers=headers)
        assert login.status_code == (200 if status == 202 else 403), "nor does it log anybody in"


async def test_the_origin_is_that_of_the_public_url(world: World) -> None:
    auth = dataclasses.replace(world.app.state.parts.auth, public_url="https://hueshift.example.org")
    world.app.state.parts = dataclasses.replace(world.app.state.parts, auth=auth)
    async with world.http(None) as http:
        for origin, status in (("https://hueshift.example.org", 200), ("http://hueshift.test", 403)):
            answer = await http.post("/v1/session", json={"key": world.key}, headers={"Origin": origin})
            assert answer.status_code == status


async def test_a_login_begins_anew_whatever_cookie_there_was(world: World) -> None:
    planted = "A" * 43
    async with world.http(None) as http:
        http.cookies.set(COOKIE, planted, domain="hueshift.test")
        await http.post("/v1/session", json={"key": world.key}, headers={"Cookie": f"{COOKIE}={planted}"})
    async with world.http(None) as attacker:
        assert (await attacker.get("/v1/session", headers={"Cookie": f"{COOKIE}={planted}"})).status_code == 401
    async with logged_in(world) as browser, world.http(None) as thief:
        before = browser.cookie
        await browser.http.post("/v1/session", json={"key": world.key})
        assert browser.cookie != before
        stolen = await thief.get("/v1/session", headers={"Cookie": f"{COOKIE}={before}"})
        assert stolen.status_code == 401, "the one that it replaces is over"


async def test_a_logout_ends_the_session_for_whoever_has_its_cookie(world: World) -> None:
    async with logged_in(world) as browser, world.http(None) as thief:
        stolen = {"Cookie": f"{COOKIE}={browser.cookie}"}
        assert (await thief.get("/v1/session", headers=stolen)).status_code == 200
        answer = await browser.http.request("DELETE", "/v1/session", headers=browser.csrf)
        assert answer.status_code == 204
        assert "expires=" in answer.headers["set-cookie"].lower()
        assert (await thief.get("/v1/session", headers=stolen)).status_code == 401


async def test_what_a_session_may_is_what_its_key_may_now(world: World) -> None:
    await world.declare()
    ring = KeyRing(store=world.store, clock=world.clock)
    async with logged_in(world, await ring.create("bob", (Grant(Role.OPERATOR, "colorize"),))) as browser:
        assert (await browser.http.get("/v1/services/colorize")).status_code == 200
        await ring.set_grants("bob", [Grant(Role.VIEWER, "other")])
        assert (await browser.http.get("/v1/services/colorize")).status_code == 404
        assert (await browser.http.get("/v1/session")).json()["grants"] == [{"role": "viewer", "service": "other"}]
        await ring.revoke("bob")
        assert (await browser.http.get("/v1/session")).status_code == 401
        await ring.create("bob")
        assert (await browser.http.get("/v1/session")).status_code == 401, "a new key of that name is another"


async def test_a_key_in_the_header_counts_before_a_cookie_and_tells_no_token(world: World) -> None:
    key = await KeyRing(store=world.store, clock=world.clock).create("bob", ())
    async with logged_in(world) as browser:
        view = (await browser.http.get("/v1/session", headers={"Authorization": f"Bearer {key}"})).json()
        assert (view["name"], view["csrf"], view["expires_at"]) == ("bob", None, None)
        for wrong in ("Bearer", "Basic YWRhOmFkYQ==", "Bearer hs_wrong", ""):
            assert (await browser.http.get("/v1/session", headers={"Authorization": wrong})).status_code == 401


async def test_where_reading_is_public_an_old_cookie_shuts_nothing(world: World) -> None:
    await world.declare()
    world.app.state.parts = dataclasses.replace(world.app.state.parts, public_reads=True)
    async with logged_in(world) as browser:
        world.clock.move(dt.timedelta(days=1))
        assert (await browser.http.get("/v1/services/colorize")).status_code == 200
        assert (await browser.http.get("/v1/session")).status_code == 401


async def test_one_key_has_so_many_sessions(world: World) -> None:
    desk = world.app.state.parts.auth.sessions
    async with logged_in(world) as browser:
        rows = await world.store.database.read(lambda tx: tx.conn.execute(session_table.select()).all())
        for _ in range(MAX_EACH):
            world.clock.move(dt.timedelta(seconds=1))
            await desk.begin(Standing.KEY, rows[0].subject)
        assert (await browser.http.get("/v1/session")).status_code == 401, "the oldest has made room"
    rows = await world.store.database.read(lambda tx: tx.conn.execute(session_table.select()).all())
    assert len(rows) == MAX_EACH
    world.clock.move(dt.timedelta(days=1))
    await desk.begin(Standing.KEY, rows[0].subject)
    rows = await world.store.database.read(lambda tx: tx.conn.execute(session_table.select()).all())
    assert len(rows) == 1, "what has expired is gone"


# -- how often one may try ---------------------------------------------------------------------------------------------


async def test_who_fails_too_often_waits(world: World) -> None:
    async with world.http(None) as http:
        for number in range(attempts.MAX_FAILURES):
            answer = await http.post("/v1/session", json={"key": f"hs_{number:064x}"})
            assert answer.status_code == 401
        answer = await http.post("/v1/session", json={"key": world.key})
        assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)
        assert "set-cookie" not in answer.headers
        world.clock.move(attempts.WINDOW)
        assert (await http.post("/v1/session", json={"key": world.key})).status_code == 200


async def test_behind_a_proxy_who_fails_shuts_out_nobody_else(world: World) -> None:
    auth = dataclasses.replace(world.app.state.parts.auth, public_url="http://hueshift.test")
    world.app.state.parts = dataclasses.replace(world.app.state.parts, auth=auth)
    theirs, mine = {"X-Forwarded-For": "10.9.9.9, 10.0.0.1"}, {"X-Forwarded-For": "10.0.0.1, 10.0.0.2"}
    async with world.http(None) as http:
        for number in range(attempts.MAX_FAILURES):
            await http.post("/v1/session", json={"key": f"hs_{number:064x}"}, headers=theirs)
        assert (await http.post("/v1/session", json={"key": world.key}, headers=theirs)).status_code == 429
        assert (await http.post("/v1/session", json={"key": world.key}, headers=mine)).status_code == 200


@pytest.mark.parametrize("body", [{}, {"key": 5}, {"key": "x" * 201}, {"key": "hs_x", "name": "ada"}])
async def test_a_login_that_makes_no_sense_is_refused(world: World, body: dict[str, object]) -> None:
    async with world.http(None) as http:
        assert (await http.post("/v1/session", json=body)).status_code == 422


def test_failures_are_counted_per_address_and_per_key_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_REMEMBERED", 3)
    clock = ManualClock()
    counted = Attempts(clock=clock)
    for number in range(attempts.MAX_FAILURES):
        counted.failed("key hs_abc", f"from 10.0.0.{number}")
    with pytest.raises(TooManyError, match="wait one"):
        counted.check("from 10.9.9.9", "key hs_abc")
    counted.check("from 10.0.0.0", "key hs_def")
    for number in range(3):
        counted.failed(f"from 10.1.0.{number}")
    counted.check("key hs_abc")
    for _ in range(attempts.MAX_FAILURES):
        counted.failed("from 10.1.0.0")
    clock.move(attempts.WINDOW)
    counted.check("from 10.1.0.0")


def test_the_token_tells_nothing_about_the_cookie() -> None:
    assert csrf_of("a") != csrf_of("b")
    assert len(csrf_of("a")) == 64
