"""The fleet over REST: what each Envoy made of the newest snapshot."""

import dataclasses
import datetime as dt

import httpx
import pytest

from controlplane.api.views import acks_view, proxy_view
from controlplane.controller.groups import GroupView, view_groups
from controlplane.ports import NAMED, PastRefusal, SnapshotRecord, TypeStatus
from controlplane.traffic.groups import Grouping
from controlplane.traffic.model import TrafficPlan
from tests import builders
from tests.unit.api.world import World

NOW = builders.NOW
LATER = NOW + dt.timedelta(seconds=90)

WANTED = {"cds": "s2-c", "eds": "", "lds": "s2-l", "rds": "s2-r"}


def node(name: str = "edge-1", *, left: dt.datetime | None = None, **types: TypeStatus) -> object:
    """Return an Envoy that runs snapshot s2, but for *types*."""
    synced = {kind: TypeStatus(sent=version, acked=version, acked_at=NOW) for kind, version in WANTED.items()}
    return dataclasses.replace(builders.make_node(name, left=left), types={**synced, **types})


@pytest.fixture
async def served(world: World) -> World:
    for version in ("s1", "s2"):
        await world.store.propose_snapshot(builders.make_snapshot(version))
    world.clock.move(dt.timedelta(seconds=90))
    return world


@pytest.mark.parametrize(
    ("status", "name", "words"),
    [
        (TypeStatus(sent="s2-r", acked="s2-r", acked_at=NOW), "SYNCED", ""),
        (TypeStatus(sent="s2-r", acked="s1-r", acked_at=NOW), "STALE", ""),
        (TypeStatus(sent="s1-r", acked="s1-r", acked_at=NOW), "STALE", ""),
        (
            TypeStatus(sent="s2-r", acked="s1-r", acked_at=NOW, nacked="s2-r", words="unknown cluster"),
            "NACKED",
            "unknown cluster",
        ),
        (TypeStatus(sent="s2-r", acked="", nacked="s2-r", words="bad", nacked_at=NOW), "NACKED", "bad"),
        (TypeStatus(sent="s2-r", acked="s2-r", acked_at=NOW, nacked="s1-r", words="long ago"), "SYNCED", ""),
        (TypeStatus(), "NOT SENT", ""),
    ],
)
async def test_a_type_is_synced_stale_nacked_or_never_sent(
    served: World, http: httpx.AsyncClient, status: TypeStatus, name: str, words: str
) -> None:
    await served.store.record_nodes([node(rds=status)])  # type: ignore[list-item] # a node
    (proxy,) = (await http.get("/v1/proxies")).json()["items"]
    kinds = {kind["type"]: kind for kind in proxy["types"]}
    assert (kinds["rds"]["status"], kinds["rds"]["words"], kinds["rds"]["wanted"]) == (name, words, "s2-r")
    assert kinds["rds"]["age_s"] == 90.0
    assert proxy["synced"] is (name == "SYNCED")
    assert kinds["cds"]["status"] == "SYNCED"


async def test_the_last_refusal_stays(served: World, http: httpx.AsyncClient) -> None:
    status = TypeStatus(sent="s2-r", acked="s2-r", acked_at=NOW, last_refusal=PastRefusal("bad", "no regex", NOW))
    await served.store.record_nodes([node(rds=status)])  # type: ignore[list-item] # a node
    (proxy,) = (await http.get("/v1/proxies")).json()["items"]
    assert {kind["type"]: kind["last_refusal"] for kind in proxy["types"]} == {
        "cds": None,
        "eds": None,
        "lds": None,
        "rds": {"version": "bad", "words": "no regex", "age_s": 90.0},
    }


async def test_a_type_without_resources_was_never_sent(served: World, http: httpx.AsyncClient) -> None:
    await served.store.record_nodes([node(eds=TypeStatus())])  # type: ignore[list-item] # a node
    (proxy,) = (await http.get("/v1/proxies")).json()["items"]
    assert [kind["type"] for kind in proxy["types"]] == ["cds", "eds", "lds", "rds"]
    assert [kind["status"] for kind in proxy["types"]] == ["SYNCED", "NOT SENT", "SYNCED", "SYNCED"]


async def test_the_connected_ones_come_first(served: World, http: httpx.AsyncClient) -> None:
    await served.store.record_nodes([node("a", left=NOW), node("c"), node("b")])  # type: ignore[list-item] # nodes
    proxies = (await http.get("/v1/proxies")).json()["items"]
    assert [(proxy["node"], proxy["connected"]) for proxy in proxies] == [("b", True), ("c", True), ("a", False)]
    assert (proxies[0]["variant"], proxies[0]["replica"]) == ("delta", "one")


async def test_without_envoys_the_list_is_empty(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/proxies")).json()["items"] == []


def groups(snapshot: SnapshotRecord | None, *nodes: object) -> tuple[GroupView, ...]:
    """Return the one group of *nodes*, which should run *snapshot*."""
    return view_groups({"": TrafficPlan((), {})}, {"": snapshot}, Grouping(), nodes, now=NOW)  # type: ignore[arg-type]


def test_acks_count_the_envoys_that_run_everything() -> None:
    snapshot = builders.make_snapshot("s2")
    nacked = TypeStatus(sent="s2-r", acked="s1-r", acked_at=NOW, nacked="s2-r", words="unknown cluster")
    view = acks_view(groups(snapshot, node("a"), node("b", rds=nacked)), now=NOW)
    assert (view.acked, view.expected, view.words, view.waiting) == (1, 2, "1/2 ACKed", ["b"])
    assert view.refusals == ["b refused RDS: unknown cluster"]


def test_acks_say_when_there_is_nothing_to_count() -> None:
    assert acks_view([], now=NOW).words == "nothing is served yet"
    assert acks_view(groups(None), now=NOW).words == "nothing is served yet"
    assert acks_view(groups(builders.make_snapshot("s2")), now=NOW).words == "no Envoy is connected"


@pytest.mark.parametrize(("acked", "status"), [("l2", "SYNCED"), ("l0", "STALE")])
def test_a_client_with_a_listener_of_its_own_is_held_against_that(acked: str, status: str) -> None:
    client = dataclasses.replace(builders.make_node(), types={"lds": TypeStatus(sent="l2", acked=acked)})
    snapshot = dataclasses.replace(builders.make_snapshot(), versions={"lds": "l1", f"lds{NAMED}": "l2"})
    types = proxy_view(client, snapshot, now=NOW).types
    (shown,) = (one for one in types if one.type == "lds")
    assert (shown.status, shown.wanted) == (status, "l2")
