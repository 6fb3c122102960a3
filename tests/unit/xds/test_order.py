"""Make before break: what goes out when, what waits for which answer, and what stays until nobody needs it."""

from collections.abc import Callable

import pytest

from controlplane.errors import InvalidInputError
from controlplane.xds.cache import PAST_KEPT, SnapshotCache
from controlplane.xds.kinds import SNAPSHOT_KINDS, Kind
from controlplane.xds.snapshot import Snapshot
from tests.fakes import ManualClock
from tests.xds import Client, DeltaClient, Got, SotwClient, make_cache, make_snapshot, names_of, record

MakeEnvoy = Callable[..., SotwClient | DeltaClient]

ONE = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
TWO = make_snapshot(cds={"a": 1, "b": 1}, eds={"a": 2}, lds={"l": ("r", 2)}, rds={"r": (["a", "b"], 2)})
ONLY_B = make_snapshot(cds={"b": 1}, lds={"l": ("r", 2)}, rds={"r": (["b"], 3)})


@pytest.fixture(params=["sotw", "delta"])
def envoy(request: pytest.FixtureRequest) -> MakeEnvoy:
    """Return what makes a client that behaves as Envoy does."""

    def make(cache: SnapshotCache, node: str = "n1") -> SotwClient | DeltaClient:
        if request.param == "sotw":
            return SotwClient(cache, node=node, agent="envoy")
        return DeltaClient(cache, node=node, agent="envoy")

    return make


def with_routes(revision: int) -> Snapshot:
    return make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], revision)})


def cache_of(*snapshots: Snapshot) -> SnapshotCache:
    cache = make_cache()
    for snapshot in snapshots:
        cache.publish(record(snapshot))
    return cache


def open_all(client: SotwClient | DeltaClient, *clusters: str, routes: tuple[str, ...] = ("r",)) -> list[Got]:
    """Subscribe as a starting Envoy does and acknowledge everything."""
    got = []
    for kind, names in ((Kind.CDS, ()), (Kind.EDS, clusters), (Kind.LDS, ()), (Kind.RDS, routes)):
        for one in client.ask(kind, *names):
            client.ack(one)
            got.append(one)
        got += client.ack_all()
    return got


def kinds(found: list[Got]) -> list[Kind]:
    return [one.kind for one in found]


def acked(client: Client, kind: Kind) -> str:
    return dict(client.session.levels())[kind].acked


@pytest.mark.xds_row("order", "rds-not-warmed")
def test_additions_go_out_clusters_first_and_routes_last(envoy: MakeEnvoy) -> None:
    cache = cache_of(ONE)
    client = envoy(cache)
    assert kinds(open_all(client, "a")) == [Kind.CDS, Kind.EDS, Kind.LDS, Kind.RDS]
    cache.publish(record(TWO))
    first = client.take()
    assert kinds(first) == [Kind.CDS, Kind.EDS]
    client.ack(first[1])
    assert client.take() == []
    client.ack(first[0])
    assert kinds(client.ack_all()) == [Kind.LDS, Kind.RDS]
    assert {kind: acked(client, kind) for kind in SNAPSHOT_KINDS} == dict(TWO.versions)


def test_endpoints_do_not_wait_for_clusters_which_wait_for_them(envoy: MakeEnvoy) -> None:
    cache = cache_of(ONE)
    client = envoy(cache)
    open_all(client, "a")
    cache.publish(record(TWO))
    assert kinds(client.take()) == [Kind.CDS, Kind.EDS]
    client.ack(client.last[Kind.EDS])
    assert "b" in client.ask(Kind.EDS, "a", "b")[0].names


def test_a_pure_weight_change_waits_for_nothing(envoy: MakeEnvoy) -> None:
    cache = cache_of(ONE)
    client = envoy(cache)
    open_all(client, "a")
    cache.publish(record(make_snapshot(cds={"a": 2}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})))
    assert kinds(client.take())[0] is Kind.CDS  # and Envoy takes its time to warm it
    cache.publish(record(make_snapshot(cds={"a": 2}, lds={"l": ("r", 1)}, rds={"r": (["a"], 2)})))
    assert names_of(client.take()) == [(Kind.RDS, ("r",))]


@pytest.mark.xds_row("rds-not-warmed")
def test_only_the_routes_to_new_clusters_wait(envoy: MakeEnvoy) -> None:
    before = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1), "m": ("s", 1)}, rds={"r": (["a"], 1), "s": (["a"], 1)})
    after = make_snapshot(
        cds={"a": 1, "b": 1}, lds={"l": ("r", 1), "m": ("s", 1)}, rds={"r": (["a", "b"], 2), "s": (["a"], 2)}
    )
    cache = cache_of(before)
    client = envoy(cache)
    open_all(client, "a", routes=("r", "s"))
    cache.publish(record(after))
    found = client.take()
    assert names_of(found)[-1] == (Kind.RDS, ("s",))
    client.ack(found[-1])
    assert client.take() == []
    assert acked(client, Kind.RDS) == before.versions[Kind.RDS]
    client.ack(found[0])
    assert names_of(client.ack_all()) == [(Kind.RDS, ("r",))]
    assert acked(client, Kind.RDS) == after.versions[Kind.RDS]


@pytest.mark.xds_row("rds-not-warmed")
def test_routes_to_a_refused_cluster_never_go_out(envoy: MakeEnvoy) -> None:
    cache = cache_of(ONE)
    client = envoy(cache)
    open_all(client, "a")
    cache.publish(record(TWO))
    found = client.take()
    assert isinstance(client, SotwClient | DeltaClient)
    client.nack(found[0], "b is bad")
    client.ack(found[1])
    assert client.take() == []
    assert dict(client.session.levels())[Kind.CDS].nacked == TWO.versions[Kind.CDS]
    cache.publish(record(ONE))
    client.ack_all()
    assert {kind: acked(client, kind) for kind in SNAPSHOT_KINDS} == dict(ONE.versions)


@pytest.mark.xds_row("order")
def test_a_cluster_goes_only_when_the_routes_that_dropped_it_are_acknowledged(envoy: MakeEnvoy) -> None:
    cache = cache_of(TWO)
    client = envoy(cache)
    open_all(client, "a", "b")
    cache.publish(record(ONLY_B))
    (routes,) = client.take()
    assert routes.kind is Kind.RDS
    assert acked(client, Kind.CDS) == TWO.versions[Kind.CDS]
    assert not client.session.settled
    client.ack(routes)
    removal = client.take()
    assert removal[0].kind is Kind.CDS
    if isinstance(client, SotwClient):
        assert removal[0].names == ("b",)
    else:
        assert removal[0].removed == ("a",)
    client.ack(removal[0])
    client.ack_all()
    assert client.session.settled
    assert acked(client, Kind.CDS) == ONLY_B.versions[Kind.CDS]


def test_routes_to_a_cluster_that_is_being_taken_away_wait_for_its_return(envoy: MakeEnvoy) -> None:
    cache = cache_of(TWO)
    client = envoy(cache)
    open_all(client, "a", "b")
    cache.publish(record(ONLY_B))
    client.ack(client.take()[0])
    removal = client.take()[0]
    assert removal.kind is Kind.CDS
    cache.publish(record(TWO))
    assert Kind.RDS not in kinds(client.take())
    client.ack(removal)
    back = client.take()
    assert Kind.RDS not in kinds(back)
    for got in back:
        client.ack(got)
    assert Kind.RDS in kinds(client.ack_all())


def test_a_client_that_refuses_the_new_routes_keeps_the_old_clusters(envoy: MakeEnvoy) -> None:
    cache = cache_of(TWO)
    client = envoy(cache)
    open_all(client, "a", "b")
    cache.publish(record(ONLY_B))
    client.nack(client.take()[0])
    assert client.take() == []
    cache.publish(record(make_snapshot(cds={"b": 1, "c": 1}, lds={"l": ("r", 2)}, rds={"r": (["c"], 4)})))
    found = client.take()
    if isinstance(client, SotwClient):
        assert found[0].names == ("a", "b", "c")
    else:
        assert (found[0].names, found[0].removed) == (("c",), ())


def test_a_fresh_client_does_not_get_what_is_going_away(envoy: MakeEnvoy) -> None:
    client = envoy(cache_of(TWO, ONLY_B))
    assert names_of(open_all(client, "b"))[0] == (Kind.CDS, ("b",))


def test_after_a_restart_a_client_that_is_behind_keeps_what_it_uses(envoy: MakeEnvoy) -> None:
    # The process before ended between publishing ONLY_B and the client's answer: last good first, then the newest.
    client = envoy(cache_of(TWO, ONLY_B))
    for kind, names in ((Kind.CDS, ()), (Kind.EDS, ("a", "b")), (Kind.LDS, ()), (Kind.RDS, ("r",))):
        if isinstance(client, SotwClient):
            found = client.ask(kind, *names, version="of the old stream")
        else:
            found = client.ask(kind, *names, has=versions(TWO, kind))
        if kind is Kind.CDS and isinstance(client, SotwClient):
            assert found[0].names == ("a", "b")
        assert not client.session.settled
        for got in found:
            assert not got.removed
            client.ack(got)
    client.ack_all()
    assert client.session.settled
    if isinstance(client, SotwClient):
        assert client.last[Kind.CDS].names == ("b",)
    else:
        assert client.last[Kind.CDS].removed == ("a",)


def versions(snapshot: Snapshot, kind: Kind) -> dict[str, str]:
    return {name: resource.version for name, resource in snapshot.resources[kind].items()}


def test_a_cluster_that_no_snapshot_remembers_stays_until_the_routes_are_new() -> None:
    client = DeltaClient(cache_of(ONLY_B), agent="envoy")
    assert client.ask(Kind.CDS, has=versions(TWO, Kind.CDS)) == []
    client.ask(Kind.LDS, has=versions(TWO, Kind.LDS))
    (routes,) = client.ask(Kind.RDS, "r", has=versions(TWO, Kind.RDS))
    client.ack(routes)
    (removal,) = client.take()
    assert (removal.kind, removal.removed) == (Kind.CDS, ("a",))


def test_a_listener_that_changed_its_routes_settles_when_those_are_acknowledged(envoy: MakeEnvoy) -> None:
    cache = cache_of(ONE)
    client = envoy(cache)
    open_all(client, "a")
    cache.publish(record(make_snapshot(cds={"a": 1}, lds={"l": ("s", 1)}, rds={"s": (["a"], 1)})))
    client.ack_all()
    assert not client.session.settled
    assert acked(client, Kind.RDS) == ONE.versions[Kind.RDS]
    for got in client.ask(Kind.RDS, "s"):
        client.ack(got)
    client.ack_all()
    assert client.session.settled


@pytest.mark.xds_row("debounce", "slow-client")
def test_of_many_changes_a_silent_client_gets_the_last(envoy: MakeEnvoy) -> None:
    cache = cache_of(ONE)
    client = envoy(cache)
    open_all(client, "a")
    cache.publish(record(with_routes(2)))
    (leading,) = client.take()  # the first goes out at once
    for number in range(3, 1003):
        cache.publish(record(with_routes(number)))
        assert client.take() == []
    client.ack(leading)
    (last,) = client.take()
    client.ack(last)
    assert client.take() == []
    assert acked(client, Kind.RDS) == with_routes(1002).versions[Kind.RDS]


@pytest.mark.xds_row("reconnect-storm")
def test_streams_in_the_same_place_share_the_very_bytes(envoy: MakeEnvoy) -> None:
    cache = cache_of(ONE)
    clients = [envoy(cache, f"n{number}") for number in range(3)]
    for client in clients:
        open_all(client, "a")
    cache.publish(record(with_routes(2)))
    data = [client.take()[0].data for client in clients]
    assert all(one is data[0] for one in data)


def test_publishing_nothing_after_something_is_refused() -> None:
    cache = cache_of(ONE)
    for lost in (make_snapshot(), make_snapshot(cds={"a": 1})):
        with pytest.raises(InvalidInputError, match="are all gone"):
            cache.publish(record(lost))
    assert cache.served_versions[""] == ONE.version


def test_a_snapshot_that_is_not_its_version_is_refused() -> None:
    wrong = record(TWO)
    with pytest.raises(InvalidInputError, match="not that of its content"):
        make_cache().publish(
            type(wrong)(**{field: getattr(wrong, field) for field in wrong.__slots__} | {"version": "x"})
        )


def test_what_everyone_has_left_behind_is_forgotten_in_the_end() -> None:
    clock = ManualClock()
    cache = make_cache(clock)
    cache.publish(record(TWO))
    client = SotwClient(cache, agent="envoy")
    open_all(client, "a", "b")
    cache.publish(record(ONLY_B))
    client.ack_all()
    client.ask(Kind.EDS, "b")
    client.ack_all()
    served = cache.served()
    assert served is not None
    assert served.transition is not served.target
    clock.move(PAST_KEPT)
    SotwClient(cache, node="n2", agent="envoy").ask(Kind.CDS)
    served = cache.served()
    assert served is not None
    assert served.transition is served.target


def test_a_client_that_was_away_keeps_its_clusters_until_it_has_the_new_routes() -> None:
    """It was away for two changes, each of which the others have left behind, and cannot say what it has."""
    cache = cache_of(TWO)
    others = SotwClient(cache, node="n1", agent="envoy")
    open_all(others, "a", "b")
    for after in (ONLY_B, make_snapshot(cds={"b": 2}, lds={"l": ("r", 2)}, rds={"r": (["b"], 3)})):
        cache.publish(record(after))
        others.ack_all()
        others.ask(Kind.EDS, "b")
        others.ack_all()
    back = SotwClient(cache, node="n2", agent="envoy")
    (clusters,) = back.ask(Kind.CDS, version=TWO.versions[Kind.CDS])
    assert clusters.names == ("a", "b")
    back.ack(clusters)
    for kind, names in ((Kind.EDS, ("a", "b")), (Kind.LDS, ()), (Kind.RDS, ("r",))):
        for got in back.ask(kind, *names, version=TWO.versions[kind]):
            back.ack(got)
        back.ack_all()
    assert back.last[Kind.CDS].names == ("b",)


def test_what_is_refused_is_not_said_again_because_the_past_is_over(envoy: MakeEnvoy) -> None:
    """The listeners and routes are the target's at once, so that only the refused clusters keep the past alive."""
    cache = cache_of(TWO)
    client = envoy(cache)
    open_all(client, "a", "b")
    cache.publish(record(ONLY_B))
    client.ack_all()
    cache.publish(record(make_snapshot(cds={"b": 9}, lds={"l": ("r", 2)}, rds={"r": (["b"], 3)})))
    for got in client.take():
        client.nack(got, "Invalid duration")
    for got in client.take():
        assert "b" not in got.names
        client.ack(got)
    assert client.take() == []
    assert acked(client, Kind.CDS) != cache.served_versions[""]
