"""A programmable stand-in for inference workers: lean enough for thousands of requests a second, and bad on command.

One process holds any number of servers. It is told over its standard input, one JSON object a line, how a server is to
behave from now on, and answers with the steady moment of the change, so that a drill knows when its defect began.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import enum
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane.clock import Clock, SystemClock
from controlplane.lab.child import START_WITHIN, JsonChild, read_lines, say
from controlplane.lab.http1 import Framer, FramingError

_Z95 = 1.6448536269514722
"""The standard normal's 95 % quantile."""


class Fate(enum.Enum):
    """What becomes of a request."""

    GOOD = "good"
    ERROR = "error"
    HANG = "hang"


@dataclasses.dataclass(frozen=True, slots=True)
class Behaviour:
    """How a server answers: latency lognormal by its median and 95 % quantile (0: at once), times *factor*.

    *error_share* and *hang_share* are fractions of 1; an error is answered after the same latency, with
    *error_status* and ``x-injected-fault: error``; a hung request is never answered. ``/healthz`` is always fine
    while *healthy*.
    """

    median_ms: float = 0.0
    p95_ms: float = 0.0
    factor: float = 1.0
    error_share: float = 0.0
    hang_share: float = 0.0
    error_status: int = 500
    healthy: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.median_ms <= self.p95_ms:
            raise ValueError("0 <= median_ms <= p95_ms")
        if not (0 <= self.error_share <= 1 and 0 <= self.hang_share <= 1):
            raise ValueError("a share is from 0 to 1")
        if not 0 < self.factor <= 1_000:
            raise ValueError("a factor is more than 0 and at most 1,000")

    def draw(self, rng: random.Random) -> tuple[Fate, float]:
        """Return a request's fate and the seconds until its answer."""
        fate = Fate.GOOD
        if self.error_share or self.hang_share:
            draw = rng.random()
            if draw < self.error_share:
                fate = Fate.ERROR
            elif draw < self.error_share + self.hang_share:
                fate = Fate.HANG
        if not self.median_ms:
            return fate, 0.0
        sigma = math.log(self.p95_ms / self.median_ms) / _Z95
        return fate, self.median_ms * self.factor * math.exp(rng.gauss(0.0, sigma)) / 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server of the process: its *name* in commands, the model version it says it is, and its port (0: any)."""

    name: str
    version: str
    behaviour: Behaviour = Behaviour()
    port: int = 0


class _Server:
    """A server's present behaviour, and its answers rendered once."""

    __slots__ = ("bad", "behaviour", "good", "health", "is_trivial", "rng", "spec")

    def __init__(self, spec: ServerSpec, rng: random.Random) -> None:
        self.spec = spec
        self.rng = rng
        self.become(spec.behaviour)

    def become(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.is_trivial = not (behaviour.median_ms or behaviour.error_share or behaviour.hang_share)
        self.good = self._render(200)
        self.bad = self._render(behaviour.error_status, b"x-injected-fault: error\r\n")
        self.health = self.good if behaviour.healthy else self._render(503)

    def _render(self, status: int, extra: bytes = b"") -> bytes:
        body = self.spec.version.encode()
        return b"HTTP/1.1 %d -\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nx-version: %s\r\n%s\r\n%s" % (
            status, len(body), body, extra, body,
        )  # fmt: skip


class _Connection(asyncio.Protocol):
    """One client connection. Requests are answered one after the other, as HTTP/1.1 wants."""

    def __init__(self, server: _Server, call_later: Callable[..., asyncio.TimerHandle]) -> None:
        self._server = server
        self._call_later = call_later
        self._framer = Framer(of_requests=True)
        self._transport: asyncio.Transport | None = None
        self._pending: asyncio.TimerHandle | None = None
        self._is_busy = False
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server's
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._pending is not None:
            self._pending.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        if self._is_busy:  # pipelined; its turn comes
            self._early += data
            return
        try:
            while (message := self._framer.feed(data)) is not None:
                self._is_busy = not self._take(message.head)
                if self._is_busy or self._framer.is_empty:
                    return
                data = b""
        except FramingError:
            if self._transport is not None:
                self._transport.abort()

    def _take(self, head: bytes) -> bool:
        """Answer a request now (True), later, or never."""
        server = self._server
        if head.startswith(b"GET /healthz "):
            self._write(server.health)
            return True
        if server.is_trivial:
            self._write(server.good)
            return True
        fate, delay_s = server.behaviour.draw(server.rng)
        if fate is not Fate.HANG:
            answer = server.good if fate is Fate.GOOD else server.bad
            self._pending = self._call_later(delay_s, self._answer, answer)
        return False

    def _answer(self, answer: bytes) -> None:
        self._is_busy = False
        self._write(answer)
        if self._early or not self._framer.is_empty:
            early = self._early
            self._early = b""
            self.data_received(early)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


class UpstreamProcess:
    """Servers in a process of their own, for the program that runs a drill.

    Args:
        specs: The servers; names are unique.
        seed: Makes latencies and faults repeatable for the same order of requests.
        log_file: Where the process's standard error goes.
    """

    def __init__(self, specs: Sequence[ServerSpec], *, seed: int | None = None, log_file: Path | None = None) -> None:
        servers = json.dumps([dataclasses.asdict(spec) for spec in specs])
        argv = [sys.executable, "-m", "controlplane.lab.upstream", "--servers", servers]
        if seed is not None:
            argv += ["--seed", str(seed)]
        self._child = JsonChild(argv, log_file=log_file)
        self._asking = asyncio.Lock()
        self.ports: dict[str, int] = {}

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    async def __aenter__(self) -> Self:
        await self._child.__aenter__()
        try:
            ready = await self._child.wait_line(at_most=START_WITHIN)
        except BaseException:
            await self._child.__aexit__(None, None, None)
            raise
        self.ports = {str(name): int(port) for name, port in ready["ports"].items()}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._child.__aexit__(kind, exc, trace)

    async def change(self, name: str, behaviour: Behaviour) -> float:
        """Have server *name* behave so from now on; return the steady moment from which requests meet it."""
        async with self._asking:  # one question at a time: answers carry no number
            await self._child.tell({"name": name, "behaviour": dataclasses.asdict(behaviour)})
            answer = await self._child.wait_line(at_most=dt.timedelta(seconds=10))
        return float(answer["at"])


async def serve(specs: Sequence[ServerSpec], *, seed: int | None, clock: Clock) -> None:
    """Serve until standard input is closed; print the ports first."""
    loop = asyncio.get_running_loop()
    servers: dict[str, _Server] = {}
    listening: list[asyncio.Server] = []
    ports: dict[str, int] = {}
    for number, spec in enumerate(specs):
        server = _Server(spec, random.Random(None if seed is None else seed * 1_000 + number))
        servers[spec.name] = server
        listener = await loop.create_server(
            lambda server=server: _Connection(server, loop.call_later),  # type: ignore[misc] # mypy wants no defaults
            "127.0.0.1",
            spec.port,
            backlog=1024,
        )
        listening.append(listener)
        ports[spec.name] = listener.sockets[0].getsockname()[1]

    def obey(line: bytes) -> None:
        try:
            order = json.loads(line)
            servers[order["name"]].become(Behaviour(**order["behaviour"]))
        except (KeyError, TypeError, ValueError) as exc:
            say({"error": f"{type(exc).__name__}: {exc}"})
            return
        say({"name": order["name"], "at": clock.steady()})

    say({"ports": ports})
    try:
        await read_lines(obey)
    finally:
        for listener in listening:
            listener.close()


def _read_specs(text: str) -> tuple[ServerSpec, ...]:
    raw: list[dict[str, Any]] = json.loads(text)
    return tuple(ServerSpec(**{**item, "behaviour": Behaviour(**item.get("behaviour", {}))}) for item in raw)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the servers named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=_read_specs, required=True, help="JSON: [{name, version, behaviour, port}]")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args(argv)
    asyncio.run(serve(options.servers, seed=options.seed, clock=SystemClock()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
