"""Certificates of listeners: a folder of PEM files on this host, as resources that clients name.

An ACME client or cert-manager writes the files; this reads them, and nothing else keeps them: they are in no row, no
answer and no log line. The names are ``NAME.crt`` with ``NAME.key``, or ``NAME/tls.crt`` with ``NAME/tls.key``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.tls.certificates import WATCH_INTERVAL, Kept, KeyPair, Place, read_pair
from controlplane.tls.metrics import TlsMetrics
from controlplane.traffic.model import CERTIFICATE_NAME
from controlplane.xds.snapshot import Resource
from controlplane.xds.translate import pack

log = structlog.get_logger()

MAX_CERTIFICATES: Final = 1_000
"""Names that are read. A folder with more is the wrong one."""

Offer = Callable[[Mapping[str, Resource]], None]


class CertificateFolder:
    """Follows the certificates in a folder. What was good once is served until something better replaces it.

    Args:
        folder: Where they are.
        offer: Takes all of them at once, whenever one is new.
        clock: Says what is valid now, and paces the looks.
        metrics: Where it is counted, by name.
    """

    def __init__(self, folder: Path, *, offer: Offer, clock: Clock, metrics: TlsMetrics) -> None:
        self._folder = folder
        self._offer = offer
        self._clock = clock
        self._metrics = metrics
        self._kept: dict[str, Kept[KeyPair]] = {}
        self._resources: dict[str, Resource] = {}

    @property
    def names(self) -> frozenset[str]:
        """The certificates that are served to listeners that name them."""
        return frozenset(self._resources)

    def load(self) -> None:
        """Read the folder for the first time. A certificate that is no good is said, and does not stop the others.

        Raises:
            InvalidInputError: The folder cannot be read.
        """
        try:
            next(self._folder.iterdir(), None)
        except OSError as exc:
            raise InvalidInputError(
                "HUESHIFT_CERTIFICATES_DIR", f"{self._folder} cannot be read ({exc.strerror})", "name a folder"
            ) from exc
        self.look()

    def look(self) -> None:
        """See what changed; `run` does it every second."""
        for name, paths in self._found().items():
            if name not in self._kept or self._kept[name].paths != paths:
                self._kept[name] = self._keep(name, *paths)
        changed = [name for name, kept in self._kept.items() if kept.look()]
        for name in changed:
            pair = self._kept[name].content
            if pair is not None:
                self._resources[name] = _secret(name, pair)
        if changed:
            self._offer(dict(self._resources))

    async def run(self) -> None:
        """Follow the folder until cancelled."""
        while True:
            await self._clock.sleep(WATCH_INTERVAL)
            self.look()

    def _keep(self, name: str, certificate: Path, key: Path) -> Kept[KeyPair]:
        places = Place(certificate, f"certificate {name}"), Place(key, f"certificate {name}")
        return Kept(
            name=name,
            paths=(certificate, key),
            read=lambda now: read_pair(*places, now=now),
            clock=self._clock,
            metrics=self._metrics,
        )

    def _found(self) -> dict[str, tuple[Path, Path]]:
        try:
            entries = sorted(self._folder.iterdir())
        except OSError:
            return {}  # while it is away, what it held is served on
        found: dict[str, tuple[Path, Path]] = {}
        for path in entries:
            name = path.name.removesuffix(".crt")
            if not CERTIFICATE_NAME.fullmatch(name) or len(found) >= MAX_CERTIFICATES:
                continue
            if name != path.name:
                found[name] = (path, path.with_suffix(".key"))
            elif (path / "tls.crt").exists():
                found.setdefault(name, (path / "tls.crt", path / "tls.key"))
        return found


def _secret(name: str, pair: KeyPair) -> Resource:
    certificate = common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(inline_bytes=pair.chain),
        private_key=base_pb2.DataSource(inline_bytes=pair.key),
    )
    return Resource.of(name, pack(secret_pb2.Secret(name=name, tls_certificate=certificate)), by_name=True)
