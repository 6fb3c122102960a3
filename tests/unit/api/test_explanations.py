"""Why a rollout stands where it stands, over REST."""

import datetime as dt
import json
from typing import Any

import httpx
import pytest

from controlplane.ports import ClusterHealth
from controlplane.rollout.model import (
    Baking,
    PauseCause,
    Paused,
    Promoted,
    RollbackCause,
    RolledBack,
    RollingBack,
    Shifting,
    State,
)
from tests import builders
from tests.builders import NOW
from tests.unit.api.world import World

EXPLAIN = "/v1/services/colorize/explain"

OBJECTIVES = [
    {"name": "error_abs", "candidate": 0.0, "baseline": 0.001, "bound": 0.01, "odds": 1.0, "still_needed": 120},
    {"name": "latency_abs", "candidate": 0.02, "baseline": 0.02, "bound": 0.05, "odds": 1.0, "still_needed": 0},
]
EVIDENCE = {"verdict": "hold", "reason": "needs more requests", "objectives": OBJECTIVES, "tick": 7}


async def explain(http: httpx.AsyncClient) -> dict[str, Any]:
    answer = await http.get(EXPLAIN)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_what_holds_the_next_step_is_explained(world: World, http: httpx.AsyncClient) -> None:
    await world.store.apply(builders.pinned(builders.make_spec()), by="ada", why="", now=NOW)
    rollout = await world.roll()
    held = "no worker of v2 has confirmed that it serves v2 (sha256:aaaaaaaaaaaa)"
    assert held in (await explain(http))["summary"]
    await world.move(rollout, Baking(1, NOW), evidence=json.dumps(EVIDENCE))
    assert (await explain(http))["summary"] == f"needs more requests; no step up meanwhile: {held}"
    await world.store.record_models([builders.make_report()])
    assert (await explain(http))["summary"] == "needs more requests"


async def answer_requests(world: World, count: int) -> None:
    """Have the telemetry say that the candidate answered so many requests a second ago."""
    batch = builders.make_batch("one", tick=builders.TICK - 1, colorize_v2=builders.make_counts(count))
    await world.store.record(batch)


async def test_a_step_that_waits_for_requests_says_for_how_many_and_how_long(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    await world.move(await world.roll(), Baking(1, NOW), evidence=json.dumps(EVIDENCE))
    await answer_requests(world, 120)
    found = await explain(http)
    assert (found["rollout"], found["phase"], found["rate"]) == ("colorize-1", "baking", 2.0)
    assert found["summary"] == "needs more requests"
    errors, slow = found["objectives"]
    assert {key: errors[key] for key in OBJECTIVES[0]} == OBJECTIVES[0]
    assert (errors["wait_s"], errors["odds_limit"], slow["wait_s"]) == (60.0, 500.0, 0.0)
    assert "v2 0 %, v1 0.1 % in the same seconds, at most 1 %" in errors["words"]
    assert errors["words"].endswith("needs about 120 more requests, 60 s at 2 a second")
    assert found["next"].startswith("then 50%, in about ")


async def test_no_requests_no_promise(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.move(await world.roll(), Baking(1, NOW), evidence=json.dumps(EVIDENCE))
    found = await explain(http)
    assert (found["rate"], found["objectives"][0]["wait_s"]) == (0.0, None)
    assert found["next"] == "then 50%; how long that takes cannot be said yet"


async def test_before_anything_was_judged_that_is_said(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.move(await world.roll(), Baking(3, NOW))
    found = await explain(http)
    assert found["summary"] == "the judge has seen no complete second at this weight yet"
    assert (found["objectives"], found["next"]) == ([], "then promoted; how long that takes cannot be said yet")


async def test_preparing_names_who_is_waited_for(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.store.propose_snapshot(builders.make_snapshot("s1"))
    await world.connect("edge-1")
    await world.roll()
    await world.report_health(ClusterHealth("edge-1", "colorize_v2", 0, 2))
    found = await explain(http)
    assert "edge-1 finds 0 of 2 workers of colorize_v2 healthy" in found["summary"]
    assert "waiting for the ACK of edge-1" in found["summary"]
    assert found["next"].startswith("then the first step; given up in ")
    world.clock.move(dt.timedelta(days=1))
    assert (await explain(http))["next"] == "given up within moments"


@pytest.mark.parametrize(
    ("state", "summary", "then"),
    [
        (Shifting(1, NOW, came_from=0), "no Envoy is connected", "then 25% is live, and the judge's clock starts"),
        (
            Paused(1, NOW, PauseCause.INCONCLUSIVE, "too little evidence", next_step=2),
            "too little evidence",
            "hueshift resume colorize, or hueshift abort colorize",
        ),
        (
            RollingBack(NOW, RollbackCause.SLO_BREACH, "error rate 20 %"),
            "error rate 20 %: no Envoy is connected",
            "then all traffic is v1's",
        ),
        (Promoted(NOW, "all kept"), "all kept", "nothing: it has ended"),
        (RolledBack(NOW, RollbackCause.ABORTED, ""), "rolled back", "nothing: it has ended"),
    ],
)
async def test_other_states_say_what_they_wait_for(
    world: World, http: httpx.AsyncClient, state: State, summary: str, then: str
) -> None:
    await world.declare()
    await world.move(await world.roll(), state)
    found = await explain(http)
    assert (found["summary"], found["next"]) == (summary, then)


async def test_a_service_without_a_rollout_has_nothing_to_explain(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    answer = await http.get(EXPLAIN)
    assert answer.status_code == 404
    assert "rollout" in answer.json()["detail"]
