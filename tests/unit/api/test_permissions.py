"""Who may do what: every route as every role, what is hidden, and that nothing is open for want of a rule."""

import dataclasses
import datetime as dt
import itertools
from collections.abc import Sequence

import httpx
import pytest

from controlplane.api.app import served
from controlplane.api.permissions import RULELESS, RULES, Scope, check_complete
from controlplane.auth.denials import Denials
from controlplane.auth.keys import KeyRing
from controlplane.auth.ports import AuditEntry, AuditFilter, AuditStore, Denial, Outcome
from controlplane.auth.roles import EVERY, Grant, Role
from controlplane.errors import UnavailableError
from tests.fakes import ManualClock
from tests.unit.api.test_services import document
from tests.unit.api.world import World

TAKES = {
    "viewer of the service": """
        GET /v1/services/{name}  GET /v1/services/{name}/explain  GET /v1/services/{name}/history
        GET /v1/services/{name}/events  GET /v1/services/{name}/status  GET /v1/services/{name}/traffic
        GET /v1/services/{name}/series  GET /v1/services/{name}/document  GET /v1/services/{name}/queue
        GET /v1/services/{name}/rollouts  GET /v1/rollouts/{rollout}  POST /v1/rollouts/{rollout}/replay
        GET /v1/rollouts/{rollout}/quality  GET /v1/rollouts/{rollout}/quality/{number}
        GET /v1/rollouts/{rollout}/quality/{number}/pictures/{place}
    """,
    "operator of the service": """
        POST /v1/services/{name}/rollouts  POST /v1/services/{name}/rollout/pause
        POST /v1/services/{name}/rollout/resume  POST /v1/services/{name}/rollout/abort
        POST /v1/services/{name}/rollout/undo  POST /v1/services/{name}/rollout/retry
        POST /v1/services/{name}/queue/{start}/cancel  POST /v1/services/{name}/freeze
    """,
    "approver of the service": """
        POST /v1/services/{name}/rollout/promote  POST /v1/services/{name}/rollout/gate
        PUT /v1/services/{name}/split  POST /v1/services/{name}/unfreeze
    """,
    "admin of the service": """
        PUT /v1/services/{name}  DELETE /v1/services/{name}
        PUT /v1/notifications/{name}/{target}  DELETE /v1/notifications/{name}/{target}
        POST /v1/notifications/{name}/{target}/secret  POST /v1/notifications/{name}/{target}/test
        GET /v1/notifications/{name}/{target}/deliveries
        POST /v1/notifications/{name}/{target}/deliveries/{number}/replay
    """,
    "viewer of all": """
        GET /v1/proxies  GET /v1/proxies/{node:path}  GET /v1/proxies/{node:path}/resources  GET /v1/job-figures
        GET /v1/job-owners
    """,
    "operator of all": "GET /v1/job-queues  PUT /v1/job-drains",
    "admin of all": """
        PUT /v1/job-kinds/{kind}  PUT /v1/job-owners/{owner}  DELETE /v1/job-owners/{owner}
        POST /v1/freeze  POST /v1/unfreeze  POST /v1/rollouts/abort
        GET /v1/keys  POST /v1/keys  DELETE /v1/keys/{key}  PUT /v1/keys/{key}/grants
    """,
    "any key": """
        GET /v1/services  GET /v1/job-kinds  GET /v1/job-kinds/{kind}
        GET /v1/job-drains  GET /v1/job-owners/{owner}  GET /v1/audit
        GET /v1/events  POST /v1/session  GET /v1/session  DELETE /v1/session  GET /v1/shares
        POST /v1/shares  DELETE /v1/shares/{share}  GET /v1/documents  POST /v1/documents  GET /v1/notifications
        GET /v1/freezes
        GET /v1/jobs  POST /v1/jobs  GET /v1/jobs/events  GET /v1/jobs/{job}  DELETE /v1/jobs/{job}
        GET /v1/jobs/{job}/result  GET /v1/jobs/{job}/photo  GET /v1/jobs/{job}/events  GET /v1/jobs/{job}/attempts
        POST /v1/jobs/{job}/cancel  POST /v1/jobs/{job}/retry  GET /v1/job-callbacks
        GET /v1/job-callbacks/{callback}
        PUT /v1/job-callbacks/{callback}  DELETE /v1/job-callbacks/{callback}
        POST /v1/job-callbacks/{callback}/secret  POST /v1/job-callbacks/{callback}/test
    """,
}
"""What each route takes, written down a second time: a change of `RULES` must be meant."""

ENDLESS = {"GET /v1/jobs/events", "GET /v1/events"}
PLACES = {
    "name": "colorize",
    "rollout": "colorize-1",
    "start": "colorize-2",
    "number": "1",
    "place": "1",
    "node:path": "edge-1",
    "kind": "person",
    "owner": "caller",
    "job": "1",
    "callback": "shop",
    "target": "team",
    "key": "nobody",
    "share": "1",
}


def routes_by_what_they_take() -> dict[str, str]:
    found: dict[str, str] = {}
    for takes, listed in TAKES.items():
        words = listed.split()
        found |= {f"{method} {path}": takes for method, path in zip(words[::2], words[1::2], strict=True)}
    return found


def test_every_route_has_the_rule_that_is_written_here() -> None:
    assert set(served()) - RULELESS == set(RULES) == set(routes_by_what_they_take())
    for route, takes in routes_by_what_they_take().items():
        rule, (role, _, where) = RULES[route], takes.partition(" of ")
        assert (rule.role.word if rule.role else "any key") == role
        if rule.role is not None:
            assert (rule.scope is Scope.EVERY) == (where == "all"), route


@pytest.mark.parametrize("routes", [[*RULES, "GET /v1/new"], list(RULES)[1:]])
def test_a_route_without_a_rule_stops_the_start(routes: list[str]) -> None:
    with pytest.raises(LookupError, match=r"permissions\.py"):
        check_complete(routes)


def expected(grants: Sequence[Grant], takes: str) -> str:
    """Say what becomes of a request about colorize, without the code that decides it."""
    if takes == "any key":
        return "allowed"
    role, _, where = takes.partition(" of ")
    wanted = Role[role.upper()]
    for_all = [grant.role for grant in grants if grant.service == EVERY]
    enough = for_all if where == "all" else [grant.role for grant in grants if grant.service in {EVERY, "colorize"}]
    if any(has >= wanted for has in enough):
        return "allowed"
    return "hidden" if where == "the service" and not enough else "forbidden"


async def test_every_route_as_every_role_on_every_service(world: World) -> None:
    await world.declare()
    await world.roll()
    ring = KeyRing(store=world.store, clock=world.clock)
    holders: list[tuple[Grant, ...]] = [
        (),
        *((Grant(role, of),) for role in Role for of in ("colorize", EVERY, "other")),
    ]
    holders.append((Grant(Role.VIEWER), Grant(Role.ADMIN, "other")))
    seen = dict.fromkeys(itertools.product(("allowed", "hidden", "forbidden")), 0)
    for place, grants in enumerate(holders):
        async with world.http(await ring.create(f"caller-{place}", grants)) as http:
            for route, takes in routes_by_what_they_take().items():
                if route in ENDLESS:
                    continue
                method, _, path = route.partition(" ")
                for name, value in PLACES.items():
                    path = path.replace(f"{{{name}}}", f"caller-{place}" if name == "owner" else value)
                answer = await http.request(method, path, json=None if method == "GET" else {})
                became = verdict(answer)
                assert became == expected(grants, takes), (grants, route, answer.status_code, answer.text)
                seen[became,] += 1
    assert all(count > 50 for count in seen.values()), seen


def verdict(answer: httpx.Response) -> str:
    assert answer.status_code not in {401, 500}
    if answer.status_code == 403:
        problem = answer.json()
        assert problem["code"] == "forbidden"
        return "forbidden"
    hidden = "'colorize' does not exist, or", "'colorize-1' does not exist, or"
    return "hidden" if answer.status_code == 404 and any(words in answer.text for words in hidden) else "allowed"


async def test_a_hidden_service_cannot_be_told_from_none(world: World) -> None:
    await world.declare()
    await world.roll()
    key = await KeyRing(store=world.store, clock=world.clock).create("bob", (Grant(Role.ADMIN, "mine"),))
    async with world.http(key) as http:
        for method, path, body in (
            ("GET", "/v1/services/{}", None),
            ("GET", "/v1/services/{}/events", None),
            ("PUT", "/v1/services/{}", document()),
            ("POST", "/v1/services/{}/rollout/abort", {}),
            ("GET", "/v1/rollouts/{}-1", None),
            ("POST", "/v1/rollouts/{}-1/replay", {}),
        ):
            there = await http.request(method, path.format("colorize"), json=body)
            not_there = await http.request(method, path.format("nowhere"), json=body)
            assert there.status_code == not_there.status_code == 404
            assert there.text.replace("colorize", "nowhere") == not_there.text
        assert (await http.get("/v1/services")).json()["items"] == []
        granted = await http.get("/v1/services/mine")
        assert granted.json()["detail"] == "service 'mine' does not exist, or is not yours to see"
    async with world.http() as all_seeing:
        assert "known: colorize" in (await all_seeing.get("/v1/services/mine")).json()["detail"]


async def test_the_refusal_names_the_role_and_how_it_is_given(world: World) -> None:
    await world.declare()
    key = await KeyRing(store=world.store, clock=world.clock).create("bob", (Grant(Role.VIEWER, "colorize"),))
    async with world.http(key) as http:
        answer = await http.put("/v1/services/colorize/split", json={"weights": {"v1": "100%"}})
        assert answer.json()["detail"] == (
            "the API key 'bob' has only the role viewer on 'colorize', and this takes approver; an admin gives it with:"
            " hueshift keys grant bob --role approver --service colorize"
        )
        answer = await http.get("/v1/job-queues")
        assert answer.json()["detail"] == (
            "the API key 'bob' has no role on all services (*), and this takes operator; an admin gives it with:"
            " hueshift keys grant bob --role operator"
        )


async def test_grants_are_looked_up_at_each_request(world: World) -> None:
    await world.declare()
    ring = KeyRing(store=world.store, clock=world.clock)
    async with world.http(await ring.create("bob", ())) as http:
        assert (await http.get("/v1/services/colorize")).status_code == 404
        await ring.set_grants("bob", [Grant(Role.VIEWER, "colorize")])
        assert [each["name"] for each in (await http.get("/v1/services")).json()["items"]] == ["colorize"]
        assert (await http.get("/v1/services/colorize")).status_code == 200
        await ring.set_grants("bob", [])
        assert (await http.get("/v1/services/colorize")).status_code == 404


async def test_where_reading_is_public_a_key_hides_nothing(world: World) -> None:
    await world.declare()
    world.app.state.parts = dataclasses.replace(world.app.state.parts, public_reads=True)
    key = await KeyRing(store=world.store, clock=world.clock).create("bob", ())
    async with world.http(key) as known, world.http(None) as unknown:
        for http in (known, unknown):
            assert (await http.get("/v1/services/colorize")).status_code == 200
        assert (await known.post("/v1/services/colorize/rollout/abort")).status_code == 403
        assert (await unknown.post("/v1/services/colorize/rollout/abort")).status_code == 401
        assert (await unknown.get("/v1/audit")).status_code == 401


# -- denials -----------------------------------------------------------------------------------------------------------


async def denied(world: World) -> list[AuditEntry]:
    found = await world.store.page_audit(AuditFilter(outcome=Outcome.DENIED), before=None, limit=99)
    return list(found)[::-1]


async def test_every_denied_attempt_is_in_the_audit(world: World) -> None:
    await world.declare()
    ring = KeyRing(store=world.store, clock=world.clock)
    key = await ring.create("bob", (Grant(Role.VIEWER, "colorize"),))
    async with world.http(key) as http:
        await http.post("/v1/services/colorize/rollout/abort")
        await http.get("/v1/services/other%00/status")
        await http.get("/v1/keys")
        await ring.revoke("bob")
        assert (await http.get("/v1/services")).status_code == 401
    async with world.http("hs_" + "0" * 64) as stranger:
        assert (await stranger.get("/v1/services")).status_code == 401
    found = await denied(world)
    assert [(entry.by, entry.what, entry.service) for entry in found] == [
        ("bob", "POST /v1/services/{name}/rollout/abort", "colorize"),
        ("bob", "GET /v1/services/{name}/status", "other?"),
        ("bob", "GET /v1/keys", ""),
        ("bob", "GET /v1/services", ""),
    ]
    assert "and this takes operator" in found[0].words
    assert found[3].words == "with a key that was revoked"


async def test_a_flood_of_denials_is_few_rows_and_few_writes(world: World) -> None:
    counting = CountingAudit(world.store)
    denials = Denials(store=counting, clock=world.clock)
    for number in range(1000):
        await denials.add(by="bob", what="GET /v1/services/{name}", service=f"s{number}", words="no")
    (row,) = await denied(world)
    assert (row.service, row.count, counting.writes) == ("s0", 512, 10)
    world.clock.move(dt.timedelta(minutes=1))
    await denials.add(by="bob", what="GET /v1/services/{name}", service="s", words="x" * 9999)
    assert [(row.count, len(row.words)) for row in await denied(world)] == [(512, 2), (1, 500)]


class CountingAudit:
    """The store's audit, with a count of the writes; it may be away."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self.writes = 0
        self.is_away = False

    async def add_denial(self, denial: Denial, *, keep: dt.timedelta) -> None:
        if self.is_away:
            raise UnavailableError("the database does not answer")
        self.writes += 1
        await self._store.add_denial(denial, keep=keep)

    async def page_audit(
        self, wanted: AuditFilter, *, before: tuple[dt.datetime, str] | None, limit: int
    ) -> Sequence[AuditEntry]:
        raise AssertionError(wanted, before, limit)


async def test_a_denial_that_cannot_be_written_is_counted_later(world: World) -> None:
    away = CountingAudit(world.store)
    away.is_away = True
    denials = Denials(store=away, clock=ManualClock())
    await denials.add(by="bob", what="GET /", service="", words="no")
    away.is_away = False
    await denials.add(by="bob", what="GET /", service="", words="no")
    (row,) = await denied(world)
    assert row.count == 2
