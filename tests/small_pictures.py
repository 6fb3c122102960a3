"""Small real pictures, made without a picture library: a photo, and PNGs whose pixels follow from some bytes."""

import base64
import hashlib
import struct
import zlib

SMALL_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8"
    "ybqmx5moq6T/wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABcQAAMBAAAAAAAAAAAAAAAAAAACBWL/2gAIAQEAAD8ANJOT/9k="
)
"""8 x 8, grey, and nothing in it that stripping would drop."""
SIDE_PX = 8
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(seed: bytes, *, channels: int = 1, more: bytes = b"") -> bytes:
    """Return a PNG of 8 x 8 whose pixels follow from *seed*: grey, or three channels; *more* stands before them."""
    row = (hashlib.sha256(seed).digest() * channels)[: SIDE_PX * channels]
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 0 if channels == 1 else 2, 0, 0, 0)
    pixels = zlib.compress((b"\x00" + row) * SIDE_PX)
    return SIGNATURE + chunk(b"IHDR", header) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def pixels_of(png: bytes) -> bytes:
    """Return what a PNG's pixels unpack to, whatever is written beside them."""
    place, packed = len(SIGNATURE), b""
    while place < len(png):
        length, name = struct.unpack_from(">I4s", png, place)
        packed += png[place + 8 : place + 8 + length] if name == b"IDAT" else b""
        place += 12 + length
    return zlib.decompress(packed)
