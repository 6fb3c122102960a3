"""Pictures over REST: the objective and the step that waits for it, the comparisons, and the worst pictures."""

import dataclasses
from typing import Any

import httpx

from controlplane.ports import Rollout
from controlplane.rollout.quality import RunStatus
from controlplane.rollout.slo import OnDrift, QualitySlo
from tests.builders import NOW, make_new_rollout, seconds
from tests.contract.test_quality import FINE, GREY, ended
from tests.unit.api.test_services import document
from tests.unit.api.world import World

PICTURES = {"name": "pictures", "kind": "quality"}
QUALITY = "/v1/rollouts/colorize-1/quality"


def declaring(**changes: Any) -> dict[str, Any]:
    base = document()
    return {**base, "slos": [*base["slos"], {**PICTURES, **changes}]}


async def start(world: World) -> Rollout:
    await world.declare()
    new = make_new_rollout()
    new = dataclasses.replace(new, slos=(*new.slos, QualitySlo("pictures", on_drift=OnDrift.ASK)))
    return await world.store.start(new, key=None, now=NOW)


async def read(http: httpx.AsyncClient, path: str) -> Any:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_objective_is_declared_with_its_defaults_and_read_back(world: World, http: httpx.AsyncClient) -> None:
    answer = await http.put("/v1/services/colorize", json=declaring(on_drift="ask", interval="5m", chroma="40%"))
    assert answer.status_code == 200, answer.text
    slo = (await world.store.load_service("colorize")).newest.spec.slos[-1]
    assert slo == QualitySlo("pictures", chroma=0.4, on_drift=OnDrift.ASK, interval=seconds(300))
    written = (await read(http, "/v1/services/colorize"))["document"]["slos"][-1]
    assert written == {
        "name": "pictures",
        "on_breach": "rollback",
        "muted": False,
        "kind": "quality",
        "delta_e": 3.0,
        "hue": 10.0,
        "chroma": "40%",
        "ssim": 0.9,
        "on_drift": "ask",
        "photos": 0,
        "interval": "300s",
        "path": "/repair",
        "feature_distance": 0.15,
        "live": False,
    }


async def test_what_the_judge_alone_understands_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.put("/v1/services/colorize", json=declaring(tolerance=2, budget=3))
    assert answer.status_code == 422
    assert {problem["field"].rpartition(".")[2] for problem in answer.json()["problems"]} == {"tolerance", "budget"}


async def test_without_the_extra_such_a_service_is_refused_with_what_to_install(
    world: World, http: httpx.AsyncClient
) -> None:
    world.app.state.parts = dataclasses.replace(world.app.state.parts, compares_pictures=False)
    answer = await http.put("/v1/services/colorize", json=declaring())
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "slos.pictures: needs the package pillow on the control plane; "
        "install it there with: pip install 'hueshift[quality]'"
    )
    assert (await http.put("/v1/services/colorize", json=document())).status_code == 200


async def test_workers_that_speak_grpc_cannot_be_asked(http: httpx.AsyncClient) -> None:
    answer = await http.put("/v1/services/colorize", json={**declaring(), "grpc_target": "colorize"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("slos.pictures: sends photos over HTTP, and these workers speak gRPC")


async def test_a_step_that_waits_for_pictures_needs_the_objective(world: World, http: httpx.AsyncClient) -> None:
    waiting = {"steps": [{"weight": "5%", "quality": True}, {"weight": "100%"}]}
    answer = await http.put("/v1/services/colorize", json={**document(), "plan": waiting})
    assert answer.status_code == 422
    assert answer.json()["field"] == "plan.steps[1].quality"
    assert (await http.put("/v1/services/colorize", json={**declaring(), "plan": waiting})).status_code == 200
    await world.declare()
    answer = await http.post("/v1/services/colorize/rollouts", json={"to": "v2", **waiting})
    assert (answer.status_code, answer.json()["field"]) == (422, "plan.steps[1].quality")


async def test_a_rollout_that_waits_for_its_pictures_says_so(world: World, http: httpx.AsyncClient) -> None:
    rollout = await start(world)
    found = await read(http, "/v1/services/colorize/explain")
    assert "the pictures of v2 and v1 are not compared yet" in found["summary"]
    run = await world.store.begin_quality_run(rollout.id, now=NOW)
    found = await read(http, "/v1/services/colorize/explain")
    assert "the pictures of v2 and v1 are being compared" in found["summary"]
    assert [each["status"] for each in found["quality"]] == ["running"]
    words = "v2: http://10.0.0.1:8083/repair does not answer"
    failed = dataclasses.replace(run, status=RunStatus.FAILED, ended_at=NOW, words=words)
    await world.store.end_quality_run(rollout.id, failed, None)
    found = await read(http, "/v1/services/colorize/explain")
    assert f"the pictures of v2 and v1 cannot be compared: {words}" in found["summary"]


async def test_verdict_and_figures_are_in_status_and_explain(world: World, http: httpx.AsyncClient) -> None:
    rollout = await start(world)
    report = {"measures": {"delta_e": {"value": 1.2, "low": 1.1, "high": 1.3}}}
    fine = dataclasses.replace(FINE, report=report)
    run = ended(await world.store.begin_quality_run(rollout.id, now=NOW), fine)
    await world.store.end_quality_run(rollout.id, run, fine)
    await world.store.begin_quality_run(rollout.id, now=NOW + seconds(600))
    for path in ("status", "explain"):
        newer, last = (await read(http, f"/v1/services/colorize/{path}"))["quality"]
        assert (newer["status"], newer["verdict"], newer["measures"]) == ("running", None, {})
        assert (last["verdict"], last["words"]) == ("ok", "v2 is like v1")
        assert last["measures"] == report["measures"]
    history = (await read(http, "/v1/services/colorize/history"))["items"]
    assert ("compare", "v2 is like v1") in [(entry["what"], entry["words"]) for entry in history]


async def test_comparisons_are_listed_and_shown_whole_with_their_pictures(
    world: World, http: httpx.AsyncClient
) -> None:
    rollout = await start(world)
    assert await read(http, QUALITY) == []
    for place, compared in enumerate([FINE, GREY]):
        run = ended(await world.store.begin_quality_run(rollout.id, now=NOW + seconds(60 * place)), compared)
        await world.store.end_quality_run(rollout.id, run, compared)
    listed = await read(http, QUALITY)
    assert [(each["number"], each["verdict"], each["new"]) for each in listed] == [(2, "block", "v2-b"), (1, "ok", "")]
    whole = await read(http, f"{QUALITY}/2")
    assert whole["report"] == GREY.report
    assert whole["worst"][0] == {"place": 1, "name": GREY.worst[0].name, "words": "grey"}
    picture = await http.get(f"{QUALITY}/2/pictures/1")
    assert (picture.headers["content-type"], picture.content) == ("image/jpeg", GREY.worst[0].jpeg)


async def test_what_is_not_there_is_404(world: World, http: httpx.AsyncClient) -> None:
    await start(world)
    for path in (f"{QUALITY}/1", f"{QUALITY}/1/pictures/1", "/v1/rollouts/nobody-1/quality"):
        assert (await http.get(path)).status_code == 404
