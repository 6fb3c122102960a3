"""All that a client of one discovery stream sends, framed once and shared by every client. Pure.

A gRPC library on the client's side costs more than the server that is measured. Everything a stream sends is known
beforehand, so it is framed once: the opening, and one acknowledgement per response, shared by all streams, since each
is the first on its own connection.
"""

from collections.abc import Sequence
from typing import Final

from controlplane.xds.lean import frames, headers

OUR_WINDOW: Final = 1 << 24
"""What the server may send before we say that we have read it; 16 MiB, as Envoy grants."""

STREAM_ID: Final = 1


def message(body: bytes) -> bytes:
    """Return a gRPC message in a DATA frame of the one stream."""
    return frames.frame(frames.DATA, frames.prefix(len(body)) + body, stream=STREAM_ID)


def opening(path: str, authority: str, first: Sequence[bytes]) -> bytes:
    """Return all that a client sends before it has heard anything: the call of *path* and its *first* requests."""
    block = headers.encode(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("content-type", headers.CONTENT_TYPE),
            ("te", "trailers"),
        ]
    )
    return b"".join(
        (
            frames.PREFACE,
            frames.settings([(frames.INITIAL_WINDOW_SIZE, OUR_WINDOW)]),
            frames.window_update(OUR_WINDOW - frames.DEFAULT_WINDOW, stream=0),
            frames.frame(frames.HEADERS, block, flags=frames.END_HEADERS, stream=STREAM_ID),
            *(message(body) for body in first),
        )
    )
