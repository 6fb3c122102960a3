"""What versions did over time, over REST: against a window worked out by hand."""

import dataclasses

import httpx
import pytest

from controlplane.rollout.windows import LATENCY_EDGES_MS
from tests import builders
from tests.unit.api.world import World

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
