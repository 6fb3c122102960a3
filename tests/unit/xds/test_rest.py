"""Clients that poll: 304 when nothing changed, a refusal told by its silence, and the same order as on streams."""

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from controlplane.ports import EnvoyAnswer, NodeStatus
from controlplane.xds import rest
from controlplane.xds.conversations import Clients
from controlplane.xds.fleet import Fleet
from controlplane.xds.household import WARM_MARGIN
from controlplane.xds.kinds import Kind
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.rest import POLL_LIMIT, RestPolls, read_request
from controlplane.xds.session import GROUP_KEY
from controlplane.xds.snapshot import Snapshot
from tests.fakes import ManualClock
from tests.xds import make_cache, make_snapshot, record

ONE = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
MOVED = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 2)})
BOTH = make_snapshot(cds={"a": 1, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a", "b"], 3)})
ONLY_B = make_snapshot(cds={"b": 1}, lds={"l": ("r", 1)}, rds={"r": (["b"], 4)})


class Rows:
    """Keeps the newest row of each node."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeStatus] = {}

    async def record_nodes(self, nodes: Sequence[NodeStatus], *, answers: Sequence[EnvoyAnswer] = ()) -> None:
        del answers
        for node in nodes:
            self.nodes[node.node] = node


class Plane:
    """A process that answers polls."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self.clock = ManualClock()
        self.rows = Rows()
        self.registry = CollectorRegistry()
        metrics = XdsMetrics(self.registry)
        self.fleet = Fleet(store=self.rows, clock=self.clock, replica="r1", metrics=metrics)
        self.cache = make_cache(self.clock)
        self.polls = RestPolls(
            cache=self.cache, clients=Clients(self.fleet), fleet=self.fleet, clock=self.clock, metrics=metrics
        )
        for snapshot in snapshots:
            self.publish(snapshot)

    def publish(self, snapshot: Snapshot) -> None:
        self.cache.publish(record(snapshot))

    async def row(self, node: str = "n1") -> NodeStatus:
        await self.fleet.write()
        return self.rows.nodes[node]

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


class Envoy:
    """Polls as Envoy does: a name at a time, under the version that it took last."""

    def __init__(self, plane: Plane, *, node: str = "n1", agent: str = "envoy") -> None:
        self.plane = plane
        self.node = {"id": node, "cluster": "edge", "user_agent_name": agent}
        self.versions: dict[tuple[str, ...], str] = {}

    def ask(self, resource: str, *names: str, **fields: Any) -> list[str] | None:
        """Poll without taking the answer; return the names in it."""
        answer = self.answer(resource, *names, **fields)
        return None if answer is None else names_in(answer)

    def answer(self, resource: str, *names: str, **fields: Any) -> dict[str, Any] | None:
        document = {
            "node": self.node,
            "resource_names": list(names),
            "version_info": self.versions.get((resource, *names), ""),
            **fields,
        }
        answer = self.plane.polls.poll(resource, document)
        return None if answer is None else json.loads(answer)

    def poll(self, resource: str, *names: str) -> list[str] | None:
        """Poll and take the answer."""
        answer = self.answer(resource, *names)
        if answer is None:
            return None
        self.versions[resource, *names] = answer["version_info"]
        return names_in(answer)

    def start(self, *clusters: str, routes: str = "r") -> None:
        """Do what a starting Envoy does, until it has everything and has said so."""
        assert self.poll("clusters") == sorted(clusters)
        for cluster in clusters:
            assert self.poll("endpoints", cluster) == [cluster]
        self.poll("listeners")
        for _ in range(2):
            self.round(*clusters, routes=routes)

    def round(self, *clusters: str, routes: str = "r") -> list[str]:
        """Poll everything once; return what brought something new."""
        paths = (("clusters",), *(("endpoints", one) for one in clusters), ("listeners",), ("routes", routes))
        return ["/".join(path) for path in paths if self.poll(*path) is not None]


def names_in(answer: dict[str, Any]) -> list[str]:
    return [resource.get("name") or resource["cluster_name"] for resource in answer.get("resources", ())]


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("rest")
async def test_a_client_gets_everything_once_and_nothing_after() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    assert envoy.round("a") == []
    row = await plane.row()
    assert (row.variant, row.disconnected_at) == ("rest", None)
    assert {kind: status.acked for kind, status in row.types.items()} == {
        kind.value: version for kind, version in ONE.versions.items()
    }


async def test_a_change_is_acknowledged_by_the_next_poll() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    plane.publish(MOVED)
    assert envoy.round("a") == ["routes/r"]
    assert (await plane.row()).types["rds"].acked == ONE.versions[Kind.RDS]
    assert envoy.round("a") == []
    assert (await plane.row()).types["rds"].acked == MOVED.versions[Kind.RDS]


async def test_a_change_of_one_name_is_no_change_of_another() -> None:
    plane = Plane(make_snapshot(cds={"a": 1, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a", "b"], 1)}))
    envoy = Envoy(plane)
    envoy.start("a", "b")
    plane.publish(make_snapshot(cds={"a": 1, "b": 1}, eds={"a": 2}, lds={"l": ("r", 1)}, rds={"r": (["a", "b"], 1)}))
    assert envoy.round("a", "b") == ["endpoints/a"]


@pytest.mark.xds_row("rest")
async def test_a_process_after_this_one_answers_not_modified() -> None:
    envoy = Envoy(Plane(ONE))
    envoy.start("a")
    after = envoy.plane = Plane(ONE)
    assert envoy.round("a") == []
    assert {kind: status.acked for kind, status in (await after.row()).types.items()} == {
        kind.value: version for kind, version in ONE.versions.items()
    }
    after.publish(MOVED)
    after.clock.move(WARM_MARGIN)
    assert envoy.round("a") == ["routes/r"]


def test_before_a_first_snapshot_the_client_is_told_to_come_back() -> None:
    plane = Plane()
    envoy = Envoy(plane)
    with pytest.raises(UnavailableError, match="no configuration is loaded yet"):
        envoy.ask("clusters")
    plane.publish(ONE)
    assert envoy.ask("clusters") == ["a"]


def test_a_name_that_does_not_exist_is_not_modified_until_it_does() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane, agent="curl")
    assert envoy.ask("endpoints", "b") is None
    plane.publish(BOTH)
    assert envoy.ask("endpoints", "b") == ["b"]


def test_an_answer_is_a_discovery_response() -> None:
    answer = Envoy(Plane(ONE)).answer("clusters")
    assert answer is not None
    (cluster,) = answer["resources"]
    assert cluster["@type"] == answer["type_url"] == Kind.CDS.type_url
    assert answer["control_plane"] == {"identifier": "here"}


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_what_is_not_taken_twice_is_refused_and_not_sent_again() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    plane.publish(MOVED)
    assert [envoy.ask("routes", "r") for _ in range(6)] == [["r"], ["r"], None, None, None, None]
    status = (await plane.row()).types["rds"]
    assert (status.nacked, status.acked) == (MOVED.versions[Kind.RDS], ONE.versions[Kind.RDS])
    assert status.words == rest.NO_WORDS
    assert plane.metric("hueshift_xds_nacks_total", type="rds") == 1
    plane.publish(BOTH)
    plane.publish(ONE)
    assert envoy.poll("routes", "r") == ["r"]
    assert envoy.poll("routes", "r") is None
    assert (await plane.row()).types["rds"].nacked == ""


async def test_a_client_that_says_what_is_wrong_is_believed_at_once() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    plane.publish(MOVED)
    assert envoy.ask("routes", "r") == ["r"]
    assert envoy.ask("routes", "r", error_detail={"code": 13, "message": "no such thing"}) is None
    assert (await plane.row()).types["rds"].words == "no such thing"
    assert envoy.ask("routes", "r") is None


async def test_an_answer_that_was_lost_comes_again() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    plane.publish(MOVED)
    assert envoy.ask("routes", "r") == ["r"]
    assert envoy.poll("routes", "r") == ["r"]
    assert envoy.poll("routes", "r") is None
    assert (await plane.row()).types["rds"].acked == MOVED.versions[Kind.RDS]


async def test_a_client_that_took_it_after_all_has_not_refused_it() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    plane.publish(MOVED)
    answer = envoy.answer("routes", "r")
    assert answer is not None
    assert [envoy.ask("routes", "r") for _ in range(2)] == [["r"], None]
    envoy.versions["routes", "r"] = answer["version_info"]
    assert envoy.poll("routes", "r") is None
    status = (await plane.row()).types["rds"]
    assert (status.acked, status.nacked) == (MOVED.versions[Kind.RDS], "")


# -- make before break -------------------------------------------------------------------------------------------------


def test_a_route_waits_until_its_new_cluster_was_taken_and_is_warm() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    plane.publish(BOTH)
    assert envoy.poll("routes", "r") is None
    assert envoy.poll("clusters") == ["a", "b"]
    assert envoy.poll("endpoints", "b") == ["b"]
    assert envoy.poll("routes", "r") is None
    assert envoy.poll("clusters") is None  # this is how it says that it took them
    assert envoy.poll("endpoints", "b") is None
    assert envoy.poll("routes", "r") is None
    plane.clock.move(WARM_MARGIN)
    assert envoy.poll("routes", "r") == ["r"]


def test_a_cluster_goes_after_the_route_that_left_it_was_taken() -> None:
    plane = Plane(BOTH)
    envoy = Envoy(plane)
    envoy.start("a", "b")
    plane.publish(ONLY_B)
    assert envoy.round("a", "b") == ["routes/r"]
    assert envoy.poll("clusters") is None
    envoy.poll("listeners")
    assert envoy.poll("routes", "r") is None
    assert envoy.poll("clusters") == ["b"]


def test_a_second_poller_of_a_name_gets_the_answer_too() -> None:
    """While a changed cluster warms, Envoy polls for its endpoints twice: for the old cluster and for the new one."""
    plane = Plane(ONE)
    old = Envoy(plane)
    old.start("a")
    new = Envoy(plane)
    assert new.poll("endpoints", "a") == ["a"]
    for _ in range(3):
        assert old.poll("endpoints", "a") is None
        assert new.poll("endpoints", "a") is None
    assert plane.metric("hueshift_xds_nacks_total", type="eds") == 0


# -- who comes and goes ------------------------------------------------------------------------------------------------


async def test_a_client_that_polls_no_more_is_disconnected() -> None:
    plane = Plane(ONE)
    envoy = Envoy(plane)
    envoy.start("a")
    assert plane.metric("hueshift_xds_streams", variant="rest") == 1
    plane.clock.move(POLL_LIMIT)
    envoy.round("a")
    plane.clock.move(dt.timedelta(seconds=1))
    plane.polls.sweep()
    assert plane.fleet.connected_ids() == {"n1"}
    plane.clock.move(POLL_LIMIT)
    plane.polls.sweep()
    assert plane.fleet.connected_ids() == frozenset()
    assert (await plane.row()).disconnected_at is not None
    assert plane.metric("hueshift_xds_streams", variant="rest") == 0


async def test_endpoints_that_are_polled_for_no_more_hold_nothing_up() -> None:
    plane = Plane(BOTH)
    envoy = Envoy(plane)
    envoy.start("a", "b")
    plane.publish(ONLY_B)
    for _ in range(4):
        envoy.round("b")
    assert {kind: status.acked for kind, status in (await plane.row()).types.items()} == {
        kind.value: version for kind, version in ONLY_B.versions.items()
    }


async def test_a_restarted_envoy_is_a_new_client() -> None:
    plane = Plane(ONE)
    Envoy(plane).start("a")
    again = Envoy(plane)
    assert again.poll("clusters") == ["a"]
    assert (await plane.row()).types["cds"].acked == ""
    for path in (("endpoints", "a"), ("clusters",), ("endpoints", "a")):
        again.poll(*path)
    assert again.poll("listeners") == ["l"]
    assert again.poll("routes", "r") == ["r"]


def test_the_number_of_nodes_and_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MAX_NODES", 2)
    monkeypatch.setattr(rest, "MAX_CONVERSATIONS", 2)
    plane = Plane(ONE)
    for node in ("n1", "n2"):
        Envoy(plane, node=node).ask("clusters")
    with pytest.raises(UnavailableError, match=r"node.id: 2 clients poll already"):
        Envoy(plane, node="n3").ask("clusters")
    envoy = Envoy(plane)
    envoy.ask("listeners")
    with pytest.raises(UnavailableError, match="resource_names: 2 sets of names"):
        envoy.ask("endpoints", "a")


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_may_be_spelt_either_way() -> None:
    version = {"version": {"major_number": 1, "minor_number": 40}}
    snake = {
        "node": {
            "id": "n1",
            "cluster": "edge",
            "user_agent_name": "envoy",
            "user_agent_build_version": version,
            "metadata": {GROUP_KEY: "blue"},
            "extensions": [{"name": "many"}],
        },
        "type_url": Kind.EDS.type_url,
        "resource_names": ["a"],
        "version_info": "v",
        "error_detail": {"message": "bad"},
    }
    camel = {
        "node": {
            "id": "n1",
            "cluster": "edge",
            "userAgentName": "envoy",
            "userAgentBuildVersion": {"version": {"majorNumber": 1, "minorNumber": 40}},
            "metadata": {GROUP_KEY: "blue"},
        },
        "typeUrl": Kind.EDS.type_url,
        "resourceNames": ["a"],
        "versionInfo": "v",
        "errorDetail": {"message": "bad"},
    }
    request = read_request(Kind.EDS, snake)
    assert request == read_request(Kind.EDS, camel)
    assert (request.version_info, list(request.resource_names)) == ("v", ["a"])
    assert request.node.metadata[GROUP_KEY] == "blue"
    assert request.node.user_agent_build_version.version.minor_number == 40
    assert not request.node.extensions


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "body"),
        ({}, "node.id"),
        ({"node": []}, "node"),
        ({"node": {"id": 7}}, "node.id"),
        ({"node": {"id": ""}}, "node.id"),
        ({"node": {"id": "n" * 257}}, "node.id"),
        ({"node": {"id": "\ud800"}}, "node.id"),
        ({"node": {"id": "n1", "metadata": [1]}}, "node"),
        ({"node": {"id": "n1", "cluster": 3}}, "node"),
        ({"node": {"id": "n1"}, "type_url": Kind.RDS.type_url}, "type_url"),
        ({"node": {"id": "n1"}, "version_info": 3}, "version_info"),
        ({"node": {"id": "n1"}, "resource_names": "a"}, "resource_names"),
        ({"node": {"id": "n1"}, "resource_names": [1]}, "resource_names"),
        ({"node": {"id": "n1"}, "resource_names": ["a"] * 1001}, "resource_names"),
        ({"node": {"id": "n1"}, "error_detail": "bad"}, "error_detail"),
    ],
)
def test_a_senseless_request_is_refused_by_its_field(document: object, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        read_request(Kind.CDS, document)
    assert refused.value.field == field
    assert "\n" not in str(refused.value)


def test_what_is_not_served_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="known: clusters, endpoints, listeners, routes"):
        Plane(ONE).polls.poll("secrets", {"node": {"id": "n1"}})
