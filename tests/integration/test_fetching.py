"""Photos from a real server on loopback: followed, bounded, and refused where the address is not public."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from controlplane.calls import fetching
from controlplane.calls.fetching import HttpPhotos
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.ports import PhotoSource
from controlplane.jobs.sources import read_sources
from tests.job_builders import PHOTO

pytestmark = pytest.mark.integration

IS_A_SOURCE: type[PhotoSource] = HttpPhotos  # mypy sits this exam

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class PhotoServer:
    """Answers each path as a test says, in bytes."""

    def __init__(self) -> None:
        self.port = 0
        self.paths: dict[str, bytes | Answer] = {}
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            answer = self.paths[head.split()[1].decode()]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()

    def redirect(self, to: str) -> bytes:
        return f"HTTP/1.1 302 -\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n".encode()


def ok(content: bytes) -> bytes:
    return b"HTTP/1.1 200 -\r\ncontent-length: %d\r\n\r\n%s" % (len(content), content)


@pytest.fixture
async def server() -> AsyncIterator[PhotoServer]:
    photos = PhotoServer()
    async with await asyncio.start_server(photos.serve, "127.0.0.1", 0) as listening:
        photos.port = listening.sockets[0].getsockname()[1]
        yield photos


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Have every name resolve to the first of *answers*, then to the next: what a DNS server of the enemy's does."""
    left = list(answers)

    async def resolve(_: object, host: str, port: int, **__: Any) -> list[Any]:
        del host
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)


@contextlib.asynccontextmanager
async def fetching_from(server: PhotoServer, networks: str = "127.0.0.0/8") -> AsyncIterator[Callable[[str], Any]]:
    hosts = f"localhost:{server.port}, photos.example.org:{server.port}"
    async with HttpPhotos(read_sources(hosts, networks)) as photos:
        yield lambda path: photos.fetch(f"http://localhost:{server.port}{path}")


async def test_a_photo_is_fetched_plainly_and_through_redirects(server: PhotoServer) -> None:
    server.paths = {
        "/1.jpg": ok(PHOTO),
        "/a": server.redirect("/b"),
        "/b": server.redirect(f"http://localhost:{server.port}/1.jpg"),
    }
    async with fetching_from(server) as fetch:
        assert await fetch("/1.jpg") == PHOTO
        assert await fetch("/a") == PHOTO
    assert b"accept-encoding: identity" in server.requests[0].lower()
    assert b"authorization" not in server.requests[0].lower()
    assert b"cookie" not in server.requests[0].lower()


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "//metadata.google.internal/",
        "file:///etc/passwd",
        "http://localhost:1/",
        "http://localhost@evil.com/",
        "",
        "/again",
    ],
)
async def test_a_redirect_is_an_address_like_any_other(server: PhotoServer, to: str) -> None:
    server.paths = {"/again": server.redirect(to)}
    async with fetching_from(server) as fetch:
        with pytest.raises(InvalidInputError, match="image_url"):
            await fetch("/again")


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["10.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::1"], []],
)
async def test_a_name_that_leads_to_an_address_of_ours_is_not_asked(
    server: PhotoServer, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    names(monkeypatch, addresses)
    async with fetching_from(server, networks="") as fetch:
        with pytest.raises(InvalidInputError, match="is not public"):
            await fetch("/1.jpg")
    assert server.requests == []


async def test_a_name_that_changes_its_address_is_connected_to_at_the_one_that_was_checked(
    server: PhotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a second look-up would lead elsewhere; the next fetch makes it, and is refused."""
    server.paths = {"/1.jpg": ok(PHOTO)}
    names(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    async with fetching_from(server) as fetch:
        assert await fetch("/1.jpg") == PHOTO
        with pytest.raises(InvalidInputError, match="is not public"):
            await fetch("/1.jpg")


async def test_a_body_without_end_is_cut_off(server: PhotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_PHOTO_BYTES", 100_000)

    async def pour(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 -\r\nconnection: close\r\n\r\n")
        while True:
            writer.write(bytes(10_000))
            await writer.drain()

    server.paths = {"/1.jpg": pour}
    async with fetching_from(server) as fetch:
        with pytest.raises(InvalidInputError, match="is too large"):
            await fetch("/1.jpg")


async def test_a_server_that_takes_its_time_is_left(server: PhotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.3)

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 -\r\ncontent-length: 1000000\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    server.paths = {"/1.jpg": drip}
    async with fetching_from(server) as fetch:
        with pytest.raises(UnavailableError, match="image_url"):
            await fetch("/1.jpg")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 404 -\r\ncontent-length: 0\r\n\r\n", InvalidInputError),
        (b"HTTP/1.1 500 -\r\ncontent-length: 0\r\n\r\n", UnavailableError),
        (b"HTTP/1.1 200 -\r\ncontent-length: 10\r\n\r\nshort", UnavailableError),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", UnavailableError),
    ],
)
async def test_what_is_no_photo_there_is_said_without_the_address(
    server: PhotoServer, answer: bytes, kind: type[Exception]
) -> None:
    server.paths = {"/secret-token": answer}
    async with fetching_from(server) as fetch:
        with pytest.raises(kind, match="image_url") as refused:
            await fetch("/secret-token")
    assert "secret" not in str(refused.value)
