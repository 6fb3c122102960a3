"""A lean HTTP/1.1 load generator: raw bytes over kept-alive connections, every answer recorded in compact arrays.

Paced (open-loop) load sends at its rate whatever the answers do, so a slow server cannot hide by slowing the client;
requests that find no free connection wait, and their *due* time says since when. Every load is bounded in count, in
time and in connections. `LoadProcess` runs loads beside the program that measures, so that neither slows the other.
"""

import argparse
import array
import asyncio
import collections
import dataclasses
import datetime as dt
import enum
import json
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from controlplane.clock import Clock, SystemClock
from controlplane.lab.child import START_WITHIN, JsonChild, read_lines, say
from controlplane.lab.http1 import Framer, FramingError, Message, header

MAX_REQUESTS = 20_000_000
MAX_CONNECTIONS = 4_096
MAX_WAITING = 10_000
"""Requests that are due and find no connection; the next one is shed and counted."""

_SWEEP_S = 0.02
"""How often time-outs are looked for and lost connections replaced: a refused one must not become a busy loop."""

_WORDS_BYTES = 120


class Arrivals(enum.Enum):
    """How paced requests follow each other."""

    UNIFORM = "uniform"
    POISSON = "poisson"


class Outcome(enum.IntEnum):
    """What the client met."""

    ANSWERED = 0
    SOCKET_ERROR = 1
    TIMED_OUT = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What to send, how fast, and when to stop: at *requests* or after *duration_s*, whichever comes first.

    *rate* is in requests per second; None sends the next request as soon as one is answered (closed loop).
    *watch* names the response headers whose values are recorded. *body_files* are sent in turn.
    """

    port: int
    host: str = "127.0.0.1"
    name: str = "load"
    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body_files: tuple[str, ...] = ()
    rate: float | None = None
    arrivals: Arrivals = Arrivals.UNIFORM
    connections: int = 16
    requests: int = 1_000_000
    duration_s: float = 60.0
    timeout_s: float = 30.0
    watch: tuple[str, ...] = ("x-version", "x-injected-fault")
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.host.startswith("127."):
            raise ValueError("load goes to this machine only")
        if not 1 <= self.connections <= MAX_CONNECTIONS:
            raise ValueError(f"connections: use 1 to {MAX_CONNECTIONS}")
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise ValueError(f"requests: use 1 to {MAX_REQUESTS}")
        if not 0 < self.duration_s <= 86_400:
            raise ValueError("duration_s: use up to a day")
        if not 0 < self.timeout_s <= 600:
            raise ValueError("timeout_s: use up to 600")
        if self.rate is not None and not 0 < self.rate <= 100_000:
            raise ValueError("rate: use up to 100,000 requests/s")

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "LoadPlan":
        """Return the plan whose `to_json` this is."""
        fields = dict(raw)
        for name in ("body_files", "watch"):
            if name in fields:
                fields[name] = tuple(fields[name])
        if "arrivals" in fields:
            fields["arrivals"] = Arrivals(fields["arrivals"])
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "arrivals": self.arrivals.value}

    def render(self, bodies: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return the bytes of each request, one per body (or one without)."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        head = "\r\n".join(lines).encode()
        if not bodies:
            return (head + b"\r\n\r\n",)
        return tuple(b"%s\r\ncontent-length: %d\r\n\r\n%s" % (head, len(body), body) for body in bodies)


@dataclasses.dataclass(frozen=True, slots=True)
class Records:
    """What became of each request, in the order of their ends; times are steady seconds of this machine.

    *marks* holds, per watched header, an index into *words*, whose entry 0 is "" (absent); so does *error* for the
    client's error or the first words of an answer that is not 2xx. *shed* requests were never sent.
    """

    due: npt.NDArray[np.float64]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    status: npt.NDArray[np.int16]
    outcome: npt.NDArray[np.int8]
    error: npt.NDArray[np.int32]
    marks: Mapping[str, npt.NDArray[np.int32]]
    words: tuple[str, ...]
    shed: int = 0

    def __len__(self) -> int:
        return len(self.end)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which were answered 2xx."""
        answered: npt.NDArray[np.bool_] = (
            (self.outcome == Outcome.ANSWERED) & (self.status >= 200) & (self.status < 300)
        )
        return answered

    @property
    def duration_ms(self) -> npt.NDArray[np.float64]:
        """Milliseconds from sending to the whole answer."""
        spans: npt.NDArray[np.float64] = (self.end - self.start) * 1_000
        return spans

    def has(self, mark: str, word: str | None = None) -> npt.NDArray[np.bool_]:
        """Which carry header *mark*, with the value *word* if one is given."""
        column = self.marks[mark]
        if word is None:
            present: npt.NDArray[np.bool_] = column > 0
            return present
        same: npt.NDArray[np.bool_] = column == (self.words.index(word) if word in self.words else -1)
        return same

    def failures(self) -> dict[str, int]:
        """Count what was not 2xx by "status outcome: words"; injected faults, where watched, are left out."""
        bad = ~self.ok
        if "x-injected-fault" in self.marks:
            bad &= self.marks["x-injected-fault"] == 0
        found: collections.Counter[str] = collections.Counter()
        for at in np.flatnonzero(bad):
            outcome = Outcome(int(self.outcome[at])).name.lower()
            found[f"{self.status[at]} {outcome}: {self.words[self.error[at]]}"] += 1
        return dict(found)

    def save(self, path: Path) -> None:
        """Write a NumPy archive."""
        marks = {f"mark.{name}": column for name, column in self.marks.items()}
        np.savez(
            path,
            allow_pickle=False,
            due=self.due,
            start=self.start,
            end=self.end,
            status=self.status,
            outcome=self.outcome,
            error=self.error,
            words=np.array(json.dumps(self.words)),
            shed=np.array(self.shed),
            **marks,
        )

    @classmethod
    def read(cls, path: Path) -> "Records":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                due=stored["due"],
                start=stored["start"],
                end=stored["end"],
                status=stored["status"],
                outcome=stored["outcome"],
                error=stored["error"],
                marks={name.removeprefix("mark."): stored[name] for name in stored.files if name.startswith("mark.")},
                words=tuple(json.loads(str(stored["words"]))),
                shed=int(stored["shed"]),
            )


class Recorder:
    """Appends one row per finished request; `records` may be asked while requests still run."""

    def __init__(self, watch: Sequence[str]) -> None:
        self._watch = tuple((name, name.lower().encode()) for name in watch)
        self._due = array.array("d")
        self._start = array.array("d")
        self._end = array.array("d")
        self._status = array.array("h")
        self._outcome = array.array("b")
        self._error = array.array("i")
        self._marks = {name: array.array("i") for name in watch}
        self._words: dict[str, int] = {"": 0}
        self.shed = 0

    def __len__(self) -> int:
        return len(self._end)

    def answered(self, due: float, start: float, end: float, message: Message) -> int:
        """Record an answer; return its status."""
        status = message.status
        words = "" if 200 <= status < 300 else message.body[:_WORDS_BYTES].decode(errors="replace").strip()
        self._add((due, start, end), status, Outcome.ANSWERED, words)
        if self._watch:
            lower = message.head.lower()
            for name, key in self._watch:
                value = header(lower, key)
                self._marks[name].append(0 if value is None else self._intern(value.decode(errors="replace")))
        return status

    def failed(self, due: float, start: float, end: float, outcome: Outcome, words: str) -> None:
        """Record a request that got no answer."""
        self._add((due, start, end), 0, outcome, words)
        for column in self._marks.values():
            column.append(0)

    def records(self) -> Records:
        """Return a copy of everything recorded so far."""
        return Records(
            due=np.array(self._due, dtype=np.float64),
            start=np.array(self._start, dtype=np.float64),
            end=np.array(self._end, dtype=np.float64),
            status=np.array(self._status, dtype=np.int16),
            outcome=np.array(self._outcome, dtype=np.int8),
            error=np.array(self._error, dtype=np.int32),
            marks={name: np.array(column, dtype=np.int32) for name, column in self._marks.items()},
            words=tuple(self._words),
            shed=self.shed,
        )

    def _add(self, times: tuple[float, float, float], status: int, outcome: Outcome, words: str) -> None:
        self._due.append(times[0])
        self._start.append(times[1])
        self._end.append(times[2])
        self._status.append(status)
        self._outcome.append(outcome)
        self._error.append(self._intern(words) if words else 0)

    def _intern(self, word: str) -> int:
        # Bounded: a server that says something new each time must not fill our memory.
        if word not in self._words and len(self._words) >= 4_096:
            word = "(other)"
        return self._words.setdefault(word, len(self._words))


class Pacer:
    """Says when the next request is due. Pure: it is told the moment of the start."""

    def __init__(self, rate: float, arrivals: Arrivals, rng: random.Random, *, start: float) -> None:
        self._rate = rate
        self._arrivals = arrivals
        self._rng = rng
        self._origin = start
        self._sent = 0
        self.due = start

    def advance(self) -> None:
        """Move to the next request."""
        self._sent += 1
        if self._arrivals is Arrivals.UNIFORM:
            self.due = self._origin + self._sent / self._rate  # no drift, however long it runs
        else:
            self.due += -math.log(1.0 - self._rng.random()) / self._rate


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


class LoadProcess:
    """Loads in a process of their own, for the program that runs a bench.

    Args:
        plans: The loads, told apart by their names; they start together.
        directory: Where the plans and the records are written.
    """

    def __init__(self, plans: Sequence[LoadPlan], *, directory: Path) -> None:
        if len({plan.name for plan in plans}) != len(plans):
            raise ValueError("each load needs its own name")
        self._plans = tuple(plans)
        self._directory = directory
        argv = [sys.executable, "-m", "controlplane.lab.load", "--plans", str(directory / "plans.json")]
        self._child = JsonChild([*argv, "--out", str(directory), "--attached"], log_file=directory / "load.log")
        self.started_at = 0.0
        """The steady moment of the first request."""

    async def __aenter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        plans = json.dumps([plan.to_json() for plan in self._plans])
        (self._directory / "plans.json").write_text(plans)
        await self._child.__aenter__()
        try:
            self.started_at = float((await self._child.wait_line(at_most=START_WITHIN))["started_at"])
        except BaseException:
            await self._child.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._child.__aexit__(kind, exc, trace)

    def stop(self) -> None:
        """Have the loads end now, once their last answers are in."""
        self._child.close_input()

    async def wait_records(self, *, at_most: dt.timedelta) -> dict[str, Records]:
        """Wait until all loads have ended; return their records by name."""
        await self._child.wait_line(at_most=at_most)
        return {plan.name: Records.read(self._directory / f"{plan.name}.npz") for plan in self._plans}


async def run_loads(plans: Sequence[LoadPlan], *, clock: Clock, attached: bool) -> dict[str, Records]:
    """Run *plans* side by side; *attached*: until standard input is closed, at the latest."""
    loads = [Load(plan, clock=clock) for plan in plans]

    async def obey_end_of_input() -> None:
        await read_lines(lambda _: None)
        for load in loads:
            load.stop()

    say({"started_at": clock.steady()})
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(obey_end_of_input()) if attached else None
        async with asyncio.TaskGroup() as running:
            results = [running.create_task(load.run(), name=load.plan.name) for load in loads]
        if watching is not None:
            watching.cancel()
    return {plan.name: result.result() for plan, result in zip(plans, results, strict=True)}


def _parse(argv: Sequence[str] | None) -> tuple[list[LoadPlan], Path | None, bool]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=Path, help="a JSON list of plans, instead of the options below")
    parser.add_argument("--port", type=int, help="where to send, on 127.0.0.1")
    parser.add_argument("--path", default="/")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("--body", action="append", default=[], metavar="FILE")
    parser.add_argument("--rate", type=float, help="requests per second; without it, as fast as answers come")
    parser.add_argument("--arrivals", choices=[arrivals.value for arrivals in Arrivals], default="uniform")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, help="directory for NAME.npz")
    parser.add_argument("--attached", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(argv)
    if options.plans is not None:
        plans = [LoadPlan.from_json(raw) for raw in json.loads(options.plans.read_text())]
    elif options.port is not None:
        plans = [
            LoadPlan(
                port=options.port,
                path=options.path,
                method=options.method,
                headers=dict(line.split(":", 1) for line in options.header),
                body_files=tuple(options.body),
                rate=options.rate,
                arrivals=Arrivals(options.arrivals),
                connections=options.connections,
                requests=options.requests,
                duration_s=options.duration,
                timeout_s=options.timeout,
                seed=options.seed,
            )
        ]
    else:
        parser.error("name a --port or --plans")
    return plans, options.out, options.attached


def summarise(records: Records) -> dict[str, Any]:
    """Return the figures that people ask for first."""
    spans = records.duration_ms[records.outcome == Outcome.ANSWERED]
    lasted = float(records.end.max() - records.start.min()) if len(records) else 0.0
    median, p99 = (np.percentile(spans, [50, 99]) if len(spans) else (math.nan, math.nan)) if len(records) else (0, 0)
    return {
        "requests": len(records),
        "seconds": round(lasted, 3),
        "per_second": round(len(records) / lasted, 1) if lasted else 0.0,
        "p50_ms": round(float(median), 2),
        "p99_ms": round(float(p99), 2),
        "not_2xx": int((~records.ok).sum()),
        "shed": records.shed,
        "failures": records.failures(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load and write what became of it."""
    plans, out, attached = _parse(argv)
    results = asyncio.run(run_loads(plans, clock=SystemClock(), attached=attached))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, records in results.items():
            records.save(out / f"{name}.npz")
    say({name: summarise(records) for name, records in results.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
