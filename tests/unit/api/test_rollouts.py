"""Rollouts over REST: start, steer, look; and everything that must be refused."""

import dataclasses
import datetime as dt
import json
from typing import Any

import httpx
import pytest

from controlplane.ports import ClusterHealth
from controlplane.rollout.model import (
    NO_STEP,
    Abort,
    Baking,
    Pause,
    PauseCause,
    Paused,
    Preparing,
    Promote,
    Promoted,
    Resume,
    RollbackCause,
    RolledBack,
    RollingBack,
    Shifting,
    State,
)
from tests import builders
from tests.unit.api.world import World

CLIENT_ERRORS = "no more client errors than before, above 1%"
START = "/v1/services/colorize/rollouts"
STATUS = "/v1/services/colorize/status"
NOW = builders.NOW

EVIDENCE: dict[str, Any] = {
    "verdict": "hold",
    "reason": "error rate 0.1 % (1/1000), not yet shown to be below 1 %: needs about 387 more requests",
    "objectives": [{"name": "error_abs", "candidate": 0.001, "baseline": None, "bound": 0.01, "odds": 1.0}],
    "tick": 1,
}


def command(verb: str) -> str:
    """Return the path of a command."""
    return f"/v1/services/colorize/rollout/{verb}"


# -- start -------------------------------------------------------------------------------------------------------------


async def test_a_rollout_starts_by_the_services_plan(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    answer = await http.post(START, json={"to": "v2", "why": "better blues"})
    assert answer.status_code == 202
    shown = answer.json()
    assert (shown["id"], shown["baseline"], shown["candidate"]) == ("colorize-1", "v1", "v2")
    assert (shown["state"], shown["step"], shown["steps"], shown["weight"]) == ("preparing", 0, 4, "0%")
    assert [step["weight"] for step in shown["plan"]["steps"]] == ["5%", "25%", "50%", "100%"]
    assert shown["objectives"] == ["at most 1% errors", "95% within 400ms", CLIENT_ERRORS]
    assert (shown["by"], shown["why"], shown["active"], shown["outcome"]) == ("ada", "better blues", True, None)
    who, what, words = (await world.audit())[-1]
    assert (who, what) == ("ada", "start")
    assert "better blues" in words
    assert (await http.get("/v1/rollouts/colorize-1")).json() == shown
    assert (await http.get(START)).json()["items"] == [shown]


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ({"steps": ["25%", "100%"]}, [("25%", "7s", False), ("100%", "7s", False)]),
        ({"steps": ["25%", {"weight": "100%", "hold": "1s"}]}, [("25%", "7s", False), ("100%", "1s", False)]),
        ({"steps": [{"weight": "10%", "pause": True}, 1.0]}, [("10%", "7s", True), ("100%", "7s", False)]),
        ({"plan": {"steps": [{"weight": "100%"}]}}, [("100%", "30s", False)]),
        ({}, [("5%", "7s", False), ("100%", "7s", False)]),
    ],
)
async def test_steps_or_plan_can_be_given_with_the_start(
    world: World, http: httpx.AsyncClient, body: dict[str, Any], steps: list[tuple[str, str, bool]]
) -> None:
    plan = dataclasses.replace(
        builders.make_plan(500, 10_000, hold=dt.timedelta(seconds=7)), deadline=dt.timedelta(minutes=9)
    )
    await world.declare(plan=plan)
    shown = (await http.post(START, json={"to": "v2", **body})).json()
    assert [(step["weight"], step["hold"], step["pause"]) for step in shown["plan"]["steps"]] == steps
    assert shown["plan"]["deadline"] == ("2h" if "plan" in body else "540s")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"to": "v9"}, 404, "version 'v9' does not exist (known: v1, v2)"),
        ({}, 422, "to: is missing; add to: v2"),
        ({"to": 2}, 422, "to: 2 is not a text; put it in quotes"),
        ({"to": "v2", "step": ["5%"]}, 422, "step: is not a field here; did you mean steps?"),
        ({"to": "v2", "steps": ["101%"]}, 422, "steps[1].weight: 101% is out of range; use 0% to 100%"),
        ({"to": "v2", "steps": [5, 100]}, 422, "steps[1].weight: 5 has no unit; write 5%"),
        ({"to": "v2", "steps": ["0%", "100%"]}, 422, "plan.steps[1].weight: 0 % is out of range; use 0.01 % to 100 %"),
        ({"to": "v2", "steps": ["5%"]}, 422, "plan.steps: ends at 5 %; let the last step be 100 %"),
        ({"to": "v2", "steps": ["50%", "25%", "100%"]}, 422, "plan.steps[2].weight: 25 % does not grow; use more than"),
        ({"to": "v2", "steps": []}, 422, "plan.steps: has 0 steps; use 1 to 50"),
        ({"to": "v2", "steps": ["100%"], "plan": {}}, 422, "steps: is given beside plan; give one of them"),
        ({"to": "v2", "why": "x" * 501}, 422, "why: has 501 characters; use at most 500"),
        ({"to": "v1"}, 409, "'v1' already has all traffic of 'colorize'; name another version"),
    ],
)
async def test_a_senseless_start_is_refused_and_nothing_starts(
    world: World, http: httpx.AsyncClient, body: dict[str, Any], status: int, words: str
) -> None:
    await world.declare()
    answer = await http.post(START, json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert (await http.get(START)).json()["items"] == []


async def test_a_second_rollout_of_a_service_is_a_conflict(world: World, http: httpx.AsyncClient) -> None:
    await world.declare(versions=("v1", "v2", "v3"))
    await http.post(START, json={"to": "v2"})
    answer = await http.post(START, json={"to": "v3"})
    assert answer.status_code == 409
    assert "colorize-1" in answer.json()["detail"]
    assert len((await http.get(START)).json()["items"]) == 1


async def test_a_version_whose_worker_serves_another_model_is_not_started(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.store.apply(builders.pinned(builders.make_spec()), by="ada", why="", now=NOW)
    await world.store.record_models([builders.make_report(pin=builders.make_pin(digit="b"))])
    answer = await http.post(START, json={"to": "v2"})
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        "127.0.0.1:8083 serves v2 (sha256:bbbbbbbbbbbb), but v2 is v2 (sha256:aaaaaaaaaaaa): give the worker the pinned"
        " model, or correct versions.v2.model and apply"
    )
    assert (await http.get(START)).json()["items"] == []
    await world.store.record_models([builders.make_report()])
    assert (await http.post(START, json={"to": "v2"})).status_code == 202


async def test_the_status_shows_what_is_pinned_and_what_workers_say(world: World, http: httpx.AsyncClient) -> None:
    await world.store.apply(builders.pinned(builders.make_spec()), by="ada", why="", now=NOW)
    await world.store.record_models(
        [builders.make_report(), builders.make_report("10.0.0.2:8083", pin=builders.make_pin(digit="b"), words="gone")]
    )
    (shown,) = (await http.get("/v1/services/colorize/status")).json()["models"]
    assert (shown["version"], shown["model"], shown["checksum"]) == ("v2", "v2", "sha256:" + "a" * 64)
    first, second = shown["workers"]
    assert (first["address"], first["matches"], first["words"]) == ("10.0.0.2:8083", False, "gone")
    assert (second["address"], second["matches"], second["code_version"]) == ("127.0.0.1:8083", True, "1.0")
    assert shown["deviations"] == [
        "10.0.0.2:8083 last said that it serves v2 (sha256:bbbbbbbbbbbb), but v2 is v2 (sha256:aaaaaaaaaaaa)"
    ]


async def test_a_version_without_endpoints_cannot_get_traffic(world: World, http: httpx.AsyncClient) -> None:
    spec = builders.make_spec()
    bare = dataclasses.replace(spec.versions[1], endpoints=())
    spec = dataclasses.replace(spec, versions=(spec.versions[0], bare))
    await world.store.apply(spec, by="ada", why="", now=NOW)
    answer = await http.post(START, json={"to": "v2"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "versions.v2.endpoints: is empty; add an endpoint, host:port, and apply the service again"
    )


DOWN = ClusterHealth("edge-1", "colorize_v2", 0, 1)


async def test_a_version_whose_workers_are_all_down_cannot_be_started(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.connect("edge-1")
    await world.report_health(DOWN)
    answer = await http.post(START, json={"to": "v2"})
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        "version v2 (cluster colorize_v2): 0 of 1 workers healthy; "
        "start the workers or check health_check.path (/healthz)"
    )
    assert (await http.get(START)).json()["items"] == []


@pytest.mark.parametrize(
    ("connected", "health"),
    [
        ((), (DOWN,)),
        (("edge-2",), (DOWN,)),
        (("edge-1",), ()),
        (("edge-1",), (dataclasses.replace(DOWN, cluster="colorize_v1"),)),
        (("edge-1", "edge-2"), (DOWN, ClusterHealth("edge-2", "colorize_v2", 1, 1))),
    ],
)
async def test_a_version_that_nobody_knows_to_be_down_can_be_started(
    world: World, http: httpx.AsyncClient, connected: tuple[str, ...], health: tuple[ClusterHealth, ...]
) -> None:
    await world.declare()
    await world.connect(*connected)
    await world.report_health(*health)
    assert (await http.post(START, json={"to": "v2"})).status_code == 202


async def test_a_repeated_start_is_done_once_even_if_the_workers_went_down(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    headers = {"Idempotency-Key": "k-1"}
    first = await http.post(START, json={"to": "v2"}, headers=headers)
    await world.connect("edge-1")
    await world.report_health(DOWN)
    again = await http.post(START, json={"to": "v2"}, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(await world.audit()) == 2


async def test_a_key_used_for_something_else_is_a_conflict(world: World, http: httpx.AsyncClient) -> None:
    await world.declare(versions=("v1", "v2", "v3"))
    headers = {"Idempotency-Key": "k-1"}
    await http.post(START, json={"to": "v2"}, headers=headers)
    assert (await http.post(START, json={"to": "v3"}, headers=headers)).status_code == 409
    assert (await http.post(command("abort"), headers=headers)).status_code == 409


@pytest.mark.parametrize("key", ["", "x" * 129])
async def test_an_absurd_idempotency_key_is_refused(world: World, http: httpx.AsyncClient, key: str) -> None:
    await world.declare()
    answer = await http.post(START, json={"to": "v2"}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "body", "expected"),
    [
        ("pause", {"why": "lunch"}, Pause("ada", "lunch")),
        ("promote", {"why": "sure"}, Promote("ada", "sure")),
        ("promote", {"why": "very", "full": True}, Promote("ada", "very", full=True)),
        ("abort", {"why": "grey faces"}, Abort("ada", "grey faces")),
        ("abort", None, Abort("ada", "")),
    ],
)
async def test_a_command_is_taken_down_with_who_and_why(
    world: World, http: httpx.AsyncClient, verb: str, body: dict[str, Any] | None, expected: object
) -> None:
    await world.declare()
    rollout = await world.move(await world.roll(), Baking(step=0, since=NOW))
    answer = await http.post(command(verb), json=body) if body else await http.post(command(verb))
    assert answer.status_code == 202
    assert answer.json()["command"] == verb
    (pending,) = await world.store.load_pending(rollout.id)
    assert pending.command == expected
    who, what, words = (await world.audit())[-1]
    assert (who, what) == ("ada", verb)
    assert (body or {}).get("why", "") in words
    assert (await http.get(STATUS)).json()["commands_waiting"] == 1


async def test_a_reason_may_come_in_the_header_and_is_kept_on_one_line(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    rollout = await world.roll()
    await http.post(command("pause"), headers={"X-Hueshift-Reason": "from CI"})
    await http.post(command("abort"), json={"why": "two\nlines\x1b[31m"})
    pending = await world.store.load_pending(rollout.id)
    assert [one.command for one in pending] == [Pause("ada", "from CI"), Abort("ada", "two lines [31m")]


async def test_a_repeated_command_is_taken_down_once(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    rollout = await world.roll()
    headers = {"Idempotency-Key": "k-2"}
    first = await http.post(command("pause"), headers=headers)
    again = await http.post(command("pause"), headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert len(await world.store.load_pending(rollout.id)) == 1


async def test_two_callers_may_use_the_same_idempotency_key(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    rollout = await world.roll()
    headers = {"Idempotency-Key": "k"}
    await http.post(command("pause"), headers=headers)
    from controlplane.auth.keys import KeyRing  # noqa: PLC0415

    bob = await KeyRing(store=world.store, clock=world.clock).create("bob")
    async with world.http(bob) as other:
        assert (await other.post(command("pause"), headers=headers)).status_code == 202
    pending = await world.store.load_pending(rollout.id)
    assert [one.command for one in pending] == [Pause("ada", ""), Pause("bob", "")]


async def test_what_makes_no_sense_now_is_told_at_once(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.move(await world.roll(), Baking(step=0, since=NOW))
    answer = await http.post(command("resume"))
    assert answer.status_code == 409
    assert answer.json()["detail"] == "cannot resume a rollout that is baking"


async def test_what_a_waiting_command_may_make_sensible_is_left_to_the_controller(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    rollout = await world.move(await world.roll(), Baking(step=0, since=NOW))
    await http.post(command("pause"))
    assert (await http.post(command("resume"))).status_code == 202
    assert [type(one.command) for one in await world.store.load_pending(rollout.id)] == [Pause, Resume]


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort"])
async def test_without_an_active_rollout_there_is_nothing_to_command(
    world: World, http: httpx.AsyncClient, verb: str
) -> None:
    await world.declare()
    assert (await http.post(command(verb))).status_code == 409
    await world.move(await world.roll(), Promoted(at=NOW, words="all kept"))
    assert (await http.post(command(verb))).status_code == 409
    assert (await http.post(f"/v1/services/nothing/rollout/{verb}")).status_code == 404


async def test_an_unknown_command_or_field_is_refused(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.roll()
    assert (await http.post(command("explode"))).status_code == 404
    answer = await http.post(command("abort"), json={"ful": True})
    assert (answer.status_code, answer.json()["detail"]) == (422, "ful: is not a field here; did you mean full?")


# -- looking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Preparing(NOW), {"state": "preparing", "step": 0, "weight_bp": 0, "active": True}),
        (Shifting(0, NOW, NO_STEP), {"state": "shifting", "step": 1, "weight_bp": 500, "phase": "shifting"}),
        (Baking(3, NOW, probing=True), {"state": "baking", "phase": "probing", "step": 4, "weight_bp": 5_000}),
        (
            Paused(1, NOW, PauseCause.NACK, "edge-1 refused RDS: bad", next_step=2),
            {"state": "paused", "cause": "nack", "words": "edge-1 refused RDS: bad", "step": 2, "weight": "25%"},
        ),
        (
            Paused(NO_STEP, NOW, PauseCause.OPERATOR, "ada", next_step=0),
            {"state": "paused", "step": 0, "weight_bp": 0, "phase": "paused (operator)"},
        ),
        (
            RollingBack(NOW, RollbackCause.SLO_BREACH, "20 % errors"),
            {"state": "rolling_back", "cause": "slo_breach", "weight_bp": 0, "active": True, "words": "20 % errors"},
        ),
        (
            Promoted(NOW, "all kept"),
            {"state": "promoted", "outcome": "promoted", "step": 4, "weight": "100%", "active": False},
        ),
        (
            RolledBack(NOW, RollbackCause.ABORTED, "ada"),
            {"state": "rolled_back", "outcome": "rolled_back", "cause": "aborted", "weight_bp": 0, "active": False},
        ),
    ],
)
async def test_every_state_is_shown_as_it_is(
    world: World, http: httpx.AsyncClient, state: State, expected: dict[str, Any]
) -> None:
    await world.declare()
    await world.move(await world.roll(), state, evidence=json.dumps(EVIDENCE))
    shown = (await http.get("/v1/rollouts/colorize-1")).json()
    assert {key: shown[key] for key in expected} == expected
    assert shown["evidence"] == EVIDENCE
    assert (shown["ended_at"] is None) == shown["active"]


async def test_the_status_is_the_whole_page(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.store.propose_snapshot(builders.make_snapshot("s1"))
    await world.connect("edge-1", "edge-2")
    await world.report_health(
        ClusterHealth("edge-1", "colorize_v2", 1, 1), ClusterHealth("edge-2", "colorize_v2", 0, 1)
    )
    await world.move(await world.roll(), Baking(1, NOW), words="25 % is live", evidence=json.dumps(EVIDENCE))
    status = (await http.get(STATUS)).json()
    assert (status["service"], status["listener"], status["rejected"]) == ("colorize", "127.0.0.1:8080", None)
    assert [(share["version"], share["weight"], share["healthy"]) for share in status["split"]] == [
        ("v1", "75%", None),
        ("v2", "25%", 0),
    ]
    assert (status["rollout"]["id"], status["rollout"]["evidence"]["verdict"]) == ("colorize-1", "hold")
    assert status["acks"] == {
        "acked": 0,
        "expected": 2,
        "words": "0/2 ACKed",
        "waiting": ["edge-1", "edge-2"],
        "refusals": [],
    }
    assert status["events"][-1]["words"] == "25 % is live"
    assert len((await http.get(STATUS, params={"events": 1})).json()["events"]) == 1
    assert (await http.get(STATUS, params={"events": 0})).json()["events"] == []


async def test_an_unknown_rollout_is_not_found(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/rollouts/colorize-9")
    assert (answer.status_code, answer.json()["field"]) == (404, "rollout")
