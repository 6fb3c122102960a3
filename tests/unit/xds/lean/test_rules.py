"""HTTP/2's rules on the lean transport: what is allowed, what is answered how, and anything at all."""

import contextlib

import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.xds.lean import calls, frames
from controlplane.xds.lean import connection as lean
from controlplane.xds.lean.calls import Call
from controlplane.xds.lean.connection import Connection
from controlplane.xds.lean.frames import Code
from tests.http2 import CALL, GREETING, GRPC, Pair, Recorder, Wire, block, message, opened, raw, split

# -- what the protocol allows ------------------------------------------------------------------------------------------


def test_headers_may_be_padded_prioritised_and_continued() -> None:
    whole = block(GRPC)
    payload = b"\x04" + b"\x00\x00\x00\x00\x10" + whole[:20] + b"\x00" * 4
    pair = raw(
        GREETING,
        opened(payload, frames.PADDED | frames.HAS_PRIORITY),
        frames.frame(frames.CONTINUATION, whole[20:40], stream=1),
        frames.frame(frames.CONTINUATION, whole[40:], flags=frames.END_HEADERS, stream=1),
        frames.frame(frames.DATA, b"\x03" + message(b"hello") + b"\x00" * 3, flags=frames.PADDED, stream=1),
    )
    assert pair.calls[0].messages == [b"hello"]


def test_pings_and_settings_are_acknowledged_and_extensions_ignored() -> None:
    pair = raw(
        GREETING,
        frames.frame(frames.PING, b"12345678"),
        frames.frame(0xFA, b"whatever", flags=0xFF, stream=9),
        frames.settings([(0x99, 7)]),
        frames.frame(frames.GOAWAY, bytes(8)),
    )
    pong = frames.frame(frames.PING, b"12345678", flags=frames.ACK)
    assert bytes(pair.wire.written) == frames.SETTINGS_ACK + pong + frames.SETTINGS_ACK
    assert pair.wire.ended == ""


VIOLATIONS = {
    "not HTTP/2": (b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
    "no settings": (frames.PREFACE + frames.frame(frames.PING, bytes(8)), Code.PROTOCOL_ERROR),
    "data before settings": (frames.PREFACE + frames.frame(frames.DATA, b"", stream=1), Code.PROTOCOL_ERROR),
    "a frame too long": (GREETING + frames.head(16_385, frames.DATA, 0, 1), Code.FRAME_SIZE_ERROR),
    "data of nothing": (GREETING + frames.frame(frames.DATA, b"x", stream=1), Code.PROTOCOL_ERROR),
    "data of the connection": (GREETING + frames.frame(frames.DATA, b"x"), Code.PROTOCOL_ERROR),
    "headers of the connection": (GREETING + opened(block(GRPC), stream=0), Code.PROTOCOL_ERROR),
    "an even stream": (GREETING + opened(block(GRPC), stream=2), Code.PROTOCOL_ERROR),
    "a header index of nothing": (GREETING + opened(b"\xff\xff\xff\x7f"), Code.COMPRESSION_ERROR),
    "continuation of nothing": (GREETING + frames.frame(frames.CONTINUATION, b"", stream=1), Code.PROTOCOL_ERROR),
    "headers not continued": (
        GREETING + opened(b"", flags=0) + frames.frame(frames.PING, bytes(8)),
        Code.PROTOCOL_ERROR,
    ),
    "headers continued elsewhere": (
        GREETING + opened(b"", flags=0) + frames.frame(frames.CONTINUATION, b"", stream=3),
        Code.PROTOCOL_ERROR,
    ),
    "data amid headers": (
        GREETING + opened(b"", flags=0) + frames.frame(frames.DATA, b"", stream=1),
        Code.PROTOCOL_ERROR,
    ),
    "headers without an end": (
        GREETING + opened(b"", flags=0) + frames.frame(frames.CONTINUATION, bytes(16_000), stream=1) * 5,
        Code.ENHANCE_YOUR_CALM,
    ),
    "headers that unfold": (
        GREETING + opened(b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4_000 + b"\xbe" * 12_000),
        Code.ENHANCE_YOUR_CALM,
    ),
    "padding alone": (CALL + frames.frame(frames.DATA, b"\x05abc", flags=frames.PADDED, stream=1), Code.PROTOCOL_ERROR),
    "no room for a priority": (GREETING + opened(b"abc", flags=frames.HAS_PRIORITY), Code.FRAME_SIZE_ERROR),
    "a short priority": (GREETING + frames.frame(frames.PRIORITY, b"abc", stream=1), Code.FRAME_SIZE_ERROR),
    "a priority of all": (GREETING + frames.frame(frames.PRIORITY, bytes(5)), Code.PROTOCOL_ERROR),
    "a short reset": (CALL + frames.frame(frames.RST_STREAM, b"abc", stream=1), Code.FRAME_SIZE_ERROR),
    "a reset of nothing": (GREETING + frames.frame(frames.RST_STREAM, bytes(4), stream=1), Code.PROTOCOL_ERROR),
    "settings of a stream": (GREETING + frames.frame(frames.SETTINGS, stream=1), Code.PROTOCOL_ERROR),
    "odd settings": (GREETING + frames.frame(frames.SETTINGS, b"abc"), Code.FRAME_SIZE_ERROR),
    "settings in an answer": (
        GREETING + frames.frame(frames.SETTINGS, bytes(6), flags=frames.ACK),
        Code.FRAME_SIZE_ERROR,
    ),
    "push neither on nor off": (GREETING + frames.settings([(frames.ENABLE_PUSH, 2)]), Code.PROTOCOL_ERROR),
    "frames too small": (GREETING + frames.settings([(frames.MAX_FRAME_SIZE, 100)]), Code.PROTOCOL_ERROR),
    "frames too large": (GREETING + frames.settings([(frames.MAX_FRAME_SIZE, 1 << 24)]), Code.PROTOCOL_ERROR),
    "a window too large": (
        GREETING + frames.settings([(frames.INITIAL_WINDOW_SIZE, 1 << 31)]),
        Code.FLOW_CONTROL_ERROR,
    ),
    "a window that overflows": (
        CALL
        + frames.window_update(frames.MAX_WINDOW - frames.DEFAULT_WINDOW, stream=1)
        + frames.settings([(frames.INITIAL_WINDOW_SIZE, frames.DEFAULT_WINDOW + 1)]),
        Code.FLOW_CONTROL_ERROR,
    ),
    "a promise": (CALL + frames.frame(frames.PUSH_PROMISE, bytes(4), stream=1), Code.PROTOCOL_ERROR),
    "a ping of a stream": (GREETING + frames.frame(frames.PING, bytes(8), stream=1), Code.PROTOCOL_ERROR),
    "a short ping": (GREETING + frames.frame(frames.PING, b"abc"), Code.FRAME_SIZE_ERROR),
    "a goaway of a stream": (GREETING + frames.frame(frames.GOAWAY, bytes(8), stream=1), Code.PROTOCOL_ERROR),
    "a short goaway": (GREETING + frames.frame(frames.GOAWAY, b"abc"), Code.FRAME_SIZE_ERROR),
    "a short window update": (GREETING + frames.frame(frames.WINDOW_UPDATE, b"abc"), Code.FRAME_SIZE_ERROR),
    "a window of nothing more": (GREETING + frames.window_update(0, stream=0), Code.PROTOCOL_ERROR),
    "a window beyond all": (GREETING + frames.window_update(frames.MAX_WINDOW, stream=0), Code.FLOW_CONTROL_ERROR),
    "a window of a stream to come": (GREETING + frames.window_update(1, stream=1), Code.PROTOCOL_ERROR),
    "pings without end": (GREETING + frames.frame(frames.PING, bytes(8)) * 10_001, Code.ENHANCE_YOUR_CALM),
    "settings without end": (GREETING + frames.settings([]) * 10_001, Code.ENHANCE_YOUR_CALM),
    "nothing without end": (CALL + frames.frame(frames.DATA, b"", stream=1) * 10_001, Code.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("case", list(VIOLATIONS))
def test_a_client_that_breaks_the_protocol_is_told_so_and_closed(case: str) -> None:
    data, code = VIOLATIONS[case]
    pair = raw(data)
    *_, goaway = split(bytes(pair.wire.written))
    assert goaway[0] == frames.GOAWAY
    assert int.from_bytes(goaway[1][4:8]) == code
    assert goaway[1][8:].decode().isprintable()
    assert pair.wire.ended == "closed"
    assert all("lost" in call.heard for call in pair.calls)
    pair.server.receive(data)  # what was on its way is not looked at


STREAM_VIOLATIONS = {
    "data after the end": (
        frames.frame(frames.DATA, b"", flags=frames.END_STREAM, stream=1) + frames.frame(frames.DATA, b"x", stream=1),
        Code.STREAM_CLOSED,
    ),
    "a window of nothing more": (frames.window_update(0, stream=1), Code.PROTOCOL_ERROR),
    "a window beyond all": (frames.window_update(frames.MAX_WINDOW, stream=1), Code.FLOW_CONTROL_ERROR),
    "headers in the middle": (opened(block([("x", "y")])), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", list(STREAM_VIOLATIONS))
def test_a_call_that_breaks_the_protocol_is_reset_and_no_other(case: str) -> None:
    data, code = STREAM_VIOLATIONS[case]
    pair = raw(CALL, opened(block(GRPC), stream=3), data)
    assert (frames.RST_STREAM, int(code).to_bytes(4)) in split(bytes(pair.wire.written))
    assert "lost" in pair.calls[0].heard
    assert pair.calls[1].heard == []
    assert pair.wire.ended == ""


def test_more_data_than_was_allowed_ends_the_connection() -> None:
    pair = raw(CALL)
    part = frames.frame(frames.DATA, bytes(frames.MAX_FRAME), stream=1)
    server = pair.server
    server._window_in = 1_000  # as if nothing had been read
    server.receive(part)
    assert split(bytes(pair.wire.written))[-1][1][4:8] == int(Code.FLOW_CONTROL_ERROR).to_bytes(4)


def test_what_follows_a_refused_call_is_ignored() -> None:
    """A client sends its first request with the headers, before it can have heard of our GOAWAY."""
    pair = raw(CALL)
    pair.server.leave()
    late = (
        opened(block(GRPC), stream=3),
        frames.frame(frames.DATA, message(b"late"), stream=3),
        frames.window_update(1, stream=3),
        frames.rst_stream(Code.CANCEL, stream=3),
    )
    pair.server.receive(b"".join(late))
    assert pair.calls[0].heard == []
    (goaway,) = [payload for kind, payload in split(bytes(pair.wire.written)) if kind == frames.GOAWAY]
    assert goaway == (1).to_bytes(4) + bytes(4)
    pair.calls[0].call.finish(14)
    assert pair.wire.ended == "closed"


@pytest.mark.parametrize("size", [0, 100, 4_096, 1 << 20])
def test_a_client_may_have_a_table_of_any_size(size: int) -> None:
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
    pair.turn()
    number = pair.call()
    pair.calls[0].call.send(b"x")
    pair.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size // 2})
    pair.turn()
    pair.calls[0].call.finish(3, "words")
    pair.turn()
    assert pair.seen[number].trailers["grpc-status"] == "3"
    refused = pair.call({**dict(GRPC), ":path": "/other"}.items())
    assert pair.seen[refused].trailers["grpc-status"] == "12"


def test_many_long_requests_at_once_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_HELD_BYTES", 105_000)
    pair = Pair()
    numbers = [pair.call() for _ in range(3)]
    for number in numbers:
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # of the third not all is asked for
            pair.send(number, message(b"l" * 60_000)[:40_000])
    assert [call.heard for call in pair.calls] == [[], [], ["lost"]]
    assert pair.seen[numbers[2]].trailers["grpc-status"] == "8"
    for number in numbers[:2]:
        pair.send(number, message(b"l" * 60_000)[40_000:])
    assert [len(call.messages) for call in pair.calls] == [1, 1, 0]
    assert pair.server.held == 0
    pair.send(pair.call(), message(b"l" * 60_000)[:50_000])
    pair.client.reset_stream(7)
    pair.turn()
    assert pair.server.held == 0


class Counting(Connection):
    """Counts how often it looks at all calls that wait."""

    looks = 0

    def _resume(self) -> None:
        self.looks += 1
        super()._resume()


def test_windows_that_open_again_and_again_cost_one_look() -> None:
    """A look at every waiting call for each of many frames in one read would be work without end."""
    waiting: list[Recorder] = []

    def accept(_path: str, call: Call) -> Recorder:
        waiting.append(Recorder(call))
        return waiting[-1]

    connection = Counting(Wire(), accept=accept)
    connection.receive(frames.PREFACE + frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)]))
    connection.receive(b"".join(opened(block(GRPC), stream=number) for number in range(1, 401, 2)))
    for recorder in waiting:
        recorder.call.send(b"waits")
    before = connection.looks
    connection.receive(frames.window_update(1, stream=0) * 5_000)
    assert connection.looks == before + 1


def test_calls_take_turns_at_the_window_of_the_connection() -> None:
    pair = Pair(reads=False)
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    numbers = [pair.call() for _ in range(3)]
    for recorder in pair.calls:
        assert recorder.call.has_room()
        recorder.call.send(b"t" * 200_000)
    for _ in range(10):
        pair.client.increment_flow_control_window(10_000)
        pair.turn()
    received = [len(pair.seen[number].data) for number in numbers]
    assert sum(received) == frames.DEFAULT_WINDOW + 100_000
    assert min(received) >= 30_000


# -- clients that are silent -------------------------------------------------------------------------------------------


def test_a_silent_client_is_asked_and_then_given_up() -> None:
    pair = Pair()
    pair.call()
    ticks = 0
    pair.server.tick()
    while pair.wire.ended == "":
        pair.server.tick()
        ticks += 1
    assert ticks == 2 * lean.SILENT_TICKS
    assert pair.wire.ended == "aborted"
    assert pair.wire.written.count(b"hueshift") == 1
    assert pair.calls[0].heard == ["lost"]


def test_a_client_that_reads_slowly_is_given_longer() -> None:
    pair = Pair()
    pair.call()
    pair.server.block()
    pair.server.tick()
    for _ in range(lean.BLOCKED_TICKS - 1):
        pair.server.tick()
        assert pair.wire.ended == ""
    pair.server.tick()
    assert pair.wire.ended == "aborted"


def test_a_client_that_answers_pings_stays() -> None:
    pair = Pair()
    number = pair.call()
    for _ in range(20):
        pair.server.tick()
        pair.turn()
    pair.calls[0].call.send(b"here")
    pair.turn()
    assert pair.seen[number].messages == [b"here"]


def test_a_connection_that_does_not_begin_is_given_up_however_often_it_is_heard() -> None:
    pair = raw(frames.PREFACE[:3])
    for byte in frames.PREFACE[3 : 3 + lean.GREETING_TICKS]:
        assert pair.wire.ended == ""
        pair.server.tick()
        pair.server.receive(bytes((byte,)))
    assert pair.wire.ended == "aborted"


def test_strikes_are_forgiven_with_time() -> None:
    pair = raw(GREETING)
    for _ in range(3):
        pair.server.receive(frames.frame(frames.PING, bytes(8)) * 9_000)
        pair.server.tick()
    assert pair.wire.ended == ""


# -- anything at all ---------------------------------------------------------------------------------------------------

STREAMS = st.sampled_from([0, 1, 1, 1, 3, 5, 2, frames.MAX_STREAM_ID])
ANY_FRAME = st.builds(
    lambda kind, flags, stream, payload: frames.frame(kind, payload, flags=flags, stream=stream),
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]),
    STREAMS,
    st.one_of(st.binary(max_size=40), st.just(block(GRPC)), st.builds(message, st.binary(max_size=20))),
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(ANY_FRAME, max_size=30), cut=st.integers(1, 64), finish=st.booleans())
def test_no_frames_make_it_raise_or_write_after_the_end(parts: list[bytes], cut: int, finish: bool) -> None:  # noqa: FBT001
    pair = raw(GREETING)
    data = b"".join(parts)
    for start in range(0, len(data), cut):
        pair.server.receive(data[start : start + cut])
        for recorder in pair.calls:
            if "lost" not in recorder.heard and recorder.call.has_room():
                recorder.call.send(b"answer")
        pair.server.flush()
        pair.server.tick()
        if pair.wire.ended:
            break
    if finish:
        for recorder in pair.calls:
            recorder.call.finish(0)
    pair.server.lose()
    for recorder in pair.calls:
        assert recorder.heard.count("lost") <= 1
    split(bytes(pair.wire.written))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    raw(data)
    raw(GREETING, data)
    raw(CALL, data)


@settings(max_examples=100, deadline=None)
@given(
    bodies=st.lists(st.binary(max_size=200) | st.integers(1, 200_000).map(bytes), max_size=6),
    window=st.integers(1, 70_000),
    cut=st.integers(1, 5_000),
)
def test_whatever_the_window_all_messages_arrive_both_ways(bodies: list[bytes], window: int, cut: int) -> None:
    pair = Pair(cut)
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: max(window, 1_000)})
    number = pair.call()
    recorder = pair.calls[0]
    for body in bodies:
        pair.send(number, message(body))
        assert recorder.call.has_room()
        recorder.call.send(body)
        pair.turn()
    assert recorder.messages == bodies
    assert pair.seen[number].messages == bodies
