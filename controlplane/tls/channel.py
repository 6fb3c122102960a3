"""The channel to Envoys: which certificate it shows, whose it accepts, and that it is never plaintext by accident."""

import contextlib
import dataclasses
import datetime as dt
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import grpc
import structlog

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.tls.certificates import WATCH_INTERVAL, Kept, KeyPair, Place, TrustedCa, read_ca, read_pair
from controlplane.tls.metrics import TlsMetrics

log = structlog.get_logger()

CERTIFICATE: Final = "HUESHIFT_TLS_CERT_FILE"
KEY: Final = "HUESHIFT_TLS_KEY_FILE"
CLIENT_CA: Final = "HUESHIFT_TLS_CLIENT_CA_FILE"
PLAINTEXT: Final = "HUESHIFT_XDS_PLAINTEXT"

ALPN: Final = ("h2",)


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelFiles:
    """The PEM files of mutual TLS: the server's certificate with its chain, its key, and the clients' authorities."""

    certificate: Path
    key: Path
    client_ca: Path


def choose_files(
    *, bind: str, certificate: Path | None, key: Path | None, client_ca: Path | None, plaintext: bool
) -> ChannelFiles | None:
    """Return the files of mutual TLS, or None where plaintext is allowed: on loopback, or forced.

    Raises:
        InvalidInputError: Only some of the files are named, or plaintext would leave this machine unasked.
    """
    if certificate and key and client_ca:
        if plaintext:
            raise InvalidInputError(PLAINTEXT, "is set beside certificates", "take out one of the two")
        return ChannelFiles(certificate, key, client_ca)
    for setting, path in ((CERTIFICATE, certificate), (KEY, key), (CLIENT_CA, client_ca)):
        if path is None and (certificate or key or client_ca):
            raise InvalidInputError(setting, "is not set, although mutual TLS needs it", "set all three, or none")
    if not plaintext and not is_loopback(bind):
        raise InvalidInputError(
            CERTIFICATE,
            f"is not set, so Envoys would be served in plaintext on {bind}",
            f"set it with {KEY} and {CLIENT_CA}, bind 127.0.0.1, or force it with {PLAINTEXT}=true",
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on *host*."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ChannelTls:
    """Mutual TLS that follows its files without a restart; streams that are open keep the session they have.

    Args:
        files: What to read.
        clock: Says what is valid now, and paces the looks at the files.
        metrics: Where it is counted.
    """

    def __init__(self, files: ChannelFiles, *, clock: Clock, metrics: TlsMetrics) -> None:
        self._clock = clock
        self._metrics = metrics
        pair = Place(files.certificate, CERTIFICATE), Place(files.key, KEY)
        ca = Place(files.client_ca, CLIENT_CA)
        self._pair: Kept[KeyPair] = Kept(
            name="channel",
            paths=(files.certificate, files.key),
            read=lambda now: read_pair(*pair, now=now),
            clock=clock,
            metrics=metrics,
        )
        self._ca: Kept[TrustedCa] = Kept(
            name="channel-clients",
            paths=(files.client_ca,),
            read=lambda now: read_ca(ca, now=now),
            clock=clock,
            metrics=metrics,
        )
        self._newest = _configure(self._pair.load(), self._ca.load())

    def look(self) -> None:
        """See whether the files changed; `run` does it every second."""
        changed = self._pair.look()
        if (self._ca.look() or changed) and self._pair.content is not None and self._ca.content is not None:
            try:
                self._newest = _configure(self._pair.content, self._ca.content)
            except InvalidInputError as exc:
                log.warning("certificate.refused", certificate="channel", words=str(exc), kept="the last good one")

    def context(self) -> ssl.SSLContext:
        """Return what the next connection is to be secured with: as `credentials`, for those who speak TLS by `ssl`."""
        self._metrics.handshakes.inc()
        return self._newest.context

    def now(self) -> dt.datetime:
        """Return the moment against which certificates are held."""
        return self._clock.now()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one server: TLS 1.2 or newer, and no client without a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._newest.for_grpc,
            self._fetcher(),  # type: ignore[arg-type] # None means "nothing new", which the stubs leave out
            require_client_authentication=True,
        )

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await self._clock.sleep(WATCH_INTERVAL)
            self.look()

    def _fetcher(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        taken = self._newest

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Return what is new since the last handshake, or None; runs in a thread of gRPC's."""
            nonlocal taken
            self._metrics.handshakes.inc()
            if taken is self._newest:
                return None
            taken = self._newest
            return taken.for_grpc

        return fetch


@dataclasses.dataclass(frozen=True, slots=True)
class _Configuration:
    """The same certificates for both who speak TLS here: gRPC, and `ssl`."""

    for_grpc: grpc.ServerCertificateConfiguration
    context: ssl.SSLContext


def _configure(pair: KeyPair, ca: TrustedCa) -> _Configuration:
    return _Configuration(
        grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], root_certificates=ca.pem),
        _context(pair, ca),
    )


def _context(pair: KeyPair, ca: TrustedCa) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # the newest that Envoy offers by default
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority need not be a root
    context.options |= ssl.OP_NO_RENEGOTIATION
    # A session that is resumed is not verified again. So TLS 1.3 has none; in TLS 1.2, where they cannot be had without
    # taking up memory here, clients keep them as tickets that no other context reads: new authorities end them all.
    context.num_tickets = 0
    context.set_alpn_protocols(list(ALPN))
    try:
        context.load_verify_locations(cadata=ca.pem.decode())
        with _as_file(pair.chain.rstrip() + b"\n" + pair.key) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or str(exc)
        raise InvalidInputError(
            CERTIFICATE, f"and its key or {CLIENT_CA} are not accepted by OpenSSL ({reason})", "make new ones"
        ) from exc
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give *content*, which has a private key, a path, in memory if that can be: `ssl` reads keys from paths only."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("hueshift")
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{number}"
    else:
        with tempfile.NamedTemporaryFile() as file:  # only this user may read it
            file.write(content)
            file.flush()
            yield file.name
