"""Resources that only clients which name them are sent: the API listeners of gRPC clients, beside those of Envoys."""

from typing import Any

import pytest

from controlplane.errors import InvalidInputError
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.channel import Level
from controlplane.xds.kinds import Kind
from controlplane.xds.snapshot import Snapshot
from tests.xds import Client, DeltaClient, Got, SotwClient, make_cache, make_snapshot, record

GRPC = "gRPC C-core linux"


def both(api: int | None = 1, *, envoy: int = 1, routes: int = 1) -> Snapshot:
    """Return a snapshot with Envoy's listener "e" and, unless *api* is None, a gRPC client's "g"."""
    listeners: dict[str, Any] = {} if api is None else {"g": ("r", api)}
    return make_snapshot(cds={"a": 1}, lds={"e": ("r", envoy)}, rds={"r": (["a"], routes)}, api=listeners)


ONLY_ENVOYS = both(None)


@pytest.fixture
def cache() -> SnapshotCache:
    return make_cache()


def publish(cache: SnapshotCache, snapshot: Snapshot) -> Snapshot:
    cache.publish(record(snapshot))
    return snapshot


def make_client(variant: str, cache: SnapshotCache, *, agent: str = "") -> Any:
    return SotwClient(cache, agent=agent) if variant == "sotw" else DeltaClient(cache, agent=agent)


def lds_level(client: Client) -> Level:
    return dict(client.session.levels())[Kind.LDS]


def subscribe(client: Any, kind: Kind, *names: str) -> list[Got]:
    """Ask, and acknowledge whatever comes."""
    found: list[Got] = client.ask(kind, *names)
    for got in found:
        client.ack(got)
    return [*found, *client.ack_all()]


variants = pytest.mark.parametrize("variant", ["sotw", "delta"])


@variants
def test_a_client_that_wants_everything_never_sees_what_is_sent_by_name_only(
    cache: SnapshotCache, variant: str
) -> None:
    snapshot = publish(cache, both())
    client = make_client(variant, cache, agent="envoy")
    subscribe(client, Kind.CDS)
    assert [got.names for got in subscribe(client, Kind.LDS)] == [("e",)]
    subscribe(client, Kind.RDS, "r")
    assert lds_level(client).acked == snapshot.versions[Kind.LDS]


@variants
def test_what_is_sent_by_name_only_comes_changes_and_goes_without_a_push_to_the_others(
    cache: SnapshotCache, variant: str
) -> None:
    publish(cache, ONLY_ENVOYS)
    client = make_client(variant, cache, agent="envoy")
    subscribe(client, Kind.CDS)
    subscribe(client, Kind.LDS)
    subscribe(client, Kind.RDS, "r")
    before = lds_level(client)
    assert before.acked == ONLY_ENVOYS.versions[Kind.LDS]
    for snapshot in (both(1), both(2), ONLY_ENVOYS):
        publish(cache, snapshot)
        assert client.take() == []
        assert lds_level(client) == before
        assert snapshot.versions[Kind.LDS] == before.acked
        assert client.settled


@variants
def test_a_client_that_names_it_gets_it_and_its_changes_and_nothing_else(cache: SnapshotCache, variant: str) -> None:
    first = publish(cache, both(1))
    client = make_client(variant, cache)
    (got,) = client.ask(Kind.LDS, "g")
    assert (got.names, got.version) == (("g",), first.named_versions[Kind.LDS])
    client.ack(got)
    assert lds_level(client) == Level(got.version, got.version)
    second = publish(cache, both(2))
    assert lds_level(client).acked != second.named_versions[Kind.LDS]
    (got,) = client.take()
    assert got.names == ("g",)
    client.ack(got)
    assert lds_level(client).acked == second.named_versions[Kind.LDS]
    third = publish(cache, both(2, envoy=2))
    assert client.take() == []
    assert lds_level(client).acked == third.named_versions[Kind.LDS]


@variants
def test_it_is_sent_when_it_comes_to_who_asked_before(cache: SnapshotCache, variant: str) -> None:
    publish(cache, ONLY_ENVOYS)
    client = make_client(variant, cache)
    subscribe(client, Kind.LDS, "g")
    snapshot = publish(cache, both())
    (got,) = client.take()
    assert got.names == ("g",)
    client.ack(got)
    assert lds_level(client).acked == snapshot.named_versions[Kind.LDS]


@variants
def test_a_star_and_its_name_send_each_once(cache: SnapshotCache, variant: str) -> None:
    publish(cache, both())
    client = make_client(variant, cache)
    (got,) = client.ask(Kind.LDS, "*", "g")
    assert got.names == ("e", "g")
    client.ack(got)
    publish(cache, both(2))
    (got,) = client.ack_all()
    assert got.names == (("e", "g") if variant == "sotw" else ("g",))


def test_a_star_that_remains_when_the_name_is_dropped_does_not_cover_it(cache: SnapshotCache) -> None:
    publish(cache, both())
    client = DeltaClient(cache)
    subscribe(client, Kind.LDS, "*", "g")
    (got,) = client.ask(Kind.LDS, drop=["g"])
    assert (got.names, got.removed) == ((), ("g",))
    client.ack(got)
    publish(cache, both(2))
    assert client.take() == []


@variants
def test_a_refusal_of_it_is_no_refusal_of_envoys_listeners(cache: SnapshotCache, variant: str) -> None:
    snapshot = publish(cache, both())
    client = make_client(variant, cache)
    (got,) = client.ask(Kind.LDS, "g")
    client.nack(got, "no router")
    level = lds_level(client)
    assert (level.nacked, level.words) == (snapshot.named_versions[Kind.LDS], "no router")
    assert level.nacked != snapshot.versions[Kind.LDS]
    publish(cache, both(envoy=1, routes=2))
    assert client.take() == []  # the same bad listener is not sent again
    publish(cache, both(2))
    (got,) = client.take()
    assert got.names == ("g",)
    client.ack(got)
    assert lds_level(client).nacked == ""


@variants
def test_routes_wait_for_no_cluster_that_a_grpc_client_has_not_asked_for(cache: SnapshotCache, variant: str) -> None:
    publish(cache, both())
    client = make_client(variant, cache, agent=GRPC)
    for kind, name in ((Kind.LDS, "g"), (Kind.RDS, "r"), (Kind.CDS, "a"), (Kind.EDS, "a")):
        (got,) = client.ask(kind, name)
        assert (got.kind, got.names) == (kind, (name,))
        client.ack(got)
    assert client.settled
    publish(
        cache,
        make_snapshot(cds={"a": 1, "b": 1}, lds={"e": ("r", 1)}, rds={"r": (["a", "b"], 2)}, api={"g": ("r", 1)}),
    )
    assert [(got.kind, got.names) for got in client.ack_all()] == [(Kind.RDS, ("r",))]


@pytest.mark.xds_row("grpc-clients")
@variants
@pytest.mark.parametrize("kind", [Kind.LDS, Kind.CDS])
def test_a_grpc_client_that_names_nothing_after_a_reconnect_wants_nothing(
    cache: SnapshotCache, variant: str, kind: Kind
) -> None:
    """grpc-go#7013: what the last watcher left behind must not be taken for a wish for everything."""
    publish(cache, both())
    client = make_client(variant, cache, agent=GRPC)
    assert client.ask(kind) == []
    publish(cache, both(2, envoy=2))
    assert client.take() == []
    envoy = make_client(variant, cache, agent="envoy")
    assert [got.kind for got in envoy.ask(kind)] == [kind]


def test_a_named_listener_changes_what_a_snapshot_is_called_but_not_its_versions() -> None:
    assert both(1).versions == both(2).versions == ONLY_ENVOYS.versions
    assert len({both(1).version, both(2).version, ONLY_ENVOYS.version}) == 3
    assert ONLY_ENVOYS.named_versions == ONLY_ENVOYS.versions
    assert Snapshot.from_bytes(both(1).to_bytes()).named_versions == both(1).named_versions


def test_listeners_that_envoys_do_not_see_are_none_to_them(cache: SnapshotCache) -> None:
    publish(cache, both())
    alone = make_snapshot(cds={"a": 1}, rds={"r": (["a"], 1)}, api={"g": ("r", 1)})
    with pytest.raises(InvalidInputError, match=r"snapshot\.listeners: are all gone"):
        publish(cache, alone)


def test_what_a_named_listener_refers_to_must_exist() -> None:
    with pytest.raises(InvalidInputError, match=r"listener\.g\.route_config: 'r' does not exist"):
        make_snapshot(api={"g": ("r", 1)})
