"""Services over REST: declare, look, set the split, follow the history."""

import dataclasses
import json
import pathlib
from typing import Any

import httpx
import pytest

from controlplane.api.documents import document_of
from controlplane.api.reading import parse_service
from controlplane.controller.preview import Preview
from controlplane.ports import ClusterHealth, RevisionStatus
from controlplane.rollout.model import Baking, Promoted
from controlplane.xds.envoy_validate import EnvoyValidator
from controlplane.xds.snapshot import SnapshotCompiler
from tests import builders
from tests.fakes import make_picky_envoy
from tests.unit.api.world import World

ROOT = pathlib.Path(__file__).parents[3]


def document(**changes: Any) -> dict[str, Any]:
    """Return the builders' service as its document, with something changed."""
    spec = builders.make_spec()
    return {**document_of(spec).model_dump(mode="json", exclude_none=True), **changes}


async def test_a_declaration_becomes_a_revision_and_the_same_one_again_changes_nothing(http: httpx.AsyncClient) -> None:
    first = await http.put("/v1/services/colorize", json=document())
    assert (first.status_code, first.json()) == (
        200,
        {"service": "colorize", "revision": 1, "changed": True, "words": "colorize is now at revision 1"},
    )
    again = (await http.put("/v1/services/colorize", json=document())).json()
    assert (again["revision"], again["changed"], again["words"]) == (1, False, "colorize is unchanged")


async def test_the_shipped_service_can_be_declared_and_read_back(http: httpx.AsyncClient) -> None:
    spec = parse_service((ROOT / "deploy" / "colorize.yaml").read_text("utf-8"))
    body = document_of(spec).model_dump(mode="json", exclude_none=True)
    assert (await http.put("/v1/services/colorize", json=body)).status_code == 200
    shown = (await http.get("/v1/services/colorize")).json()
    assert {key: value for key, value in shown["document"].items() if value is not None} == shown["document"]
    assert shown["document"]["routes"][2]["timeout"] == "300s"
    assert [(share["version"], share["weight"], share["weight_bp"]) for share in shown["split"]] == [
        ("v1", "50%", 5_000),
        ("v2", "50%", 5_000),
    ]
    assert shown["revision"]["status"] == "proposed"


async def test_who_declared_and_why_is_in_the_audit(world: World, http: httpx.AsyncClient) -> None:
    await http.put("/v1/services/colorize", json=document(), params={"why": "neue Farben, 新しい"})
    await http.put(
        "/v1/services/colorize", json=document(domains=["a.example"]), headers={"X-Hueshift-Reason": "by header"}
    )
    assert [entry[:2] for entry in await world.audit()] == [("ada", "apply"), ("ada", "apply")]
    words = [entry[2] for entry in await world.audit()]
    assert "neue Farben, 新しい" in words[0]
    assert "by header" in words[1]


async def test_what_an_envoy_would_refuse_is_refused_at_the_door_in_its_words(
    world: World, http: httpx.AsyncClient, tmp_path: pathlib.Path
) -> None:
    odd = {"name": "odd", "match": {"headers": [{"name": "x-odd", "regex": "(odd)b"}]}, "version": "v1"}
    check = EnvoyValidator(make_picky_envoy(tmp_path, "(odd)b"))
    world.app.state.parts = dataclasses.replace(
        world.app.state.parts, preview=Preview(compiler=SnapshotCompiler(), check=check)
    )
    assert (await http.put("/v1/services/colorize", json=document())).status_code == 200
    refused = await http.put("/v1/services/colorize", json=document(routes=[*document()["routes"], odd]))
    assert (refused.status_code, refused.json()["field"]) == (422, "routes.odd")
    assert refused.json()["detail"].startswith("routes.odd: Envoy refuses it: no good; ")
    claimed = (await http.put("/v1/services/colorize", json=document(domains=["A.example", "a.example"]))).json()
    assert claimed["detail"] == (
        "route_config.colorize_routes.domains: 'a.example' is claimed 2 times; name each domain once"
    )
    assert (await world.store.load_service("colorize")).newest.number == 1


async def test_a_bad_declaration_lists_everything_and_changes_nothing(http: httpx.AsyncClient) -> None:
    body = document(
        listener={"port": 0},
        slos=[{"name": "errors", "kind": "error_rate"}],
        versions=[{"name": "v1", "endpoints": ["w"]}],
    )
    answer = await http.put("/v1/services/colorize", json=body)
    assert answer.status_code == 422
    refused = answer.json()
    assert (refused["code"], refused["field"]) == ("invalid_input", "versions.v1.endpoints[1]")
    assert refused["detail"].startswith("versions.v1.endpoints[1]: 'w' is not an endpoint; write host:port")
    assert [problem["field"] for problem in refused["problems"]] == ["versions.v1.endpoints[1]", "slos.errors.max"]
    assert refused["problems"][1]["detail"] == "slos.errors.max: is missing; add max: 1%"
    assert (await http.get("/v1/services")).json() == {"items": [], "next": None}


async def test_values_out_of_range_are_refused_as_the_core_says_it(http: httpx.AsyncClient) -> None:
    refused = await http.put("/v1/services/colorize", json=document(split={"v1": "60%", "v2": "60%"}))
    assert refused.status_code == 422
    assert refused.json()["detail"] == "split: the weights sum to 120 %; make them sum to 100 %"


async def test_a_document_of_another_name_than_the_path_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.put("/v1/services/other", json=document())
    assert (refused.status_code, refused.json()["field"]) == (422, "service")


async def test_a_certificate_must_be_on_the_control_plane_where_that_is_known(
    world: World, http: httpx.AsyncClient
) -> None:
    declared = document()
    declared["listener"]["tls"] = {"certificate": "edge.example"}
    for known, words in (
        ([], "put its files into HUESHIFT_CERTIFICATES_DIR"),
        (["b.example", "a.example"], "use one of a.example, b.example"),
    ):
        world.app.state.parts = dataclasses.replace(world.app.state.parts, certificates=lambda known=known: known)
        refused = await http.put("/v1/services/colorize", json=declared)
        assert refused.status_code == 422
        assert refused.json()["detail"] == (
            f"listener.tls.certificate: 'edge.example' is not on the control plane; {words}"
        )
    for certificates in (lambda: ["edge.example"], None):  # None: nobody knows here; then Envoy waits for it
        world.app.state.parts = dataclasses.replace(world.app.state.parts, certificates=certificates)
        assert (await http.put("/v1/services/colorize", json=declared)).status_code == 200
    shown = (await http.get("/v1/services/colorize")).json()
    assert shown["document"]["listener"]["tls"] == {"certificate": "edge.example"}


async def test_what_another_service_owns_is_a_conflict(http: httpx.AsyncClient) -> None:
    await http.put("/v1/services/colorize", json=document())
    other = document_of(builders.make_spec("style")).model_dump(mode="json", exclude_none=True)
    refused = await http.put("/v1/services/style", json=other)
    assert refused.status_code == 409
    assert "listener.port" in refused.json()["detail"]


async def test_an_unknown_service_is_not_found_and_the_known_ones_are_named(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    for path in ("", "/status", "/history", "/rollouts", "/events"):
        answer = await http.get(f"/v1/services/nothing{path}")
        assert answer.status_code == 404
        assert answer.json()["detail"] == "service 'nothing' does not exist (known: colorize)"


@pytest.mark.parametrize(
    ("content", "content_type", "words"),
    [
        (b"{", "application/json", "body: is not JSON"),
        (b"", "application/json", "body: is missing; send JSON"),
        (b"service: colorize", "application/yaml", "body: is not JSON; send it with Content-Type: application/json"),
        (b"[]", "application/json", "body: [] is not a mapping; write key: value pairs"),
        (b"null", "application/json", "body: "),
        (b'{"service": "\xff"}', "application/json", "body: "),
    ],
)
async def test_what_is_no_json_is_refused_in_one_line(
    http: httpx.AsyncClient, content: bytes, content_type: str, words: str
) -> None:
    answer = await http.put("/v1/services/colorize", content=content, headers={"Content-Type": content_type})
    assert answer.status_code in {400, 422}
    assert answer.json()["detail"].startswith(words)
    assert "\n" not in answer.json()["detail"]


# -- the split ---------------------------------------------------------------------------------------------------------


async def test_the_split_can_be_set_by_hand_and_is_audited(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    body = {"weights": {"v1": "90%", "v2": "10%"}, "why": "a look"}
    answer = await http.put("/v1/services/colorize/split", json=body)
    assert answer.status_code == 200
    assert [(share["version"], share["weight"]) for share in answer.json()["split"]] == [("v1", "90%"), ("v2", "10%")]
    who, what, words = (await world.audit())[-1]
    assert (who, what) == ("ada", "set-split")
    assert "v2 10 %" in words
    assert "a look" in words


@pytest.mark.parametrize(
    ("weights", "status", "words"),
    [
        ({"v1": "90%"}, 422, "weights: the weights sum to 90 %; make them sum to 100 %"),
        ({}, 422, "weights: the weights sum to 0 %; make them sum to 100 %"),
        ({"v1": "110%"}, 422, "weights.v1: 110% is out of range; use 0% to 100%"),
        ({"v1": "-5%"}, 422, "weights.v1: -5% is out of range; use 0% to 100%"),
        ({"v1": 90, "v2": 10}, 422, "weights.v1: 90 has no unit; write 90%"),
        ({"v1": "99.999%", "v2": "0.001%"}, 422, "weights.v1: 99.999% is finer than a weight can be; "),
        ({"v1": "50%", "v9": "50%"}, 404, "version 'v9' does not exist (known: v1, v2)"),
    ],
)
async def test_a_senseless_split_is_refused(
    world: World, http: httpx.AsyncClient, weights: dict[str, Any], status: int, words: str
) -> None:
    await world.declare()
    answer = await http.put("/v1/services/colorize/split", json={"weights": weights})
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(words)
    assert (await world.store.load_service("colorize")).split == builders.make_split(v1=10_000)


async def test_a_rollout_owns_the_split(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.roll()
    answer = await http.put("/v1/services/colorize/split", json={"weights": {"v1": "100%"}})
    assert answer.status_code == 409
    assert "colorize-1" in answer.json()["detail"]


async def test_no_traffic_is_given_by_hand_to_workers_that_are_down(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.connect("edge-1")
    await world.report_health(
        ClusterHealth("edge-1", "colorize_v1", 0, 1), ClusterHealth("edge-1", "colorize_v2", 0, 2)
    )
    answer = await http.put("/v1/services/colorize/split", json={"weights": {"v1": "50%", "v2": "50%"}})
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        "version v2 (cluster colorize_v2): 0 of 2 workers healthy; "
        "start the workers or check health_check.path (/healthz)"
    )


# -- lists, history, events --------------------------------------------------------------------------------------------


async def test_the_list_shows_split_revision_and_rollout(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.declare(name="style", port=9090)
    await world.connect("edge-1")
    await world.report_health(ClusterHealth("edge-1", "colorize_v1", 2, 3))
    await world.move(await world.roll(), Baking(step=1, since=builders.NOW))
    colorize, style = (await http.get("/v1/services")).json()["items"]
    assert (colorize["name"], colorize["listener"], colorize["revision"]) == ("colorize", "127.0.0.1:8080", 1)
    assert [
        (share["version"], share["weight_bp"], share["healthy"], share["total"]) for share in colorize["split"]
    ] == [
        ("v1", 7_500, 2, 3),
        ("v2", 2_500, None, None),
    ]
    assert (colorize["rollout"]["state"], colorize["rollout"]["step"], colorize["rollout"]["steps"]) == ("baking", 2, 4)
    assert style["rollout"] is None


async def test_the_history_is_whole_ordered_and_can_be_narrowed(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    await world.move(await world.roll(), Promoted(at=builders.NOW, words="all kept"))
    history = (await http.get("/v1/services/colorize/history")).json()["items"]
    assert [entry["number"] for entry in history] == sorted((entry["number"] for entry in history), reverse=True)
    assert {entry["kind"] for entry in history} == {"audit", "transition"}
    first = (await http.get("/v1/services/colorize/history", params={"limit": 1})).json()
    assert first["items"] == history[:1]
    rest = (await http.get("/v1/services/colorize/history", params={"cursor": first["next"]})).json()
    assert (rest["items"], rest["next"]) == (history[1:], None)
    narrowed = (await http.get("/v1/services/colorize/history", params={"rollout": "colorize-1"})).json()["items"]
    assert narrowed == [entry for entry in history if entry["rollout"] == "colorize-1"]
    assert 0 < len(narrowed) < len(history)


@pytest.mark.parametrize("limit", ["0", "1001", "many"])
async def test_an_absurd_limit_is_refused(world: World, http: httpx.AsyncClient, limit: str) -> None:
    await world.declare()
    answer = await http.get("/v1/services/colorize/history", params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("limit: ")


async def test_events_that_are_there_are_given_at_once(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    found = (await http.get("/v1/services/colorize/events")).json()
    assert [event["what"] for event in found["events"]] == ["apply"]
    assert found["next"] == found["events"][-1]["number"]
    assert world.clock.steady() == 0


async def test_a_poll_waits_as_long_as_asked_and_no_longer(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    known = (await http.get("/v1/services/colorize/events")).json()["next"]
    found = (await http.get("/v1/services/colorize/events", params={"after": known, "wait": "20s"})).json()
    assert found == {"events": [], "next": known}
    assert world.clock.steady() == 20


async def test_a_poll_ends_with_the_first_event(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    known = (await http.get("/v1/services/colorize/events")).json()["next"]
    sleep = world.clock.sleep

    async def sleep_and_start(delay: Any) -> None:
        await sleep(delay)
        if world.clock.steady() == 2:
            await world.roll()

    world.clock.sleep = sleep_and_start  # type: ignore[method-assign] # something happens while we wait
    found = (await http.get("/v1/services/colorize/events", params={"after": known, "wait": "20s"})).json()
    assert [event["what"] for event in found["events"]] == ["start", "start"]
    assert world.clock.steady() == 2


@pytest.mark.parametrize("wait", ["5", "2m", "soon"])
async def test_a_senseless_wait_is_refused(world: World, http: httpx.AsyncClient, wait: str) -> None:
    await world.declare()
    answer = await http.get("/v1/services/colorize/events", params={"wait": wait})
    assert (answer.status_code, answer.json()["field"]) == (422, "wait")


async def test_so_many_may_wait_for_events_and_no_more(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    world.app.state.watchers = 100
    answer = await http.get("/v1/services/colorize/events")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    world.app.state.watchers = 0
    await http.get("/v1/services/colorize/events")
    assert world.app.state.watchers == 0


async def test_a_refused_revision_is_shown_with_envoys_words_while_the_old_one_is_served(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.declare()
    await world.declare(versions=("v1", "v2", "v3"))
    words = "edge-1 refused RDS: route: unknown cluster 'colorize_v3'"
    await world.store.mark_revisions({"colorize": 2}, RevisionStatus.REJECTED, words, now=builders.NOW)
    shown = (await http.get("/v1/services/colorize")).json()
    assert (shown["served_revision"], shown["revision"]["number"], shown["revision"]["status"]) == (1, 2, "rejected")
    status = (await http.get("/v1/services/colorize/status")).json()
    assert (status["revision"]["number"], status["rejected"]["words"]) == (1, words)
    start = await http.post("/v1/services/colorize/rollouts", json={"to": "v3"})
    assert start.status_code == 409
    assert words in start.json()["detail"]
    assert json.dumps(start.json())
