"""The port `PhotoSource`: photos from the hosts of a list, by httpcore, whose connections we make ourselves.

httpcore follows no redirect, knows no proxy, keeps no cookie and unpacks nothing, which is what is wanted here: each
hop is checked as the first one was, and bytes are counted as they come.
"""

import asyncio
import socket
import urllib.parse
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

import httpcore

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.sources import AllowedSources
from controlplane.pictures.facts import MAX_PHOTO_BYTES

TIMEOUT_S: Final = 30.0
CONNECT_S: Final = 5.0
MAX_HOPS: Final = 4
MAX_CONNECTIONS: Final = 16
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({400, 401, 403, 404, 405, 410, 414, 451})


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to no name."""

    def __init__(self, sources: AllowedSources) -> None:
        self._sources = sources
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise UnavailableError("image_url: its host has no address now") from exc
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not addresses or not all(map(self._sources.allows_address, addresses)):
            raise InvalidInputError("image_url", "leads to an address that is not public", "use a public one")
        return await self._inner.connect_tcp(addresses[0], port, timeout, local_address, socket_options)


class HttpPhotos:
    """Fetches photos. Close it, or use it as a context manager."""

    def __init__(self, sources: AllowedSources) -> None:
        self._sources = sources
        self._pool = httpcore.AsyncConnectionPool(
            network_backend=_Guarded(sources), max_connections=MAX_CONNECTIONS, max_keepalive_connections=0
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    def check(self, url: str) -> None:
        self._sources.check_url(url)

    async def fetch(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._follow(url)
        except TimeoutError as exc:
            raise UnavailableError(f"image_url: not fetched within {TIMEOUT_S:g} s") from exc
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.UnsupportedProtocol,
        ) as exc:
            raise UnavailableError(f"image_url: its host does not answer ({type(exc).__name__})") from exc

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_HOPS):
            self._sources.check_url(url)
            content, onward = await self._ask(url)
            if onward is None:
                return content
            url = urllib.parse.urljoin(url, onward)
        raise InvalidInputError("image_url", "redirects without end", "use the last address")

    async def _ask(self, url: str) -> tuple[bytes, str | None]:
        """Return what is there, or where it says that it is."""
        headers = [("accept", "image/*"), ("accept-encoding", "identity"), ("user-agent", "hueshift")]
        spans = {"connect": CONNECT_S, "read": TIMEOUT_S, "write": TIMEOUT_S, "pool": TIMEOUT_S}
        async with self._pool.stream("GET", url, headers=headers, extensions={"timeout": spans}) as response:
            if response.status in _REDIRECTS:
                return b"", _header(response, b"location").decode("ascii", "replace")
            if response.status in _GONE:
                raise InvalidInputError(
                    "image_url", f"its host answers {response.status}", "use an address that is there"
                )
            if response.status != 200:
                raise UnavailableError(f"image_url: its host answers {response.status}")
            read = bytearray()
            async for part in response.aiter_stream():
                read += part
                if len(read) > MAX_PHOTO_BYTES:
                    raise InvalidInputError(
                        "image_url", "is too large", f"use a photo of at most {MAX_PHOTO_BYTES} bytes"
                    )
            return bytes(read), None


def _header(response: httpcore.Response, name: bytes) -> bytes:
    return next((value for key, value in response.headers if key.lower() == name), b"")
