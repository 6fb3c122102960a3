"""What clients of the lean transport say and hear, with hyper-h2 at the other end."""

import gc
import struct
import weakref
from typing import Any

import h2.errors
import h2.settings
import pytest

from controlplane.xds.lean import connection as lean
from controlplane.xds.lean import frames
from controlplane.xds.lean.calls import MAX_MESSAGE_BYTES, Call
from controlplane.xds.lean.connection import Connection
from controlplane.xds.lean.frames import Code
from tests.http2 import CALL, GRPC, Pair, Recorder, Wire, block, message, opened, raw, split

# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_messages_come_whole_however_they_are_cut(cut: int) -> None:
    pair = Pair(cut)
    number = pair.call()
    bodies = [b"", b"ack", b"x" * 70_000, b"y" * 20]
    pair.send(number, b"".join(map(message, bodies)))
    assert pair.calls[0].messages == bodies


def test_several_calls_do_not_mix() -> None:
    pair = Pair()
    first, second = pair.call(), pair.call()
    whole = message(b"a" * 100)
    pair.send(first, whole[:50])
    pair.send(second, message(b"b"))
    pair.send(first, whole[50:])
    assert [call.messages for call in pair.calls] == [[b"a" * 100], [b"b"]]


def test_megabytes_in_many_messages_are_taken_in_as_the_windows_allow() -> None:
    pair = Pair()
    number = pair.call()
    for _ in range(50):
        pair.send(number, message(b"z" * 100_000))
    assert [len(body) for body in pair.calls[0].messages] == [100_000] * 50


def test_what_is_sent_arrives() -> None:
    pair = Pair()
    number = pair.call()
    assert pair.calls[0].call.send(b"one")
    assert pair.calls[0].call.send(b"")
    pair.turn()
    assert pair.seen[number].status == "200"
    assert pair.seen[number].trailers["content-type"] == "application/grpc"
    assert pair.seen[number].messages == [b"one", b""]


def test_a_large_message_goes_as_far_as_the_client_reads_and_no_further() -> None:
    pair = Pair(reads=False)
    slow, other = pair.call(), pair.call()
    body = bytes(range(256)) * 1_000
    call = pair.calls[0].call
    assert call.has_room()
    assert not call.send(body)
    pair.turn()
    assert not call.has_room()
    assert len(pair.seen[slow].data) == frames.DEFAULT_WINDOW
    pair.client.acknowledge_received_data(frames.DEFAULT_WINDOW, slow)
    pair.reads = True
    pair.turn()
    assert pair.seen[slow].messages == [body]
    assert set(pair.calls[0].heard) == {"drained"}
    assert call.has_room()
    assert pair.calls[1].call.send(b"x")
    pair.turn()
    assert pair.seen[other].messages == [b"x"]


def test_a_call_whose_window_is_full_delays_no_other() -> None:
    pair = Pair()
    pair.client.increment_flow_control_window(1 << 20)
    pair.reads = False
    slow, quick = pair.call(), pair.call()
    pair.calls[0].call.send(b"s" * 100_000)
    pair.calls[1].call.send(b"q" * 1_000)
    pair.turn()
    assert pair.seen[quick].messages == [b"q" * 1_000]
    assert len(pair.seen[slow].data) == frames.DEFAULT_WINDOW


def test_a_window_that_opens_later_is_used() -> None:
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    pair.turn()
    number = pair.call()
    assert not pair.calls[0].call.send(b"patience")
    pair.turn()
    assert pair.seen[number].data == b""
    for size in (3, 4, 50):  # the first two do not even hold what goes before the message
        pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
        pair.turn()
    assert pair.seen[number].messages == [b"patience"]
    assert set(pair.calls[0].heard) == {"drained"}


def test_larger_frames_are_used_where_the_client_takes_them() -> None:
    pair = Pair()
    pair.client.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 60_000})
    pair.turn()
    number = pair.call()
    assert pair.calls[0].call.send(b"w" * 50_000)
    pair.turn()
    assert pair.seen[number].messages == [b"w" * 50_000]


def test_while_nothing_gets_away_nothing_is_written() -> None:
    pair = Pair()
    number = pair.call()
    call = pair.calls[0].call
    pair.server.block()
    assert not call.has_room()
    assert pair.wire.written == b""
    pair.server.unblock()
    assert pair.calls[0].heard == ["drained"]
    assert call.send(b"now")
    pair.turn()
    assert pair.seen[number].messages == [b"now"]


def test_a_message_is_stopped_midway_when_the_socket_is_full() -> None:
    pair = Pair()
    pair.client.increment_flow_control_window(1 << 24)
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
    number = pair.call()
    write = pair.wire.write

    def write_and_fill(data: bytes) -> None:
        write(data)
        pair.server.block()

    pair.wire.write = write_and_fill  # type: ignore[method-assign] # a socket that is full after each write
    body = b"v" * 1_000_000
    assert not pair.calls[0].call.send(body)
    turns = 0
    while pair.calls[0].heard != ["drained"]:
        assert len(pair.wire.written) <= lean.FLUSH_BYTES + frames.MAX_FRAME + frames.HEAD_SIZE
        pair.turn()
        pair.server.unblock()
        turns += 1
    pair.turn()
    assert turns > 10
    assert pair.seen[number].messages == [body]


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", "stopping; connect again", "100 % wrong: Größe\n"])
def test_a_call_ends_with_status_and_words(words: str) -> None:
    pair = Pair()
    number = pair.call()
    pair.calls[0].call.send(b"last")
    pair.calls[0].call.finish(14, words)
    pair.turn()
    seen = pair.seen[number]
    assert (seen.messages, seen.is_over, seen.trailers["grpc-status"]) == ([b"last"], True, "14")
    coded = seen.trailers.get("grpc-message", "")
    assert coded.isascii()
    assert coded.isprintable()
    assert bytes.fromhex("".join(f"{ord(c):02x}" for c in coded)).decode() == coded
    assert _percent_decoded(coded) == words
    # The client has not heard of it yet: nothing breaks.
    pair.server.receive(frames.frame(frames.DATA, message(b"late"), stream=number))
    assert pair.calls[0].messages == []


def _percent_decoded(text: str) -> str:
    out, rest = bytearray(), text.encode()
    while rest:
        if rest[:1] == b"%":
            out.append(int(rest[1:3], 16))
            rest = rest[3:]
        else:
            out += rest[:1]
            rest = rest[1:]
    return out.decode()


def test_a_call_that_ends_in_the_middle_of_a_message_is_reset() -> None:
    pair = Pair(reads=False)
    number = pair.call()
    pair.calls[0].call.send(b"m" * 100_000)
    pair.calls[0].call.finish(14, "too slow")
    pair.turn()
    assert pair.seen[number].reset == Code.CANCEL


def test_a_client_that_has_said_all_is_heard_and_answered() -> None:
    pair = Pair()
    number = pair.call()
    pair.send(number, message(b"bye"), end=True)
    assert (pair.calls[0].messages, pair.calls[0].heard) == ([b"bye"], ["half closed"])
    pair.calls[0].call.finish(0)
    pair.turn()
    assert (pair.seen[number].is_over, pair.seen[number].reset) == (True, None)


def test_a_call_without_a_body_is_half_closed_at_once() -> None:
    pair = Pair()
    pair.call(end=True)
    assert pair.calls[0].heard == ["half closed"]


def test_trailers_of_a_client_end_its_side() -> None:
    pair = Pair()
    number = pair.call()
    pair.client.send_headers(number, [("x-last", "1")], end_stream=True)
    pair.turn()
    assert pair.calls[0].heard == ["half closed"]


def test_a_reset_ends_one_call() -> None:
    pair = Pair()
    first, second = pair.call(), pair.call()
    pair.client.reset_stream(first, h2.errors.ErrorCodes.CANCEL)
    pair.turn()
    assert [call.heard for call in pair.calls] == [["lost"], []]
    pair.calls[0].call.finish(0)  # too late, and harmless
    pair.calls[1].call.send(b"on")
    pair.turn()
    assert pair.seen[second].messages == [b"on"]
    assert first not in pair.seen or not pair.seen[first].is_over


def test_all_calls_are_lost_with_the_connection_and_once() -> None:
    pair = Pair()
    pair.call()
    pair.call()
    pair.server.lose()
    pair.server.lose()
    assert [call.heard for call in pair.calls] == [["lost"], ["lost"]]


def test_a_server_that_leaves_lets_calls_end_and_takes_no_more() -> None:
    pair = raw(CALL)  # by hand, since hyper-h2 hears nothing any more after a GOAWAY
    pair.server.leave()
    assert pair.wire.ended == ""
    pair.server.receive(opened(block(GRPC), stream=3))
    assert len(pair.calls) == 1
    pair.calls[0].call.send(b"still")
    pair.calls[0].call.finish(14)
    assert pair.wire.ended == "closed"
    kinds = [kind for kind, _ in split(bytes(pair.wire.written))]
    ends = [frames.GOAWAY, frames.RST_STREAM, frames.DATA, frames.HEADERS, frames.RST_STREAM]
    assert kinds == [frames.SETTINGS, frames.HEADERS, *ends]


def test_a_server_that_leaves_an_idle_connection_closes_it() -> None:
    pair = Pair()
    pair.server.leave()
    assert pair.wire.ended == "closed"


# -- calls that are none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "grpc_status"),
    [
        ([(":method", "POST"), (":path", "/no.Such/Call")], "200", "12"),
        ([(":method", "GET")], "405", None),
        ([("content-type", "text/html")], "415", None),
        ([(":path", "*")], "400", None),
    ],
)
def test_what_is_no_call_of_ours_is_answered(
    headers: list[tuple[str, str]], status: str, grpc_status: str | None
) -> None:
    pair = Pair()
    number = pair.call({**dict(GRPC), **dict(headers)}.items())
    assert pair.seen[number].status == status
    assert pair.seen[number].trailers.get("grpc-status") == grpc_status
    assert pair.seen[number].is_over
    assert pair.calls == []
    pair.call()
    assert len(pair.calls) == 1  # the connection goes on


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (struct.pack(">BI", 1, 3) + b"zip", "12"),
        (struct.pack(">BI", 0, MAX_MESSAGE_BYTES + 1), "8"),
    ],
)
def test_a_request_that_cannot_be_read_ends_its_call(data: bytes, status: str) -> None:
    pair = Pair()
    number = pair.call()
    pair.send(number, data)
    assert pair.seen[number].trailers["grpc-status"] == status
    assert pair.seen[number].trailers["grpc-message"]
    assert pair.calls[0].heard == ["lost"]
    assert pair.calls[0].messages == []


def test_calls_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "MAX_CALLS", 2)
    pair = Pair()
    numbers = [pair.call() for _ in range(3)]
    assert pair.seen[numbers[2]].reset == Code.REFUSED_STREAM
    pair.calls[0].call.finish(0)
    pair.turn()
    pair.call()
    assert len(pair.calls) == 3


def test_what_is_over_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()  # cycles would wait for the collector, which a fleet's control plane seldom runs
    try:
        wire = Wire()
        gone: list[weakref.ref[Any]] = []
        for finishes in (True, False):
            recorders: list[Recorder] = []

            def accept(_path: str, call: Call, recorders: list[Recorder] = recorders) -> Recorder:
                recorders.append(Recorder(call))
                return recorders[0]

            connection = Connection(wire, accept=accept)
            connection.receive(CALL)
            if finishes:
                recorders[0].call.finish(0)
            connection.lose()
            gone += [weakref.ref(connection), weakref.ref(recorders[0])]
            recorders.clear()
            del connection, accept
        assert [each() for each in gone] == [None] * 4
    finally:
        gc.enable()
