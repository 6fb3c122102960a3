"""Certificate files are checked before they are served, and a bad one never replaces a good one."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from controlplane.errors import InvalidInputError
from controlplane.tls.certificates import Kept, KeyPair, Place, read_ca, read_pair
from controlplane.tls.metrics import TlsMetrics
from tests.certificates import DAY, Authority, Pair
from tests.fakes import ManualClock


class Desk:
    """A folder with a certificate and its key, and somebody who watches it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.first = self.issue()
        self.certificate, self.key = self.first.write(folder, "edge")
        self.kept: Kept[KeyPair] = Kept(
            name="edge",
            paths=(self.certificate, self.key),
            read=lambda now: read_pair(Place(self.certificate, "CERT"), Place(self.key, "KEY"), now=now),
            clock=self.clock,
            metrics=TlsMetrics(self.registry),
        )

    def issue(self, *, starts: dt.timedelta = -DAY, ends: dt.timedelta = DAY) -> Pair:
        return self.authority.issue("edge.test", starts=starts, ends=ends, now=self.clock.now())

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"hueshift_tls_certificate_{name}", {"certificate": "edge"})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def read(desk: Desk) -> KeyPair:
    return read_pair(Place(desk.certificate, "CERT"), Place(desk.key, "KEY"), now=desk.clock.now())


def test_a_pair_that_belongs_together_is_read(desk: Desk) -> None:
    pair = read(desk)
    assert (pair.chain, pair.key) == (desk.first.certificate, desk.first.key)
    assert pair.serial == f"{desk.first.serial:x}"


def test_a_missing_file_is_named_with_its_setting(desk: Desk) -> None:
    desk.key.unlink()
    with pytest.raises(
        InvalidInputError, match=r"^KEY: .*edge\.key cannot be read \(No such file or directory\); name"
    ):
        read(desk)


@pytest.mark.parametrize(("file", "wrong"), [("certificate", "CERT.*no certificate"), ("key", "KEY.*no private key")])
def test_a_file_that_is_not_pem_is_refused(desk: Desk, file: str, wrong: str) -> None:
    path: Path = getattr(desk, file)
    path.write_bytes(b"not pem")
    with pytest.raises(InvalidInputError, match=wrong):
        read(desk)


def test_a_key_of_another_certificate_is_refused(desk: Desk) -> None:
    desk.key.write_bytes(desk.issue().key)
    with pytest.raises(InvalidInputError, match=r"KEY: .*is not the key of .*edge\.crt; replace both files together"):
        read(desk)


def test_an_encrypted_key_is_refused(desk: Desk) -> None:
    key = serialization.load_pem_private_key(desk.first.key, None)
    desk.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    with pytest.raises(InvalidInputError, match="is encrypted; write it without a passphrase"):
        read(desk)


@pytest.mark.parametrize(
    ("starts", "ends", "word"), [(-2 * DAY, -DAY, "ended at"), (DAY, 2 * DAY, "begins at"), (-DAY, DAY, "")]
)
def test_only_a_certificate_of_today_is_taken(desk: Desk, starts: dt.timedelta, ends: dt.timedelta, word: str) -> None:
    desk.issue(starts=starts, ends=ends).write(desk.folder, "edge")
    if word:
        with pytest.raises(InvalidInputError, match=f"CERT: .* {word} "):
            read(desk)
    else:
        read(desk)


def test_a_file_that_is_too_large_is_not_read(desk: Desk) -> None:
    desk.certificate.write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(InvalidInputError, match="is larger than 1 MiB"):
        read(desk)


def test_authorities_are_read_and_must_hold_one_that_is_valid(desk: Desk) -> None:
    place = Place(desk.authority.write(desk.folder), "CA")
    assert read_ca(place, now=desk.clock.now()).pem == desk.authority.certificate
    with pytest.raises(InvalidInputError, match=r"CA: .* ended at .*; renew it"):
        read_ca(place, now=desk.clock.now() + 365 * 1000 * DAY)
    place.path.write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"CA: .* holds no certificate"):
        read_ca(place, now=desk.clock.now())


# -- files that change -------------------------------------------------------------------------------------------------


def test_nothing_new_is_nothing_to_serve(desk: Desk) -> None:
    desk.kept.load()
    assert desk.kept.look() is False
    assert desk.metric("reloads_total") == 1


def test_a_new_pair_is_taken(desk: Desk) -> None:
    desk.kept.load()
    fresh = desk.issue(ends=3 * DAY)
    fresh.write(desk.folder, "edge")
    assert desk.kept.look() is True
    assert desk.kept.content is not None
    assert desk.kept.content.key == fresh.key
    assert desk.metric("expires_seconds") == desk.kept.content.ends.timestamp()
    assert desk.kept.look() is False


def test_half_a_new_pair_keeps_the_old_one_and_says_so_once(desk: Desk) -> None:
    first = desk.kept.load()
    fresh = desk.issue()
    desk.certificate.write_bytes(fresh.certificate)
    with capture_logs() as logs:
        assert desk.kept.look() is False
        assert desk.kept.look() is False
    assert desk.kept.content is first
    assert desk.metric("refused") == 1
    (line,) = logs
    assert (line["event"], line["certificate"]) == ("certificate.refused", "edge")
    assert "is not the key of" in line["words"]
    desk.key.write_bytes(fresh.key)
    assert desk.kept.look() is True
    assert desk.metric("refused") == 0


def test_a_pair_that_vanishes_is_served_on(desk: Desk) -> None:
    first = desk.kept.load()
    desk.certificate.unlink()
    assert desk.kept.look() is False
    assert (desk.kept.content, desk.metric("refused")) == (first, 1)
    desk.certificate.write_bytes(desk.first.certificate)
    assert desk.kept.look() is False  # the same again
    assert desk.metric("refused") == 0


def test_a_pair_of_tomorrow_is_taken_tomorrow(desk: Desk) -> None:
    desk.kept.load()
    desk.issue(starts=DAY / 2, ends=2 * DAY).write(desk.folder, "edge")
    assert desk.kept.look() is False
    desk.clock.move(DAY / 2)
    assert desk.kept.look() is True


def test_a_key_shows_nowhere(desk: Desk) -> None:
    desk.kept.load()
    desk.key.write_bytes(desk.issue().key)
    with capture_logs() as logs:
        desk.kept.look()
    body = b"".join(desk.first.key.splitlines()[1:-1]).decode()[:20]
    for text in (repr(desk.kept.content), str(logs), desk.kept.refusal):
        assert body not in text
        assert "PRIVATE" not in text
