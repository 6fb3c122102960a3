"""Pure: tiny valid pictures for drills with jobs, written without a library, that say what they were made of.

A photo's first row of pixels holds its number and whether a worker is to refuse it; a result's first row holds the
photo's digest and what the worker drew for this one answer, so that two attempts never give the same bytes.
"""

import dataclasses
import hashlib
import struct
import zlib
from typing import Final

SIDE: Final = 64
"""Pixels; workers take nothing smaller."""
NONCE_BYTES: Final = 16

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY: Final = 0
_RGB: Final = 2
_DIGEST_BYTES: Final = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a result says: the SHA-256 of the photo, and the answer's own mark."""

    photo_sha256: bytes
    nonce: bytes


def photo(number: int, *, bad: bool = False) -> bytes:
    """Return photo *number* as a grey PNG; one that is *bad* is refused by the drill's workers."""
    return _png(number.to_bytes(8, "big") + bytes([bad]), _GREY)


def is_bad(picture: bytes) -> bool:
    """Whether a photo of ours is to be refused.

    Raises:
        ValueError: It is none of ours.
    """
    return bool(_first_row(picture)[8])


def coloured(picture: bytes, nonce: bytes) -> bytes:
    """Return the result that an answer marked *nonce* gives for a photo, as an RGB PNG."""
    return _png(hashlib.sha256(picture).digest() + nonce, _RGB)


def read_result(picture: bytes) -> Result:
    """Read a result.

    Raises:
        ValueError: It is none of ours.
    """
    row = _first_row(picture)
    found = Result(row[:_DIGEST_BYTES], row[_DIGEST_BYTES : _DIGEST_BYTES + NONCE_BYTES])
    if picture != _png(found.photo_sha256 + found.nonce, _RGB):
        raise ValueError("no result of the drill's workers")
    return found


def _png(first_row: bytes, colours: int) -> bytes:
    width = SIDE * (3 if colours == _RGB else 1)
    rows = b"\0" + first_row.ljust(width, b"\0") + (b"\0" + b"\x80" * width) * (SIDE - 1)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, colours, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _first_row(picture: bytes) -> bytes:
    if not picture.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    at = picture.find(b"IDAT")
    if at < 0:
        raise ValueError("no PNG of the drill's")
    (length,) = struct.unpack(">I", picture[at - 4 : at])
    try:
        return zlib.decompress(picture[at + 4 : at + 4 + length])[1 : 1 + 3 * SIDE]
    except zlib.error as exc:
        raise ValueError("no PNG of the drill's") from exc
