"""Frames of HTTP/2 (RFC 9113, sections 4 and 6) as bytes. Pure."""

import enum
import struct
from collections.abc import Iterable
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEAD_SIZE: Final = 9
PREFIX_SIZE: Final = 5
"""What gRPC puts before each message: whether it is compressed, and its length."""

MAX_FRAME: Final = 16_384
"""The largest payload that either side takes unless it says otherwise; we never do."""

DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = (1 << 31) - 1
MAX_STREAM_ID: Final = (1 << 31) - 1


# Plain integers, since every received frame is compared with some of them.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6


class Code(enum.IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


_HEAD: Final = struct.Struct(">HBBBI")
_WORD: Final = struct.Struct(">I")
_PREFIX: Final = struct.Struct(">BI")
_SETTING: Final = struct.Struct(">HI")


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the first 9 bytes of a frame with a payload of *length* bytes."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def read_head(data: bytes | bytearray | memoryview, start: int) -> tuple[int, int, int, int]:
    """Return length, kind, flags and stream of the frame that begins at *start*."""
    high, low, kind, flags, stream = _HEAD.unpack_from(data, start)
    return high << 8 | low, kind, flags, stream & MAX_STREAM_ID


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Return a whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, b"".join(_SETTING.pack(name, value) for name, value in values))


def read_settings(payload: bytes) -> dict[int, int]:
    """Return what a SETTINGS frame says; of a name that stands twice, the last value."""
    return dict(_SETTING.iter_unpack(payload))


def window_update(increment: int, *, stream: int) -> bytes:
    """Return a frame that allows *increment* bytes more, on the connection where *stream* is 0."""
    return frame(WINDOW_UPDATE, _WORD.pack(increment), stream=stream)


def rst_stream(code: Code, *, stream: int) -> bytes:
    """Return a frame that ends *stream* at once."""
    return frame(RST_STREAM, _WORD.pack(code), stream=stream)


def goaway(last_stream: int, code: Code, words: str = "") -> bytes:
    """Return a frame that says that no stream after *last_stream* is served, and why."""
    return frame(GOAWAY, _WORD.pack(last_stream) + _WORD.pack(code) + words.encode())


def read_word(payload: bytes) -> int:
    """Return the number in the first 4 bytes, without its first bit, which is reserved."""
    number: int = _WORD.unpack_from(payload)[0]
    return number & MAX_STREAM_ID


def prefix(length: int) -> bytes:
    """Return what gRPC puts before a message of *length* bytes that is not compressed."""
    return _PREFIX.pack(0, length)


def read_prefix(data: bytes | bytearray, start: int = 0) -> tuple[int, int]:
    """Return whether a message is compressed (0 or 1), and its length."""
    compressed, length = _PREFIX.unpack_from(data, start)
    return compressed, length


SETTINGS_ACK: Final = frame(SETTINGS, flags=ACK)
