"""BMP (Windows and OS/2): header, palette, rows of pixels. It has no place for metadata but a colour profile."""

import dataclasses
import struct
from typing import Final, Self

from controlplane.errors import InvalidInputError
from controlplane.pictures.facts import MAX_ICC_BYTES, Facts, damaged, make_facts, refuse

_FILE_BYTES: Final = 14
_OLD: Final = 12
_V5: Final = 124
_HEADERS: Final = frozenset({_OLD, 40, 52, 56, 64, 108, _V5})
_RAW, _RLE8, _RLE4, _MASKED, _ALPHA_MASKED = 0, 1, 2, 3, 6
_DEPTHS: Final = {
    _RAW: {1, 4, 8, 16, 24, 32},
    _RLE8: {8},
    _RLE4: {4},
    _MASKED: {16, 32},
    _ALPHA_MASKED: {16, 32},
}
_EMBEDDED, _LINKED, _SRGB = b"DEBM", b"KNIL", b"BGRs"
"""Kinds of colour, as they stand in the file: a little-endian MBED, LINK and sRGB."""
_KIND_AT, _PROFILE_AT = 56, 112


@dataclasses.dataclass(frozen=True, slots=True)
class Bmp:
    """A BMP file."""

    facts: Facts
    header: bytes
    """With its masks and its palette."""
    pixels: memoryview
    profile: bytes
    others: tuple[bytes, ...]
    trailer: bytes

    @property
    def beside(self) -> tuple[bytes, ...]:
        return (self.header, self.profile, *self.others, self.trailer)

    def stripped(self) -> Self:
        header = bytearray(self.header)
        if len(header) >= _V5 and header[0] == _V5:
            if bytes(header[_KIND_AT : _KIND_AT + 4]) in {_EMBEDDED, _LINKED} and not self.profile:
                header[_KIND_AT : _KIND_AT + 4] = _SRGB  # a linked profile is a path on somebody's disk
            place = len(header) + len(self.pixels) if self.profile else 0
            struct.pack_into("<III", header, _PROFILE_AT, place, len(self.profile), 0)
        return dataclasses.replace(self, header=bytes(header), others=(), trailer=b"")

    def labelled(self, packet: bytes, text: str) -> Self:
        """Return the file without what is no part of it: there is no place for a label."""
        del packet, text
        return self.stripped()

    def pack(self) -> bytes:
        start = _FILE_BYTES + len(self.header)
        length = start + len(self.pixels) + len(self.profile)
        return b"".join((struct.pack("<2sIII", b"BM", length, 0, start), self.header, self.pixels, self.profile))


def read_bmp(content: bytes) -> Bmp:
    """Read a file that begins like a BMP.

    Raises:
        InvalidInputError: It is none that is sound.
    """
    if len(content) < _FILE_BYTES + _OLD:
        raise _damaged("it has no end")
    start, size = struct.unpack_from("<II", content, 10)
    if size not in _HEADERS or _FILE_BYTES + size > len(content):
        raise _damaged("its header")
    if size == _OLD:
        width, height, planes, bits = struct.unpack_from("<HHHH", content, 18)
        packing = packed = colours = 0
    else:
        width, height, planes, bits, packing, packed = struct.unpack_from("<iiHHII", content, 18)
        (colours,) = struct.unpack_from("<I", content, 46)
    if planes != 1 or bits not in _DEPTHS.get(packing, ()):
        raise _damaged("its header")
    facts = make_facts("image/bmp", width, abs(height))
    end_of_header = _FILE_BYTES + size + _masks_bytes(size, packing) + _palette_bytes(size, bits, colours)
    raw = (width * bits + 31) // 32 * 4 * facts.height_px
    length = packed if packing in {_RLE8, _RLE4} else raw
    if start < end_of_header or length < 1 or start + length > len(content):
        raise _damaged("its pixels are not in it")
    header, pixels = content[_FILE_BYTES:end_of_header], memoryview(content)[start : start + length]
    profile, trailer = _read_profile(content, start + length)
    return Bmp(facts, header, pixels, profile, (content[end_of_header:start],), trailer)


def _masks_bytes(size: int, packing: int) -> int:
    return 0 if size != 40 else {_MASKED: 12, _ALPHA_MASKED: 16}.get(packing, 0)


def _palette_bytes(size: int, bits: int, colours: int) -> int:
    most = 1 << bits if bits <= 8 else 256
    if colours > most:
        raise _damaged("its palette")
    return (3 if size == _OLD else 4) * (colours or (most if bits <= 8 else 0))


def _read_profile(content: bytes, end: int) -> tuple[bytes, bytes]:
    """Return the colour profile behind the pixels, if there is one, and what is no part of the picture."""
    if content[_FILE_BYTES] != _V5 or content[_FILE_BYTES + _KIND_AT : _FILE_BYTES + _KIND_AT + 4] != _EMBEDDED:
        return b"", content[end:]
    place, length = struct.unpack_from("<II", content, _FILE_BYTES + _PROFILE_AT)
    place += _FILE_BYTES
    if place < end or place + length > len(content) or length > MAX_ICC_BYTES:
        raise refuse("is a BMP whose colour profile is not in it", "save it anew")
    return content[place : place + length], content[end:place] + content[place + length :]


def _damaged(what: str) -> InvalidInputError:
    return damaged("BMP", what)
