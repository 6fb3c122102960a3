"""What versions did over time, over REST: against a window worked out by hand."""

import dataclasses

import httpx
import pytest

from controlplane.controller.summing import Summing
from controlplane.rollout.model import NO_STEP, Baking, RollbackCause, RolledBack, RollingBack, Shifting
from controlplane.rollout.windows import LATENCY_EDGES_MS
from tests import builders
from tests.unit.api.world import World

NOW, SLO = builders.NOW, RollbackCause.SLO_BREACH
SERIES = "/v1/services/colorize/series"
END = builders.TICK - builders.TICK % 10


async def fill(world: World) -> None:
    """Give v1 a hundred requests a second for 20 s, one of them bad; v2 ten in the last 10 s, two bad."""
    await world.declare()
    for second in range(END - 20, END):
        v1 = builders.make_counts(100, errors=1, active=3)
        v2 = builders.make_counts(10, errors=2, bucket=61)
        batch = builders.make_batch("one", tick=second, colorize_v1=v1, colorize_v2=v2)
        if second < END - 10:
            batch = dataclasses.replace(batch, ticks=batch.ticks[:1])
        await world.store.record(batch)


def window(**options: str | int) -> dict[str, str | int]:
    return {"since": f"{END - 20}", "until": f"{END}", **options}


async def test_points_are_the_sums_of_their_seconds_with_intervals(world: World, http: httpx.AsyncClient) -> None:
    await fill(world)
    found = (await http.get(SERIES, params=window(max_points=2))).json()
    assert (found["step_s"], found["at"]) == (10, [END - 20, END - 10])
    v1, v2 = found["versions"]
    assert (v1["version"], v1["requests"], v1["errors"], v1["in_flight"]) == ("v1", [1000, 1000], [10, 10], [3, 3])
    assert (v2["version"], v2["requests"], v2["errors"]) == ("v2", [None, 100], [None, 20])
    assert v2["error_rate"] == [None, 0.2]
    # Wilson for 20 of 100, as tables have it.
    assert v2["error_low"][1] == pytest.approx(0.1334, abs=1e-4)
    assert v2["error_high"][1] == pytest.approx(0.2888, abs=1e-4)
    edges = LATENCY_EDGES_MS[59], LATENCY_EDGES_MS[60]
    for each in v1["latency"]:
        assert edges[0] < each["low"][0] <= each["value"][0] <= each["high"][0] <= edges[1]
    assert [each["quantile"] for each in v1["latency"]] == [0.5, 0.95, 0.99]


async def test_the_objectives_are_lines_to_draw(world: World, http: httpx.AsyncClient) -> None:
    await fill(world)
    found = (await http.get(SERIES, params=window())).json()["objectives"]
    lines = {line["name"]: (line["kind"], line["bound"], line["threshold_ms"]) for line in found}
    assert lines["errors"] == ("error_rate", 0.01, None)
    assert lines["latency"] == ("latency", pytest.approx(0.05), 400.0)


@pytest.mark.parametrize(("hours", "max_points"), [(24, 300), (24 * 365, 300), (1, 2), (24 * 365, 2)])
async def test_however_long_the_time_the_points_are_few(
    world: World, http: httpx.AsyncClient, hours: int, max_points: int
) -> None:
    await fill(world)
    since = builders.TICK - hours * 3600
    found = (await http.get(SERIES, params={"since": f"{since}", "max_points": max_points})).json()
    assert max_points / 4 <= len(found["at"]) <= max_points
    assert len(found["versions"][0]["requests"]) == len(found["at"])
    assert sum(each or 0 for each in found["versions"][0]["requests"]) == 2000


async def test_a_rollout_is_its_own_time_and_its_own_versions(world: World, http: httpx.AsyncClient) -> None:
    await world.declare(versions=("v1", "v2", "v3"))
    rollout = await world.roll()
    world.clock.move(builders.seconds(30))
    found = (await http.get(SERIES, params={"rollout": rollout.id})).json()
    assert [version["version"] for version in found["versions"]] == ["v1", "v2"]
    assert found["rollout"] == rollout.id
    assert found["at"][0] == builders.TICK - builders.TICK % found["step_s"]
    answer = await http.get(SERIES, params={"rollout": "colorize-9"})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"since": "2026-11-22T10:00:00"}, "no time zone"),
        ({"since": "2026-11-22T12:00:00Z", "until": "2026-11-22T12:00:00Z"}, "is not before"),
        ({"max_points": 100_000}, "max_points"),
    ],
)
async def test_a_wrong_span_is_refused(
    world: World, http: httpx.AsyncClient, query: dict[str, str | int], words: str
) -> None:
    await world.declare()
    answer = await http.get(SERIES, params=query)
    assert (answer.status_code, words in answer.text) == (422, True)


async def test_what_is_gone_as_seconds_is_drawn_from_minutes(world: World, http: httpx.AsyncClient) -> None:
    await fill(world)
    world.clock.move(builders.seconds(600))
    await Summing(store=world.store, clock=world.clock, leads=lambda: True).turn()
    await world.store.prune_telemetry(before_tick=END + 500)
    query = {"since": f"{END - 600}", "until": f"{END + 600}", "max_points": "2000"}
    found = (await http.get(SERIES, params=query)).json()
    assert found["step_s"] == 60
    assert sum(each or 0 for each in found["versions"][0]["requests"]) == 2000
    week = (await http.get(SERIES, params={"since": f"{END - 7 * 86400}", "max_points": "2000"})).json()
    assert sum(each or 0 for each in week["versions"][0]["requests"]) == 2000


async def test_seconds_that_are_summed_up_are_counted_once(world: World, http: httpx.AsyncClient) -> None:
    await fill(world)
    world.clock.move(builders.seconds(5 * 3600))
    await Summing(store=world.store, clock=world.clock, leads=lambda: True).turn()
    for hours in (1, 6, 24, 24 * 9, 24 * 300):
        until = END + min(hours, 5) * 3600 - 1800
        query = {"since": f"{until - hours * 3600}", "until": f"{until}", "max_points": "1000"}
        found = (await http.get(SERIES, params=query)).json()["versions"]
        assert [sum(each or 0 for each in version["requests"]) for version in found] == [2000, 100], hours
        assert sum(each or 0 for each in found[1]["errors"]) == 20


async def test_weights_are_those_that_were_asked_for_and_those_that_were_live(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    world.clock.move(builders.seconds(10))
    rollout = await world.roll()
    for state in (Shifting(0, NOW, NO_STEP), Baking(0, NOW), Shifting(1, NOW, 0), RollingBack(NOW, SLO, "bad")):
        world.clock.move(builders.seconds(10))
        rollout = await world.move(rollout, state)
    await world.move(rollout, RolledBack(NOW, SLO, "bad"))
    query = {"since": f"{builders.TICK}", "until": f"{builders.TICK + 55}", "max_points": "6"}
    world.clock.move(builders.seconds(30))
    v1, v2 = (await http.get(SERIES, params=query)).json()["versions"]
    assert v2["weight_set_bp"] == [0, 0, 500, 500, 2500, 0]
    assert v2["weight_acked_bp"] == [None, None, None, 500, 500, 0]
    assert v1["weight_set_bp"] == [10_000, 10_000, 9500, 9500, 7500, 10_000]


async def test_evidence_is_there_as_odds_per_objective_with_the_limit(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    rollout = await world.judge(await world.roll(), errors=[0, 0, 2, 2, 2, 2, 2, 2])
    world.clock.move(builders.seconds(30))
    query = {"rollout": rollout.id, "until": f"{builders.TICK + 20}"}
    found = (await http.get(SERIES, params=query)).json()
    evidence = {each["name"]: each for each in found["evidence"]}
    odds = [each for each in evidence["error_abs"]["odds"] if each is not None]
    assert odds[0] < 2
    assert odds[-1] == max(odds) > 10
    assert evidence["error_abs"]["odds_limit"] > 100
    assert {"error_rel", "latency_abs"} <= evidence.keys()
