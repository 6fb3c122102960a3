"""Certificates of listeners: given out by name, to those who need them, and kept at their last good state."""

from pathlib import Path

import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf.any_pb2 import Any as PackedAny
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from controlplane.errors import InvalidInputError
from controlplane.tls.metrics import TlsMetrics
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.channel import Nacked
from controlplane.xds.kinds import SNAPSHOT_KINDS, Kind
from controlplane.xds.secrets import CertificateFolder
from controlplane.xds.snapshot import Resource, Snapshot
from tests.certificates import Authority, Pair, replace_file
from tests.fakes import ManualClock
from tests.xds import DeltaClient, SotwClient, make_cache, make_secret, make_snapshot, record

PLAIN = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)})
ONE = make_snapshot(cds={"a": 1}, lds={"l": ("r", 1)}, rds={"r": (["a"], 1)}, tls={"l": "edge"})
SECRETS = {name: make_secret(name, 1) for name in ("edge", "other")}


def serving(secrets: dict[str, Resource], snapshot: Snapshot = ONE) -> SnapshotCache:
    cache = make_cache()
    cache.serve_secrets(secrets)
    cache.publish(record(snapshot))
    return cache


@pytest.fixture(params=[SotwClient, DeltaClient])
def variant(request: pytest.FixtureRequest) -> type[SotwClient | DeltaClient]:
    found: type[SotwClient | DeltaClient] = request.param
    return found


# -- who gets what -----------------------------------------------------------------------------------------------------


def test_a_secret_that_a_listener_refers_to_is_sent_to_who_names_it(variant: type[SotwClient | DeltaClient]) -> None:
    client = variant(serving(SECRETS))
    (got,) = client.ask(Kind.SDS, "edge")
    assert (got.kind, got.names) == (Kind.SDS, ("edge",))
    client.ack(got)
    assert client.take() == []


@pytest.mark.parametrize("name", ["other", "unknown"])
def test_any_other_is_treated_as_missing(variant: type[SotwClient | DeltaClient], name: str) -> None:
    """In silence: Envoy takes "there is none" for an answer, and starts the listener without."""
    assert variant(serving(SECRETS)).ask(Kind.SDS, name) == []


def test_nobody_gets_all_of_them(variant: type[SotwClient | DeltaClient]) -> None:
    client = variant(serving(SECRETS))
    assert client.ask(Kind.SDS) == []
    assert [got.names for got in client.ask(Kind.SDS, "*") if got.names] == []


def test_nothing_is_sent_unasked(variant: type[SotwClient | DeltaClient]) -> None:
    cache = serving({})
    client = variant(cache)
    for got in client.ask(Kind.CDS, "*"):
        client.ack(got)
    cache.serve_secrets(SECRETS)
    assert client.take() == []


def test_a_group_is_given_its_own_only(variant: type[SotwClient | DeltaClient]) -> None:
    cache = serving(SECRETS, PLAIN)
    assert variant(cache).ask(Kind.SDS, "edge") == []
    cache.publish(record(ONE))
    (got,) = variant(cache, node="n2").ask(Kind.SDS, "edge")
    assert got.names == ("edge",)


# -- changes -----------------------------------------------------------------------------------------------------------


def test_a_new_certificate_is_pushed_and_nothing_else(variant: type[SotwClient | DeltaClient]) -> None:
    cache = serving(SECRETS)
    client = variant(cache)
    for kind, names in (
        (Kind.CDS, ["*"]),
        (Kind.EDS, ["a"]),
        (Kind.LDS, ["*"]),
        (Kind.RDS, ["r"]),
        (Kind.SDS, ["edge"]),
    ):
        for got in client.ask(kind, *names):
            client.ack(got)
    client.ack_all()
    cache.serve_secrets(SECRETS | {"other": make_secret("other", 2)})
    assert client.take() == []
    cache.serve_secrets(SECRETS | {"edge": make_secret("edge", 2)})
    (got,) = client.take()
    assert (got.kind, got.names, got.versions["edge"]) == (Kind.SDS, ("edge",), make_secret("edge", 2).version)
    client.ack(got)
    assert client.take() == []


def test_one_that_comes_later_is_sent_then(variant: type[SotwClient | DeltaClient]) -> None:
    cache = serving({})
    client = variant(cache)
    assert client.ask(Kind.SDS, "edge") == []
    cache.serve_secrets(SECRETS)
    (got,) = client.take()
    assert got.names == ("edge",)


def test_one_that_no_listener_needs_any_more_is_not_taken_away(variant: type[SotwClient | DeltaClient]) -> None:
    cache = serving(SECRETS)
    client = variant(cache)
    for got in client.ask(Kind.SDS, "edge"):
        client.ack(got)
    cache.publish(record(PLAIN))
    assert client.take() == []


def test_a_refused_one_is_not_sent_again_until_it_changes(variant: type[SotwClient | DeltaClient]) -> None:
    cache = serving(SECRETS)
    client = variant(cache)
    (got,) = client.ask(Kind.SDS, "edge")
    client.nack(got, "KEY_VALUES_MISMATCH")
    assert isinstance(client.reaction, Nacked)
    assert client.reaction.kind is Kind.SDS
    assert client.take() == []
    assert cache.doubted == frozenset()  # it says nothing of the snapshot
    cache.serve_secrets({"edge": make_secret("edge", 2)})
    assert [again.names for again in client.take()] == [("edge",)]


def test_a_client_that_comes_back_with_it_is_not_sent_it_again() -> None:
    client = DeltaClient(serving(SECRETS))
    assert client.ask(Kind.SDS, "edge", has={"edge": SECRETS["edge"].version}) == []


# -- what keeps them in ------------------------------------------------------------------------------------------------


def test_a_snapshot_knows_and_stores_no_secret() -> None:
    whole = ONE.with_secrets(SECRETS)
    assert whole.to_bytes() == ONE.to_bytes()
    assert (whole.version, whole.versions) == (ONE.version, ONE.versions)
    assert set(whole.versions) == set(SNAPSHOT_KINDS)
    assert set(whole.resources[Kind.SDS]) == {"edge"}


def test_what_a_listener_lacks_is_said_once() -> None:
    with capture_logs() as logs:
        cache = serving({"other": SECRETS["other"]})
        cache.serve_secrets({"other": make_secret("other", 2)})
    assert [line["certificates"] for line in logs if line["event"] == "certificate.missing"] == [["edge"]]


# -- the folder --------------------------------------------------------------------------------------------------------


class Desk:
    """A folder of certificates, and what is offered of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.clock = ManualClock()
        self.authority = Authority()
        self.offered: list[dict[str, Resource]] = []
        self.metrics = TlsMetrics(CollectorRegistry())
        self.folder = self.open()

    def open(self) -> CertificateFolder:
        def offer(secrets: object) -> None:
            assert isinstance(secrets, dict)
            self.offered.append(secrets)

        return CertificateFolder(self.path, offer=offer, clock=self.clock, metrics=self.metrics)

    def issue(self, name: str) -> Pair:
        return self.authority.issue(name, now=self.clock.now())

    def key_of(self, name: str) -> bytes:
        packed = PackedAny.FromString(self.offered[-1][name].packed)
        secret = secret_pb2.Secret.FromString(packed.value)
        assert secret.name == name
        found: bytes = secret.tls_certificate.private_key.inline_bytes
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_both_layouts_are_read_and_everything_else_is_left_alone(desk: Desk) -> None:
    plain, folder = desk.issue("a.test"), desk.issue("b.test")
    plain.write(desk.path, "a.test")
    folder.write(desk.path / "b.test", "tls")
    desk.issue("c.test").write(desk.path, "..c")
    desk.issue("d.test").write(desk.path, "D")
    (desk.path / "empty").mkdir()
    (desk.path / "notes.txt").touch()
    desk.folder.load()
    assert desk.folder.names == {"a.test", "b.test"}
    assert (desk.key_of("a.test"), desk.key_of("b.test")) == (plain.key, folder.key)
    assert all(resource.by_name for resource in desk.offered[-1].values())


def test_one_that_is_no_good_does_not_stop_the_others(desk: Desk) -> None:
    desk.issue("a.test").write(desk.path, "a.test")
    (desk.path / "b.test.crt").write_bytes(b"")
    desk.folder.load()
    assert desk.folder.names == {"a.test"}


def test_only_what_changed_is_offered_again(desk: Desk) -> None:
    desk.issue("a.test").write(desk.path, "a.test")
    desk.folder.load()
    desk.folder.look()
    assert len(desk.offered) == 1
    fresh = desk.issue("a.test")
    fresh.write(desk.path, "a.test")
    desk.folder.look()
    assert len(desk.offered) == 2
    assert desk.key_of("a.test") == fresh.key
    assert desk.offered[0]["a.test"].version != desk.offered[1]["a.test"].version


def test_half_a_pair_and_a_lost_folder_leave_the_last_good_one(desk: Desk) -> None:
    first = desk.issue("a.test")
    certificate, _ = first.write(desk.path, "a.test")
    desk.folder.load()
    replace_file(certificate, desk.issue("a.test").certificate)
    desk.folder.look()
    assert len(desk.offered) == 1
    desk.path.rename(desk.path.with_name("away"))
    desk.folder.look()
    assert len(desk.offered) == 1
    assert desk.folder.names == {"a.test"}


def test_a_certificate_may_move_to_the_other_layout(desk: Desk) -> None:
    files = desk.issue("a.test").write(desk.path, "a.test")
    desk.folder.load()
    for path in files:
        path.unlink()
    fresh = desk.issue("a.test")
    fresh.write(desk.path / "a.test", "tls")
    desk.folder.look()
    assert desk.key_of("a.test") == fresh.key


def test_a_folder_that_is_not_there_stops_the_start(desk: Desk) -> None:
    desk.path.rmdir()
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_CERTIFICATES_DIR: .* cannot be read"):
        desk.folder.load()


def test_keys_show_in_no_text(desk: Desk) -> None:
    pair = desk.issue("a.test")
    pair.write(desk.path, "a.test")
    with capture_logs() as logs:
        desk.folder.load()
    body = pair.key.splitlines()[1].decode()
    cache = serving(desk.offered[-1], ONE)
    for text in (repr(desk.offered), str(logs), repr(cache.served()), repr(desk.folder.__dict__)):
        assert body not in text
        assert "PRIVATE" not in text
