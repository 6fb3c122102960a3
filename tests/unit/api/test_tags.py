"""Nobody overwrites what they have not seen, and nobody is sent what they know."""

from typing import Any

import httpx
import pytest

from controlplane.api.tags import Preconditions
from controlplane.errors import PreconditionFailedError
from tests.unit.api.test_jobs import KIND
from tests.unit.api.test_services import document
from tests.unit.api.world import World

HOOK = {"callback": "shop", "address": "https://shop.example.org/hooks"}
THINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/services/colorize", document(), {"domains": ["other.example.org"]}),
    ("/v1/job-owners/bob", {"owner": "bob", "max_waiting": 1}, {"max_waiting": 2}),
    ("/v1/job-kinds/person", KIND, {"models": ["ddcolor-tiny"]}),
    ("/v1/job-callbacks/shop", HOOK, {"events": ["done"]}),
]


@pytest.mark.parametrize(("path", "first", "change"), THINGS, ids=[path for path, _, _ in THINGS])
async def test_a_change_upon_an_old_picture_is_refused(
    http: httpx.AsyncClient, path: str, first: dict[str, Any], change: dict[str, Any]
) -> None:
    async def put(body: dict[str, Any], **headers: str) -> httpx.Response:
        return await http.put(path, json=body, headers={name.replace("_", "-"): each for name, each in headers.items()})

    assert (await put(first, If_Match="*")).status_code == 412, "there is nothing yet"
    made = await put(first, If_None_Match="*")
    assert made.status_code == 200, made.text
    assert (await put({**first, **change}, If_None_Match="*")).status_code == 412
    seen = (await http.get(path)).headers["ETag"]
    assert seen.startswith(made.headers["ETag"].rstrip('"')), "what was written is what is read"
    theirs = await put({**first, **change}, If_Match=seen)
    assert theirs.status_code == 200
    lost = await put(first, If_Match=seen)
    assert (lost.status_code, lost.json()["code"]) == (412, "precondition_failed")
    assert "has changed since you read it" in lost.json()["detail"]
    assert (await put(first, If_Match=f'"nothing", {theirs.headers["ETag"]}')).status_code == 200
    assert (await put(first)).status_code == 200, "who sets no condition has none"


async def test_who_knows_an_answer_is_not_sent_it_again(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    for path in ("/v1/services", "/v1/services/colorize", "/v1/job-kinds", "/v1/services/colorize/history"):
        first = await http.get(path)
        tag = first.headers["ETag"]
        known = await http.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", tag), path
        assert (await http.get(path, headers={"If-None-Match": '"other"'})).content == first.content
    tag = (await http.get("/v1/services/colorize")).headers["ETag"]
    await http.put("/v1/services/colorize/split", json={"weights": {"v1": "90%", "v2": "10%"}})
    news = await http.get("/v1/services/colorize", headers={"If-None-Match": tag})
    assert news.status_code == 200
    assert news.headers["ETag"].partition("-")[0] == tag.partition("-")[0], "the revision is still the same"


@pytest.mark.parametrize("condition", ['"7"', '"7-abc"', 'W/"7"', '"1", "7"', "*"])
def test_a_condition_holds_by_the_state_alone(condition: str) -> None:
    Preconditions(if_match=condition).check("7", what="it")
    with pytest.raises(PreconditionFailedError):
        Preconditions(if_none_match=condition).check("7", what="it")


@pytest.mark.parametrize("condition", ["7", '"8"', '""', "", '"'])
def test_a_condition_that_names_another_state_does_not_hold(condition: str) -> None:
    with pytest.raises(PreconditionFailedError, match=r"it has changed since you read it \(it is '7' now\)"):
        Preconditions(if_match=condition).check("7", what="it")
    Preconditions(if_none_match=condition).check("7", what="it")
