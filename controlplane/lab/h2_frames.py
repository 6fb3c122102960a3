"""The little of HTTP/2 and gRPC that a client of discovery streams needs, framed by hand. Pure.

A gRPC library on the client's side costs more than the server that is measured. Everything a stream sends is known
beforehand, so it is framed once: the opening, and one acknowledgement per response, shared by all streams, since each
is the first on its own connection.
"""

import struct
from collections.abc import Sequence
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4

INITIAL_WINDOW_SIZE: Final = 0x4
DEFAULT_WINDOW: Final = 65_535
OUR_WINDOW: Final = 1 << 24
"""What the server may send before we say that we have read it; 16 MiB, as Envoy grants."""

STREAM_ID: Final = 1
HEAD_SIZE: Final = 9
PREFIX_SIZE: Final = 5

SETTINGS_ACK: Final = b"\0\0\0\x04\x01\0\0\0\0"


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def settings(values: Sequence[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, b"".join(struct.pack(">HI", name, value) for name, value in values))


def read_settings(payload: bytes) -> dict[int, int]:
    """Return what a SETTINGS frame says."""
    return dict(struct.iter_unpack(">HI", payload))


def window_update(increment: int, *, stream: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, struct.pack(">I", increment), stream=stream)


def message(body: bytes) -> bytes:
    """Return a gRPC message in a DATA frame of the one stream."""
    return frame(DATA, b"\0" + struct.pack(">I", len(body)) + body, stream=STREAM_ID)


def opening(path: str, authority: str, first: Sequence[bytes]) -> bytes:
    """Return all that a client sends before it has heard anything: the call of *path* and its *first* requests."""
    return b"".join(
        (
            PREFACE,
            settings([(INITIAL_WINDOW_SIZE, OUR_WINDOW)]),
            window_update(OUR_WINDOW - DEFAULT_WINDOW, stream=0),
            frame(HEADERS, _header_block(path, authority), flags=END_HEADERS, stream=STREAM_ID),
            *(message(body) for body in first),
        )
    )


def _header_block(path: str, authority: str) -> bytes:
    # HPACK: two fields of the static table as they are, then literals that nobody has to remember, without Huffman.
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _literal(path),
            b"\x01" + _literal(authority),
            b"\0" + _literal("content-type") + _literal("application/grpc"),
            b"\0" + _literal("te") + _literal("trailers"),
        )
    )


def _literal(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 126:
        raise ValueError(f"{text[:20]}...: a literal of more than 126 bytes needs a longer length")
    return bytes((len(raw),)) + raw
