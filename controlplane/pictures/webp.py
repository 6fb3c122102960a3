"""WebP (RFC 9649): RIFF chunks around one lossy or lossless picture."""

import dataclasses
import struct
from typing import Final, Self

from controlplane.errors import InvalidInputError
from controlplane.pictures.exif import exif_of, orientation_of
from controlplane.pictures.facts import Facts, damaged, make_facts, refuse

MAX_CHUNKS: Final = 1_000

_ANIMATED: Final = frozenset({b"ANIM", b"ANMF"})
_PICTURES: Final = frozenset({b"VP8 ", b"VP8L"})
_IN_ORDER: Final = (b"ICCP", b"ALPH", b"VP8 ", b"VP8L", b"EXIF", b"XMP ")
_ICC, _ALPHA, _EXIF, _XMP, _ANIMATION = 0x20, 0x10, 0x08, 0x04, 0x02


@dataclasses.dataclass(frozen=True, slots=True)
class Webp:
    """A WebP file: each name's first chunk of those that are known, and what else it has."""

    facts: Facts
    chunks: dict[bytes, bytes]
    has_alpha: bool
    others: tuple[bytes, ...]
    trailer: bytes

    @property
    def beside(self) -> tuple[bytes, ...]:
        named = (data for name, data in self.chunks.items() if name not in _PICTURES and name != b"ALPH")
        return (*named, *self.others, self.trailer)

    def stripped(self) -> Self:
        kept = {name: data for name, data in self.chunks.items() if name not in {b"EXIF", b"XMP "}}
        if self.facts.orientation != 1:
            kept[b"EXIF"] = exif_of(self.facts.orientation)
        return dataclasses.replace(self, chunks=kept, others=(), trailer=b"")

    def labelled(self, packet: bytes, text: str) -> Self:
        del text
        return dataclasses.replace(self, chunks={**self.chunks, b"XMP ": packet}, trailer=b"")

    def pack(self) -> bytes:
        chunks = self.chunks
        extras = chunks.keys() - _PICTURES - {b"VP8X"}
        body = [_pack(name, chunks[name]) for name in _IN_ORDER if name in chunks]
        if extras:
            flags = _ALPHA if self.has_alpha else 0
            for name, flag in ((b"ICCP", _ICC), (b"EXIF", _EXIF), (b"XMP ", _XMP)):
                flags |= flag if name in chunks else 0
            sides = (self.facts.width_px - 1).to_bytes(3, "little") + (self.facts.height_px - 1).to_bytes(3, "little")
            body.insert(0, _pack(b"VP8X", bytes((flags, 0, 0, 0)) + sides))
        head = struct.pack("<4sI4s", b"RIFF", 4 + sum(map(len, body)), b"WEBP")
        return b"".join((head, *body, self.trailer))


def read_webp(content: bytes) -> Webp:
    """Read a file that begins like a WebP.

    Raises:
        InvalidInputError: It is none that is sound, or is animated.
    """
    (length,) = struct.unpack_from("<I", content, 4)
    end = 8 + length
    if end > len(content):
        raise _damaged("it has no end")
    chunks: dict[bytes, bytes] = {}
    others: list[bytes] = []
    place = 12
    while place < end:
        if place + 8 > end:
            raise _damaged(f"the chunk at byte {place}")
        name, size = struct.unpack_from("<4sI", content, place)
        if place + 8 + size > end:
            raise _damaged(f"the chunk at byte {place}")
        data = content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
        if name in _ANIMATED or (name == b"VP8X" and data[:1] and data[0] & _ANIMATION):
            raise refuse("is an animation", "send a still picture")
        if name == b"VP8X" and (chunks or others):
            raise _damaged("its header is not the first chunk")
        if name in _PICTURES and chunks.keys() & _PICTURES:
            raise _damaged("two pictures in it")
        if name in chunks or name not in {b"VP8X", *_IN_ORDER}:
            others.append(data)
        else:
            chunks[name] = data
        if len(chunks) + len(others) > MAX_CHUNKS:
            raise refuse(f"is a WebP of more than {MAX_CHUNKS} chunks", "save it anew")
    return _check(chunks, tuple(others), content[end:])


def _check(chunks: dict[bytes, bytes], others: tuple[bytes, ...], trailer: bytes) -> Webp:
    if b"VP8L" in chunks:
        width, height, has_alpha = _read_lossless(chunks[b"VP8L"])
        chunks = {name: data for name, data in chunks.items() if name != b"ALPH"}  # it has its own
    elif b"VP8 " in chunks:
        width, height = _read_lossy(chunks[b"VP8 "])
        has_alpha = b"ALPH" in chunks and b"VP8X" in chunks
    else:
        raise _damaged("no picture in it")
    extended = chunks.get(b"VP8X")
    if extended is None:  # what stands behind a simple picture means nothing
        unmeant = tuple(data for name, data in chunks.items() if name not in _PICTURES)
        others, chunks = (*others, *unmeant), {name: data for name, data in chunks.items() if name in _PICTURES}
    else:
        canvas = tuple(1 + int.from_bytes(extended[place : place + 3], "little") for place in (4, 7))
        if len(extended) != 10 or canvas != (width, height):
            raise _damaged("its canvas is not its picture's size")
        if b"VP8L" in chunks:
            has_alpha = bool(extended[0] & _ALPHA)
    orientation = orientation_of(chunks.get(b"EXIF", b""), chunks.get(b"XMP ", b""))
    return Webp(make_facts("image/webp", width, height, orientation), chunks, has_alpha, others, trailer)


def _read_lossy(data: bytes) -> tuple[int, int]:
    if len(data) < 10 or data[3:6] != b"\x9d\x01\x2a":
        raise _damaged("its picture's header")
    tag = int.from_bytes(data[:3], "little")
    if tag & 1 or not tag & 0x10 or tag >> 5 > len(data) - 10:  # no key frame, not shown, or its first part is cut off
        raise _damaged("its picture's header")
    width, height = struct.unpack_from("<HH", data, 6)
    return width & 0x3FFF, height & 0x3FFF


def _read_lossless(data: bytes) -> tuple[int, int, bool]:
    if len(data) < 5 or data[0] != 0x2F:
        raise _damaged("its picture's header")
    (bits,) = struct.unpack_from("<I", data, 1)
    if bits >> 29:
        raise _damaged("its picture's version")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)


def _pack(name: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", name, len(data)) + data + b"\x00" * (len(data) % 2)


def _damaged(what: str) -> InvalidInputError:
    return damaged("WebP", what)
