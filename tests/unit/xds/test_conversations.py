"""A client without ADS: several conversations of one node, each with its own names, nonces and answers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import pytest
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry

from controlplane.ports import EnvoyAnswer, NodeStatus
from controlplane.traffic.model import ServedService, TrafficPlan
from controlplane.xds.bootstrap import config_source
from controlplane.xds.conversations import Clients, DeltaConversation, SotwConversation
from controlplane.xds.fleet import Fleet
from controlplane.xds.household import CLUSTERS_WITHIN, WARM_MARGIN
from controlplane.xds.kinds import SNAPSHOT_KINDS, Kind, ProtocolError
from controlplane.xds.metrics import XdsMetrics
from controlplane.xds.snapshot import Snapshot, SnapshotCompiler
from controlplane.xds.sources import Source, redirect
from tests.builders import make_spec, seconds
from tests.fakes import ManualClock
from tests.xds import DeltaClient, Got, SotwClient, make_cache, make_snapshot, record

ONE = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
BOTH = make_snapshot(cds={"a": 1, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a", "b"], 2)})
ONLY_B = make_snapshot(cds={"b": 1}, lds={"l": ("r", 1)}, rds={"r": (["b"], 3)})
TWO_ROUTES = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1), "m": ("s", 1)}, rds={"r": (["a"], 1), "s": (["a"], 1)})
TWO_ROUTES_LATER = make_snapshot(
    cds={"a": 1}, lds={"l": ("r", 1), "m": ("s", 1)}, rds={"r": (["a"], 2), "s": (["a"], 2)}
)

Talk = SotwClient | DeltaClient


class Rows:
    """Keeps the newest row of each node."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeStatus] = {}

    async def record_nodes(self, nodes: Sequence[NodeStatus], *, answers: Sequence[EnvoyAnswer] = ()) -> None:
        del answers
        for node in nodes:
            self.nodes[node.node] = node


class Plane:
    """What conversations share in a process."""

    def __init__(self, variant: str, *snapshots: Snapshot) -> None:
        self.variant = variant
        self.clock = ManualClock()
        self.rows = Rows()
        metrics = XdsMetrics(CollectorRegistry())
        self.fleet = Fleet(store=self.rows, clock=self.clock, replica="r1", metrics=metrics)
        self.clients = Clients(self.fleet)
        self.cache = make_cache(self.clock)
        self.woken: list[Kind] = []
        for snapshot in snapshots:
            self.cache.publish(record(snapshot))

    def open(self, kind: Kind, *, node: str = "n1", agent: str = "envoy") -> Talk:
        """Open a conversation; it has not said anything yet."""

        def wake() -> None:
            self.woken.append(kind)

        talk: Talk
        if self.variant == "sotw":
            talk = SotwClient(self.cache, node=node, agent=agent, session=SotwConversation(kind, self.clients, wake))
        else:
            talk = DeltaClient(self.cache, node=node, agent=agent, session=DeltaConversation(kind, self.clients, wake))
        talk.clock = self.clock
        return talk

    def close(self, talk: Talk) -> None:
        talk.leave()
        assert isinstance(talk.session, SotwConversation | DeltaConversation)
        talk.session.leave()

    def start(self, *clusters: str, routes: Sequence[str] = ("r",), agent: str = "envoy") -> "Envoy":
        """Do what a starting Envoy does, until it has everything."""
        cds = self.open(Kind.CDS, agent=agent)
        ask_and_ack(cds, Kind.CDS)
        eds = {name: self.open(Kind.EDS, agent=agent) for name in clusters}
        for name, talk in eds.items():
            ask_and_ack(talk, Kind.EDS, name)
        lds = self.open(Kind.LDS, agent=agent)
        ask_and_ack(lds, Kind.LDS)
        rds = {name: self.open(Kind.RDS, agent=agent) for name in routes}
        for name, talk in rds.items():
            ask_and_ack(talk, Kind.RDS, name)
        self.woken.clear()
        self.levels(cds)  # as the stream of each conversation does whenever there is nothing more to send
        return Envoy(cds, eds, lds, rds)

    def levels(self, talk: Talk) -> Mapping[Kind, object]:
        return dict(talk.session.levels())

    def acked(self, talk: Talk, kind: Kind) -> str:
        return dict(talk.session.levels())[kind].acked


@dataclasses.dataclass
class Envoy:
    """The conversations of one Envoy, by kind and name."""

    cds: Talk
    eds: dict[str, Talk]
    lds: Talk
    rds: dict[str, Talk]


def ask_and_ack(talk: Talk, kind: Kind, *names: str) -> None:
    (got,) = talk.ask(kind, *names)
    talk.ack(got)
    assert talk.take() == []


MakePlane = Callable[..., Plane]


@pytest.fixture(params=["sotw", "delta"])
def plane(request: pytest.FixtureRequest) -> MakePlane:
    def make(*snapshots: Snapshot) -> Plane:
        return Plane(request.param, *snapshots)

    return make


# -- one conversation --------------------------------------------------------------------------------------------------


def test_a_starting_envoy_waits_for_nothing_and_is_one_node(plane: MakePlane) -> None:
    here = plane(TWO_ROUTES)
    envoy = here.start("a", routes=("r", "s"))
    assert {kind: here.acked(envoy.cds, kind) for kind in SNAPSHOT_KINDS} == dict(TWO_ROUTES.versions)
    assert here.fleet.connected_ids() == {"n1"}
    assert envoy.rds["r"].last[Kind.RDS].names == ("r",)
    assert envoy.rds["s"].last[Kind.RDS].names == ("s",)


def test_its_type_may_be_left_out_but_not_be_another(plane: MakePlane) -> None:
    here = plane(ONE)
    clusters = here.open(Kind.CDS)
    clusters.raw("")
    (got,) = clusters.take()
    assert got.names == ("a",)
    with pytest.raises(ProtocolError, match=r"type_url: .*RouteConfiguration is not served here") as refused:
        here.open(Kind.CDS).raw(Kind.RDS.type_url)
    assert "\n" not in str(refused.value)


def test_a_change_goes_only_to_the_conversation_that_it_is_about(plane: MakePlane) -> None:
    here = plane(TWO_ROUTES)
    envoy = here.start("a", routes=("r", "s"))
    here.cache.publish(record(make_snapshot(
        cds={"a": 1}, lds={"l": ("r", 1), "m": ("s", 1)}, rds={"r": (["a"], 2), "s": (["a"], 1)}
    )))  # fmt: skip
    assert [got.names for got in envoy.rds["r"].take()] == [("r",)]
    others = (envoy.cds, envoy.lds, envoy.eds["a"], envoy.rds["s"])
    assert [talk.take() for talk in others] == [[], [], [], []]


def test_the_node_runs_a_type_when_all_its_conversations_do(plane: MakePlane) -> None:
    here = plane(TWO_ROUTES)
    envoy = here.start("a", routes=("r", "s"))
    here.cache.publish(record(TWO_ROUTES_LATER))
    (first,), (second,) = envoy.rds["r"].take(), envoy.rds["s"].take()
    envoy.rds["r"].ack(first)
    assert here.acked(envoy.rds["r"], Kind.RDS) == TWO_ROUTES.versions[Kind.RDS]
    envoy.rds["s"].ack(second)
    assert here.acked(envoy.rds["s"], Kind.RDS) == TWO_ROUTES_LATER.versions[Kind.RDS]


def test_a_refusal_in_one_conversation_is_the_nodes_and_is_not_sent_again(plane: MakePlane) -> None:
    here = plane(TWO_ROUTES)
    envoy = here.start("a", routes=("r", "s"))
    here.cache.publish(record(TWO_ROUTES_LATER))
    (bad,), (good,) = envoy.rds["r"].take(), envoy.rds["s"].take()
    envoy.rds["r"].nack(bad, "no such thing")
    envoy.rds["s"].ack(good)
    level = dict(envoy.rds["s"].session.levels())[Kind.RDS]
    assert (level.acked, level.nacked) == (TWO_ROUTES.versions[Kind.RDS], TWO_ROUTES_LATER.versions[Kind.RDS])
    assert level.words == "no such thing"
    assert envoy.rds["r"].take() == []


# -- make before break, across conversations ---------------------------------------------------------------------------


def test_a_route_waits_for_its_new_cluster_to_be_warm(plane: MakePlane) -> None:
    here = plane(ONE)
    envoy = here.start("a")
    here.cache.publish(record(BOTH))
    (clusters,) = envoy.cds.take()
    assert envoy.rds["r"].take() == []
    envoy.cds.ack(clusters)  # which Envoy does at once without ADS
    assert Kind.RDS in here.woken
    assert envoy.rds["r"].take() == []
    here.woken.clear()
    ask_and_ack(here.open(Kind.EDS), Kind.EDS, "b")
    assert Kind.RDS in here.woken
    here.woken.clear()
    assert envoy.rds["r"].take() == []
    here.clients.wake_due(here.clock.steady())
    assert here.woken == []
    here.clock.move(WARM_MARGIN)
    here.clients.wake_due(here.clock.steady())
    assert Kind.RDS in here.woken
    assert [got.names for got in envoy.rds["r"].take()] == [("r",)]


def test_how_long_a_cluster_takes_is_the_timeout_of_its_health_check() -> None:
    spec = make_spec()
    check = dataclasses.replace(spec.versions[0].health_check, timeout=seconds(2.5))
    slow = dataclasses.replace(spec.versions[0], health_check=check)
    plan = TrafficPlan(
        (ServedService(dataclasses.replace(spec, versions=(slow, spec.versions[1])), spec.initial_split),), {}
    )
    links = Snapshot.from_bytes(SnapshotCompiler().compile(plan).content).links
    assert links.warm_after["colorize_v1"] == 2.5


def test_clients_that_do_not_warm_clusters_need_not_wait(plane: MakePlane) -> None:
    here = plane(ONE)
    client = here.start("a", agent="curl")
    here.cache.publish(record(BOTH))
    (clusters,) = client.cds.take()
    client.cds.ack(clusters)
    assert [got.names for got in client.rds["r"].take()] == [("r",)]


def test_a_cluster_stays_until_the_routes_have_left_it(plane: MakePlane) -> None:
    here = plane(BOTH)
    envoy = here.start("a", "b")
    here.cache.publish(record(ONLY_B))
    assert envoy.cds.take() == []
    (routes,) = envoy.rds["r"].take()
    envoy.rds["r"].ack(routes)
    assert envoy.rds["r"].take() == []
    assert Kind.CDS in here.woken
    (clusters,) = envoy.cds.take()
    assert (clusters.removed or clusters.names) == (("a",) if here.variant == "delta" else ("b",))
    envoy.cds.ack(clusters)
    here.close(envoy.eds["a"])
    assert envoy.eds["b"].take() == []
    assert {kind: here.acked(envoy.cds, kind) for kind in SNAPSHOT_KINDS} == dict(ONLY_B.versions)


def test_clusters_stay_while_one_of_several_route_conversations_uses_them(plane: MakePlane) -> None:
    before = make_snapshot(
        cds={"a": 1, "b": 1}, lds={"l": ("r", 1), "m": ("s", 1)}, rds={"r": (["a"], 1), "s": (["a"], 1)}
    )
    after = make_snapshot(cds={"b": 1}, lds={"l": ("r", 1), "m": ("s", 1)}, rds={"r": (["b"], 1), "s": (["b"], 1)})
    here = plane(before)
    envoy = here.start("a", "b", routes=("r", "s"))
    here.cache.publish(record(after))
    for name in ("r", "s"):
        assert envoy.cds.take() == []
        (got,) = envoy.rds[name].take()
        envoy.rds[name].ack(got)
        envoy.rds[name].take()
    assert len(envoy.cds.take()) == 1


def test_a_refused_route_keeps_its_clusters(plane: MakePlane) -> None:
    here = plane(BOTH)
    envoy = here.start("a", "b")
    here.cache.publish(record(ONLY_B))
    (routes,) = envoy.rds["r"].take()
    envoy.rds["r"].nack(routes)
    assert envoy.rds["r"].take() == []
    assert envoy.cds.take() == []


# -- conversations come and go -----------------------------------------------------------------------------------------


def test_an_ended_conversation_is_forgotten_and_the_last_one_disconnects(plane: MakePlane) -> None:
    here = plane(ONE)
    envoy = here.start("a")
    for talk in (envoy.rds["r"], envoy.lds, envoy.eds["a"]):
        here.close(talk)
        assert here.fleet.connected_ids() == {"n1"}
    again = here.open(Kind.RDS)
    (got,) = again.ask(Kind.RDS, "r")
    assert got.names == ("r",)
    here.close(again)
    here.close(envoy.cds)
    assert here.fleet.connected_ids() == frozenset()


async def test_the_row_has_the_variant_and_all_types(plane: MakePlane) -> None:
    here = plane(ONE)
    envoy = here.start("a")
    for kind, level in envoy.cds.session.levels():
        here.fleet.moved(envoy.cds.session.link, kind, level)  # type: ignore[attr-defined] # a conversation
    await here.fleet.write()
    row = here.rows.nodes["n1"]
    assert row.variant == f"{here.variant}-per-type"
    assert {kind: status.acked for kind, status in row.types.items()} == {
        kind.value: version for kind, version in ONE.versions.items()
    }


def test_after_a_restart_routes_wait_for_the_conversation_about_clusters(plane: MakePlane) -> None:
    here = plane(BOTH)
    routes = here.open(Kind.RDS)
    assert come_back(routes, Kind.RDS, "r") == []
    here.woken.clear()
    clusters = here.open(Kind.CDS)
    for got in come_back(clusters, Kind.CDS):
        clusters.ack(got)
    assert Kind.RDS in here.woken
    for name in ("a", "b"):
        assert routes.take() == []
        ask_and_ack(here.open(Kind.EDS), Kind.EDS, name)
    assert routes.take() == []
    here.clock.move(WARM_MARGIN)
    assert [got.names for got in routes.take()] == [("r",)]


def held(talk: Talk) -> Mapping[str, str]:
    assert isinstance(talk.session, SotwConversation | DeltaConversation)
    return dict(talk.session.held)


def come_back(talk: Talk, kind: Kind, *names: str, has: Mapping[str, str] | None = None) -> list[Got]:
    """Open a conversation as a client that has something, by default something old."""
    if isinstance(talk, SotwClient):
        return talk.ask(kind, *names, version="old")
    return talk.ask(kind, *names, has=has or dict.fromkeys(names or ("a",), "old"))


def test_after_a_restart_what_the_client_has_need_not_be_acknowledged_again() -> None:
    """An incremental client says in its first requests what it has, and is sent nothing."""
    envoy = Plane("delta", BOTH).start("a", "b")
    here = Plane("delta", BOTH)
    routes = here.open(Kind.RDS)
    assert come_back(routes, Kind.RDS, "r", has=held(envoy.rds["r"])) == []
    for name, talk in envoy.eds.items():
        assert come_back(here.open(Kind.EDS), Kind.EDS, name, has=held(talk)) == []
    assert come_back(here.open(Kind.CDS), Kind.CDS, has=held(envoy.cds)) == []
    assert come_back(here.open(Kind.LDS), Kind.LDS, has=held(envoy.lds)) == []
    here.cache.publish(record(make_snapshot(
        cds={"a": 1, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a", "b"], 9)}
    )))  # fmt: skip
    assert routes.take() == []
    here.woken.clear()
    here.clock.move(WARM_MARGIN)
    here.clients.wake_due(here.clock.steady())
    assert Kind.RDS in here.woken
    assert [got.names for got in routes.take()] == [("r",)]


def test_a_client_that_never_asks_for_clusters_gets_its_routes_a_little_later(plane: MakePlane) -> None:
    here = plane(ONE)
    routes = here.open(Kind.RDS)
    assert routes.ask(Kind.RDS, "r") == []
    here.clock.move(CLUSTERS_WITHIN)
    here.clients.wake_due(here.clock.steady())
    assert Kind.RDS in here.woken
    assert [got.names for got in routes.take()] == [("r",)]


def test_a_restarted_envoy_is_a_new_client_even_before_its_old_streams_end(plane: MakePlane) -> None:
    here = plane(ONE)
    old = here.start("a")
    here.cache.publish(record(BOTH))
    new = here.open(Kind.CDS)
    (clusters,) = new.ask(Kind.CDS)
    new.ack(clusters)
    assert set(clusters.names) == {"a", "b"}
    levels = here.levels(new)
    assert levels.keys() == {Kind.CDS}
    for talk in (old.cds, old.lds, old.eds["a"], old.rds["r"]):
        here.close(talk)
    assert here.fleet.connected_ids() == {"n1"}


def test_two_nodes_have_nothing_in_common(plane: MakePlane) -> None:
    here = plane(ONE)
    envoy = here.start("a")
    other = here.open(Kind.CDS, node="n2")
    assert len(other.ask(Kind.CDS)) == 1
    here.cache.publish(record(BOTH))
    (clusters,) = envoy.cds.take()
    envoy.cds.ack(clusters)
    assert here.levels(other).keys() == {Kind.CDS}
    assert here.fleet.connected_ids() == {"n1", "n2"}


# -- where resources send their clients --------------------------------------------------------------------------------


def compiled() -> Snapshot:
    spec = make_spec()
    return Snapshot.from_bytes(
        SnapshotCompiler().compile(TrafficPlan((ServedService(spec, spec.initial_split),), {})).content
    )


@pytest.mark.parametrize("source", Source)
def test_resources_send_a_client_without_ads_to_where_it_came_from(source: Source) -> None:
    before = compiled()
    after = redirect(before, source)
    cluster = MessageToDict(PackedAny.FromString(after.resources[Kind.CDS]["colorize_v1"].packed))
    (api,) = (cluster["edsClusterConfig"]["edsConfig"]["apiConfigSource"],)
    assert api["apiType"] == config_source(source.value)["api_config_source"]["api_type"]
    listener = PackedAny.FromString(after.resources[Kind.LDS]["colorize_listener"].packed)
    assert b"colorize_routes" in listener.value
    assert "'ads'" not in str(MessageToDict(listener))
    for kind in (Kind.EDS, Kind.RDS):
        assert after.resources[kind] == before.resources[kind]


@pytest.mark.parametrize("source", Source)
def test_the_versions_of_types_stay_those_of_the_snapshot(source: Source) -> None:
    before = compiled()
    after = redirect(before, source)
    assert (after.versions, after.version, after.links) == (before.versions, before.version, before.links)
    assert after.resources[Kind.CDS]["colorize_v1"].version != before.resources[Kind.CDS]["colorize_v1"].version
