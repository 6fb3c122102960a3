"""Server-sent events: one response class for everything that is told as it happens, and how many there may be.

Context: a stream may stay open for hours, its reader may be slow, asleep or gone, and an `EventSource` of a browser
cannot send an API key, so that clients here read streams with fetch. Choice: whoever has news is asked for the next
piece only when the last one was taken by the network, and holds no more than what is newest (`jobs.feed`); a reader
that takes nothing for `SLOW_AFTER` is cut off and comes back to the present state. Consequence: a stream costs one
batch of news, whatever its reader does.
"""

import asyncio
import collections
import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final, TypeAlias

import structlog
from fastapi import Response
from fastapi.sse import format_sse_event
from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.types import Receive, Scope, Send

from controlplane.errors import ForbiddenError, NotFoundError, TooManyError, UnauthorizedError, UnavailableError

log = structlog.get_logger(__name__)

MAX_STREAMS: Final = 500
MAX_STREAMS_EACH: Final = 8
KEEP_ALIVE: Final = dt.timedelta(seconds=15)
"""How long a stream may be silent before a comment is sent, which proxies and readers take for life."""
SLOW_AFTER: Final = dt.timedelta(seconds=10)
"""A reader that takes nothing for so long is cut off."""
ASK_AGAIN: Final = 4
"""Comments between two looks at whether the key is still good: a minute of silence, or that much news."""
RETRY_MS: Final = 2000
"""When an `EventSource` comes back."""
MEDIA_TYPE: Final = "text/event-stream"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One event: *data* is JSON on one line; what has an *id* can be gone on from (``Last-Event-ID``)."""

    name: str
    data: str
    id: str | None = None

    def encode(self) -> bytes:
        """Write it as it goes over the wire."""
        return format_sse_event(event=self.name, data_str=self.data, id=self.id)


News: TypeAlias = AsyncGenerator[Event | bytes | None, None]
"""Events in order, or several as they go over the wire; None when there was none for `KEEP_ALIVE`.

Its end is the stream's. A TimeoutError says that the reader is too slow.
"""
StillGood: TypeAlias = Callable[[], Awaitable[object]]
"""Raises UnauthorizedError or ForbiddenError when the reader may no longer read."""


class Streams:
    """Counts who reads what, since each stream is a connection and a place in somebody's list."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._open: collections.Counter[str] = collections.Counter()
        open_now = Gauge("hueshift_api_event_streams", "Event streams that are open.", registry=registry)
        open_now.set_function(self._open.total)
        self._cut = Counter(
            "hueshift_api_event_streams_cut", "Event streams cut off since nobody read them.", registry=registry
        )

    def open(self, reader: str, news: News, *, still_good: StillGood, most_each: int | None = None) -> "EventStream":
        """Return the answer that tells *news* to *reader*; it counts from now on until it was sent.

        Raises:
            TooManyError: This reader has *most_each* (by default `MAX_STREAMS_EACH`) already.
            UnavailableError: All together have `MAX_STREAMS`.
        """
        most_each = MAX_STREAMS_EACH if most_each is None else most_each
        if self._open[reader] >= most_each:
            raise TooManyError(f"{reader} follows {most_each} event streams already; close one, then ask again")
        if self._open.total() >= MAX_STREAMS:
            raise UnavailableError(f"{MAX_STREAMS} event streams are open already; ask again in a moment")
        self._open[reader] += 1
        return EventStream(news, still_good=still_good, cut=self._cut.inc, counted=self._counted(reader))

    @contextlib.contextmanager
    def _counted(self, reader: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._open[reader] -= 1
            if not self._open[reader]:
                del self._open[reader]


class EventStream(Response):
    """An answer that goes on until there are no news any more, or nobody reads them."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        news: News,
        *,
        still_good: StillGood,
        cut: Callable[[], None],
        counted: contextlib.AbstractContextManager[None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._news = news
        self._still_good = still_good
        self._cut = cut
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the news end, the reader leaves, or does not read."""
        del scope
        with self._counted:
            async with contextlib.aclosing(self._news), asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell(send), name="events")
                leaving = tasks.create_task(_wait_left(receive), name="reader")
                await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
                telling.cancel()
                leaving.cancel()

    async def _tell(self, send: Send) -> None:
        try:
            await _send(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._tell_all(send)
            await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:  # without an end the server closes the connection
            self._cut()
            log.info("stream.cut", words=f"took nothing for {SLOW_AFTER.total_seconds():g} s, or fell behind")

    async def _tell_all(self, send: Send) -> None:
        body = {"type": "http.response.body", "more_body": True}
        await _send(send, body | {"body": format_sse_event(retry=RETRY_MS)})
        turns = 0
        async for event in self._news:
            turns += 1
            if turns % ASK_AGAIN == 0:
                try:
                    await self._still_good()
                except (UnauthorizedError, ForbiddenError, NotFoundError, UnavailableError):
                    return
            await _send(send, body | {"body": _encoded(event)})


def _encoded(news: Event | bytes | None) -> bytes:
    match news:
        case None:
            return b": still here\n\n"
        case Event():
            return news.encode()
        case _:
            return news


async def _send(send: Send, message: dict[str, object]) -> None:
    """Send; raises TimeoutError when the network does not take it, since nobody reads at the other end."""
    async with asyncio.timeout(SLOW_AFTER.total_seconds()):
        await send(message)


async def _wait_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
