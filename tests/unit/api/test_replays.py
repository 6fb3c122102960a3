"""A rollout's record judged again, over REST."""

from typing import Any

import httpx
import pytest

from controlplane.api import replays
from tests import builders
from tests.unit.api.test_access import make_public
from tests.unit.api.world import World

REPLAY = "/v1/rollouts/colorize-1/replay"
BREACH = [0] * 8 + [4] * 30
CLIENT_ERRORS = "no more client errors than before, above 1%"
LOOSE = [{"name": "errors", "kind": "error_rate", "max": "40%"}]
STRICT = [{"name": "slow", "kind": "latency", "threshold": "50ms", "quantile": "95%"}]


async def replay(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post(REPLAY, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
async def ended(world: World) -> World:
    await world.declare()
    await world.judge(await world.roll(), errors=BREACH)
    return world


async def test_its_own_objectives_reproduce_it(ended: World, http: httpx.AsyncClient) -> None:
    found = (await http.post(REPLAY)).json()
    rolled_back = await ended.store.load_latest("colorize")
    assert rolled_back is not None
    assert (found["rollout"], found["service"], found["state"]) == ("colorize-1", "colorize", "rolled_back")
    assert found["objectives"] == ["at most 1% errors", "95% within 400ms", CLIENT_ERRORS]
    assert (found["reproduced"], found["complete"], found["deviation"]) == (True, True, None)
    assert found["summary"][0] == "every decision comes out as recorded, and so does every sentence"
    last = found["ticks"][-1]
    assert last["recorded"] == last["replayed"]
    assert last["recorded"] == {"verdict": "rollback", "decision": "rollback", "words": rolled_back.state.words}  # type: ignore[union-attr] # it has ended
    assert (last["weight"], last["weight_bp"], last["partial"], last["same"]) == ("5%", 500, False, True)
    assert last["at"] == "2026-11-22T12:30:" + f"{15 + last['tick'] - builders.TICK}Z"


async def test_every_second_can_be_asked_for(ended: World, http: httpx.AsyncClient) -> None:
    del ended
    some, all_of_them = await replay(http), await replay(http, all=True)
    assert len(all_of_them["ticks"]) == all_of_them["judged"] == some["judged"]
    assert [tick["tick"] for tick in all_of_them["ticks"]] == [
        builders.TICK + second for second in range(all_of_them["judged"])
    ]
    assert len(some["ticks"]) < some["judged"]
    assert all(tick in all_of_them["ticks"] for tick in some["ticks"])


async def test_other_objectives_say_where_they_part(ended: World, http: httpx.AsyncClient) -> None:
    del ended
    found = await replay(http, slos=STRICT)
    assert (found["objectives"], found["reproduced"]) == (["95% within 50ms", CLIENT_ERRORS], False)
    assert found["deviation"]["recorded"]["decision"] == "rollback"
    assert found["deviation"]["replayed"]["decision"] == "hold"
    assert found["deviation"] in found["ticks"]
    assert "the weights are those of the recording" in found["summary"][-1]


@pytest.mark.parametrize(
    ("slos", "error"),
    [
        ([{"name": "errors", "kind": "error_rate"}], "slos.errors.max: is missing; add max: 1%"),
        ([{"name": "errors", "max": "1%"}], "slos.errors.kind: is missing; add kind: error_rate or kind: latency"),
        ([{**LOOSE[0], "max": "70%"}], "slos.errors.max: 70 % is out of range; use more than 0 % and less than 50 %"),
        ([LOOSE[0], LOOSE[0]], "slos: 'errors' is named twice; give each its own name"),
        ([], "slos: is empty; name at least one"),
    ],
)
async def test_wrong_objectives_are_refused_in_the_words_of_a_services_document(
    ended: World, http: httpx.AsyncClient, slos: list[Any], error: str
) -> None:
    del ended
    answer = await http.post(REPLAY, json={"slos": slos})
    assert (answer.status_code, answer.json()["detail"]) == (422, error)


async def test_what_is_not_recorded_any_more_cannot_be_replayed(ended: World, http: httpx.AsyncClient) -> None:
    for before in (builders.TICK + 3, builders.TICK + 999):
        await ended.store.prune_telemetry(before_tick=before)
        answer = await http.post(REPLAY)
        assert answer.status_code == 409
        error = answer.json()["detail"]
        assert error.startswith("the record of colorize-1 has a hole, so it cannot be replayed: ")
        assert "HUESHIFT_TELEMETRY_RETENTION" in error


async def test_before_anything_was_judged_there_is_nothing_to_part_from(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.roll()
    found = await replay(http)
    assert (found["judged"], found["reproduced"], found["ticks"]) == (0, True, [])
    assert found["summary"] == ["there is no decision to replay: the candidate has not carried traffic"]


async def test_an_endless_record_is_replayed_from_its_beginning(
    ended: World, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    del ended
    whole = await replay(http)
    monkeypatch.setattr(replays, "MAX_SECONDS", 5)
    found = await replay(http)
    assert (found["complete"], found["judged"]) == (False, whole["judged"])
    assert found["summary"][-1].startswith("the record goes on: only its first ")


async def test_only_so_many_run_at_once(ended: World, http: httpx.AsyncClient) -> None:
    ended.app.state.replays = replays.MAX_REPLAYS
    try:
        answer = await http.post(REPLAY)
    finally:
        ended.app.state.replays = 0
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert (await http.post(REPLAY)).status_code == 200
    assert ended.app.state.replays == 0


async def test_it_is_a_read(ended: World) -> None:
    before = await ended.store.load_latest("colorize"), await ended.store.history("colorize")
    async with ended.http(None) as unknown:
        assert (await unknown.post(REPLAY)).status_code == 401
        make_public(ended)
        assert (await unknown.post(REPLAY)).status_code == 200
    assert (await ended.store.load_latest("colorize"), await ended.store.history("colorize")) == before


async def test_an_unknown_rollout_is_named(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/rollouts/colorize-9/replay")
    assert (answer.status_code, "colorize-9" in answer.json()["detail"]) == (404, True)
