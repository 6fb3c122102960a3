"""One connection with gRPC's streaming calls, without the connection: bytes in, messages and bytes out.

The server's side of HTTP/2 (RFC 9113) and of gRPC over it, as far as such calls need them. It holds no socket: whoever
has one feeds `Connection.receive`, is given bytes to write, and says when those do not get away.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import hpack
import structlog

from controlplane.xds.lean import frames
from controlplane.xds.lean.calls import Call, Receiver, Status
from controlplane.xds.lean.frames import Code
from controlplane.xds.lean.headers import answer_of

log = structlog.get_logger()

CONNECTION_WINDOW: Final = 1024 * 1024
STREAM_WINDOW: Final = 1024 * 1024
"""What the client may send before we say that we have read it: an Envoy's first request is 61 kB, names come on top."""

MAX_CALLS: Final = 10_000
"""Open calls on one connection; those beyond are refused, and a client may try again."""

MAX_HEADERS_BYTES: Final = 64 * 1024
"""One call's headers, compressed or not: small tables and long blocks are how servers are made to run out of memory."""

MAX_STRIKES: Final = 10_000
"""Frames between two ticks that cost work and bring nothing: pings, settings, resets, empty ones."""

FLUSH_BYTES: Final = 64 * 1024

SILENT_TICKS: Final = 2
"""Ticks without a byte after which the client is asked whether it is there; after as many again it is given up."""

BLOCKED_TICKS: Final = 12
"""The same for one that takes what was written so slowly that our question has not come to it yet."""

CALLS_PER_STRIKE: Final = 100
"""SETTINGS touch every call, so that they count for more where there are many."""

GREETING_TICKS: Final = 3
"""Ticks within which a connection has to begin as HTTP/2 does."""


class Wire(Protocol):
    """What carries the bytes of a connection."""

    def write(self, data: bytes) -> None:
        """Send *data* soon."""

    def close(self) -> None:
        """End the connection once all is sent."""

    def abort(self) -> None:
        """End the connection at once."""


class FailedConnectionError(Exception):
    """The client broke the protocol in a way that leaves nothing to go on with."""

    def __init__(self, code: Code, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.words = words


class Connection:
    """One client's connection and the calls on it.

    Args:
        wire: Where bytes go.
        accept: Told the path of each new call; returns who serves it, or None where nobody does.
    """

    def __init__(self, wire: Wire, *, accept: Callable[[str, Call], Receiver | None]) -> None:
        self.window_out = frames.DEFAULT_WINDOW
        self.max_frame_out = frames.MAX_FRAME
        self.is_blocked = False
        self.held = 0
        self._wire = wire
        self._accept = accept
        self._calls: dict[int, Call] = {}
        self._waiting: dict[Call, None] = {}
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._rest = b""
        self._decoder: hpack.Decoder | None = None
        self._block: _HeaderBlock | None = None
        self._highest_stream = 0
        self._last_accepted = 0
        self._window_in = CONNECTION_WINDOW
        self._initial_window_out = frames.DEFAULT_WINDOW
        self._is_greeted = False
        self._has_settings = False
        self._is_leaving = False
        self._is_over = False
        self._may_resume = False
        self._strikes = 0
        self._heard = False
        self._silent_ticks = 0
        self._ticks = 0

    # -- for whoever has the socket ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Say what we want of the client; once, when the connection is made."""
        self.put(_GREETING)
        self.flush()

    def receive(self, data: bytes) -> None:
        """Take in bytes; whatever is wrong with them ends this connection, or one call of it."""
        if self._is_over:
            return
        self._heard = True
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._read(data) :]
            if self._may_resume:  # once, however many frames say so
                self._may_resume = False
                self._resume()
        except FailedConnectionError as exc:
            self._fail(exc.code, exc.words)
        self.flush()

    def block(self) -> None:
        """Send no more for now: what was written does not get away."""
        self.is_blocked = True

    def unblock(self) -> None:
        """Go on sending."""
        self.is_blocked = False
        self._resume()
        self.flush()

    def tick(self) -> None:
        """Give up a client that is silent, after a question; to be called every few seconds."""
        if self._is_over:
            return
        self._ticks += 1
        self._strikes = 0
        heard, self._heard = self._heard, False
        self._silent_ticks = 0 if heard else self._silent_ticks + 1
        most = BLOCKED_TICKS if self.is_blocked else 2 * SILENT_TICKS
        if self._silent_ticks >= most or (not self._has_settings and self._ticks >= GREETING_TICKS):
            log.info("connection.silent", calls=len(self._calls))
            self._wire.abort()
            self.lose()
        elif self._silent_ticks == SILENT_TICKS:
            self.put(_PING)
            self.flush()

    def leave(self) -> None:
        """Accept no more calls, and end the connection when those that are open have ended."""
        if not self._is_over:
            self._is_leaving = True
            self.put(frames.goaway(self._last_accepted, Code.NO_ERROR))
            self._close_if_done()
            self.flush()

    def lose(self) -> None:
        """Note that the connection is gone. What refers back to it is let go, so that it is freed at once."""
        self._is_over = True
        self._wire, self._accept = _NOWHERE, _nobody
        calls, self._calls = self._calls, {}
        self._waiting.clear()
        for call in calls.values():
            call.lose()

    # -- for the calls -------------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Have *data* sent with the next `flush`."""
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is put."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._wire.write(data)

    def wait(self, call: Call) -> None:
        """Have *call* go on when there may be room."""
        self._waiting[call] = None

    def forget(self, number: int) -> None:
        """Note that a call has ended."""
        call = self._calls.pop(number, None)
        if call is not None:
            self._waiting.pop(call, None)
        self._close_if_done()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> int:
        """Take in all whole frames of *data*; return where the rest begins."""
        start = 0
        if not self._is_greeted:
            start = self._read_preface(data)
            if not self._is_greeted:
                return 0
        end_of_data = len(data)
        while end_of_data - start >= frames.HEAD_SIZE and not self._is_over:
            length, kind, flags, stream = frames.read_head(data, start)
            if length > frames.MAX_FRAME:
                raise FailedConnectionError(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes; {frames.MAX_FRAME} fit")
            end = start + frames.HEAD_SIZE + length
            if end > end_of_data:
                break
            payload = data[start + frames.HEAD_SIZE : end]
            if kind == frames.DATA and self._has_settings and self._block is None:
                self._on_data(flags, stream, payload)
            else:
                self._on_frame(kind, flags, stream, payload)
            start = end
        return start

    def _read_preface(self, data: bytes) -> int:
        size = len(frames.PREFACE)
        if not frames.PREFACE.startswith(data[:size]):
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "this port speaks HTTP/2 and gRPC only")
        if len(data) < size:
            return 0
        self._is_greeted = True
        return size

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._has_settings and kind != frames.SETTINGS:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block.stream):
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "headers are not continued")
        handle = _HANDLERS.get(kind)
        if handle is not None:  # others are extensions, to be ignored
            handle(self, flags, stream, payload)

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        if size == 0:
            self._strike()
        self._window_in -= size
        if self._window_in < CONNECTION_WINDOW // 2:
            if self._window_in < 0:
                raise FailedConnectionError(Code.FLOW_CONTROL_ERROR, "more data than the connection's window allows")
            self.put(frames.window_update(CONNECTION_WINDOW - self._window_in, stream=0))
            self._window_in = CONNECTION_WINDOW
        call = self._calls.get(stream)
        if call is None:
            self._check_not_idle(stream, "DATA")
            return
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        call.take_in(payload, size)
        if flags & frames.END_STREAM:
            call.half_close()

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "HEADERS of the connection")
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise FailedConnectionError(Code.FRAME_SIZE_ERROR, "HEADERS are too short")
            payload = payload[5:]
        self._block = _HeaderBlock(stream, ends_stream=bool(flags & frames.END_STREAM))
        self._on_continuation(flags, stream, payload)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        if not payload:
            self._strike()
        block.data += payload
        if len(block.data) > MAX_HEADERS_BYTES:
            raise FailedConnectionError(Code.ENHANCE_YOUR_CALM, f"headers of more than {MAX_HEADERS_BYTES} bytes")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(stream, self._decode(bytes(block.data)), ends_stream=block.ends_stream)

    def _decode(self, block: bytes) -> Mapping[bytes, bytes]:
        if self._decoder is None:
            self._decoder = hpack.Decoder(MAX_HEADERS_BYTES)
        try:
            return dict(self._decoder.decode(block, raw=True))  # of a name that stands twice, the last
        except hpack.OversizedHeaderListError as exc:
            raise FailedConnectionError(Code.ENHANCE_YOUR_CALM, "headers are too long") from exc
        except hpack.HPACKError as exc:
            raise FailedConnectionError(Code.COMPRESSION_ERROR, "headers cannot be read") from exc

    def _on_block(self, stream: int, headers: Mapping[bytes, bytes], *, ends_stream: bool) -> None:
        call = self._calls.get(stream)
        if call is not None:  # trailers
            if not ends_stream:
                call.reset(Code.PROTOCOL_ERROR)
            else:
                call.half_close()
            return
        if stream <= self._highest_stream:
            return  # of a call that we have ended; it was on its way
        if stream % 2 == 0:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "a client's streams have odd numbers")
        self._highest_stream = stream
        if self._is_leaving or len(self._calls) >= MAX_CALLS:
            self.put(frames.rst_stream(Code.REFUSED_STREAM, stream=stream))
            return
        self._last_accepted = stream
        self._open_call(stream, headers, ends_stream=ends_stream)

    def _open_call(self, stream: int, headers: Mapping[bytes, bytes], *, ends_stream: bool) -> None:
        refusal = answer_of(headers)
        if refusal is not None:
            self.put(frames.frame(frames.HEADERS, refusal, flags=_LAST, stream=stream))
            if not ends_stream:
                self.put(frames.rst_stream(Code.NO_ERROR, stream=stream))
            return
        call = Call(self, stream, window_in=STREAM_WINDOW, window_out=self._initial_window_out)
        self._calls[stream] = call
        path = headers[b":path"].decode("ascii", "replace")
        receiver = self._accept(path, call)
        if receiver is None:
            call.finish(Status.UNIMPLEMENTED, "this call is not served here")
            return
        call.begin(receiver)
        if ends_stream:
            call.half_close()

    # -- the other frames ----------------------------------------------------------------------------------------------

    def _on_priority(self, _flags: int, stream: int, payload: bytes) -> None:
        self._strike()
        if len(payload) != 5:
            raise FailedConnectionError(Code.FRAME_SIZE_ERROR, "PRIORITY is not of 5 bytes")
        if stream == 0:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "PRIORITY of the connection")

    def _on_rst_stream(self, _flags: int, stream: int, payload: bytes) -> None:
        self._strike()
        if len(payload) != 4:
            raise FailedConnectionError(Code.FRAME_SIZE_ERROR, "RST_STREAM is not of 4 bytes")
        self._check_not_idle(stream, "RST_STREAM")
        call = self._calls.get(stream)
        if call is not None:
            self.forget(stream)
            call.lose()

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._strike()
        if stream != 0:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise FailedConnectionError(Code.FRAME_SIZE_ERROR, "SETTINGS of an odd length")
        if flags & frames.ACK:
            return
        self._strikes += len(self._calls) // CALLS_PER_STRIKE
        self._has_settings = True
        values = frames.read_settings(payload)
        if values.get(frames.ENABLE_PUSH, 0) > 1:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        self.max_frame_out = values.get(frames.MAX_FRAME_SIZE, self.max_frame_out)
        if not frames.MAX_FRAME <= self.max_frame_out < 1 << 24:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range")
        self._resize(values.get(frames.INITIAL_WINDOW_SIZE, self._initial_window_out))
        self.put(frames.SETTINGS_ACK)
        self._may_resume = True

    def _resize(self, initial_window: int) -> None:
        growth = initial_window - self._initial_window_out
        self._initial_window_out = initial_window
        calls = self._calls.values()
        if initial_window > frames.MAX_WINDOW or any(call.window_out + growth > frames.MAX_WINDOW for call in calls):
            raise FailedConnectionError(Code.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
        for call in calls:
            call.window_out += growth

    def _on_push_promise(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise FailedConnectionError(Code.PROTOCOL_ERROR, "PUSH_PROMISE of a client")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        self._strike()
        if stream != 0:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise FailedConnectionError(Code.FRAME_SIZE_ERROR, "PING is not of 8 bytes")
        if not flags & frames.ACK:
            self.put(frames.frame(frames.PING, payload, flags=frames.ACK))

    def _on_goaway(self, _flags: int, stream: int, payload: bytes) -> None:
        # The client opens no more calls here, and closes when those that are open have ended.
        if stream != 0:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise FailedConnectionError(Code.FRAME_SIZE_ERROR, "GOAWAY is too short")

    def _on_window_update(self, _flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise FailedConnectionError(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not of 4 bytes")
        increment = frames.read_word(payload)
        if stream == 0:
            self.window_out += increment
            if increment == 0 or self.window_out > frames.MAX_WINDOW:
                code = Code.FLOW_CONTROL_ERROR if increment else Code.PROTOCOL_ERROR
                raise FailedConnectionError(code, "WINDOW_UPDATE of nothing, or of too much")
            self._may_resume = True
            return
        self._check_not_idle(stream, "WINDOW_UPDATE")
        call = self._calls.get(stream)
        if call is None:
            return
        if increment == 0 or call.window_out + increment > frames.MAX_WINDOW:
            call.reset(Code.FLOW_CONTROL_ERROR if increment else Code.PROTOCOL_ERROR)
        else:
            call.grow(increment)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _check_not_idle(self, stream: int, what: str) -> None:
        if stream == 0 or stream > self._highest_stream:
            raise FailedConnectionError(Code.PROTOCOL_ERROR, f"{what} of a stream that was never opened")

    def _strike(self) -> None:
        self._strikes += 1
        if self._strikes > MAX_STRIKES:
            raise FailedConnectionError(Code.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _resume(self) -> None:
        waiting, self._waiting = tuple(self._waiting), {}
        for place, call in enumerate(waiting):
            if self.is_blocked or self.window_out <= 0:
                # Those that had no turn are the first at the next one.
                self._waiting = dict.fromkeys(waiting[place:]) | self._waiting
                return
            call.resume()

    def _fail(self, code: Code, words: str) -> None:
        log.info("connection.failed", code=code.name, words=words)
        self.put(frames.goaway(self._last_accepted, code, words))
        self.flush()
        self._wire.close()
        self.lose()

    def _close_if_done(self) -> None:
        if self._is_leaving and not self._calls and not self._is_over:
            self._is_over = True
            self.flush()
            self._wire.close()


class _Nowhere:
    """The wire of a connection that is gone."""

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


_NOWHERE: Final = _Nowhere()


def _nobody(_path: str, _call: Call) -> None:
    return None


class _HeaderBlock:
    """Headers of which the end has not come."""

    def __init__(self, stream: int, *, ends_stream: bool) -> None:
        self.stream = stream
        self.ends_stream = ends_stream
        self.data = bytearray()


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise FailedConnectionError(Code.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]


_LAST: Final = frames.END_HEADERS | frames.END_STREAM

_PING: Final = frames.frame(frames.PING, b"hueshift")

_GREETING: Final = frames.settings(
    (
        (frames.MAX_CONCURRENT_STREAMS, MAX_CALLS),
        (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
        (frames.MAX_HEADER_LIST_SIZE, MAX_HEADERS_BYTES),
    )
) + frames.window_update(CONNECTION_WINDOW - frames.DEFAULT_WINDOW, stream=0)

_HANDLERS: Final[Mapping[int, Callable[[Any, int, int, bytes], None]]] = {
    frames.DATA: Connection._on_data,  # noqa: SLF001 - its own
    frames.HEADERS: Connection._on_headers,  # noqa: SLF001
    frames.PRIORITY: Connection._on_priority,  # noqa: SLF001
    frames.RST_STREAM: Connection._on_rst_stream,  # noqa: SLF001
    frames.SETTINGS: Connection._on_settings,  # noqa: SLF001
    frames.PUSH_PROMISE: Connection._on_push_promise,  # noqa: SLF001
    frames.PING: Connection._on_ping,  # noqa: SLF001
    frames.GOAWAY: Connection._on_goaway,  # noqa: SLF001
    frames.WINDOW_UPDATE: Connection._on_window_update,  # noqa: SLF001
    frames.CONTINUATION: Connection._on_continuation,  # noqa: SLF001
}
