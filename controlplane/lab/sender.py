"""Sends one load: an event loop's worth of connections, raw bytes, no library on the hot path."""

import asyncio
import collections
import random
from collections.abc import Callable
from pathlib import Path

from controlplane.clock import Clock
from controlplane.lab.http1 import Framer, FramingError, Message
from controlplane.lab.pacing import LoadPlan, Pacer
from controlplane.lab.records import Outcome, Recorder, Records

MAX_WAITING = 10_000
"""Requests that are due and find no connection; the next one is shed and counted."""

_SWEEP_S = 0.02
"""How often time-outs are looked for and lost connections replaced: a refused one must not become a busy loop."""


class _Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request on its way."""

    __slots__ = ("_framer", "_load", "due", "start", "transport")

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._framer = Framer(of_requests=False)
        self.transport: asyncio.Transport | None = None
        self.due = 0.0
        self.start: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection's
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            message = self._framer.feed(data)
        except FramingError as exc:
            self.fail(Outcome.SOCKET_ERROR, str(exc))
            return
        if message is not None:
            self._load.on_answer(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._load.on_lost(self, "connection closed" if exc is None else f"{type(exc).__name__}: {exc}")

    def send(self, due: float, start: float, request: bytes) -> None:
        """Put *request* on the wire."""
        assert self.transport is not None  # noqa: S101 - only connected ones are idle
        self.due = due
        self.start = start
        self.transport.write(request)

    def fail(self, outcome: Outcome, words: str) -> None:
        """Give the request and the connection up."""
        self._load.on_failure(self, outcome, words)
        if self.transport is not None:
            self.transport.abort()


class Load:
    """One running load.

    Args:
        plan: What to send.
        clock: Gives the times of the records.
        on_answer: Called with each answer, its start and its end; must be quick.
    """

    def __init__(
        self, plan: LoadPlan, *, clock: Clock, on_answer: Callable[[Message, float, float], None] | None = None
    ) -> None:
        self.plan = plan
        self.recorder = Recorder(plan.watch)
        self._clock = clock
        self._observer = on_answer
        self._rng = random.Random(plan.seed)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._open: set[_Connection] = set()
        self._connecting = 0
        self._waiting: collections.deque[float] = collections.deque()
        self._issued = 0
        self._done = 0
        self._next_request = 0
        self._requests: tuple[bytes, ...] = ()
        self._until = 0.0
        self._is_stopped = False
        self._ended = asyncio.Event()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._pace_timer: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._pacer: Pacer | None = None

    @property
    def in_flight(self) -> int:
        """How many requests have been issued and have no record yet."""
        return self._issued - self._done

    def stop(self) -> None:
        """Send no more; what is on its way is still awaited."""
        self._is_stopped = True
        while self._waiting:
            self._waiting.popleft()
            self.recorder.shed += 1
            self._finish_one()
        self._check_end()

    async def run(self) -> Records:
        """Send everything, wait for the last answer, and return the records."""
        bodies = [Path(name).read_bytes() for name in self.plan.body_files]  # noqa: ASYNC240 - before the first request
        self._requests = self.plan.render(bodies)
        start = self._clock.steady()
        self._until = start + self.plan.duration_s
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                if self.plan.rate is not None:
                    self._pacer = Pacer(self.plan.rate, self.plan.arrivals, self._rng, start=start)
                    self._pace()
                self._sweep()
                await self._ended.wait()
        finally:
            for timer in (self._sweep_timer, self._pace_timer):
                if timer is not None:
                    timer.cancel()
            for connection in tuple(self._open):
                if connection.transport is not None:
                    connection.transport.abort()
        return self.recorder.records()

    # -- sending -------------------------------------------------------------------------------------------------------

    def _may_issue(self, now: float) -> bool:
        return not self._is_stopped and self._issued < self.plan.requests and now < self._until

    def _pace(self) -> None:
        assert self._pacer is not None  # noqa: S101 - set before the first call
        now = self._clock.steady()
        pacer = self._pacer
        while pacer.due <= now and self._may_issue(pacer.due):
            self._issue(pacer.due)
            pacer.advance()
        if self._may_issue(pacer.due):
            self._pace_timer = asyncio.get_running_loop().call_later(max(0.0, pacer.due - now), self._pace)
        else:
            self._is_stopped = True
            self._check_end()

    def _issue(self, due: float) -> None:
        self._issued += 1
        if self._idle:
            self._send(self._idle.pop(), due)
        elif len(self._open) + self._connecting < self.plan.connections:
            assert self._tasks is not None  # noqa: S101 - set while running
            self._connecting += 1
            self._tasks.create_task(self._connect(due))
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(due)
        else:
            self.recorder.shed += 1
            self._finish_one()

    async def _connect(self, due: float) -> None:
        start = self._clock.steady()
        connection = _Connection(self)
        try:
            async with asyncio.timeout(self.plan.timeout_s):
                await asyncio.get_running_loop().create_connection(lambda: connection, self.plan.host, self.plan.port)
        except (OSError, TimeoutError) as exc:
            self._connecting -= 1
            outcome = Outcome.TIMED_OUT if isinstance(exc, TimeoutError) else Outcome.SOCKET_ERROR
            self.recorder.failed(due, start, self._clock.steady(), outcome, f"connect: {type(exc).__name__}")
            self._finish_one()
            return
        self._connecting -= 1
        self._open.add(connection)
        self._send(connection, due, start=start)

    def _send(self, connection: _Connection, due: float, *, start: float | None = None) -> None:
        request = self._requests[self._next_request % len(self._requests)]
        self._next_request += 1
        self._busy.add(connection)
        connection.send(due, self._clock.steady() if start is None else start, request)

    # -- what comes back -----------------------------------------------------------------------------------------------

    def on_answer(self, connection: _Connection, message: Message) -> None:
        """A connection received a whole answer."""
        start = connection.start
        if start is None:  # an answer to nothing: such a connection cannot be trusted
            if connection.transport is not None:
                connection.transport.abort()
            return
        now = self._clock.steady()
        connection.start = None
        self._busy.discard(connection)
        self.recorder.answered(connection.due, start, now, message)
        if self._observer is not None:
            self._observer(message, start, now)
        if b"\r\nconnection: close" in message.head.lower():
            self._open.discard(connection)
            if connection.transport is not None:
                connection.transport.close()
            self._finish_one()
            self._refill(now)
            return
        self._finish_one()
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        elif self.plan.rate is None and self._may_issue(now):
            self._issued += 1
            self._send(connection, now)
        else:
            self._idle.append(connection)
            self._check_end()

    def on_failure(self, connection: _Connection, outcome: Outcome, words: str) -> None:
        """A request will get no answer any more."""
        start, connection.start = connection.start, None
        self._busy.discard(connection)
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if start is not None:
            self.recorder.failed(connection.due, start, self._clock.steady(), outcome, words)
            self._finish_one()

    def on_lost(self, connection: _Connection, words: str) -> None:
        """A connection is gone."""
        if connection in self._open:
            self.on_failure(connection, Outcome.SOCKET_ERROR, words)

    def _refill(self, now: float) -> None:
        """Use free connection slots for what waits, or (closed loop) for the next requests."""
        while len(self._open) + self._connecting < self.plan.connections:
            if self._waiting:
                self._issued -= 1  # it was counted when it began to wait
                self._issue(self._waiting.popleft())
            elif self.plan.rate is None and self._may_issue(now):
                self._issue(now)
            else:
                return

    def _sweep(self) -> None:
        now = self._clock.steady()
        oldest = now - self.plan.timeout_s
        for connection in [c for c in self._busy if c.start is not None and c.start < oldest]:
            connection.fail(Outcome.TIMED_OUT, "no answer in time")
        if self.plan.rate is None and now >= self._until:
            self._is_stopped = True
            self._check_end()
        self._refill(now)
        self._sweep_timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _finish_one(self) -> None:
        self._done += 1
        self._check_end()

    def _check_end(self) -> None:
        has_more = not self._is_stopped and self._issued < self.plan.requests
        if not has_more and self._done >= self._issued:
            self._ended.set()
