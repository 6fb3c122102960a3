"""The lean transport: streams on `Connection`, on plain asyncio. No task, future or timer per stream or message."""

import asyncio
import datetime as dt
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from controlplane.tls.channel import ChannelTls
from controlplane.tls.identity import Identities
from controlplane.xds.lean.calls import Call, Receiver
from controlplane.xds.lean.connection import Connection
from controlplane.xds.lean.tls import RefusedError, TlsSide
from controlplane.xds.streams import METHODS, Method, Reason, Streams
from controlplane.xds.transport import STATUS, bind_port, taken

log = structlog.get_logger()

BACKLOG: Final = 4_096
"""Connections that wait to be accepted: a fleet that returns at once. The kernel may allow fewer."""

STOP_GRACE: Final = dt.timedelta(seconds=2)

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""What may wait for a client that does not read before nothing more is read of it, which might be to be answered."""

CLOSING_TICKS: Final = 3
"""Ticks that a connection may take to close once all is said."""


class LeanTransport:
    """A server of streams that frames HTTP/2 by itself.

    Args:
        host: The address to bind.
        port: The port to bind; 0 lets the kernel choose, see `port` after `start`.
        setting: The name of the setting that holds the port, for the message when it is taken.
        tls: Mutual TLS; without it all is plaintext, and whoever reaches the port may be any node.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 18000,
        setting: str = "HUESHIFT_XDS_PORT",
        tls: ChannelTls | None = None,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._setting = setting
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._clients = _Clients()
        self._port = 0

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""
        return self._port

    async def start(self, streams: Streams) -> None:
        """Bind and accept calls, each of which becomes a stream of *streams*.

        Raises:
            UnavailableError: The port is taken.
        """
        loop = asyncio.get_running_loop()
        bound = bind_port(self._host, self._wanted_port, self._setting)
        try:
            self._server = await loop.create_server(
                lambda: _Client(loop, streams, self._clients, self._tls), sock=bound, backlog=BACKLOG
            )
        except OSError as exc:  # somebody else bound it too, and was the first to listen
            bound.close()
            raise taken(self._host, self._wanted_port, self._setting, exc) from exc
        self._clients.are_welcome = True
        self._port = self._server.sockets[0].getsockname()[1]
        log.info("xds.started", host=self._host, port=self._port, mtls=self._tls is not None)

    async def stop(self) -> None:
        """Free the port and end what is still open after a moment; clients look for another server."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self._clients.are_welcome = False
        self._clients.each(_Client.leave)
        try:
            async with asyncio.timeout(STOP_GRACE.total_seconds()):
                await self._clients.wait_none()
        except TimeoutError:
            self._clients.each(_Client.abort)
        log.info("xds.stopped")

    def tick(self) -> None:
        """Ask clients that are silent whether they are there, and give up those that are not."""
        self._clients.each(_Client.tick)


class _Clients:
    """The connections of a server, and whether there may be more."""

    def __init__(self) -> None:
        self.are_welcome = False
        self._open: dict[_Client, None] = {}
        self._none = asyncio.Event()
        self._none.set()

    def join(self, client: "_Client") -> None:
        """Note a connection."""
        self._open[client] = None
        self._none.clear()

    def leave(self, client: "_Client") -> None:
        """Note the end of one."""
        self._open.pop(client, None)
        if not self._open:
            self._none.set()

    async def wait_none(self) -> None:
        """Wait until all are gone."""
        await self._none.wait()

    def each(self, act: "Callable[[_Client], None]") -> None:
        """Do something to every connection; one with which that fails is ended, and no other."""
        for client in tuple(self._open):
            try:
                act(client)
            except Exception:  # a bug in one client's connection must not end the server
                log.exception("connection.crashed")
                client.abort()


class _Client(asyncio.Protocol):
    """One client's connection: moves bytes between the socket, TLS and HTTP/2."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        streams: Streams,
        clients: _Clients,
        tls: ChannelTls | None,
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._clients = clients
        self._connection = Connection(self, accept=self._accept)
        self._tls = None if tls is None else TlsSide(tls.context(), now=tls.now())
        self._transport: asyncio.Transport | None = None
        self._identities: Identities | None = None
        self._is_closing = False
        self._is_reading = True
        self._closing_ticks = 0

    # -- for asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        self._transport = transport
        self._clients.join(self)
        if not self._clients.are_welcome:
            self.abort()  # accepted a moment before the port was freed
        elif self._tls is None:
            self._connection.open()

    def data_received(self, data: bytes) -> None:
        if self._tls is not None:
            data = self._decrypt(self._tls, data)
        if data and not self._is_closing:
            self._connection.receive(data)
        if self._tls is not None and self._tls.is_over:
            self.close()
        elif self._unsent_bytes() > MAX_UNSENT_BYTES:
            self._set_reading(False)

    def pause_writing(self) -> None:
        self._connection.block()

    def resume_writing(self) -> None:
        self._set_reading(True)
        self._connection.unblock()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was, it is over
        self._connection.lose()
        self._clients.leave(self)

    # -- for the connection --------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send *data* soon; nothing before the client has proved who it is."""
        if self._transport is None or self._is_closing:
            return
        if self._tls is None:
            self._transport.write(data)
        elif self._tls.is_established:
            self._transport.write(self._tls.say(data))

    def close(self) -> None:
        """End the connection once all is sent."""
        if self._transport is not None and not self._is_closing:
            self._is_closing = True
            if self._tls is not None and self._tls.is_established:
                self._transport.write(self._tls.goodbye())
            # Not at once: asyncio may be in the middle of telling us that all is sent.
            self._loop.call_soon(self._transport.close)

    def abort(self) -> None:
        """End the connection at once."""
        self._is_closing = True
        self._connection.lose()
        if self._transport is not None:
            self._transport.abort()

    # -- for the server ------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Accept no more calls, and end when those that are open have ended."""
        self._connection.leave()

    def tick(self) -> None:
        """See `Connection.tick`; one that should have closed long ago is cut."""
        self._connection.tick()
        if self._is_closing:
            self._closing_ticks += 1
            if self._closing_ticks > CLOSING_TICKS:
                self.abort()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _decrypt(self, tls: TlsSide, data: bytes) -> bytes:
        was_established = tls.is_established
        try:
            said = tls.feed(data)
        except (ssl.SSLError, RefusedError) as exc:
            log.info("connection.refused", words=_reason(exc), established=was_established)
            said = b""
            self._write_raw(tls.pending())  # the alert that says why
            self.close()
        else:
            self._write_raw(tls.pending())
        if tls.is_established and not was_established:
            self._identities = tls.identities
            self._connection.open()
        return said

    def _unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _set_reading(self, reading: bool) -> None:  # noqa: FBT001 - it is what is set
        if self._transport is None or self._is_closing or reading is self._is_reading:
            return
        self._is_reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _write_raw(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    def _accept(self, path: str, call: Call) -> Receiver | None:
        method = METHODS.get(path)
        return None if method is None else _Line(self, self._streams, method, call, self._identities)

    def soon(self, line: "_Line") -> None:
        """Have *line* say what it has to say in a moment."""
        self._loop.call_soon(self._pump, line)

    def _pump(self, line: "_Line") -> None:
        line.pump()
        self._connection.flush()


class _Line:
    """A stream and the call that carries it."""

    __slots__ = ("_call", "_client", "_is_over", "_stream")

    def __init__(
        self, client: _Client, streams: Streams, method: Method, call: Call, identities: Identities | None
    ) -> None:
        self._client = client
        self._call = call
        self._is_over = False
        self._stream = streams.open(method, self, identities=identities)

    # -- for the stream ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._client.soon(self)

    def cut(self) -> None:
        self._finish()

    # -- for the call --------------------------------------------------------------------------------------------------

    def receive(self, message: bytes) -> None:
        self._stream.receive(message)

    def half_closed(self) -> None:
        self._stream.end(Reason.CLIENT)

    def lost(self) -> None:
        self._is_over = True
        self._stream.close()

    def drained(self) -> None:
        self._stream.written()
        self.pump()

    # -- inside --------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what the stream has to say, as far as there is room."""
        stream, call = self._stream, self._call
        while not self._is_over and stream.ending is None and call.has_room():
            data = stream.take()
            if data is None:
                break
            if call.send(data):
                stream.written()
        if stream.ending is not None and not call.is_sending:
            self._finish()

    def _finish(self) -> None:
        ending = self._stream.ending
        if ending is not None and not self._is_over:
            self._is_over = True
            self._call.finish(_STATUS[ending.reason], ending.words)
            self._stream.close()


def _reason(exc: ssl.SSLError | RefusedError) -> str:
    if isinstance(exc, RefusedError):
        return str(exc)
    return getattr(exc, "verify_message", "") or exc.reason or str(exc)


_STATUS: Final[dict[Reason, int]] = {reason: status.value[0] for reason, status in STATUS.items()}
