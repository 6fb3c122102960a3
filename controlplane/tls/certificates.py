"""Certificate files as they are on disk: read, checked, and kept at their last good state while somebody replaces them.

Private keys live in memory only. No text, error or log line of this module holds any part of one.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from controlplane.clock import Clock
from controlplane.errors import InvalidInputError
from controlplane.tls.metrics import TlsMetrics

log = structlog.get_logger()

MAX_FILE_BYTES: Final = 1024 * 1024
"""A chain is some kB. Whatever is larger is something else, and is not read."""

WATCH_INTERVAL: Final = dt.timedelta(seconds=1)
"""Pause between looks at files: how late a new certificate may be."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its chain, and its private key, as PEM; the two belong together."""

    chain: bytes = dataclasses.field(repr=False)
    key: bytes = dataclasses.field(repr=False)
    ends: dt.datetime
    serial: str


@dataclasses.dataclass(frozen=True, slots=True)
class TrustedCa:
    """The authorities whose certificates are accepted, as PEM; *ends* is when the last of them does."""

    pem: bytes = dataclasses.field(repr=False)
    ends: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A file, and what an error calls it: a setting, or what it is part of."""

    path: Path
    field: str


def read_pair(certificate: Place, key: Place, *, now: dt.datetime) -> KeyPair:
    """Read a certificate and its key.

    Raises:
        InvalidInputError: A file is not readable, they do not belong together, or the certificate is not valid *now*.
    """
    chain_pem, key_pem = _read(certificate), _read(key)
    leaf = _certificates(certificate, chain_pem)[0]
    try:
        private = load_pem_private_key(key_pem, password=None)
    except TypeError as exc:
        raise InvalidInputError(key.field, f"{key.path} is encrypted", "write it without a passphrase") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise InvalidInputError(key.field, f"{key.path} holds no private key", "write it as PEM") from exc
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise InvalidInputError(
            key.field, f"{key.path} is not the key of {certificate.path}", "replace both files together"
        )
    _check_validity(certificate, leaf, now)
    return KeyPair(chain_pem, key_pem, leaf.not_valid_after_utc, f"{leaf.serial_number:x}")


def read_ca(place: Place, *, now: dt.datetime) -> TrustedCa:
    """Read the certificates of authorities.

    Raises:
        InvalidInputError: The file is not readable, or none of its certificates is valid *now*.
    """
    pem = _read(place)
    ends = max(certificate.not_valid_after_utc for certificate in _certificates(place, pem))
    if ends <= now:
        raise InvalidInputError(place.field, f"{place.path} ended at {ends:%Y-%m-%d %H:%M} UTC", "renew it")
    return TrustedCa(pem, ends)


def _read(place: Place) -> bytes:
    try:
        with place.path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise InvalidInputError(
            place.field, f"{place.path} cannot be read ({exc.strerror})", "name a file that this process may read"
        ) from exc
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(place.field, f"{place.path} is larger than 1 MiB", "name a PEM file")
    return content


def _certificates(place: Place, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise InvalidInputError(place.field, f"{place.path} holds no certificate", "write it as PEM") from exc


def _check_validity(place: Place, certificate: x509.Certificate, now: dt.datetime) -> None:
    for moment, wrong, word in (
        (certificate.not_valid_after_utc, certificate.not_valid_after_utc <= now, "ended"),
        (certificate.not_valid_before_utc, certificate.not_valid_before_utc > now, "begins"),
    ):
        if wrong:
            raise InvalidInputError(place.field, f"{place.path} {word} at {moment:%Y-%m-%d %H:%M} UTC", "renew it")


# -- files that change -------------------------------------------------------------------------------------------------

Content = TypeVar("Content", KeyPair, TrustedCa)
Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Kept(Generic[Content]):
    """What some files hold; while they hold nothing usable, what they held before.

    Args:
        name: What logs and metrics call it.
        paths: The files.
        read: Reads and checks them; raises `InvalidInputError`.
        clock: Says what is valid now.
        metrics: Where it is counted.
    """

    def __init__(
        self,
        *,
        name: str,
        paths: tuple[Path, ...],
        read: Callable[[dt.datetime], Content],
        clock: Clock,
        metrics: TlsMetrics,
    ) -> None:
        self.name = name
        self.paths = paths
        self.content: Content | None = None
        self._read: Callable[[dt.datetime], Content] = read
        self._clock = clock
        self._metrics = metrics
        self._signature: Signature = ()
        self._refusal = ""

    @property
    def refusal(self) -> str:
        """Why the files on disk are not served; "" when they are."""
        return self._refusal

    def load(self) -> Content:
        """Read the files for the first time.

        Raises:
            InvalidInputError: They are not usable.
        """
        self._signature = self._sign()
        self.content = self._read(self._clock.now())
        self._took(self.content)
        return self.content

    def look(self) -> bool:
        """Read the files again if they changed or were refused; return whether there is something new to serve."""
        signature = self._sign()
        if signature == self._signature and not self._refusal:
            return False
        # Noted before reading: files that are replaced in between look changed again at the next look.
        self._signature = signature
        try:
            found = self._read(self._clock.now())
        except InvalidInputError as exc:
            self._refuse(str(exc))
            return False
        changed = found != self.content
        if changed or self._refusal:
            self._took(found)
        return changed

    def _took(self, content: Content) -> None:
        self.content = content
        self._refusal = ""
        self._metrics.refused.labels(self.name).set(0)
        self._metrics.expires.labels(self.name).set(content.ends.timestamp())
        self._metrics.reloads.labels(self.name).inc()
        log.info("certificate.taken", certificate=self.name, ends=content.ends.isoformat(timespec="seconds"))

    def _refuse(self, words: str) -> None:
        self._metrics.refused.labels(self.name).set(1)
        if words != self._refusal:
            kept = "the last good one is served on" if self.content is not None else "nothing is served under this name"
            log.warning("certificate.refused", certificate=self.name, words=words, kept=kept)
        self._refusal = words

    def _sign(self) -> Signature:
        return tuple(_signature(path) for path in self.paths)


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
