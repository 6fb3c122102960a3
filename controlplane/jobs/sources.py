"""Pure: which addresses a stranger may have us ask. Names are checked first, addresses when they are resolved.

A server that fetches what it is told to, or calls back where it is told to, can be told to ask its own network:
metadata services, admin pages, databases. So only hosts of a list are asked at all, and whatever their names resolve to
must be public, or of a network that the operator has named. The second check is made on the very address that is then
connected to: a name that changes its address in between (DNS rebinding) gains nothing. Redirects are new addresses, and
checked as such.
"""

import dataclasses
import ipaddress
import urllib.parse
from collections.abc import Iterable
from typing import Final, TypeAlias

from controlplane.errors import InvalidInputError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ALLOWED_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")


@dataclasses.dataclass(frozen=True, slots=True)
class AllowedSources:
    """What may be asked.

    Args:
        hosts: Names, ``photos.example.org``; ``*.example.org`` is every name below that one; ``host:8080`` allows that
            port, instead of the usual two.
        networks: Networks beside the public ones that names may lead to.
        field: What refusals call the address.
        settings: The beginning of the names of the two settings.
        closed: What is said where no host is allowed: the problem, and what to do.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    field: str = "image_url"
    settings: str = "HUESHIFT_IMAGE"
    closed: tuple[str, str] = (
        "photos are not fetched here",
        "send the photo itself, or have HUESHIFT_IMAGE_HOSTS set",
    )

    def check_url(self, url: str) -> None:
        """Refuse a URL that may not be fetched.

        Raises:
            InvalidInputError: It is no such URL; the text does not repeat it, since it may hold a secret.
        """
        if not self.hosts:
            raise self._refusal(*self.closed)
        if not url.isascii() or not url.isprintable() or any(char in url for char in ' \\"<>^`{|}'):
            raise self._refusal("has characters that no URL has", "percent-encode them")
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError:
            raise self._refusal("is no URL", "write it like https://HOST/PATH") from None
        if parts.scheme not in PORTS or not parts.hostname:
            raise self._refusal("is no http or https URL", "write it like https://HOST/PATH")
        if "@" in parts.netloc:
            raise self._refusal("carries a user's name", "use an address without one")
        host = parts.hostname.removesuffix(".")
        if not set(host) <= _ALLOWED_CHARS or not self.allows_host(host, port or PORTS[parts.scheme]):
            raise self._refusal("leads to a host that is not allowed", f"use a host of {self.settings}_HOSTS")

    def allows_address(self, text: str) -> bool:
        """Whether what a name has resolved to may be connected to."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        address = _inner(address)
        return is_public(address) or any(address in network for network in self.networks)

    def allows_host(self, host: str, port: int, *, usual: Iterable[int] = tuple(PORTS.values())) -> bool:
        """Whether *host* may be asked at *port*; an entry without a port means the *usual* ones."""
        for entry in self.hosts:
            name, _, chosen = entry.partition(":")
            if port not in ((int(chosen),) if chosen else usual):
                continue
            if host == name or (name.startswith("*.") and host.endswith(name[1:])):
                return True
        return False

    def _refusal(self, problem: str, fix: str) -> InvalidInputError:
        return InvalidInputError(self.field, problem, fix)


def is_public(address: Address) -> bool:
    """Whether *address* is anybody's on the Internet: not ours, not this machine's, not special."""
    special = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or (isinstance(address, ipaddress.IPv6Address) and (address.is_site_local or address.teredo is not None))
    )
    return address.is_global and not special


def _inner(address: Address) -> Address:
    """Return the IPv4 address inside one of IPv6 that leads to it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def read_sources(hosts: str, networks: str, settings: str = "HUESHIFT_IMAGE") -> AllowedSources:
    """Read the two settings, comma-separated lists; *settings* is how their names begin.

    Raises:
        InvalidInputError: An entry is no host or no network; the text names the setting.
    """
    names = tuple(name.strip().lower() for name in hosts.split(",") if name.strip())
    for name in names:
        host, _, port = name.partition(":")
        bare = host.removeprefix("*.")
        if (
            not bare
            or not set(bare) <= _ALLOWED_CHARS
            or (":" in name and not (port.isdigit() and 0 < int(port) < 65536))
        ):
            raise InvalidInputError(f"{settings}_HOSTS", f"{name!r} is no host", "write hosts like photos.example.org")
    found: list[Network] = []
    for text in (each.strip() for each in networks.split(",") if each.strip()):
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError:
            raise InvalidInputError(
                f"{settings}_NETWORKS", f"{text!r} is no network", "write networks like 10.1.0.0/16"
            ) from None
    return AllowedSources(names, tuple(found))


def read_callback_sources(hosts: str, networks: str) -> AllowedSources:
    """Read the two settings about callbacks; raises as `read_sources` does."""
    read = read_sources(hosts, networks, "HUESHIFT_CALLBACK")
    closed = ("is not called from here", "have HUESHIFT_CALLBACK_HOSTS name its host")
    return dataclasses.replace(read, field="callback_url", settings="HUESHIFT_CALLBACK", closed=closed)
