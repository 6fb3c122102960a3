"""A world in one thread: tests of loops, servers and clients together, in which nothing is left to chance.

Time stands still while anything can still happen. A test waits for that calm, looks, and then either goes on or lets
time pass to the next timer. So what a test sees does not depend on how fast or how busy the machine is, and a wait that
is in vain fails at once instead of after a time-out.

Three things make that so. Time is the loop's own count and moves only when no callback is ready and no socket has
anything to say. Connections are socket pairs: what one end has written, the other end has already got. And what would
go to a thread is done on the spot.
"""

import asyncio
import datetime as dt
import functools
import itertools
import selectors
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from inference_worker.clock import SystemClock

P = ParamSpec("P")
R = TypeVar("R")

LONG_S: Final = 3600.0
"""Of the loop's time; a test that waits for longer waits in vain."""


class _Selector(selectors.DefaultSelector):
    """Tells when nothing is left to do, instead of waiting."""

    def __init__(self, at_rest: Callable[[float | None], None]) -> None:
        super().__init__()
        self._at_rest = at_rest

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout != 0:
            self._at_rest(timeout)
        return found


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop with a time and a network of its own."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._steps = 0
        self._watchers: list[asyncio.Future[None]] = []
        self._listening: dict[int, Callable[[], asyncio.BaseProtocol]] = {}
        self._ports = itertools.count(40_000)
        super().__init__(_Selector(self._be_at_rest))

    def time(self) -> float:
        return self._now_s

    def _be_at_rest(self, until_next_s: float | None) -> None:
        watchers = [watcher for watcher in self._watchers if not watcher.done()]
        if watchers and not self._steps:
            self._watchers.clear()
            for watcher in watchers:
                watcher.set_result(None)
        elif until_next_s is not None:
            self._steps = max(0, self._steps - 1)
            self._now_s += until_next_s
        else:
            raise AssertionError("all wait, and for no time: this would last for ever")

    async def settle(self) -> None:
        """Until nothing more happens unless time passes."""
        watcher = self.create_future()
        self._watchers.append(watcher)
        await watcher

    async def step(self) -> None:
        """Let time pass to the next timer, and all settle that comes of it."""
        self._steps += 1
        await self.settle()

    def listen(self, port: int, factory: Callable[[], asyncio.BaseProtocol]) -> tuple[int, Callable[[], None]]:
        """Take connections to *port*, 0 for a free one, on every host; returns it, and what ends that."""
        port = port or next(self._ports)
        assert port not in self._listening
        self._listening[port] = factory

        def end() -> None:
            del self._listening[port]

        return port, end

    async def create_connection(  # type: ignore[override] # the overloads of all ways to say where to
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str | None = None, port: int = 0, **given: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        assert host is not None
        if port not in self._listening:
            raise ConnectionRefusedError(f"nobody listens on {port}")
        ours, theirs = socket.socketpair()
        await self.connect_accepted_socket(self._listening[port], theirs)
        assert not given.get("ssl")
        return await super().create_connection(protocol_factory, sock=ours)

    def run_in_executor(  # type: ignore[override] # which gives a Future as well, by another name
        self, _: object, func: Callable[..., R], *args: Any
    ) -> "asyncio.Future[R]":
        future: asyncio.Future[R] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the one who waits gets it
            future.set_exception(exc)
        return future


def get_loop() -> SteppedLoop:
    """The loop of a test that is `stepped`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    return loop


def stepped(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a `SteppedLoop`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class SteppedClock(SystemClock):
    """The loop's time as a worker's clock."""

    def read_s(self) -> float:
        return get_loop().time()

    def read_cpu_s(self) -> float:
        return get_loop().time()


async def settle_until(is_so: Callable[[], bool], what: str) -> None:
    """Let all settle without that time passes; *is_so* must hold then."""
    await get_loop().settle()
    assert is_so(), f"all is at rest, without {what}"


async def pass_until(is_so: Callable[[], bool], what: str) -> None:
    """Let time pass from timer to timer until *is_so* holds when all is at rest."""
    loop = get_loop()
    end_s = loop.time() + LONG_S
    await loop.settle()
    while not is_so():
        assert loop.time() < end_s, f"waited {LONG_S:g} s in vain for {what}"
        await loop.step()


async def pass_time(span_s: float) -> None:
    """Let that much time pass, and all settle."""
    await SteppedClock().sleep(dt.timedelta(seconds=span_s))
    await get_loop().settle()


async def pass_turns(count: int) -> None:
    """Go on somewhere in the midst of things: to break them there, never to wait for something."""
    for _ in range(count):
        await asyncio.sleep(0)  # noqa: TID251 - no time passes
