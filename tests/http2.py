"""HTTP/2 for tests of the lean transport: hyper-h2, a client that is not ours, and frames by hand."""

import dataclasses
import struct
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events

from controlplane.xds.lean import frames
from controlplane.xds.lean.calls import Call, Receiver
from controlplane.xds.lean.connection import Connection

PATH = "/a.Service/Talk"
HEADERS = ((":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "x"), ("te", "trailers"))
GRPC = (*HEADERS, ("content-type", "application/grpc"))


def message(body: bytes) -> bytes:
    return struct.pack(">BI", 0, len(body)) + body


class Recorder:
    """Who serves a call, and writes down what it hears."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.messages: list[bytes] = []
        self.heard: list[str] = []

    def receive(self, message: bytes) -> None:
        self.messages.append(message)

    def half_closed(self) -> None:
        self.heard.append("half closed")

    def lost(self) -> None:
        self.heard.append("lost")

    def drained(self) -> None:
        self.heard.append("drained")


class Wire:
    """The socket: keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.ended = ""

    def write(self, data: bytes) -> None:
        assert not self.ended, "nothing follows the end"
        self.written += data

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


@dataclasses.dataclass(slots=True)
class Seen:
    """What the client saw of one call."""

    status: str = ""
    data: bytes = b""
    trailers: dict[str, str] = dataclasses.field(default_factory=dict)
    is_over: bool = False
    reset: int | None = None

    @property
    def messages(self) -> list[bytes]:
        found, rest = [], self.data
        while rest:
            length = int.from_bytes(rest[1:5])
            found.append(rest[5 : 5 + length])
            rest = rest[5 + length :]
        return found


class Pair:
    """A server under test and a client; *cut* bytes at a time come to the server."""

    def __init__(self, cut: int = 1 << 20, *, reads: bool = True, accepts: Iterable[str] = (PATH,)) -> None:
        self.wire = Wire()
        self.calls: list[Recorder] = []
        self.accepts = tuple(accepts)
        self.server = Connection(self.wire, accept=self._accept)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.seen: dict[int, Seen] = {}
        self.goaways: list[tuple[int, bytes]] = []
        self.reads = reads
        self._cut = cut
        self.server.open()
        self.client.initiate_connection()
        self.turn()

    def _accept(self, path: str, call: Call) -> Receiver | None:
        if path not in self.accepts:
            return None
        self.calls.append(Recorder(call))
        return self.calls[-1]

    def turn(self) -> None:
        """Exchange bytes until neither side has any."""
        while True:
            data = self.client.data_to_send()
            for start in range(0, len(data), self._cut):
                self.server.receive(data[start : start + self._cut])
            self.server.flush()
            written, self.wire.written = bytes(self.wire.written), bytearray()
            for event in self.client.receive_data(written) if written else ():
                self._on(event)
            if not data and not written:
                return

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.seen.setdefault(event.stream_id, Seen()).status = _texts(event.headers)[":status"]
                self.seen[event.stream_id].trailers = _texts(event.headers)
            case h2.events.DataReceived():
                self.seen[event.stream_id].data += event.data
                if self.reads:
                    self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.seen[event.stream_id].trailers = _texts(event.headers)
            case h2.events.StreamEnded():
                self.seen[event.stream_id].is_over = True
            case h2.events.StreamReset():
                self.seen.setdefault(event.stream_id, Seen()).reset = event.error_code
            case h2.events.ConnectionTerminated():
                self.goaways.append((int(event.error_code or 0), event.additional_data or b""))
            case _:
                pass

    def call(self, headers: Iterable[tuple[str, str]] = GRPC, *, end: bool = False) -> int:
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, list(headers), end_stream=end)
        self.turn()
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        while data or end:
            size = min(len(data), self.client.local_flow_control_window(number), frames.MAX_FRAME)
            part, data = data[:size], data[size:]
            self.client.send_data(number, part, end_stream=end and not data)
            end = end and bool(data)
            self.turn()


def _texts(headers: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers}


# -- frames by hand ----------------------------------------------------------------------------------------------------


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return headers as literals that nobody has to remember."""
    return b"".join(
        b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode() for name, value in headers
    )


GREETING = frames.PREFACE + frames.settings([])


def raw(*parts: bytes) -> Pair:
    """Return a pair whose client has said this and nothing else."""
    pair = Pair()
    fresh = Connection(pair.wire, accept=pair._accept)
    pair.server = fresh
    pair.wire.written.clear()
    fresh.receive(b"".join(parts))
    return pair


def opened(payload: bytes, flags: int = frames.END_HEADERS, stream: int = 1) -> bytes:
    return frames.frame(frames.HEADERS, payload, flags=flags, stream=stream)


CALL = GREETING + opened(block(GRPC))


def split(data: bytes) -> list[tuple[int, bytes]]:
    found, start = [], 0
    while start < len(data):
        length, kind, _flags, _stream = frames.read_head(data, start)
        found.append((kind, data[start + 9 : start + 9 + length]))
        start += 9 + length
    return found
