"""Where ComfyUI may be: this machine or the own network, because its API lets everyone who reaches it run code."""

import asyncio
import dataclasses
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from inference_worker.comfyui.errors import UnreachableError
from inference_worker.errors import SettingError

Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

OWN: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
"""Loopback, RFC 1918 and RFC 4193. Link-local is left out: clouds answer there with their credentials."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A ComfyUI's place, and the networks that it may be in."""

    scheme: str
    host: str
    port: int
    prefix: str
    allowed: tuple[Network, ...]

    @property
    def http_url(self) -> str:
        """The root of the API, without a slash at the end."""
        return f"{self.scheme}://{self._netloc}{self.prefix}"

    @property
    def ws_url(self) -> str:
        """Where events come from."""
        return f"{'wss' if self.scheme == 'https' else 'ws'}://{self._netloc}{self.prefix}/ws"

    @property
    def _netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def check_ip(self, text: str) -> None:
        """Refuse an address outside the allowed networks.

        Raises:
            SettingError: It is outside; the message names it and the flag that would allow it.
        """
        ip: Ip = ipaddress.ip_address(text)
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if not any(ip in network for network in self.allowed):
            raise SettingError(
                f"--comfyui-url: {self.host} is at {ip}, neither this machine nor a private network; "
                f"ComfyUI's API runs what it is sent, so keep it there, or give --comfyui-allow {ip}"
            )

    async def check(self) -> None:
        """Look the host up and check every address; done anew for each connection, since names move.

        Raises:
            SettingError: An address is outside the allowed networks.
            UnreachableError: The name has no address now.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise UnreachableError(f"comfyui: the name {self.host} has no address now") from exc
        for *_, place in found:
            self.check_ip(str(place[0]).partition("%")[0])


def read_address(url: str, allow: Sequence[str] = ()) -> Address:
    """Take a URL apart; a literal address is checked at once, a name when it is connected to.

    Args:
        url: `http://HOST[:PORT][/PREFIX]`, or https.
        allow: Further networks, as addresses or in CIDR notation.

    Raises:
        SettingError: Not such a URL or network, or an address outside the allowed networks.
    """
    try:
        networks = tuple(ipaddress.ip_network(text) for text in allow)
    except ValueError as exc:
        raise SettingError(f"--comfyui-allow: {exc}; give an address or a network such as 192.0.2.0/24") from exc
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise SettingError(f"--comfyui-url: {url!r} is no URL ({exc})") from exc
    if parts.scheme not in DEFAULT_PORTS or not host or parts.username is not None or parts.query or parts.fragment:
        raise SettingError(
            f"--comfyui-url: {url!r} will not do; give http://HOST:PORT, without user, query or fragment"
        )
    address = Address(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"), OWN + networks)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return address
    address.check_ip(host)
    return address
