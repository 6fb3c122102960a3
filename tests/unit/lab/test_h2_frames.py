"""The frames that the fan-out's clients write by hand."""

import pytest

from controlplane.lab import h2_frames as h2


def test_a_frame_says_its_length_kind_flags_and_stream() -> None:
    assert h2.frame(h2.DATA, b"abc", flags=h2.END_STREAM, stream=1) == b"\0\0\x03\0\x01\0\0\0\x01abc"


def test_settings_are_read_as_they_were_written() -> None:
    values = [(h2.INITIAL_WINDOW_SIZE, 1 << 24), (5, 16_384)]
    assert h2.read_settings(h2.settings(values)[h2.HEAD_SIZE :]) == dict(values)


def test_a_message_has_the_prefix_of_grpc_inside_a_data_frame() -> None:
    assert h2.message(b"xy") == h2.frame(h2.DATA, b"\0\0\0\0\x02xy", stream=h2.STREAM_ID)


def test_the_opening_is_preface_settings_window_headers_and_the_first_requests() -> None:
    raw = h2.opening("/service/Method", "localhost:1", [b"one", b"two"])
    assert raw.startswith(h2.PREFACE)
    kinds, rest = [], raw[len(h2.PREFACE) :]
    while rest:
        stop = h2.HEAD_SIZE + int.from_bytes(rest[:3], "big")
        kinds.append(rest[3])
        rest = rest[stop:]
    assert kinds == [h2.SETTINGS, h2.WINDOW_UPDATE, h2.HEADERS, h2.DATA, h2.DATA]
    assert b"/service/Method" in raw  # literal, so that nobody has to remember a table


def test_a_path_that_needs_a_longer_length_is_refused() -> None:
    with pytest.raises(ValueError, match="126 bytes"):
        h2.opening("/" + "x" * 126, "localhost:1", [])
