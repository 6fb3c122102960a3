"""The headers of gRPC calls: what a client must say to be served, and what it is answered. Pure.

Answers are compressed without a table: a block is then good for every connection.
"""

import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final

import hpack

CONTENT_TYPE: Final = "application/grpc"


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a block that no decoder has to remember anything of.

    It begins by saying so: a peer that makes its table smaller waits for that (RFC 7541, section 4.2).
    """
    literals = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in headers]
    return _NO_TABLE + _ENCODER.encode(literals, huffman=False)


def answer_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the answer to a request that cannot be a call of gRPC, None for one that can.

    Source: gRPC over HTTP2, sections Requests and Responses.
    """
    if not headers.get(b":path", b"").startswith(b"/"):
        return encode([(":status", "400")])
    if headers.get(b":method") != b"POST":
        return encode([(":status", "405"), ("allow", "POST")])
    if not headers.get(b"content-type", b"").startswith(CONTENT_TYPE.encode()):
        return encode([(":status", "415")])
    return None


def trailers(status: int, words: str) -> bytes:
    """Return the block that ends a call."""
    return encode(_ending(status, words))


def trailers_only(status: int, words: str) -> bytes:
    """Return the block that begins and ends a call."""
    return encode([*_OPENING, *_ending(status, words)])


def _ending(status: int, words: str) -> list[tuple[str, str]]:
    headers = [("grpc-status", str(status))]
    if words:
        headers.append(("grpc-message", urllib.parse.quote(words, safe=_SAFE)))
    return headers


_NO_TABLE: Final = b"\x20"
_ENCODER: Final = hpack.Encoder()
_SAFE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

_OPENING: Final = ((":status", "200"), ("content-type", CONTENT_TYPE), ("grpc-accept-encoding", "identity"))

OPENING: Final = encode(_OPENING)
"""The block that begins every other answer."""
