"""Messages over REST: targets and their secrets, deliveries, the page behind a link, and gates that are pushed."""

import dataclasses
import datetime as dt
import json
from typing import Any

import httpx
import pytest
import structlog

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant, Role
from controlplane.courier.model import Heard, Unheard
from controlplane.notify.kinds import NotifyKind
from controlplane.notify.model import LINK_FOR, Place
from controlplane.notify.outbox import Messages
from controlplane.ports import Rollout
from controlplane.rollout.gate import Gate
from controlplane.rollout.model import Abort, Acked, Advance, Promote, Ready
from tests.builders import make_plan
from tests.contract.test_notify import happen, start
from tests.unit.api.world import World

HOOK = "https://shop.example.org/hooks/s3cret?token=s3cret"
TEAM = "/v1/notifications/colorize/team"
PLACE = Place("prod", "http://hueshift.test")


@pytest.fixture
async def http(world: World) -> httpx.AsyncClient:
    await world.declare()
    await world.store.sort_history(limit=99, now=world.clock.now())
    return world.http()


async def gate(world: World, http: httpx.AsyncClient) -> tuple[Rollout, str, str]:
    """Bring a rollout to a gate; return it and what the two links of its message are."""
    assert (await http.put(TEAM, json={"address": HOOK})).status_code == 200
    rollout = await happen(world.store, await start(world.store, gate=True), Ready(), Acked(), Advance("enough"))
    while await world.store.sort_history(limit=99, now=world.clock.now()):
        pass
    messages = Messages(store=world.store, rollouts=world.store, place=PLACE)
    while True:
        now = world.clock.now()
        (parcel,) = await messages.take_notices(until=now + LINK_FOR, now=now, room={}, each=1, limit=9)
        if parcel.message.telling.kind is NotifyKind.GATE:
            data = json.loads(parcel.message.body)["data"]
            assert f"approve: {data['approve']}" in parcel.message.text
            return rollout, data["approve"], data["reject"]
        await messages.settle_notice(parcel, Heard(), now=now)


# -- targets -----------------------------------------------------------------------------------------------------------


async def test_a_target_is_applied_listed_tested_and_removed_and_its_secret_shown_once(
    world: World, http: httpx.AsyncClient
) -> None:
    with structlog.testing.capture_logs() as logs:
        applied = (await http.put(TEAM, json={"address": HOOK, "kinds": ["gate", "rolled_back"]})).json()
        again = (await http.put(TEAM, json={"address": HOOK, "kinds": ["gate", "rolled_back"]})).json()
    secret = applied["secret"]
    assert secret.startswith("whsec_")
    assert (applied["changed"], again["changed"], again["secret"]) == (True, False, None)
    (listed,) = (await http.get("/v1/notifications")).json()["items"]
    assert listed == {
        "service": "colorize",
        "target": "team",
        "address": "https://shop.example.org/…",
        "kinds": ["gate", "rolled_back"],
        "links": True,
        "signed": True,
    }
    assert (await http.post(f"{TEAM}/test")).json() == {
        "target": "colorize/team",
        "delivered": True,
        "words": "delivered",
    }
    sender = world.app.state.parts.notify.senders.webhooks
    ((_, trial),) = sender.sent
    assert json.loads(trial.body)["type"] == "dev.hueshift.notification.test"
    sender.answers[HOOK] = [Unheard("answered 401")]
    assert (await http.post(f"{TEAM}/test")).json()["words"] == "answered 401"
    renewed = (await http.post(f"{TEAM}/secret")).json()["secret"]
    assert renewed != secret
    assert (await http.put("/v1/notifications/*/gate", json={})).json()["secret"].startswith("whsec_")
    assert (await http.delete(TEAM)).status_code == 204
    assert (await http.delete(TEAM)).status_code == 404
    assert "s3cret" not in json.dumps(logs, default=str)
    assert "whsec" not in json.dumps(logs, default=str)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (TEAM, {}, "address: is missing; name a URL"),
        (TEAM, {"address": HOOK, "kinds": ["ended"]}, "kinds: 'ended' is not known; use some of: started"),
        (TEAM, {"address": HOOK, "kinds": []}, "kinds: is empty"),
        (TEAM, {"address": "https://evil.example/x"}, "address: leads to a host that is not allowed"),
        (TEAM, {"address": "slack://a/b/c"}, "have HUESHIFT_NOTIFY_SERVICES name it"),
        (TEAM, {"address": HOOK, "secret": "short"}, "secret: is none"),
        (TEAM, {"address": HOOK, "adress": 1}, "did you mean address?"),
        ("/v1/notifications/colorize/gate", {"address": HOOK}, "address: is given"),
        ("/v1/notifications/colorize/TEAM", {"address": HOOK}, "target: 'TEAM' is no name"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_one_line(
    http: httpx.AsyncClient, path: str, body: dict[str, object], words: str
) -> None:
    answer = await http.put(path, json=body)
    assert answer.status_code == 422
    assert words in answer.text
    assert "s3cret" not in answer.text


async def test_targets_are_for_a_services_admin_alone(world: World, http: httpx.AsyncClient) -> None:
    await http.put(TEAM, json={"address": HOOK})
    await http.put("/v1/notifications/*/all", json={"address": HOOK})
    ring = KeyRing(store=world.store, clock=world.clock)
    async with world.http(await ring.create("bob", (Grant(Role.APPROVER, "colorize"),))) as bob:
        assert (await bob.get("/v1/notifications")).json() == {"items": [], "next": None}
        assert (await bob.put(TEAM, json={"address": HOOK})).status_code == 403
    async with world.http(await ring.create("eve", (Grant(Role.ADMIN, "colorize"),))) as eve:
        assert [each["target"] for each in (await eve.get("/v1/notifications")).json()["items"]] == ["team"]
        assert (await eve.put(TEAM, json={"address": HOOK})).status_code == 200
        assert (await eve.put("/v1/notifications/*/all", json={"address": HOOK})).status_code in {403, 404}


async def test_deliveries_are_listed_and_told_again(world: World, http: httpx.AsyncClient) -> None:
    await gate(world, http)
    listed = (await http.get(f"{TEAM}/deliveries")).json()["items"]
    assert [each["kind"] for each in listed] == ["gate", "step", "started"]
    assert listed[0]["sentence"] == "paused v2 at 5 %: enough"
    assert (listed[0]["delivered"], listed[2]["delivered"]) == (False, True)
    number = listed[2]["number"]
    assert (await http.post(f"{TEAM}/deliveries/{number}/replay")).status_code == 202
    assert (await http.post(f"{TEAM}/deliveries/99/replay")).status_code == 404
    assert not (await http.get(f"{TEAM}/deliveries", params={"limit": 3})).json()["items"][2]["delivered"]


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "command"), [(1, Promote), (2, Abort)])
async def test_looking_at_a_link_changes_nothing_and_sending_its_form_does_once(
    world: World, http: httpx.AsyncClient, place: int, command: type[Promote | Abort]
) -> None:
    found = await gate(world, http)
    rollout, link = found[0], str(found[place])
    async with world.http(None) as anybody:
        for method in ("GET", "HEAD"):
            assert (await anybody.request(method, link)).status_code == 200
        page = await anybody.get(link)
        assert await world.store.load_pending(rollout.id) == ()
        assert '<form method="post">' in page.text
        assert "<script" not in page.text
        assert "style=" not in page.text
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "form-action 'self'" in policy
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["Cache-Control"] == "no-store"
        with structlog.testing.capture_logs() as logs:
            done = await anybody.post(link, data={"why": "looks <b>fine</b>"})
        assert (done.status_code, "was taken down" in done.text) == (200, True)
        assert link.rpartition("/")[2] not in json.dumps(logs, default=str)
        for other in found[1:]:
            again = await anybody.post(str(other), data={})
            assert (again.status_code, "was used already" in again.text) == (410, True)
    (pending,) = await world.store.load_pending(rollout.id)
    assert isinstance(pending.command, command)
    assert pending.command.by == "link to colorize/team"
    events = (await http.get("/v1/services/colorize/events")).text
    assert "link to colorize/team" in events
    assert "looks <b>fine</b>" in events


async def test_forged_expired_and_late_links_open_nothing(world: World, http: httpx.AsyncClient) -> None:
    rollout, approve, reject = await gate(world, http)
    async with world.http(None) as anybody:
        for forged in (approve[:-1] + ("A" if approve[-1] != "A" else "B"), approve + "x", PLACE.url + "/links/%00<b>"):
            for method in ("GET", "POST"):
                answer = await anybody.request(method, forged)
                assert (answer.status_code, "There is no such link" in answer.text) == (404, True)
        world.clock.move(LINK_FOR)
        for method in ("GET", "POST"):
            answer = await anybody.request(method, approve)
            assert (answer.status_code, "has expired" in answer.text) == (410, True)
        world.clock.move(-dt.timedelta(hours=1))
        await happen(world.store, rollout, Promote("ada", ""))
        for method in ("GET", "POST"):
            answer = await anybody.request(method, reject)
            assert (answer.status_code, "does not wait at a gate any more" in answer.text) == (410, True)
    assert await world.store.load_pending(rollout.id) == ()


# -- gates that are pushed ---------------------------------------------------------------------------------------------


PUSH = "/v1/services/colorize/rollout/gate"


async def test_a_pushed_decision_opens_a_gate_of_the_plan_or_ends_the_rollout(
    world: World, http: httpx.AsyncClient
) -> None:
    assert (await http.post(PUSH, json={"decision": "open"})).status_code == 409
    rollout, *_ = await gate(world, http)
    waits = await http.post(PUSH, json={"decision": "closed", "reason": "tests run"})
    assert (waits.status_code, waits.json()["words"]) == (202, "colorize-1 waits on at its gate")
    assert await world.store.load_pending(rollout.id) == ()
    opened = await http.post(PUSH, json={"decision": "open", "reason": "all green"})
    assert opened.json()["words"] == "promote of colorize was taken down"
    (pending,) = await world.store.load_pending(rollout.id)
    assert (type(pending.command), pending.command.why) == (Promote, "all green")
    await happen(world.store, rollout, Promote("ada", ""))
    late = await http.post(PUSH, json={"decision": "abort"})
    assert (late.status_code, "stands before no gate: it is shifting" in late.text) == (409, True)
    assert (await http.post(PUSH, json={"decision": "maybe"})).status_code == 422


async def test_a_pushed_decision_about_a_webhook_is_a_row(world: World, http: httpx.AsyncClient) -> None:
    plan = make_plan()
    gated = dataclasses.replace(plan.steps[0], gate=Gate("https://shop.example.org/gate"))
    await world.declare()
    rollout = await world.roll(plan=dataclasses.replace(plan, steps=(gated, *plan.steps[1:])))
    answer = await http.post(PUSH, json={"decision": "open", "reason": "all green"})
    assert answer.json()["words"] == "the gate shop.example.org before step 1 is open: all green"
    found = await world.store.load_gate(rollout.id)
    assert found is not None
    assert (found.decision.value, found.by, found.words) == ("open", "ada", "all green")


async def test_a_plan_may_only_ask_hosts_that_are_allowed(http: httpx.AsyncClient) -> None:
    from tests.unit.api.test_services import document  # noqa: PLC0415

    steps: list[dict[str, Any]] = [
        {"weight": "5%", "gate": {"webhook": "https://evil.example/gate"}},
        {"weight": "100%", "gate": True},
    ]
    service = {**document(), "plan": {"steps": steps}}
    refused = await http.put("/v1/services/colorize", json=service)
    assert refused.status_code == 422
    assert "plan.steps[1].gate.webhook: leads to a host that is not allowed" in refused.text
    steps[0]["gate"] = {"webhook": "https://shop.example.org/gate", "timeout": "1h", "on_timeout": "abort"}
    assert (await http.put("/v1/services/colorize", json=service)).status_code == 200
    written = (await http.get("/v1/services/colorize")).json()
    first, last = written["document"]["plan"]["steps"]
    assert first["gate"]["webhook"] == "https://shop.example.org/gate"
    assert first["gate"]["on_timeout"] == "abort"
    assert last["pause"] is True
    for wrong in (
        {"webhook": "ftp://x/"},
        {"webhook": HOOK, "timeout": "9d"},
        {"webhook": HOOK, "before": "promotion"},
    ):
        steps[0]["gate"] = wrong
        assert "plan.steps[1].gate" in (await http.put("/v1/services/colorize", json=service)).text
