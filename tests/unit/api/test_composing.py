"""From documents to what is to be done, for services of every shape."""

import datetime as dt
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.composing import compose
from controlplane.api.composition import Given, Present, Wanted
from controlplane.api.envelopes import as_json, key_of, read_envelope, service_envelope, service_of
from controlplane.auth.roles import Grant, Role
from controlplane.ports import Revision, RevisionStatus, ServiceRecord
from controlplane.traffic.declared import Declaration
from controlplane.traffic.model import ServiceSpec
from tests.builders import NOW, make_spec
from tests.unit.api.specs import services
from tests.unit.api.world import World


def recorded(spec: ServiceSpec) -> ServiceRecord:
    revision = Revision(1, spec, RevisionStatus.GOOD, "", "ada", "", NOW)
    return ServiceRecord(spec.name, revision, revision, spec.initial_split)


def split_up(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Take a whole service apart: each version, the objectives and the plan a document of its own."""
    spec = dict(document["spec"])
    name = document["metadata"]["name"]
    head = {"apiVersion": "hueshift.dev/v1"}
    parts = [
        {
            **head,
            "kind": "Version",
            "metadata": {"name": version["name"]},
            "spec": {"service": name, **{key: value for key, value in version.items() if key != "name"}},
        }
        for version in spec.pop("versions")
    ]
    slos = {**head, "kind": "SLO", "metadata": {"name": "all"}, "spec": {"objectives": spec.pop("slos")}}
    plan = {**head, "kind": "Plan", "metadata": {"name": "mine"}, "spec": spec.pop("plan")}
    return [{**document, "spec": {**spec, "slos": ["all"], "plan": "mine"}}, slos, plan, *parts]


def givens(documents: list[dict[str, Any]]) -> list[Given]:
    return [Given(read_envelope(one), f"documents[{place}]") for place, one in enumerate(documents, start=1)]


@given(services())
def test_a_service_written_out_applies_as_unchanged(spec: ServiceSpec) -> None:
    document = service_envelope(spec, {"name": spec.name})
    found = compose(givens([document]), Present({}, {spec.name: recorded(spec)}, {}), Wanted())
    assert (found.specs, [change.action for change in found.changes]) == ({}, ["unchanged"])


@given(services(), st.randoms(use_true_random=False))
def test_a_service_taken_apart_is_the_same_in_any_order(spec: ServiceSpec, chance: Any) -> None:
    documents = split_up(service_envelope(spec, {"name": spec.name}))
    whole = compose(givens(documents), Present({}, {}, {}), Wanted()).specs[spec.name]
    assert sorted(whole.versions, key=lambda one: one.name) == sorted(spec.versions, key=lambda one: one.name)
    assert (whole.slos, whole.plan, whole.routes) == (spec.slos, spec.plan, spec.routes)
    chance.shuffle(documents)
    assert compose(givens(documents), Present({}, {}, {}), Wanted()).specs[spec.name] == whole
    rows = {}
    for one in givens(documents):
        envelope = one.envelope
        kind, name = key_of(envelope)
        rows[kind, name] = Declaration(kind, name, service_of(envelope), "me", as_json(envelope), 1, "ada", NOW)
    present = Present(rows, {spec.name: recorded(whole)}, {})
    again = compose(givens(documents), present, Wanted("me", prune=True))
    assert (again.specs, again.removed, {change.action for change in again.changes}) == ({}, frozenset(), {"unchanged"})


VERSION = {
    "apiVersion": "hueshift.dev/v1",
    "kind": "Version",
    "metadata": {"name": "v3"},
    "spec": {"service": "colorize", "endpoints": ["127.0.0.1:8085"]},
}
PLAN = {"apiVersion": "hueshift.dev/v1", "kind": "Plan", "metadata": {"name": "slow"}, "spec": {}}
ROLLOUT = {
    "apiVersion": "hueshift.dev/v1",
    "kind": "Rollout",
    "metadata": {"name": "blues"},
    "spec": {"service": "colorize", "to": "v2"},
}


@pytest.mark.parametrize(
    ("grant", "document", "status"),
    [
        (Grant(Role.ADMIN, "colorize"), VERSION, 200),
        (Grant(Role.APPROVER, "colorize"), VERSION, 403),
        (Grant(Role.ADMIN, "other"), VERSION, 404),
        (Grant(Role.ADMIN, "colorize"), PLAN, 403),
        (Grant(Role.ADMIN), PLAN, 200),
        (Grant(Role.OPERATOR, "colorize"), ROLLOUT, 200),
        (Grant(Role.VIEWER, "colorize"), ROLLOUT, 403),
    ],
)
async def test_each_document_takes_the_role_of_what_it_does(
    world: World, grant: Grant, document: dict[str, Any], status: int
) -> None:
    await world.declare()
    key = await world.app.state.parts.auth.keys.create("bob", (grant,))
    async with world.http(key) as http:
        assert (await http.post("/v1/documents", json={"documents": [document]})).status_code == status


async def test_an_apply_that_looked_at_something_else_is_refused(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    body = {"documents": [VERSION], "dry_run": True}
    looked = await http.post("/v1/documents", json=body)
    assert looked.headers["ETag"] == f'"{looked.json()["etag"]}"'
    tag = {"If-Match": looked.headers["ETag"]}
    await world.store.apply(make_spec(port=9), by="eve", why="", now=NOW + dt.timedelta(1))
    refused = await http.post("/v1/documents", json=body | {"dry_run": False}, headers=tag)
    assert (refused.status_code, "If-Match" in refused.json()["detail"]) == (412, True)
    assert (await world.store.load_service("colorize")).newest.number == 2


async def test_a_service_is_deleted_only_as_it_was_read(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    path = "/v1/services/colorize"
    assert (await http.delete(path, headers={"If-Match": '"7"'})).status_code == 412
    assert (await http.delete(path, headers={"If-Match": "W/x"})).status_code == 412
    assert (await http.delete(path, headers={"If-Match": '"1"'})).status_code == 204
    assert (await http.get(path)).status_code == 404


async def test_one_service_that_is_refused_leaves_the_others(world: World, http: httpx.AsyncClient) -> None:
    await world.declare()
    specs = make_spec("desk", port=9), make_spec("clash", port=8080)
    documents = [service_envelope(spec, {"name": spec.name}) for spec in specs]
    answer = (await http.post("/v1/documents", json={"documents": documents, "owner": "me"})).json()
    assert [(change["name"], change["action"]) for change in answer["changes"]] == [
        ("clash", "refused"),
        ("desk", "created"),
    ]
    assert "belongs to service 'colorize'" in answer["changes"][0]["words"]
    assert answer["refused"] is True
    listed = (await http.get("/v1/documents", params={"owner": "me"})).json()["items"]
    assert [row["name"] for row in listed] == ["desk"], "what was not done is not remembered as done"


async def test_prune_without_an_owner_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/documents", json={"documents": [], "prune": True})
    assert (answer.status_code, answer.json()["field"]) == (422, "owner")
