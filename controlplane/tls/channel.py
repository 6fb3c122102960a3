"""The channel to Envoys: which certificate it shows, whose it accepts, and that it is never plaintext by accident."""

import dataclasses
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.tls.certificates import WATCH_INTERVAL, Kept, KeyPair, Place, TrustedCa, read_ca, read_pair
from controlplane.tls.metrics import TlsMetrics

CERTIFICATE: Final = "HUESHIFT_TLS_CERT_FILE"
KEY: Final = "HUESHIFT_TLS_KEY_FILE"
CLIENT_CA: Final = "HUESHIFT_TLS_CLIENT_CA_FILE"
PLAINTEXT: Final = "HUESHIFT_XDS_PLAINTEXT"


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
        self._configuration = self._configure(self._pair.load(), self._ca.load())

    def look(self) -> None:
        """See whether the files changed; `run` does it every second."""
        changed = self._pair.look()
        if (self._ca.look() or changed) and self._pair.content is not None and self._ca.content is not None:
            self._configuration = self._configure(self._pair.content, self._ca.content)

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one server: TLS 1.2 or newer, and no client without a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            self._fetcher(),  # type: ignore[arg-type] # None means "nothing new", which the stubs leave out
            require_client_authentication=True,
        )

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await self._clock.sleep(WATCH_INTERVAL)
            self.look()

    def _configure(self, pair: KeyPair, ca: TrustedCa) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], root_certificates=ca.pem)

    def _fetcher(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        taken = self._configuration

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Return what is new since the last handshake, or None; runs in a thread of gRPC's."""
            nonlocal taken
            self._metrics.handshakes.inc()
            if taken is self._configuration:
                return None
            taken = self._configuration
            return taken

        return fetch
