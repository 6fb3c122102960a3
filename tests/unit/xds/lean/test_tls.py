"""TLS of the lean transport against `ssl`'s own client: who is let in, and what a change of certificates means."""

import contextlib
import dataclasses
import gc
import ssl
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controlplane.clock import SystemClock
from controlplane.tls.channel import ChannelFiles, ChannelTls
from controlplane.tls.metrics import TlsMetrics
from controlplane.xds.lean.tls import RefusedError, TlsSide
from tests.certificates import DAY, Authority, Pair

SPIFFE = "spiffe://colorize/envoy/envoy-1"
SERVER = "xds.test"


@dataclasses.dataclass(slots=True)
class Site:
    """Authorities for both ends, and the server's certificates."""

    folder: Path
    servers: Authority
    clients: Authority
    tls: ChannelTls

    def client_context(self, own: Pair | None, *, alpn: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.servers.certificate.decode())
        if own is not None:
            context.load_cert_chain(*own.write(self.folder, "client"))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


@pytest.fixture
def site(tmp_path: Path) -> Site:
    servers, clients = Authority(), Authority()
    certificate, key = servers.issue(SERVER).write(tmp_path, "xds")
    files = ChannelFiles(certificate, key, clients.write(tmp_path))
    # The machine's clock, which is the one that OpenSSL looks at.
    tls = ChannelTls(files, clock=SystemClock(), metrics=TlsMetrics(CollectorRegistry()))
    return Site(tmp_path, servers, clients, tls)


class Client:
    """The other end, by `ssl`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname=SERVER)

    def shake_hands(self, side: TlsSide, *, cut: int = 1 << 16) -> bytes:
        """Shake hands with *side*; return what that understood meanwhile."""
        understood = b""
        for _ in range(10):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.object.do_handshake()
            data = self.outgoing.read()
            try:
                for start in range(0, len(data), cut):
                    understood += side.feed(data[start : start + cut])
            finally:
                self.incoming.write(side.pending())
        return understood


def connect(site: Site, own: Pair | None, *, context: ssl.SSLContext | None = None) -> tuple[TlsSide, Client]:
    side, client = TlsSide(site.tls.context(), now=site.tls.now()), Client(context or site.client_context(own))
    client.shake_hands(side)
    return side, client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cut", [1, 1 << 16])
def test_both_ends_understand_each_other(site: Site, version: ssl.TLSVersion, cut: int) -> None:
    context = site.client_context(site.clients.issue(SPIFFE, "envoy-1"))
    context.minimum_version = context.maximum_version = version
    side, client = TlsSide(site.tls.context(), now=site.tls.now()), Client(context)
    client.shake_hands(side, cut=cut)
    assert side.is_established
    assert side.identities == (SPIFFE, "envoy-1")
    for size in (1, 100_000):
        client.object.write(b"q" * size)
        assert side.feed(client.outgoing.read()) == b"q" * size
        client.incoming.write(side.say(b"a" * size))
        heard = b""
        while len(heard) < size:
            heard += client.object.read(1 << 20)
        assert heard == b"a" * size
    client.incoming.write(side.goodbye())
    assert client.object.read(10) == b""


def test_requests_that_come_with_the_end_of_the_handshake_are_not_lost(site: Site) -> None:
    side, client = (
        TlsSide(site.tls.context(), now=site.tls.now()),
        Client(site.client_context(site.clients.issue(SPIFFE))),
    )
    for _ in range(3):
        try:
            client.object.do_handshake()
            break
        except ssl.SSLWantReadError:
            side.feed(client.outgoing.read())
            client.incoming.write(side.pending())
    client.object.write(b"at once")
    assert side.feed(client.outgoing.read()) == b"at once"


def no_certificate(_: Site) -> None:
    return None


def somebody_elses(_: Site) -> Pair:
    return Authority().issue(SPIFFE)


def expired(site: Site) -> Pair:
    return site.clients.issue(SPIFFE, starts=-2 * DAY, ends=-DAY)


@pytest.mark.parametrize("make", [no_certificate, somebody_elses, expired])
def test_others_are_told_no(site: Site, make: object) -> None:
    own = make(site)  # type: ignore[operator] # one of the three above
    side, client = TlsSide(site.tls.context(), now=site.tls.now()), Client(site.client_context(own))
    with pytest.raises(ssl.SSLError):
        client.shake_hands(side)
    assert not side.is_established
    with pytest.raises(ssl.SSLError, match="alert"):
        client.object.read(10)


def test_plaintext_is_told_no(site: Site) -> None:
    with pytest.raises(ssl.SSLError):
        TlsSide(site.tls.context(), now=site.tls.now()).feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def test_old_tls_is_told_no(site: Site) -> None:
    context = site.client_context(site.clients.issue(SPIFFE))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        connect(site, None, context=context)


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_who_does_not_offer_http2_is_told_no(site: Site, alpn: tuple[str, ...]) -> None:
    context = site.client_context(site.clients.issue(SPIFFE), alpn=alpn)
    with pytest.raises(RefusedError):
        connect(site, None, context=context)


def test_new_certificates_are_for_new_connections_and_old_ones_go_on(site: Site) -> None:
    side, client = connect(site, site.clients.issue(SPIFFE))
    old_clients, old_servers = site.clients, site.servers
    site.clients, site.servers = Authority(), Authority()
    site.servers.issue(SERVER).write(site.folder, "xds")
    site.clients.write(site.folder)
    site.tls.look()
    fresh, _ = connect(site, site.clients.issue(SPIFFE))
    assert fresh.is_established
    client.object.write(b"still here")
    assert side.feed(client.outgoing.read()) == b"still here"
    with pytest.raises(ssl.SSLError):  # the authority that was taken out is trusted no longer
        connect(site, old_clients.issue(SPIFFE))
    site.servers = old_servers
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(site, site.clients.issue(SPIFFE))


def test_no_session_is_resumed_past_a_change_of_authorities(site: Site) -> None:
    context = site.client_context(site.clients.issue(SPIFFE))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, client = connect(site, None, context=context)
    session = client.object.session
    site.clients = Authority()
    site.clients.write(site.folder)
    site.tls.look()
    again = Client(context)
    again.object = context.wrap_bio(again.incoming, again.outgoing, server_hostname=SERVER, session=session)
    with pytest.raises(ssl.SSLError):
        again.shake_hands(TlsSide(site.tls.context(), now=site.tls.now()))


@pytest.mark.parametrize("ended", [False, True])
def test_a_session_is_resumed_until_its_certificate_ends(site: Site, ended: bool) -> None:  # noqa: FBT001
    context = site.client_context(site.clients.issue(SPIFFE))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, client = connect(site, None, context=context)
    again = Client(context)
    again.object = context.wrap_bio(
        again.incoming, again.outgoing, server_hostname=SERVER, session=client.object.session
    )
    side = TlsSide(site.tls.context(), now=site.tls.now() + (2 * DAY if ended else 0 * DAY))
    if ended:
        with pytest.raises(RefusedError, match="ended"):
            again.shake_hands(side)
    else:
        again.shake_hands(side)
        assert again.object.session_reused
        assert side.identities == (SPIFFE,)


def test_nothing_is_taken_in_after_the_clients_goodbye(site: Site) -> None:
    side, client = connect(site, site.clients.issue(SPIFFE))
    client.object.write(b"last words")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.object.unwrap()
    assert side.feed(client.outgoing.read()) == b"last words"
    assert side.is_over


def test_what_openssl_does_not_take_leaves_the_last_good_ones(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.tls.context()
    site.servers.issue(SERVER).write(site.folder, "xds")

    def refuse(*_: object) -> None:
        raise ssl.SSLError(1, "ee key too small")

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_cert_chain", refuse)
        site.tls.look()
    assert site.tls.context() is before


def test_no_context_and_no_file_is_left_behind(site: Site) -> None:
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        site.servers.issue(SERVER).write(site.folder, "xds")
        site.tls.look()
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= opened
