"""Event streams: bounded in number, alive while silent, cut off when nobody reads them, ended with their news."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controlplane.api import sse
from controlplane.api.sse import Event, EventStream, News, Streams
from controlplane.errors import TooManyError, UnauthorizedError, UnavailableError


class Reader:
    """The other end of a response: takes what is sent, until it leaves or does not read on."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.is_stuck = False
        self._arrived = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.is_stuck:
            await asyncio.Event().wait()
        self.messages.append(dict(message))
        self._arrived.set()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    @property
    def has_end(self) -> bool:
        return self.messages[-1].get("more_body") is False

    async def wait_text(self, wanted: str) -> None:
        async with asyncio.timeout(10):
            while wanted not in self.text:
                self._arrived.clear()
                await self._arrived.wait()

    async def read(self, stream: EventStream) -> None:
        async with asyncio.timeout(10):
            await stream({"type": "http"}, self.receive, self.send)


async def always() -> None:
    """The key is good."""


async def two_and_a_pause() -> News:
    yield Event("job", '{"state": "waiting"}', "a1")
    yield None
    yield Event("job", '{"state": "done"}')


class Endless:
    """News that never end; knows whether they are still asked for."""

    def __init__(self) -> None:
        self.is_open = False

    async def news(self) -> News:
        self.is_open = True
        try:
            yield Event("job", "{}")
            await asyncio.Event().wait()
        finally:
            self.is_open = False


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def streams(registry: CollectorRegistry) -> Streams:
    return Streams(registry)


def is_open(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("hueshift_api_event_streams")


async def test_events_go_out_as_the_standard_writes_them(streams: Streams) -> None:
    reader = Reader()
    await reader.read(streams.open("ada", two_and_a_pause(), still_good=always))
    start, *_ = reader.messages
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (200, b"text/event-stream; charset=utf-8")
    assert (headers[b"cache-control"], headers[b"x-accel-buffering"]) == (b"no-store", b"no")
    assert b"content-length" not in headers
    assert reader.text == (
        "retry: 2000\n\n"
        'event: job\ndata: {"state": "waiting"}\nid: a1\n\n'
        ": still here\n\n"
        'event: job\ndata: {"state": "done"}\n\n'
    )
    assert reader.has_end


async def test_a_reader_who_leaves_ends_the_news(streams: Streams, registry: CollectorRegistry) -> None:
    endless, reader = Endless(), Reader()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reader.read(streams.open("ada", endless.news(), still_good=always)))
        await reader.wait_text("event: job")
        assert (endless.is_open, is_open(registry)) == (True, 1)
        reader.left.set()
    assert (endless.is_open, is_open(registry)) == (False, 0)


async def test_a_reader_who_takes_nothing_is_cut_off(
    streams: Streams, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "SLOW_AFTER", dt.timedelta(milliseconds=20))
    endless, reader = Endless(), Reader()
    reader.is_stuck = True
    await reader.read(streams.open("ada", endless.news(), still_good=always))
    assert not endless.is_open
    assert reader.messages == [], "no proper end: the server closes the connection"
    assert registry.get_sample_value("hueshift_api_event_streams_cut_total") == 1
    assert is_open(registry) == 0


async def test_a_key_that_is_revoked_ends_the_stream(streams: Streams) -> None:
    async def for_ever() -> News:
        while True:
            yield Event("job", "{}")

    async def never() -> None:
        raise UnauthorizedError("revoked")

    reader = Reader()
    await reader.read(streams.open("ada", for_ever(), still_good=never))
    assert reader.text.count("event: job") < sse.ASK_AGAIN
    assert reader.has_end


async def test_each_reader_and_all_together_have_a_limit(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_STREAMS_EACH", 2)
    monkeypatch.setattr(sse, "MAX_STREAMS", 3)
    async with reading(streams, "ada") as leave:
        async with reading(streams, "ada"):
            with pytest.raises(TooManyError, match="ada follows 2 event streams already"):
                streams.open("ada", two_and_a_pause(), still_good=always)
            async with reading(streams, "bob"):
                with pytest.raises(UnavailableError, match="3 event streams are open already"):
                    streams.open("cleo", two_and_a_pause(), still_good=always)
            await Reader().read(streams.open("cleo", two_and_a_pause(), still_good=always))
        leave.set()
    await Reader().read(streams.open("ada", two_and_a_pause(), still_good=always))


@contextlib.asynccontextmanager
async def reading(streams: Streams, name: str) -> AsyncIterator[asyncio.Event]:
    reader = Reader()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reader.read(streams.open(name, Endless().news(), still_good=always)))
        await reader.wait_text("event: job")
        yield reader.left
        reader.left.set()
