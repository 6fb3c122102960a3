"""What a service's requests have been like of late, over REST."""

import httpx
import pytest

from tests import builders
from tests.unit.api.world import World

TRAFFIC = "/v1/services/colorize/traffic"


async def test_all_versions_are_summed_over_the_seconds_that_were_reported(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    for ago in (3, 2):
        v1, v2 = builders.make_counts(80, errors=1), builders.make_counts(20, errors=1)
        await world.store.record(builders.make_batch("one", tick=builders.TICK - ago, colorize_v1=v1, colorize_v2=v2))
    found = (await http.get(TRAFFIC)).json()
    assert {key: found[key] for key in ("seconds", "requests", "rate", "error_ratio")} == {
        "seconds": 2,
        "requests": 200,
        "rate": 100.0,
        "error_ratio": 0.02,
    }
    assert 0 < found["p50_ms"] <= found["p95_ms"]


async def test_no_requests_are_no_error(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    found = (await http.get(TRAFFIC)).json()
    assert (found["seconds"], found["rate"], found["p50_ms"]) == (0, 0.0, None)


@pytest.mark.parametrize("minutes", [0, 11])
async def test_further_back_than_is_kept_is_refused(world: World, http: httpx.AsyncClient, minutes: int) -> None:
    await world.declare()
    assert (await http.get(TRAFFIC, params={"minutes": minutes})).status_code == 422


async def test_an_unknown_service_is_named(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/services/nothing/traffic")
    assert (answer.status_code, "nothing" in answer.json()["detail"]) == (404, True)
