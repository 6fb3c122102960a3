"""Which Envoys are connected and what they run; which snapshots were published."""

import dataclasses

import pytest

from controlplane.ports import FleetStore, PastRefusal, SnapshotStatus, TypeStatus
from tests.builders import NOW, make_node, make_snapshot, seconds

GOOD, REJECTED = SnapshotStatus.GOOD, SnapshotStatus.REJECTED


# -- nodes -------------------------------------------------------------------------------------------------------------


async def test_nodes_are_read_back_by_name(store: FleetStore) -> None:
    quiet = dataclasses.replace(make_node("edge-2"), types={})
    refusing = dataclasses.replace(
        make_node("edge-1", left=NOW + seconds(1)),
        types={"rds": TypeStatus(sent="r2", nacked="r2", words="bad „regex“\n line 2"), "cds": TypeStatus()},
    )
    await store.record_nodes((quiet, refusing))
    assert await store.load_nodes() == (refusing, quiet)


async def test_a_node_is_replaced_whole(store: FleetStore) -> None:
    await store.record_nodes((make_node(acked="a1"), make_node("edge-2")))
    changed = dataclasses.replace(make_node(acked="a2"), types={"rds": TypeStatus(acked="a2")}, variant="sotw")
    await store.record_nodes((changed,))
    assert await store.load_nodes() == (changed, make_node("edge-2"))


async def test_no_nodes_are_no_write(store: FleetStore) -> None:
    await store.record_nodes(())
    assert await store.load_nodes() == ()


async def test_the_replica_that_an_envoy_left_does_not_overrule_the_one_it_went_to(store: FleetStore) -> None:
    await store.record_nodes((make_node(replica="one"),))
    await store.record_nodes((make_node(replica="two", acked="a2"),))
    await store.record_nodes((make_node(replica="one", left=NOW + seconds(1)),))
    assert await store.load_nodes() == (make_node(replica="two", acked="a2"),)
    gone = make_node(replica="two", left=NOW + seconds(2))
    await store.record_nodes((gone,))
    assert await store.load_nodes() == (gone,)


async def test_a_replica_that_starts_forgets_its_connections_only(store: FleetStore) -> None:
    left = make_node("edge-3", left=NOW)
    await store.record_nodes((make_node("edge-1"), make_node("edge-2", replica="two"), left))
    await store.forget_replica("one", now=NOW + seconds(9))
    disconnected = make_node("edge-1", left=NOW + seconds(9))
    assert await store.load_nodes() == (disconnected, make_node("edge-2", replica="two"), left)


# -- snapshots ---------------------------------------------------------------------------------------------------------


async def test_there_is_no_snapshot_at_first(store: FleetStore) -> None:
    assert await store.load_newest_snapshot("") is None
    assert await store.load_last_good_snapshot("") is None
    assert await store.find_snapshot("", "s1") is None


async def test_a_snapshot_is_read_back_byte_by_byte(store: FleetStore) -> None:
    snapshot = dataclasses.replace(make_snapshot(revisions={"a": 1, "b": 20}), content=bytes(range(256)) * 999)
    await store.propose_snapshot(snapshot)
    assert await store.find_snapshot("", "s1") == await store.load_newest_snapshot("") == snapshot
    assert await store.load_last_good_snapshot("") is None


async def test_the_newest_is_the_one_proposed_last_unless_rejected(store: FleetStore) -> None:
    for version in ("s1", "s2", "s3"):
        await store.propose_snapshot(make_snapshot(version))
    await store.mark_snapshot("", "s1", GOOD, "")
    await store.mark_snapshot("", "s3", REJECTED, "edge-1: no")
    newest, good, rejected = (
        await store.load_newest_snapshot(""),
        await store.load_last_good_snapshot(""),
        await store.find_snapshot("", "s3"),
    )
    assert newest == make_snapshot("s2")
    assert good == make_snapshot("s1", status=GOOD)
    assert rejected == dataclasses.replace(make_snapshot("s3"), status=REJECTED, words="edge-1: no")


async def test_a_snapshot_proposed_again_is_the_newest_and_keeps_its_status(store: FleetStore) -> None:
    await store.propose_snapshot(make_snapshot("s1"))
    await store.mark_snapshot("", "s1", GOOD, "")
    await store.propose_snapshot(make_snapshot("s2"))
    await store.propose_snapshot(make_snapshot("s1", at=NOW + seconds(60)))
    assert await store.load_newest_snapshot("") == make_snapshot("s1", status=GOOD)
    await store.propose_snapshot(make_snapshot("s2"))
    assert await store.load_newest_snapshot("") == make_snapshot("s2")


async def test_a_snapshot_is_found_by_the_version_of_one_type(store: FleetStore) -> None:
    older = dataclasses.replace(make_snapshot("s1"), versions={"cds": "c", "eds": "", "lds": "l1", "rds": "r"})
    newer = dataclasses.replace(make_snapshot("s2"), versions={"cds": "c", "eds": "", "lds": "l2", "rds": "r"})
    for snapshot in (older, newer):
        await store.propose_snapshot(snapshot)
    assert await store.find_config("lds", "l1") == older
    assert await store.find_config("rds", "r") == newer
    assert await store.find_config("rds", "l1") is None
    assert await store.find_config("nds", "r") is None


async def test_good_stays_good(store: FleetStore) -> None:
    await store.propose_snapshot(make_snapshot())
    await store.mark_snapshot("", "s1", GOOD, "")
    await store.mark_snapshot("", "s1", REJECTED, "too late")
    await store.mark_snapshot("", "unknown", GOOD, "")
    assert await store.find_snapshot("", "s1") == make_snapshot(status=GOOD)


@pytest.mark.parametrize(("keep", "kept"), [(0, {"s2"}), (1, {"s2", "s5"}), (2, {"s2", "s4", "s5"}), (9, None)])
async def test_pruning_keeps_the_newest_and_the_last_good(store: FleetStore, keep: int, kept: set[str] | None) -> None:
    versions = ["s1", "s2", "s3", "s4", "s5"]
    for version in versions:
        await store.propose_snapshot(make_snapshot(version))
    for version in ("s1", "s2"):
        await store.mark_snapshot("", version, GOOD, "")
    await store.prune_snapshots(keep=keep)
    assert {version for version in versions if await store.find_snapshot("", version)} == (kept or set(versions))


async def test_pruning_without_a_good_one_keeps_the_newest(store: FleetStore) -> None:
    await store.prune_snapshots(keep=1)
    await store.propose_snapshot(make_snapshot("s1"))
    await store.propose_snapshot(make_snapshot("s2"))
    await store.prune_snapshots(keep=1)
    assert await store.load_newest_snapshot("") == make_snapshot("s2")
    assert await store.find_snapshot("", "s1") is None


# -- groups ------------------------------------------------------------------------------------------------------------


async def test_the_same_snapshot_in_two_groups_is_two_snapshots(store: FleetStore) -> None:
    for group in ("", "eu"):
        await store.propose_snapshot(make_snapshot(group=group))
    await store.mark_snapshot("eu", "s1", REJECTED, "edge-9: no")
    await store.mark_snapshot("", "s1", GOOD, "")
    assert await store.load_newest_snapshot("") == make_snapshot(status=GOOD)
    assert await store.load_newest_snapshot("eu") is await store.load_last_good_snapshot("eu") is None
    rejected = await store.find_snapshot("eu", "s1")
    assert rejected is not None
    assert (rejected.group, rejected.status, rejected.words) == ("eu", REJECTED, "edge-9: no")
    assert await store.list_snapshot_groups() == ("", "eu")


async def test_each_group_has_its_own_newest_and_last_good(store: FleetStore) -> None:
    for group, version in (("eu", "s1"), ("", "s2"), ("eu", "s3"), ("", "s4")):
        await store.propose_snapshot(make_snapshot(version, group=group))
    await store.mark_snapshot("eu", "s1", GOOD, "")
    assert await store.load_newest_snapshot("eu") == make_snapshot("s3", group="eu")
    assert await store.load_last_good_snapshot("eu") == make_snapshot("s1", group="eu", status=GOOD)
    assert await store.load_last_good_snapshot("") is None


async def test_pruning_one_group_leaves_the_others_theirs(store: FleetStore) -> None:
    await store.propose_snapshot(make_snapshot("s1", group="eu"))
    for version in ("s2", "s3", "s4"):
        await store.propose_snapshot(make_snapshot(version))
    await store.prune_snapshots(keep=1)
    assert await store.load_newest_snapshot("eu") == make_snapshot("s1", group="eu")
    assert await store.find_snapshot("", "s3") is None
    assert await store.load_newest_snapshot("") == make_snapshot("s4")


async def test_a_node_says_what_it_is(store: FleetStore) -> None:
    client = dataclasses.replace(make_node("grpc-1"), group="eu", user_agent="gRPC C-core 1.85", is_envoy=False)
    refused = dataclasses.replace(
        client.types["rds"], nacked="b2", words="no", nacked_at=NOW, last_refusal=PastRefusal("b2", "no", NOW)
    )
    client = dataclasses.replace(client, types={**client.types, "rds": refused})
    await store.record_nodes([client])
    assert await store.load_nodes() == (client,)
