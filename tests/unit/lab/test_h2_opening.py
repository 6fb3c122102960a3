"""The frames that the fan-out's clients send, and frames at all."""

from controlplane.lab import h2_opening
from controlplane.xds.lean import frames
from tests.http2 import raw, split


def test_a_frame_says_its_length_kind_flags_and_stream() -> None:
    data = frames.frame(frames.DATA, b"abc", flags=frames.END_STREAM, stream=1)
    assert data == b"\0\0\x03\0\x01\0\0\0\x01abc"
    assert frames.read_head(data, 0) == (3, frames.DATA, frames.END_STREAM, 1)
    assert frames.read_head(frames.head(0xABCDEF, 9, 0xFF, frames.MAX_STREAM_ID), 0)[0] == 0xABCDEF


def test_settings_are_read_as_they_were_written() -> None:
    values = [(frames.INITIAL_WINDOW_SIZE, 1 << 24), (5, 16_384)]
    assert frames.read_settings(frames.settings(values)[frames.HEAD_SIZE :]) == dict(values)


def test_a_message_has_the_prefix_of_grpc_inside_a_data_frame() -> None:
    assert h2_opening.message(b"xy") == frames.frame(frames.DATA, b"\0\0\0\0\x02xy", stream=h2_opening.STREAM_ID)


def test_the_opening_is_preface_settings_window_headers_and_the_first_requests() -> None:
    data = h2_opening.opening("/a.Service/Talk", "localhost:1", [b"one", b"two"])
    assert data.startswith(frames.PREFACE)
    kinds = [kind for kind, _ in split(data[len(frames.PREFACE) :])]
    assert kinds == [frames.SETTINGS, frames.WINDOW_UPDATE, frames.HEADERS, frames.DATA, frames.DATA]
    assert b"/a.Service/Talk" in data  # literal, so that nobody has to remember a table
    assert raw(data).calls[0].messages == [b"one", b"two"]
