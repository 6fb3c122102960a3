"""Logging in at a provider: the whole way, and every way that it must not go."""

import contextlib
import dataclasses
import datetime as dt
import re
import urllib.parse
from collections.abc import AsyncIterator

import httpx
import pytest

from controlplane.api.logins import STATE_COOKIE
from controlplane.auth.logins import KEPT, LoginDesk, read_roles, safe_path
from controlplane.auth.ports import AuditFilter, Outcome
from controlplane.errors import InvalidInputError
from controlplane.oidc.client import OidcClient
from controlplane.store.access_tables import login as login_table
from tests.oidc_provider import CLIENT, SECRET, Provider, claims_for, unsigned
from tests.unit.api.world import World

ROLES = "groups: ml=operator:colorize, sre=admin, all=viewer"
PUBLIC = "http://hueshift.test"


@dataclasses.dataclass
class Place:
    """A world with a provider, and the way between them that a browser goes."""

    world: World
    provider: Provider

    async def begin(self, http: httpx.AsyncClient, back_to: str = "/") -> str:
        """Go to the provider and return where it sends the browser back to."""
        sent = await http.get("/login/oidc", params={"back_to": back_to})
        assert sent.status_code == 303, sent.text
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.provider.app)) as there:
            back = await there.get(sent.headers["location"])
        where: str = back.headers["location"]
        assert where.startswith(f"{PUBLIC}/login/oidc/callback?")
        return where


@pytest.fixture
async def place(world: World) -> AsyncIterator[Place]:
    provider = Provider("https://login.test", world.clock)
    async with contextlib.AsyncExitStack() as opened:
        client = OidcClient(
            provider.issuer,
            client_id=CLIENT,
            client_secret=SECRET,
            clock=world.clock,
            transport=httpx.ASGITransport(provider.app),
        )
        desk = LoginDesk(
            provider=await opened.enter_async_context(client),
            store=world.store,
            roles=read_roles(ROLES),
            clock=world.clock,
            redirect_uri=f"{PUBLIC}/login/oidc/callback",
        )
        use(world, desk)
        yield Place(world, provider)


def use(world: World, desk: LoginDesk) -> None:
    parts = world.app.state.parts
    sessions = dataclasses.replace(parts.auth.sessions, grants_of=desk.roles.grants_of)
    auth = dataclasses.replace(parts.auth, logins=desk, sessions=sessions, public_url=PUBLIC)
    world.app.state.parts = dataclasses.replace(parts, auth=auth)


async def test_somebody_logs_in_and_may_what_their_groups_may(place: Place) -> None:
    await place.world.declare()
    async with place.world.http(None) as http:
        answer = await http.get(await place.begin(http, "/jobs"))
        assert answer.status_code == 200
        assert 'content="0;url=/jobs"' in answer.text
        assert "<script" not in answer.text
        assert any("SameSite=strict" in each for each in answer.headers.get_list("set-cookie"))
        view = (await http.get("/v1/session")).json()
        assert (view["name"], view["kind"]) == ("user:ada@example.org", "user")
        assert view["grants"] == [{"role": "viewer", "service": "*"}, {"role": "operator", "service": "colorize"}]
        csrf = {"X-Hueshift-CSRF": view["csrf"]}
        assert (await http.post("/v1/services/colorize/rollouts", json={"to": "v2"}, headers=csrf)).status_code != 403
        refused = await http.put("/v1/services/colorize/split", json={"weights": {"v1": "100%"}}, headers=csrf)
        assert refused.status_code == 403
        assert "'user:ada@example.org' has only the role operator" in refused.json()["detail"]
    rows = await place.world.store.database.read(lambda tx: tx.conn.execute(login_table.select()).all())
    assert rows == []


async def test_the_settings_decide_at_each_request_what_somebody_may(place: Place) -> None:
    async with place.world.http(None) as http:
        await http.get(await place.begin(http))
        desk = place.world.app.state.parts.auth.logins
        use(place.world, dataclasses.replace(desk, roles=read_roles("groups: ml=viewer:other")))
        assert (await http.get("/v1/session")).json()["grants"] == [{"role": "viewer", "service": "other"}]


async def test_a_log_in_is_used_once_by_the_browser_that_began_it_and_soon(place: Place) -> None:
    async with place.world.http(None) as http, place.world.http(None) as other:
        back = await place.begin(http)
        assert (await other.get(back)).status_code == 401, "another browser"
        await place.begin(other)
        assert (await other.get(back)).status_code == 401, "another browser's log-in"
        jar = {"Cookie": f"{STATE_COOKIE}={http.cookies[STATE_COOKIE]}"}
        assert (await http.get(back)).status_code == 200
        replayed = await http.get(back, headers=jar)
        assert replayed.status_code == 401
        assert "was used already" in replayed.text
        late = await place.begin(http)
        place.world.clock.move(KEPT)
        assert (await http.get(late)).status_code == 401


@pytest.mark.parametrize(
    "changed", [{"state": "A" * 43}, {"state": ""}, {"code": "wrong"}, {"code": ""}, {"error": "no"}]
)
async def test_a_way_back_that_was_tampered_with_leads_nowhere(place: Place, changed: dict[str, str]) -> None:
    async with place.world.http(None) as http:
        back = urllib.parse.urlsplit(await place.begin(http))
        query = {**dict(urllib.parse.parse_qsl(back.query)), **changed}
        answer = await http.get(back.path, params=query)
        assert answer.status_code == 401
        assert (await http.get("/v1/session")).status_code == 401


@pytest.mark.parametrize(
    "alters", [{"nonce": "another"}, {"aud": "another"}, {"exp": 1}, {"iss": "https://evil.test"}, {"sub": None}]
)
async def test_an_id_token_that_is_not_good_begins_no_session(place: Place, alters: dict[str, object]) -> None:
    place.provider.alters = alters
    async with place.world.http(None) as http:
        answer = await http.get(await place.begin(http))
        assert answer.status_code == 401
        assert not any(each.startswith("hueshift_session") for each in answer.headers.get_list("set-cookie"))


async def test_who_has_no_role_is_told_so_and_the_audit_too(place: Place) -> None:
    place.provider.claims["groups"] = ["guests", 5, "*"]
    async with place.world.http(None) as http:
        answer = await http.get(await place.begin(http))
        assert answer.status_code == 403
        assert "user:ada@example.org has no role here" in answer.text
    (denied,) = await place.world.store.page_audit(AuditFilter(outcome=Outcome.DENIED), before=None, limit=9)
    assert (denied.by, denied.what) == ("user:ada@example.org", "GET /login/oidc/callback")


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"email_verified": False}, "user:ada-1"),
        ({"email": None}, "user:ada-1"),
        ({"preferred_username": "admin", "email_verified": "true"}, "user:ada-1"),
    ],
)
async def test_nobody_takes_a_name_that_the_provider_has_not_verified(
    place: Place, claims: dict[str, object], name: str
) -> None:
    place.provider.alters = claims
    async with place.world.http(None) as http:
        await http.get(await place.begin(http))
        assert (await http.get("/v1/session")).json()["name"] == name


async def test_rotated_keys_and_a_provider_that_is_away(place: Place) -> None:
    async with place.world.http(None) as http:
        await http.get(await place.begin(http))
        place.world.clock.move(dt.timedelta(minutes=1))
        place.provider.rotate()
        assert (await http.get(await place.begin(http))).status_code == 200
        place.world.clock.move(dt.timedelta(hours=2))
        place.provider.is_away = True
        answer = await http.get("/login/oidc")
        assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")


@pytest.mark.parametrize("path", ["//evil.test", "https://evil.test", "/\\evil.test", "/a?b=//c", "/%0d", "jobs", ""])
def test_nobody_is_sent_elsewhere(path: str) -> None:
    assert safe_path(path) == "/"
    assert safe_path("/jobs/1.html") == "/jobs/1.html"


async def test_without_a_provider_there_is_no_log_in(world: World) -> None:
    async with world.http(None) as http:
        assert (await http.get("/login/oidc")).status_code == 404
        assert (await http.get("/login/oidc/callback", params={"state": "x", "code": "y"})).status_code == 404
        token = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}
        assert (await http.get("/v1/services", headers=token)).status_code == 401


# -- tokens of programs ------------------------------------------------------------------------------------------------


async def test_a_program_shows_the_providers_token_instead_of_a_key(place: Place) -> None:
    await place.world.declare()
    async with place.world.http(place.provider.sign()) as program:
        view = (await program.get("/v1/session")).json()
        assert (view["name"], view["csrf"]) == ("user:ada@example.org", None)
        assert (await program.put("/v1/services/colorize/split", json={"weights": {"v1": "1"}})).status_code == 403
    for wrong in (unsigned(claims_for(place.provider)), place.provider.sign(exp=1), place.provider.sign(aud="other")):
        async with place.world.http(wrong) as program:
            assert (await program.get("/v1/services")).status_code == 401
    async with place.world.http(place.provider.sign(groups=[])) as program:
        assert (await program.get("/v1/services")).status_code == 403


# -- what claims mean --------------------------------------------------------------------------------------------------


def test_roles_are_read_from_one_line() -> None:
    table = read_roles(" groups :sre=admin, ml = operator:a,ml=viewer , *=viewer:b, CN=x=approver:a")
    grants = {text: [str(each) for each in table.grants_of({"groups": [text]})] for text in ("sre", "ml", "?", "CN=x")}
    assert grants == {
        "sre": ["admin:*", "viewer:b"],
        "ml": ["viewer:*", "operator:a", "viewer:b"],
        "?": ["viewer:b"],
        "CN=x": ["approver:a", "viewer:b"],
    }
    assert table.grants_of({"groups": "sre"}) == table.grants_of({"groups": ["sre", "sre"]})
    kept = table.kept({"groups": ["other", "ml", "x" * 201, 5, *map(str, range(300))], "email": "a@b"})
    assert (kept["groups"][:3], len(kept["groups"]), kept["email_verified"]) == (["ml", "other", "0"], 200, False)


def test_an_address_gives_a_role_once_it_is_verified() -> None:
    table = read_roles("email: ada@example.org=admin")
    assert table.grants_of({"email": "ada@example.org"}) == ()
    verified = {"email": "ada@example.org", "email_verified": True}
    assert [str(each) for each in table.grants_of(table.kept(verified))] == ["admin:*"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("groups", "does not begin with a claim and a colon"),
        ("sre=admin", "does not begin with a claim and a colon"),
        ("groups:", "gives nobody a role"),
        ("groups: sre", "'sre' is no value with a role"),
        ("groups: =admin", "is no value with a role"),
        ("groups: sre=king", "'king' is no role"),
        ("groups: sre=admin:A B", "cannot name a service"),
    ],
)
def test_a_line_that_makes_no_sense_names_the_setting(text: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match="^HUESHIFT_OIDC_ROLES: .*" + re.escape(words)):
        read_roles(text)
