"""Authorities and certificates for tests: valid, expired, or somebody else's, with DNS and SPIFFE names."""

import asyncio
import dataclasses
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.clock import SystemClock

DAY = dt.timedelta(days=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    @property
    def serial(self) -> int:
        """The certificate's serial number: tells one from the next."""
        return x509.load_pem_x509_certificate(self.certificate).serial_number

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write both files as an ACME client would, each by a rename; return where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        found = (folder / f"{name}.crt", folder / f"{name}.key")
        for path, content in zip(found, (self.certificate, self.key), strict=True):
            replace_file(path, content)
        return found


def replace_file(path: Path, content: bytes) -> None:
    """Write *path* so that nobody reads half of it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)


class Authority:
    """A certificate authority that lives as long as its test."""

    def __init__(self) -> None:
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.certificate = self._ca.cert_pem.bytes()
        self._certificate = x509.load_pem_x509_certificate(self.certificate)
        key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def write(self, folder: Path, name: str = "ca.crt") -> Path:
        """Write the authority's own certificate; return where it is."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / name, self.certificate)
        return folder / name

    def issue(
        self,
        *names: str,
        common_name: str = "",
        starts: dt.timedelta = -DAY,
        ends: dt.timedelta = DAY,
        now: dt.datetime | None = None,
    ) -> Pair:
        """Return a certificate for DNS names, IP addresses and URIs; it is valid between two offsets from *now*."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = now or SystemClock().now()
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + starts)
            .not_valid_after(now + ends)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=not subject)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def _alternative(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


async def shown_serial(
    port: int, authority: Authority, *, folder: Path, client: Pair | None = None, name: str = "xds.test"
) -> int:
    """Return the serial number of the certificate that a loopback *port* shows to a new connection."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if client is not None:
        context.load_cert_chain(*client.write(folder, "client"))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown).serial_number
    finally:
        writer.transport.abort()
