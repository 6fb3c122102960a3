"""One call on a connection: its messages, cut from frames and into them as far as the client's windows allow."""

import enum
from typing import Final, Protocol

from controlplane.xds.lean import frames
from controlplane.xds.lean.frames import Code
from controlplane.xds.lean.headers import OPENING, trailers, trailers_only

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The longest request that is read."""

MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""What a connection's unfinished requests may be together."""


class Status(enum.IntEnum):
    """How a call ends, in numbers of gRPC."""

    OK = 0
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12


class Receiver(Protocol):
    """Who serves a call."""

    def receive(self, message: bytes) -> None:
        """Take in a request."""

    def half_closed(self) -> None:
        """The client will send no more."""

    def lost(self) -> None:
        """The call is over, and we did not end it."""

    def drained(self) -> None:
        """All that was sent has left, and there is room; said once too often rather than never."""


class Carrier(Protocol):
    """The connection, as a call sees it."""

    window_out: int
    max_frame_out: int
    is_blocked: bool
    held: int
    """Bytes of requests that are not whole yet."""

    def put(self, data: bytes) -> None:
        """Have *data* sent with the next `flush`."""

    def wait(self, call: "Call") -> None:
        """Have *call* go on when there may be room."""

    def forget(self, number: int) -> None:
        """Note that a call has ended."""


class Call:
    """Our side of a call.

    Args:
        carrier: Its connection.
        number: Its stream.
        window_in: How much the client may send before it is told that we have read it.
        window_out: How much we may send.
    """

    __slots__ = (
        "_carrier",
        "_is_half_closed",
        "_is_over",
        "_number",
        "_offset",
        "_partial",
        "_receiver",
        "_unsent",
        "_window_in",
        "_window_size",
        "window_out",
    )

    def __init__(self, carrier: Carrier, number: int, *, window_in: int, window_out: int) -> None:
        self.window_out = window_out
        self._carrier = carrier
        self._number = number
        self._window_in = self._window_size = window_in
        self._receiver: Receiver | None = None
        self._partial: bytearray | None = None
        self._unsent: bytes | None = None
        self._offset = 0
        self._is_half_closed = False
        self._is_over = False

    # -- for whoever serves it -----------------------------------------------------------------------------------------

    @property
    def is_sending(self) -> bool:
        """Whether a part of a message has not left."""
        return self._unsent is not None

    def has_room(self) -> bool:
        """Whether something may be sent now; if not, `Receiver.drained` says when."""
        if self._unsent is None and not self._carrier.is_blocked:
            return True
        self._carrier.wait(self)
        return False

    def send(self, message: bytes) -> bool:
        """Send *message*, for which there must be room; return whether all of it has left."""
        carrier = self._carrier
        size = len(message) + frames.PREFIX_SIZE
        if size <= carrier.max_frame_out and size <= self.window_out and size <= carrier.window_out:
            self.window_out -= size
            carrier.window_out -= size
            carrier.put(frames.head(size, frames.DATA, 0, self._number) + frames.prefix(len(message)) + message)
            return True
        self._unsent, self._offset = message, -frames.PREFIX_SIZE
        return self._send_more()

    def finish(self, status: int, words: str = "") -> None:
        """End the call; in the middle of a message that has not left, at once and without words."""
        if self._is_over:
            return
        self._is_over = True
        if self._unsent is not None:
            self._unsent = None
            self._carrier.put(frames.rst_stream(Code.CANCEL, stream=self._number))
        else:
            block = trailers(status, words) if self._receiver is not None else trailers_only(status, words)
            flags = frames.END_HEADERS | frames.END_STREAM
            self._carrier.put(frames.frame(frames.HEADERS, block, flags=flags, stream=self._number))
            if not self._is_half_closed:
                self._carrier.put(frames.rst_stream(Code.NO_ERROR, stream=self._number))
        self._receiver = None
        self._drop_partial()
        self._carrier.forget(self._number)

    # -- for the connection --------------------------------------------------------------------------------------------

    def begin(self, receiver: Receiver) -> None:
        """Have *receiver* serve the call."""
        self._receiver = receiver
        self._carrier.put(frames.frame(frames.HEADERS, OPENING, flags=frames.END_HEADERS, stream=self._number))

    def take_in(self, data: bytes, size: int) -> None:
        """Take in a part of the client's messages that came in *size* bytes."""
        if self._is_half_closed:
            self.reset(Code.STREAM_CLOSED)
            return
        self._window_in -= size
        if self._window_in < self._window_size // 2:
            if self._window_in < 0:
                self.reset(Code.FLOW_CONTROL_ERROR)
                return
            self._carrier.put(frames.window_update(self._window_size - self._window_in, stream=self._number))
            self._window_in = self._window_size
        if self._partial is None and len(data) >= frames.PREFIX_SIZE:
            compressed, length = frames.read_prefix(data)
            if len(data) == frames.PREFIX_SIZE + length and not compressed:  # what nearly every frame is
                self._hand_over(data[frames.PREFIX_SIZE :])
                return
        self._collect(data)

    def half_close(self) -> None:
        """The client will send no more."""
        self._is_half_closed = True
        if self._receiver is not None and not self._is_over:
            self._receiver.half_closed()

    def grow(self, increment: int) -> None:
        """The client takes *increment* bytes more."""
        self.window_out += increment
        if self._unsent is not None:
            self.resume()

    def resume(self) -> None:
        """Go on with what has not left; there may be room now."""
        if self._is_over or (self._unsent is not None and not self._send_more()):
            return
        if self._receiver is not None and self.has_room():
            self._receiver.drained()

    def reset(self, code: Code) -> None:
        """End the call because the client broke the protocol."""
        self._carrier.put(frames.rst_stream(code, stream=self._number))
        self._carrier.forget(self._number)
        self.lose()

    def lose(self) -> None:
        """Note that the call is over."""
        if not self._is_over:
            self._is_over = True
            self._unsent = None
            self._drop_partial()
            receiver, self._receiver = self._receiver, None  # nothing refers back to the call: it is freed at once
            if receiver is not None:
                receiver.lost()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _collect(self, data: bytes) -> None:
        partial = self._partial = self._partial or bytearray()
        partial += data
        self._carrier.held += len(data)
        if self._carrier.held > MAX_HELD_BYTES:
            self._refuse(Status.RESOURCE_EXHAUSTED, "too many long requests at once on this connection")
            return
        while len(partial) >= frames.PREFIX_SIZE and not self._is_over:
            compressed, length = frames.read_prefix(partial)
            if compressed:
                self._refuse(Status.UNIMPLEMENTED, "a request is compressed; send it as it is (identity)")
                return
            if length > MAX_MESSAGE_BYTES:
                self._refuse(Status.RESOURCE_EXHAUSTED, f"a request of {length} bytes; {MAX_MESSAGE_BYTES} are read")
                return
            end = frames.PREFIX_SIZE + length
            if len(partial) < end:
                break
            message = bytes(partial[frames.PREFIX_SIZE : end])
            del partial[:end]
            self._carrier.held -= end
            self._hand_over(message)
        if not partial:
            self._partial = None

    def _hand_over(self, message: bytes) -> None:
        if self._receiver is not None and not self._is_over:
            self._receiver.receive(message)

    def _drop_partial(self) -> None:
        partial, self._partial = self._partial, None
        if partial is not None:
            self._carrier.held -= len(partial)

    def _send_more(self) -> bool:
        """Send as much of what has not left as the windows allow; return whether that is all."""
        carrier, message = self._carrier, self._unsent or b""
        while self._offset < len(message):
            size = min(carrier.max_frame_out, self.window_out, carrier.window_out, len(message) - self._offset)
            if size <= 0 or carrier.is_blocked:
                carrier.wait(self)
                return False
            self.window_out -= size
            carrier.window_out -= size
            carrier.put(frames.frame(frames.DATA, self._part(message, size), stream=self._number))
            self._offset += size
        self._unsent = None
        return True

    def _part(self, message: bytes, size: int) -> bytes:
        """Return the next bytes of *message* with its prefix before it, which begins at -5."""
        if self._offset >= 0:
            return message[self._offset : self._offset + size]
        return (frames.prefix(len(message))[self._offset :] + message[:size])[:size]

    def _refuse(self, status: Status, words: str) -> None:
        receiver = self._receiver
        self.finish(status, words)
        if receiver is not None:
            receiver.lost()
