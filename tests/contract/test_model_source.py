"""The port `ModelSource`: what a worker says that it serves, or one line that says why nobody knows."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest

from controlplane.errors import UnavailableError
from controlplane.ports import ModelSource
from controlplane.provenance.client import MAX_ANSWER_BYTES, HttpModels
from controlplane.traffic.provenance import ModelReport
from tests.builders import make_pin, make_report, seconds
from tests.fakes import FakeModels

pytestmark = pytest.mark.integration

SOURCES: tuple[type[ModelSource], ...] = (HttpModels, FakeModels)  # mypy sits this exam

REPORT = make_report(pin=make_pin(code="1.2"))
MODEL = {"name": "v2", "checksum": make_pin().checksum, "version": "1", "family": "lab-colorizer", "backend": "onnx"}
GOOD = {"code_version": "1.2", "models": [MODEL | {"colour": "unknown to us"}], "more": 1}


@contextlib.asynccontextmanager
async def answering(body: bytes | None, *, status: str = "200 OK") -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a server that gives every request the same answer, or (None) none; yield its address and what it heard."""
    heard: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            if body is None:
                await reader.read()  # until the other side gives up
            else:
                head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                writer.write(head.encode() + body)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}", heard
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def sources(report: ModelReport) -> AsyncIterator[list[tuple[ModelSource, str]]]:
    """Yield the real adapter and the fake, each with the address of a worker that says *report*."""
    body = None if report.words else json.dumps(GOOD).encode()
    async with answering(body) as (address, _), HttpModels() as http:
        yield [(http, address), (FakeModels(report), report.address)]


async def test_a_worker_says_what_it_serves() -> None:
    async with sources(REPORT) as found:
        for source, address in found:
            assert await source.ask(address, host="worker:8083", within=seconds(10)) == (REPORT.models, "1.2")


async def test_silence_is_told_in_one_line() -> None:
    async with sources(make_report(words="it did not answer", at=None)) as found:
        for source, address in found:
            with pytest.raises(UnavailableError, match=r"^it did not answer[^\n]*$"):
                await source.ask(address, host="worker:8083", within=seconds(0.2))


async def test_the_worker_is_asked_under_its_own_name_at_the_address_given() -> None:
    async with answering(json.dumps(GOOD).encode()) as (address, heard), HttpModels() as http:
        await http.ask(address, host="worker.example:8083", within=seconds(10))
    assert heard[0].startswith(b"GET /models HTTP/1.1\r\n")
    assert b"host: worker.example:8083\r\n" in heard[0].lower()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("404 Not Found", b"{}", "answers GET /models with 404"),
        ("503 Service Unavailable", b'{"detail": "loading"}', "answers GET /models with 503"),
        ("301 Moved", json.dumps(GOOD).encode(), "answers GET /models with 301"),
        ("200 OK", b"<html>", "not understood"),
        ("200 OK", b"[]", "not understood"),
        ("200 OK", b'{"models": [{"name": "v2"}]}', "models.0.checksum: Field required"),
        ("200 OK", json.dumps({"models": [MODEL | {"checksum": "md5:1"}]}).encode(), "models.0.checksum"),
        ("200 OK", json.dumps({"models": [MODEL] * 65}).encode(), "at most 64"),
        ("200 OK", b" " * (MAX_ANSWER_BYTES + 1), "longer than 64 KiB"),
    ],
)
async def test_an_answer_that_is_none_is_told_in_one_line(status: str, body: bytes, words: str) -> None:
    async with answering(body, status=status) as (address, _), HttpModels() as http:
        with pytest.raises(UnavailableError, match=words) as refused:
            await http.ask(address, host=address, within=seconds(10))
    assert "\n" not in str(refused.value)


async def test_a_closed_port_cannot_be_reached() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with HttpModels() as http:
            with pytest.raises(UnavailableError, match="it cannot be reached"):
                await http.ask(address, host=address, within=seconds(10))
