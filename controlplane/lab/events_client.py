"""A hundred readers of the event stream, as cheaply as Python can: the other end of `bench events`.

Runs in a process of its own and is told what to do in JSON lines. A reader counts the ids that come and compares the
oldest event of each piece with the clock; a slow one takes what comes with its connection, and then nothing.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import functools
import gc
import json
import re
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

from controlplane.clock import Clock, SystemClock
from controlplane.lab.child import read_lines, say
from controlplane.lab.events_server import MADE
from controlplane.lab.fanout_client import use_core

EVENT: Final = b"event: split\n"
LIVE: Final = b"event: live\n"
_MADE: Final = re.compile(MADE.encode() + rb"([0-9.]+)")
SMALL_BUFFER: Final = 4096
POLL: Final = dt.timedelta(milliseconds=20)


@dataclasses.dataclass(slots=True)
class Seen:
    """What all readers together have seen."""

    latencies_s: list[float] = dataclasses.field(default_factory=list)
    live: int = 0
    closed_slow: int = 0
    closed_quick: int = 0
    bytes: int = 0


class Reader(asyncio.Protocol):
    """One connection."""

    def __init__(self, seen: Seen, clock: Clock, request: bytes, *, is_slow: bool) -> None:
        self.count = 0
        self.is_slow = is_slow
        self._seen = seen
        self._clock = clock
        self._request = request
        self._rest = b""
        self._is_live = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count what came; an event may come in two pieces, and is counted where its first line ends."""
        self._seen.bytes += len(data)
        whole = self._rest + data
        self._rest = whole[-len(EVENT) + 1 :]
        self.count += whole.count(EVENT)
        if not self._is_live and LIVE in whole:
            self._is_live = True
            self._seen.live += 1
            if self.is_slow and self._transport is not None:
                self._transport.pause_reading()
        found = _MADE.search(data)
        if found and not self.is_slow:
            self._seen.latencies_s.append(self._clock.steady() - float(found[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it is over."""
        del exc
        if self.is_slow:
            self._seen.closed_slow += 1
        else:
            self._seen.closed_quick += 1

    def resume(self) -> None:
        """Take what is there, so that the end of the connection is noticed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Does what it is told."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = Seen()
        self._readers: list[Reader] = []

    async def run(self) -> None:
        """Obey until standard input is closed."""
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            obeying = tasks.create_task(self._obey(lines))
            await read_lines(lines.put_nowait)
            obeying.cancel()

    async def _obey(self, lines: "asyncio.Queue[bytes]") -> None:
        while True:
            order = json.loads(await lines.get())
            match order.pop("do"):
                case "connect":
                    say(await self._connect(**order))
                case "wait":
                    say(await self._wait(**order))
                case "report":
                    say(await self._report())
                case unknown:
                    say({"error": f"do: {unknown!r} is not known"})

    async def _connect(self, *, port: int, keys: list[str], readers: int, slow: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        for number in range(readers + slow):
            is_slow = number >= readers
            request = (
                f"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {keys[number % len(keys)]}\r\n\r\n"
            ).encode()
            reader = Reader(self._seen, self._clock, request, is_slow=is_slow)
            connection = socket.socket()
            if is_slow:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.create_connection(functools.partial(_same, reader), sock=connection)
            self._readers.append(reader)
        while self._seen.live < readers + slow:
            if self._seen.closed_quick or self._seen.closed_slow:
                return {"error": "the server closed a stream at once"}
            await self._clock.sleep(POLL)
        return {}

    async def _wait(self, *, events: int, within_s: float) -> dict[str, Any]:
        """Wait until every quick reader has *events* events, or the time is over."""
        give_up = self._clock.steady() + within_s
        while self._clock.steady() < give_up and any(reader.count < events for reader in self._quick):
            await self._clock.sleep(POLL)
        counts = [reader.count for reader in self._quick]
        return {"least": min(counts), "most": max(counts)}

    async def _report(self) -> dict[str, Any]:
        """Say what was seen, having looked which of the slow ones' connections are closed."""
        for reader in self._readers:
            if reader.is_slow:
                reader.resume()
        await self._clock.sleep(dt.timedelta(seconds=1))
        seen = dataclasses.asdict(self._seen)
        for reader in self._readers:
            reader.close()
        return seen

    @property
    def _quick(self) -> list[Reader]:
        return [reader for reader in self._readers if not reader.is_slow]


def _same(reader: Reader) -> Reader:
    return reader


def main(argv: Sequence[str] | None = None) -> int:
    """Obey orders on standard input until it is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, required=True, help="the core to run on")
    use_core(parser.parse_args(argv).core)
    gc.disable()  # a pause here would be taken for one of the server; what is made here is freed by counting
    asyncio.run(Client(SystemClock()).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
