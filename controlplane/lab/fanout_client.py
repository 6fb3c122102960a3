"""Many discovery streams, each on its own connection, as cheaply as Python can: the other end of `bench fanout`.

Runs in a process of its own and is told what to do in JSON lines. A stream acknowledges every response at once and
notes when it came; the acknowledgement of a response is built when the first stream gets it, and shared.
"""

import argparse
import asyncio
import dataclasses
import gc
import json
import os
import resource
import sys
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.clock import Clock, SystemClock
from controlplane.lab import h2_opening
from controlplane.lab.child import read_lines, say
from controlplane.xds.kinds import Kind
from controlplane.xds.lean import frames
from controlplane.xds.streams import ADS

Mode: TypeAlias = Literal["sotw", "delta"]

PATHS: Final[dict[Mode, str]] = {
    "sotw": f"/{ADS}/StreamAggregatedResources",
    "delta": f"/{ADS}/DeltaAggregatedResources",
}

MAX_REMEMBERED: Final = 10_000

SPARE_FILES: Final = 200
"""Descriptors beside the streams' own."""


def raise_file_limit(streams: int) -> None:
    """Let this process have *streams* connections.

    Raises:
        ValueError: The machine does not allow that many.
    """
    wanted = streams + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ValueError(f"{streams} streams need {wanted} open files, the limit is {hard}: raise `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def use_core(core: int) -> None:
    """Keep this process on one core, where the machine has several and lets us choose."""
    if hasattr(os, "sched_setaffinity") and core in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {core})


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """What every stream asks for: names per kind, in this order; no names means everything."""

    mode: Mode
    names: dict[Kind, tuple[str, ...]]

    def first(self, node: str) -> tuple[bytes, ...]:
        """Return the first requests of *node*."""
        who = base_pb2.Node(id=node, cluster="bench", user_agent_name="envoy")
        requests = []
        for number, (kind, names) in enumerate(self.names.items()):
            request = self._request(kind, names)
            if number == 0:
                request.node.CopyFrom(who)
            requests.append(bytes(request.SerializeToString()))
        return tuple(requests)

    def acknowledgement(self, response: Any) -> bytes:
        """Return the answer to *response*."""
        kind = next(kind for kind in self.names if kind.type_url == response.type_url)
        request = self._request(kind, () if self.mode == "delta" else self.names[kind])
        request.response_nonce = response.nonce
        if self.mode == "sotw":
            request.version_info = response.version_info
        return bytes(request.SerializeToString())

    def read(self, body: bytes) -> tuple[str, str, Any]:
        """Return the type, the version and the message of a response."""
        if self.mode == "delta":
            delta = discovery_pb2.DeltaDiscoveryResponse.FromString(body)
            return delta.type_url, delta.system_version_info, delta
        response = discovery_pb2.DiscoveryResponse.FromString(body)
        return response.type_url, response.version_info, response

    def _request(self, kind: Kind, names: Sequence[str]) -> Any:
        if self.mode == "delta":
            return discovery_pb2.DeltaDiscoveryRequest(type_url=kind.type_url, resource_names_subscribe=names)
        return discovery_pb2.DiscoveryRequest(type_url=kind.type_url, resource_names=names)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a response means to every stream that gets it: its version, if it is of routes, and the frame to answer."""

    version: str | None
    frame: bytes
    size: int


class Crowd:
    """All streams, and when each version of the routes came to how many of them."""

    def __init__(self, asking: Asking, clock: Clock) -> None:
        self.clock = clock
        self.asking = asking
        self.open: set[HandStream] = set()
        self.arrivals: dict[str, list[float]] = {}
        self.sizes: dict[str, int] = {}
        self.lost = 0
        self.words = ""
        self._awaited = 0
        self._answers: dict[bytes, Answer] = {}
        self._changed = asyncio.Event()

    def answer(self, body: bytes) -> Answer:
        """Return what *body* means."""
        found = self._answers.get(body)
        if found is None:
            type_url, version, response = self.asking.read(body)
            is_routes = type_url == Kind.RDS.type_url
            frame = h2_opening.message(self.asking.acknowledgement(response))
            found = Answer(version if is_routes else None, frame, len(body))
            if len(self._answers) >= MAX_REMEMBERED:
                self._answers.clear()
            self._answers[body] = found
        return found

    def arrived(self, answer: Answer, at: float) -> None:
        """Note that a stream got new routes."""
        if answer.version is None:
            return
        times = self.arrivals.get(answer.version)
        if times is None:
            times = self.arrivals[answer.version] = []
            self.sizes[answer.version] = answer.size
        times.append(at)
        if len(times) >= self._awaited:
            self._changed.set()

    def gone(self, stream: "HandStream", words: str) -> None:
        """Note that a stream ended."""
        if stream in self.open:
            self.open.discard(stream)
            if not stream.is_leaving:
                self.lost += 1
                self.words = self.words or words
            self._changed.set()

    async def wait_all(self, *, other_than: str, least: int, within_s: float) -> str:
        """Wait until *least* streams, or all that are left, have one version that is not *other_than*; return it."""
        self._awaited = least
        try:
            async with asyncio.timeout(within_s):
                while True:
                    for version, times in self.arrivals.items():
                        if version != other_than and len(times) >= min(least, max(1, len(self.open))):
                            return version
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return ""

    async def wait_none(self, within_s: float) -> None:
        """Wait until every stream is gone."""
        async with asyncio.timeout(within_s):
            while self.open:
                self._changed.clear()
                await self._changed.wait()


class HandStream(asyncio.Protocol):
    """One stream on one connection."""

    def __init__(self, crowd: Crowd, opening: bytes) -> None:
        self.is_leaving = False
        self._crowd = crowd
        self._opening = opening
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._message = b""
        self._received = 0
        self._waiting: list[bytes] = []
        self._credit = frames.DEFAULT_WINDOW
        self._stream_credit = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        self._transport = transport
        self._crowd.open.add(self)
        transport.write(self._opening)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.gone(self, str(exc or "the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= frames.HEAD_SIZE:
            stop = at + frames.HEAD_SIZE + int.from_bytes(data[at : at + 3], "big")
            if stop > end:
                break
            kind, flags = data[at + 3], data[at + 4]
            payload = data[at + frames.HEAD_SIZE : stop]
            at = stop
            if kind == frames.DATA:
                self._on_data(payload)
            else:
                stream = int.from_bytes(data[stop - len(payload) - 4 : stop - len(payload)], "big")
                self._on_control(kind, flags, stream, payload)
        self._rest = data[at:]

    def leave(self) -> None:
        """Drop the connection, as a process that dies does."""
        self.is_leaving = True
        if self._transport is not None:
            self._transport.abort()

    def stop_reading(self) -> None:
        """Read nothing from now on."""
        if self._transport is not None:
            self._transport.pause_reading()

    def _on_data(self, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= h2_opening.OUR_WINDOW // 2:
            for stream in (0, h2_opening.STREAM_ID):
                self._write(frames.window_update(self._received, stream=stream))
            self._received = 0
        held = self._message + payload if self._message else payload
        while len(held) >= frames.PREFIX_SIZE:
            stop = frames.PREFIX_SIZE + int.from_bytes(held[1 : frames.PREFIX_SIZE], "big")
            if len(held) < stop:
                break
            answer = self._crowd.answer(held[frames.PREFIX_SIZE : stop])
            self._crowd.arrived(answer, self._crowd.clock.steady())
            self._send(answer.frame)
            held = held[stop:]
        self._message = held

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case frames.SETTINGS if not flags & frames.ACK:
                window = frames.read_settings(payload).get(frames.INITIAL_WINDOW_SIZE, self._initial_window)
                self._stream_credit += window - self._initial_window
                self._initial_window = window
                self._write(frames.SETTINGS_ACK)
                self._flush()
            case frames.PING if not flags & frames.ACK:
                self._write(frames.frame(frames.PING, payload, flags=frames.ACK))
            case frames.WINDOW_UPDATE:
                increment = int.from_bytes(payload, "big")
                if stream == 0:
                    self._credit += increment
                else:
                    self._stream_credit += increment
                self._flush()
            case frames.HEADERS if flags & frames.END_STREAM:
                self._end("the server ended the stream")
            case frames.RST_STREAM | frames.GOAWAY:
                self._end("the server reset the stream")
            case _:
                pass

    def _end(self, words: str) -> None:
        self._crowd.gone(self, words)
        if self._transport is not None:
            self._transport.abort()

    def _send(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            size = len(self._waiting[0]) - frames.HEAD_SIZE
            if size > min(self._credit, self._stream_credit):
                return
            self._credit -= size
            self._stream_credit -= size
            self._write(self._waiting.pop(0))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


class Client:
    """Does what it is told, one line after the other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._crowd: Crowd | None = None

    async def run(self) -> None:
        """Obey lines until there are none left."""
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            obeying = tasks.create_task(self._obey(lines))
            await read_lines(lines.put_nowait)
            obeying.cancel()

    async def _obey(self, lines: asyncio.Queue[bytes]) -> None:
        while True:
            order = json.loads(await lines.get())
            match order.pop("do"):
                case "connect":
                    say(await self._connect(**order))
                case "wait":
                    say(await self._wait(**order))
                case "drop":
                    say(await self._drop())
                case "stop_reading":
                    say(self._stop_reading(**order))
                case unknown:
                    say({"error": f"do: {unknown!r} is not known"})

    async def _connect(
        self, *, port: int, streams: int, mode: Mode, names: dict[str, list[str]], at_once: int, within_s: float
    ) -> dict[str, Any]:
        """Open streams, *at_once* at a time, and wait until each has routes."""
        raise_file_limit(streams)
        asking = Asking(mode, {Kind(kind): tuple(wanted) for kind, wanted in names.items()})
        crowd = self._crowd = Crowd(asking, self._clock)
        begun = self._clock.steady()
        try:
            async with asyncio.timeout(within_s):
                for start in range(0, streams, at_once):
                    await self._open_many(crowd, port, range(start, min(streams, start + at_once)))
        except TimeoutError:
            return {"error": f"only {len(crowd.open)} of {streams} connections within {within_s:g} s"}
        except ExceptionGroup as group:
            return {"error": f"connecting {streams} streams: {group.exceptions[0]}"}
        version = await crowd.wait_all(other_than="", least=streams, within_s=within_s)
        times = crowd.arrivals.get(version, [])
        return {
            "version": version,
            "synchronised": len(times),
            "seconds": (max(times) if times else self._clock.steady()) - begun,
            "lost": crowd.lost,
            "words": crowd.words,
        }

    async def _open_many(self, crowd: Crowd, port: int, numbers: range) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in numbers:
                tasks.create_task(self._open(crowd, port, f"bench-{number}"))

    async def _open(self, crowd: Crowd, port: int, node: str) -> None:
        opening = h2_opening.opening(PATHS[crowd.asking.mode], f"127.0.0.1:{port}", crowd.asking.first(node))
        await asyncio.get_running_loop().create_connection(lambda: HandStream(crowd, opening), "127.0.0.1", port)

    async def _wait(self, *, other_than: str, streams: int, within_s: float) -> dict[str, Any]:
        """Wait until *streams* streams have routes of another version; say when each got them."""
        crowd = self._connected()
        version = await crowd.wait_all(other_than=other_than, least=streams, within_s=within_s)
        if not version:  # which one came to most streams, if any
            version = max(
                (one for one in crowd.arrivals if one != other_than),
                key=lambda one: len(crowd.arrivals[one]),
                default="",
            )
        times = crowd.arrivals.get(version, [])
        crowd.arrivals.clear()  # the next change may go back to an earlier version
        return {
            "version": version,
            "at": times,
            "bytes": crowd.sizes.get(version, 0),
            "lost": crowd.lost,
            "words": crowd.words,
        }

    async def _drop(self) -> dict[str, Any]:
        crowd = self._connected()
        for stream in tuple(crowd.open):
            stream.leave()
        await crowd.wait_none(within_s=60)
        return {"lost": crowd.lost}

    def _stop_reading(self, *, streams: int) -> dict[str, Any]:
        crowd = self._connected()
        for stream in tuple(crowd.open)[:streams]:
            stream.stop_reading()
        return {}

    def _connected(self) -> Crowd:
        if self._crowd is None:
            raise ValueError("connect first")
        return self._crowd


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
