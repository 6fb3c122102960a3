"""Each group of Envoys is served its own snapshot, and an Envoy that changes its group never loses a request."""

import dataclasses

import pytest

from controlplane.errors import InvalidInputError
from controlplane.ports import SnapshotStatus
from controlplane.traffic.groups import Grouping, canary_part, is_canary, whole_group
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.kinds import Kind
from controlplane.xds.session import GROUP_KEY
from tests.xds import DeltaClient, SotwClient, make_cache, make_snapshot, record

EU = make_snapshot(cds={"eu": 1}, lds={"l": ("r", 1)}, rds={"r": (["eu"], 1)})
ALL = make_snapshot(cds={"all": 1}, lds={"l": ("r", 1)}, rds={"r": (["all"], 1)})
NEXT = make_snapshot(cds={"all": 1}, lds={"l": ("r", 1)}, rds={"r": (["all"], 2)})
CANARY = canary_part("")


@pytest.fixture
def cache() -> SnapshotCache:
    made = make_cache()
    made.publish(record(ALL))
    made.publish(record(EU, group="eu"))
    made.assign(Grouping(frozenset({"eu"})))
    return made


def subscribed(client: SotwClient) -> SotwClient:
    """Have *client* ask for everything, as an Envoy does, and acknowledge it."""
    open_all(client)
    return client


def open_all(client: SotwClient | DeltaClient) -> None:
    for kind, names in ((Kind.CDS, ()), (Kind.LDS, ()), (Kind.RDS, ("r",))):
        for got in client.ask(kind, *names):
            client.ack(got)
        client.ack_all()


def routes_of(client: SotwClient) -> str:
    return client.last[Kind.RDS].version


def test_names_of_groups() -> None:
    assert (canary_part("eu"), whole_group("eu+canary"), whole_group("eu")) == ("eu+canary", "eu", "eu")
    assert [is_canary(key) for key in ("eu", "eu+canary", "+canary")] == [False, True, True]
    grouping = Grouping(frozenset({"eu"}), {"edge-1": "eu+canary"})
    assert grouping.of("edge-1", "eu") == "eu+canary"
    assert grouping.of("edge-2", "eu") == "eu"
    assert grouping.of("edge-3", "moon") == grouping.of("edge-4", "") == ""
    assert grouping.members("eu", [("edge-1", "eu"), ("edge-2", "eu"), ("edge-3", "us")]) == {"edge-2"}


def test_each_group_gets_its_own(cache: SnapshotCache) -> None:
    assert subscribed(SotwClient(cache, node="a", group="eu")).last[Kind.CDS].names == ("eu",)
    assert subscribed(SotwClient(cache, node="b", group="us")).last[Kind.CDS].names == ("all",)
    assert subscribed(SotwClient(cache, node="c")).last[Kind.CDS].names == ("all",)


def test_the_group_is_in_the_metadata_or_else_the_cluster(cache: SnapshotCache) -> None:
    by_cluster = SotwClient(cache, node="a")
    by_cluster._node.cluster = "eu"
    by_both = SotwClient(cache, node="b")
    by_both._node.cluster = "eu"
    by_both._node.metadata[GROUP_KEY] = "us"
    assert subscribed(by_cluster).last[Kind.CDS].names == ("eu",)
    assert subscribed(by_both).last[Kind.CDS].names == ("all",)


def test_a_change_of_one_group_is_no_change_of_another(cache: SnapshotCache) -> None:
    eu, everyone = subscribed(SotwClient(cache, node="a", group="eu")), subscribed(SotwClient(cache, node="b"))
    cache.publish(record(NEXT))
    assert eu.take() == []
    assert [got.kind for got in everyone.take()] == [Kind.RDS]
    assert cache.served_versions == {"": NEXT.version, "eu": EU.version}


def test_an_envoy_of_a_group_that_is_not_served_yet_gets_nothing_and_then_all(cache: SnapshotCache) -> None:
    cache.assign(Grouping(frozenset({"eu", "new"})))
    client = SotwClient(cache, node="a", group="new")
    assert client.ask(Kind.CDS) == []
    cache.publish(record(ALL, group="new"))
    assert [got.names for got in client.take()] == [("all",)]


@pytest.mark.parametrize("make", [SotwClient, DeltaClient])
def test_who_changes_the_group_keeps_its_clusters_until_its_routes_have_left_them(
    make: type[SotwClient] | type[DeltaClient],
) -> None:
    cache = make_cache()
    cache.publish(record(ALL))
    client: SotwClient | DeltaClient = make(cache, node="a", agent="envoy", group="eu")
    open_all(client)
    cache.publish(record(EU, group="eu"))
    cache.assign(Grouping(frozenset({"eu"})))
    kinds = []
    for got in client.ack_all():
        kinds.append(got.kind)
        if Kind.RDS not in kinds:
            assert "all" not in got.removed
            assert got.kind is not Kind.CDS or "all" in got.names or isinstance(client, DeltaClient)
    assert kinds == [Kind.CDS, Kind.RDS, Kind.CDS]


def test_the_canary_goes_first_and_the_others_wait(cache: SnapshotCache) -> None:
    first, other = subscribed(SotwClient(cache, node="a")), subscribed(SotwClient(cache, node="b"))
    cache.publish(record(NEXT, group=CANARY))
    cache.assign(Grouping(frozenset({"eu"}), {"a": CANARY}))
    assert [got.kind for got in first.ack_all()] == [Kind.RDS]
    assert other.take() == []
    cache.publish(record(NEXT))
    cache.assign(Grouping(frozenset({"eu"})))
    assert first.take() == []  # it runs just that
    assert [got.kind for got in other.ack_all()] == [Kind.RDS]
    assert routes_of(first) == routes_of(other)


def test_a_canary_whose_part_is_not_served_yet_gets_what_its_group_gets(cache: SnapshotCache) -> None:
    cache.assign(Grouping(frozenset({"eu"}), {"a": CANARY}))
    client = subscribed(SotwClient(cache, node="a"))
    assert client.last[Kind.CDS].names == ("all",)
    cache.publish(record(NEXT, group=CANARY))
    assert [got.kind for got in client.ack_all()] == [Kind.RDS]


# -- under NACK --------------------------------------------------------------------------------------------------------


def refuse(cache: SnapshotCache) -> SotwClient:
    """Publish NEXT and have an Envoy of the group refuse it."""
    client = subscribed(SotwClient(cache, node="a"))
    cache.publish(record(NEXT))
    (got,) = client.take()
    client.nack(got, "bad regex")
    return client


def test_who_joins_while_a_snapshot_is_refused_does_not_get_it(cache: SnapshotCache) -> None:
    refuse(cache)
    assert cache.doubted == {""}
    newcomer = SotwClient(cache, node="b")
    assert newcomer.ask(Kind.CDS) == []
    cache.publish(record(ALL, status=SnapshotStatus.GOOD))
    assert cache.doubted == frozenset()
    assert [got.names for got in newcomer.ack_all()] == [("all",)]
    assert subscribed(newcomer).last[Kind.RDS].version == ALL.versions[Kind.RDS]


def test_a_group_in_doubt_is_no_other_groups_doubt(cache: SnapshotCache) -> None:
    refuse(cache)
    assert subscribed(SotwClient(cache, node="b", group="eu")).last[Kind.CDS].names == ("eu",)


def test_when_the_snapshot_is_vouched_for_those_that_wait_get_it(cache: SnapshotCache) -> None:
    refuse(cache)
    newcomer = SotwClient(cache, node="b")
    assert newcomer.ask(Kind.CDS) == []
    cache.vouch("")
    assert [got.names for got in newcomer.take()] == [("all",)]


def test_one_odd_envoy_does_not_put_what_is_good_in_doubt(cache: SnapshotCache) -> None:
    client = subscribed(SotwClient(cache, node="a"))
    cache.publish(record(NEXT, status=SnapshotStatus.GOOD))
    (got,) = client.take()
    client.nack(got, "I am old")
    assert cache.doubted == frozenset()
    assert routes_of(subscribed(SotwClient(cache, node="b"))) == NEXT.versions[Kind.RDS]


def test_a_late_refusal_of_an_older_snapshot_is_no_doubt(cache: SnapshotCache) -> None:
    client = subscribed(SotwClient(cache, node="a"))
    cache.publish(record(NEXT))
    (got,) = client.take()
    cache.publish(record(make_snapshot(cds={"all": 1}, lds={"l": ("r", 1)}, rds={"r": (["all"], 3)})))
    client.nack(got, "too late")
    assert cache.doubted == frozenset()


def test_streams_that_leave_are_forgotten(cache: SnapshotCache) -> None:
    clients = [subscribed(SotwClient(cache, node=f"n{number}", group="eu")) for number in range(3)]
    for client in clients:
        client.leave()
        client.leave()
    cache.assign(Grouping())
    assert cache.served_versions == {"": ALL.version}


def test_a_group_is_not_emptied(cache: SnapshotCache) -> None:
    with pytest.raises(InvalidInputError, match="listeners"):
        cache.publish(record(make_snapshot(cds={"eu": 1}), group="eu"))
    assert cache.served_versions["eu"] == EU.version
    with pytest.raises(InvalidInputError, match="not that of its content"):
        cache.publish(dataclasses.replace(record(NEXT), version="other"))
