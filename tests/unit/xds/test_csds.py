"""What the status service says of clients, from rows alone."""

import dataclasses
from typing import Any

import pytest
from envoy.admin.v3 import config_dump_shared_pb2 as shared_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2

from controlplane.controller.inspection import HeldResource, NodeConfig, Sync, TypeConfig
from controlplane.errors import InvalidInputError
from controlplane.ports import ConfigResource, TypeStatus
from controlplane.xds.csds import client_config
from controlplane.xds.kinds import Kind
from controlplane.xds.reading import PRIVATE, SnapshotReader
from controlplane.xds.snapshot import Resource, Snapshot
from tests.builders import NOW, make_node, seconds
from tests.xds import make_snapshot

OLD = make_snapshot(cds={"a": 1, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
NEW = make_snapshot(cds={"a": 2, "b": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})


def clusters(snapshot: Snapshot) -> dict[str, ConfigResource]:
    return dict(SnapshotReader().read(snapshot.to_bytes())["cds"])


def config(
    *held: HeldResource, status: TypeStatus, sync: Sync = Sync.STALE, variant: str = "delta", lost: bool = False
) -> NodeConfig:
    node = dataclasses.replace(make_node(), variant=variant)
    return NodeConfig(node, None, (TypeConfig("cds", sync, status, "new", held, lost),))


def held(name: str, runs: Snapshot | None, wanted: Snapshot | None, refused: Snapshot | None = None) -> HeldResource:
    found = [clusters(each).get(name) if each else None for each in (runs, wanted, refused)]
    return HeldResource(name, found[0], found[1], found[2])


def entries(of: NodeConfig, *, contents: bool = True) -> dict[str, Any]:
    return {each.name: each for each in client_config(of, contents=contents).generic_xds_configs}


def resource(snapshot: Snapshot, name: str) -> Resource:
    return snapshot.resources[Kind.CDS][name]


def test_each_resource_has_its_version_content_time_and_status() -> None:
    status = TypeStatus(sent="new", acked="old", acked_at=NOW)
    found = entries(config(held("a", OLD, NEW), held("b", OLD, NEW), held("c", None, None), status=status))
    assert [each.config_status for each in found.values()] == [csds_pb2.STALE, csds_pb2.SYNCED, csds_pb2.NOT_SENT]
    assert [each.client_status for each in found.values()] == [shared_pb2.ACKED, shared_pb2.ACKED, shared_pb2.REQUESTED]
    a, c = found["a"], found["c"]
    assert a.version_info == resource(OLD, "a").version
    assert a.xds_config.SerializeToString() == resource(OLD, "a").packed
    assert a.last_updated.ToDatetime(tzinfo=NOW.tzinfo) == NOW
    assert a.type_url == Kind.CDS.type_url
    assert (c.version_info, c.HasField("xds_config"), c.HasField("last_updated")) == ("", False, False)


def test_in_the_other_variant_the_version_is_that_of_the_response() -> None:
    status = TypeStatus(sent="new", acked="old", acked_at=NOW, nacked="new", words="bad")
    found = entries(config(held("a", OLD, NEW, NEW), status=status, sync=Sync.NACKED, variant="sotw"))
    assert (found["a"].version_info, found["a"].error_state.version_info) == ("old", "new")


def test_a_refused_resource_has_the_words_and_the_content_that_was_refused() -> None:
    status = TypeStatus(
        sent="new", acked="old", acked_at=NOW, nacked="new", words="bad cluster", nacked_at=NOW + seconds(5)
    )
    nacked = config(held("a", OLD, NEW, NEW), held("b", OLD, NEW), status=status, sync=Sync.NACKED)
    found = entries(nacked)
    a = found["a"]
    assert (a.config_status, a.client_status) == (csds_pb2.ERROR, shared_pb2.NACKED)
    assert a.xds_config.SerializeToString() == resource(OLD, "a").packed
    assert a.error_state.details == "bad cluster"
    assert a.error_state.version_info == resource(NEW, "a").version
    assert a.error_state.failed_configuration.SerializeToString() == resource(NEW, "a").packed
    assert a.error_state.last_update_attempt.ToDatetime(tzinfo=NOW.tzinfo) == NOW + seconds(5)
    assert found["b"].config_status == csds_pb2.SYNCED
    named = entries(nacked, contents=False)
    assert not named["a"].HasField("xds_config")
    assert not named["a"].error_state.HasField("failed_configuration")
    assert named["a"].error_state.details == "bad cluster"


def test_a_client_that_left_has_no_known_status_but_what_it_ran() -> None:
    status = TypeStatus(sent="old", acked="old", acked_at=NOW)
    there = config(held("a", OLD, OLD), status=status, sync=Sync.SYNCED)
    gone = dataclasses.replace(there, node=dataclasses.replace(there.node, disconnected_at=NOW))
    (found,) = entries(gone).values()
    assert (found.config_status, found.client_status) == (csds_pb2.UNKNOWN, shared_pb2.ACKED)
    assert found.xds_config.SerializeToString() == resource(OLD, "a").packed


def test_a_version_that_is_no_longer_stored_is_named() -> None:
    (found,) = entries(config(status=TypeStatus(sent="old", acked="old", acked_at=NOW), lost=True)).values()
    assert (found.name, found.version_info, found.config_status) == ("", "old", csds_pb2.STALE)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_resources_are_read_as_they_were_written() -> None:
    found = SnapshotReader().read(NEW.to_bytes())
    assert {kind: set(each) for kind, each in found.items()} == {
        kind.value: set(NEW.resources[kind]) for kind in Kind if NEW.resources[kind]
    }
    document = SnapshotReader().document(found["cds"]["a"])
    assert document == {
        "@type": Kind.CDS.type_url,
        "name": "a",
        "type": "EDS",
        "connect_timeout": "2s",
    }


def test_a_private_key_is_not_shown() -> None:
    found = SnapshotReader().document(ConfigResource("certificate", "v1", None))
    assert found == {"@type": PRIVATE, "name": "certificate", "version": "v1", "private": True}
    assert secret_pb2.Secret.DESCRIPTOR.full_name in PRIVATE


def test_what_another_release_wrote_is_left_out_or_shown_as_bytes() -> None:
    whole = discovery_pb2.DeltaDiscoveryResponse()
    whole.resources.add(name="x", version="1").resource.type_url = "type.googleapis.com/some.New"
    assert SnapshotReader().read(whole.SerializeToString()) == {}
    assert SnapshotReader().document(ConfigResource("x", "1", b"\n\x01x\x12\x01y")) == {"@type": "x", "value": "eQ=="}


@pytest.mark.parametrize("content", [b"\x00s1", b"\xff"])
def test_what_is_no_snapshot_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match="snapshot: is not readable"):
        SnapshotReader().read(content)
