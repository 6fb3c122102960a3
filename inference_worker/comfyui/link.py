"""The one WebSocket to ComfyUI: kept open, opened again after a jittered pause, with a check after each opening."""

import asyncio
import dataclasses
import datetime as dt
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from inference_worker.clock import Clock
from inference_worker.comfyui.address import Address
from inference_worker.comfyui.tracking import Patience
from inference_worker.comfyui.wire import Event, read_event
from inference_worker.errors import WorkerError

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
STEADY_S: Final = 5.0
"""A link that breaks sooner counts as a failed attempt: something accepts connections and drops them."""
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""Previews and the tensors in an execution error are large; a larger frame costs a reconnect, which loses nothing."""
PING_S: Final = 20.0
PONG_S: Final = 60.0
"""ComfyUI answers pings from a process whose other thread may hold the interpreter for seconds."""
CLOSE_S: Final = 1.0
"""How long the farewell to a ComfyUI that does not answer it may take."""


def choose_pause_s(failures: int, dice: random.Random) -> float:
    """How long to wait after so many failures in a row: half of it is chance, so that workers do not come in step."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**failures)
    return longest * (0.5 + 0.5 * dice.random())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """What a link asks and tells; the first two raise a `WorkerError` if this ComfyUI will not do."""

    admit: Callable[[], Awaitable[None]]
    """Called before each opening."""
    check: Callable[[], Awaitable[None]]
    """Called after each opening, before it counts."""
    hear: Callable[[Event], None]
    """Told each event."""
    follow: Callable[[str | None], None]
    """Told None when the link is up, and the trouble when an attempt has failed."""


class Link:
    """Hears ComfyUI's events for one client id."""

    def __init__(
        self,
        address: Address,
        *,
        client_id: str,
        patience: Patience,
        clock: Clock,
        dice: random.Random,
        handlers: Handlers,
    ) -> None:
        """Prepare; `run` connects.

        Args:
            address: Where ComfyUI is.
            client_id: Its events come to this client only.
            patience: How long connecting may take.
            clock: Waits between attempts.
            dice: The jitter.
            handlers: What is asked and told.
        """
        self.epoch = 0
        """How often the link was opened."""
        self.is_up = False
        self._address = address
        self._url = f"{address.ws_url}?{urlencode({'clientId': client_id})}"
        self._patience = patience
        self._clock = clock
        self._dice = dice
        self._handlers = handlers
        self._failures = 0
        self._opened_s = 0.0

    async def run(self) -> None:
        """Stay connected until cancelled. A link that was steady is opened again at once; failures bring pauses."""
        while True:
            trouble = await self._listen()
            was_up, self.is_up = self.is_up, False
            if was_up and self._clock.read_s() - self._opened_s >= STEADY_S:
                log.warning("comfyui.disconnected", extra={"fields": {"why": f"'{trouble}'"}})
                self._failures = 0
                continue
            self._handlers.follow(trouble)
            pause_s = choose_pause_s(self._failures, self._dice)
            log.warning(
                "comfyui.connect_failed", extra={"fields": {"why": f"'{trouble}'", "pause_s": f"{pause_s:.1f}"}}
            )
            self._failures += 1
            await self._clock.sleep(dt.timedelta(seconds=pause_s))

    async def _listen(self) -> str:
        """Connect and hear events until the link breaks; returns why it did."""
        return await self._explain(self._open()) or "comfyui: it closed the connection"

    async def _explain(self, action: Awaitable[str | None]) -> str | None:
        """What *action* returns, or in words what it raised."""
        try:
            return await action
        except WorkerError as exc:
            return str(exc)
        except (OSError, TimeoutError, WebSocketException, asyncio.IncompleteReadError, ValueError) as exc:
            return f"comfyui: no connection to {self._address.http_url} ({type(exc).__name__})"

    async def _open(self) -> str | None:
        await self._handlers.admit()
        async with connect(
            self._url,
            host=self._address.host,  # given explicitly, a redirect to another host is an error
            port=self._address.port,
            proxy=None,
            open_timeout=self._patience.connect_s,
            close_timeout=CLOSE_S,
            max_size=MAX_FRAME_BYTES,
            ping_interval=PING_S,
            ping_timeout=PONG_S,
        ) as socket:
            return await self._use(socket)

    async def _use(self, socket: ClientConnection) -> str | None:
        """Check, then be up until the link breaks; returns why it did, if that was told.

        Frames are read from the opening to the end of the farewell. Unread ones would fill the buffer, and behind a
        full buffer neither the end of the link nor the answer to a farewell is seen.
        """
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(self._explain(self._hear_all(socket)), name="comfyui-frames")
            try:
                trouble = await self._explain(self._handlers.check())
                if trouble is None:
                    self._be_up()
                    trouble = await asyncio.shield(hearing)
            finally:
                await _leave(socket)
        return trouble

    def _be_up(self) -> None:
        self.epoch += 1
        self._opened_s = self._clock.read_s()
        self.is_up = True
        self._handlers.follow(None)

    async def _hear_all(self, socket: ClientConnection) -> None:
        async for frame in socket:
            # Binary frames are previews.
            if isinstance(frame, str) and (event := read_event(frame)) is not None:
                self._handlers.hear(event)


async def _leave(socket: ClientConnection) -> None:
    try:
        await socket.close()
    finally:
        socket.transport.abort()  # cancelled meanwhile, it would stay open
