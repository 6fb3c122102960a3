"""Which channel Envoys get: mutual TLS, or plaintext where that cannot leave the machine or was asked for."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controlplane.errors import InvalidInputError
from controlplane.settings import read_settings
from controlplane.tls.channel import ChannelFiles, ChannelTls, choose_files
from controlplane.tls.metrics import TlsMetrics
from tests.certificates import DAY, Authority
from tests.fakes import ManualClock

FILES = (Path("xds.crt"), Path("xds.key"), Path("clients.crt"))


def choose(
    bind: str = "127.0.0.1", files: tuple[Path | None, ...] = (None, None, None), *, plaintext: bool = False
) -> ChannelFiles | None:
    certificate, key, client_ca = files
    return choose_files(bind=bind, certificate=certificate, key=key, client_ca=client_ca, plaintext=plaintext)


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_may_be_plaintext(bind: str) -> None:
    assert choose(bind) is None


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "10.0.0.1", "control-plane", "::ffff:10.0.0.1"])
def test_anything_else_must_not_be_unless_forced(bind: str) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"^HUESHIFT_TLS_CERT_FILE: .* plaintext on {bind}; set it with .*true$"
    ):
        choose(bind)
    assert choose(bind, plaintext=True) is None
    assert choose(bind, FILES) == ChannelFiles(*FILES)


@pytest.mark.parametrize(("missing", "setting"), list(enumerate(["CERT_FILE", "KEY_FILE", "CLIENT_CA_FILE"])))
def test_half_a_set_of_files_is_refused(missing: int, setting: str) -> None:
    files = [*FILES]
    with pytest.raises(InvalidInputError, match=f"^HUESHIFT_TLS_{setting}: is not set, although"):
        choose(files=tuple(None if place == missing else path for place, path in enumerate(files)), plaintext=True)


def test_forcing_plaintext_beside_certificates_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_XDS_PLAINTEXT"):
        choose(files=FILES, plaintext=True)


def test_settings_name_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in zip(("CERT_FILE", "KEY_FILE", "CLIENT_CA_FILE"), FILES, strict=True):
        monkeypatch.setenv(f"HUESHIFT_TLS_{name}", str(path))
    monkeypatch.setenv("HUESHIFT_BIND", "0.0.0.0")
    assert read_settings().channel_files == ChannelFiles(*FILES)


def test_files_that_are_no_good_stop_the_start(tmp_path: Path) -> None:
    authority = Authority()
    clock = ManualClock()
    pair = authority.issue("xds.test", now=clock.now())
    files = ChannelFiles(*pair.write(tmp_path, "xds"), authority.write(tmp_path))

    def start() -> ChannelTls:
        return ChannelTls(files, clock=clock, metrics=TlsMetrics(CollectorRegistry()))

    start()
    files.client_ca.unlink()
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_TLS_CLIENT_CA_FILE: .* cannot be read"):
        start()
    authority.write(tmp_path)
    authority.issue("xds.test", starts=-2 * DAY, ends=-DAY, now=clock.now()).write(tmp_path, "xds")
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_TLS_CERT_FILE: .* ended at"):
        start()
    files.key.write_bytes(pair.key)
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_TLS_KEY_FILE: .* is not the key of"):
        start()
