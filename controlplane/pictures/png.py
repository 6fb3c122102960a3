"""PNG (W3C, third edition): chunks with their checksums; what is packed beside the pixels is unpacked to a bound."""

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterable
from typing import Final, Self

from controlplane.errors import InvalidInputError
from controlplane.pictures.exif import XMP_KEYWORD, exif_of, orientation_of
from controlplane.pictures.facts import MAX_ICC_BYTES, Facts, damaged, make_facts, refuse

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS: Final = 200_000
MAX_OTHER_CHUNKS: Final = 1_000
MAX_TEXT_BYTES: Final = 1024 * 1024
"""What a text may unpack to; Pillow has the same bound."""
MAX_DEFLATE_RATIO: Final = 1_032

_HEAD: Final = struct.Struct(">I4s")
_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_KEPT: Final = _CRITICAL | {
    *(b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"bKGD", b"pHYs"),
    *(b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi"),
}
_ANIMATED: Final = frozenset({b"acTL", b"fcTL", b"fdAT"})
_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_DEPTHS: Final = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_DESCRIPTION: Final = "Description"
_RAW_EXIF: Final = "Raw profile type exif"
_RAW_HEADER: Final = re.compile(rb"\s*exif\s+\d{1,8}\s")


@dataclasses.dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk's name, and the bytes that it is in the file."""

    name: bytes
    whole: bytes | memoryview

    @property
    def data(self) -> bytes:
        return bytes(self.whole[8:-4])


@dataclasses.dataclass(frozen=True, slots=True)
class Png:
    """A PNG file."""

    facts: Facts
    chunks: tuple[_Chunk, ...]
    trailer: bytes

    @property
    def beside(self) -> tuple[bytes, ...]:
        return (*(chunk.data for chunk in self.chunks if chunk.name != b"IDAT"), self.trailer)

    def stripped(self) -> Self:
        exif = [] if self.facts.orientation == 1 else [_make(b"eXIf", exif_of(self.facts.orientation))]
        header, *kept = (chunk for chunk in self.chunks if chunk.name in _KEPT)
        return dataclasses.replace(self, chunks=(header, *exif, *kept), trailer=b"")

    def labelled(self, packet: bytes, text: str) -> Self:
        ours = {XMP_KEYWORD, _DESCRIPTION}
        header, *kept = (chunk for chunk in self.chunks if chunk.name not in _TEXTS or _keyword(chunk) not in ours)
        label = _text(XMP_KEYWORD, packet), _text(_DESCRIPTION, text.encode())
        return dataclasses.replace(self, chunks=(header, *label, *kept), trailer=b"")

    def pack(self) -> bytes:
        return b"".join((SIGNATURE, *(chunk.whole for chunk in self.chunks), self.trailer))


def read_png(content: bytes) -> Png:
    """Read a file that begins with PNG's signature.

    Raises:
        InvalidInputError: It is none that is sound, is animated, or unpacks to more than it should.
    """
    chunks: list[_Chunk] = []
    others = 0
    whole, place = memoryview(content), len(SIGNATURE)
    while not chunks or chunks[-1].name != b"IEND":
        chunk = _read_chunk(whole, place)
        place += len(chunk.whole)
        others += chunk.name != b"IDAT"
        if chunk.name in _ANIMATED:
            raise refuse("is an animation", "send a still picture")
        if chunk.name not in _CRITICAL and not chunk.name[0] & 0x20:
            raise refuse("is a PNG of a kind that few programs read", "save it as a plain PNG")
        chunks.append(chunk)
        if len(chunks) > MAX_CHUNKS or others > MAX_OTHER_CHUNKS:
            raise refuse("is a PNG of too many chunks", "save it anew")
    width, height = _check_order(chunks)
    exif, xmp = _unpack_texts(chunks)
    facts = make_facts("image/png", width, height, orientation_of(exif, xmp))
    _check_pixels(chunks)
    return Png(facts, tuple(chunks), content[place:])


def _read_chunk(content: memoryview, place: int) -> _Chunk:
    if place + 12 > len(content):
        raise _damaged("it has no end")
    length, name = _HEAD.unpack_from(content, place)
    end = place + 12 + length
    if end > len(content) or not name.isalpha():
        raise _damaged(f"the chunk at byte {place}")
    whole = content[place:end]
    if zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
        raise _damaged(f"the checksum at byte {end - 4}")
    return _Chunk(name, whole)


def _check_order(chunks: list[_Chunk]) -> tuple[int, int]:
    """Return width and height."""
    names = [chunk.name for chunk in chunks]
    if names[0] != b"IHDR" or len(chunks[0].data) != 13 or names.count(b"IHDR") != 1:
        raise _damaged("its header")
    width, height, depth, colour, packing, filtering, interlacing = struct.unpack(">IIBBBBB", chunks[0].data)
    if depth not in _DEPTHS.get(colour, ()) or packing or filtering or interlacing > 1:
        raise _damaged("its header")
    if b"IDAT" not in names or chunks[-1].data:
        raise _damaged("no picture in it")
    first, count = names.index(b"IDAT"), names.count(b"IDAT")
    if names[first : first + count].count(b"IDAT") != count:
        raise _damaged("its pixels are not in one row of chunks")
    palettes = [chunk for chunk in chunks if chunk.name == b"PLTE"]
    if len(palettes) > 1 or (colour == 3 and not palettes):
        raise _damaged("its palette")
    if palettes and (
        names.index(b"PLTE") > first or len(palettes[0].data) % 3 or not 3 <= len(palettes[0].data) <= 768
    ):
        raise _damaged("its palette")
    return width, height


def _check_pixels(chunks: list[_Chunk]) -> None:
    """Refuse what cannot unpack to all of the picture, whatever is in it."""
    width, height, depth, colour, *_, interlacing = struct.unpack(">IIBBBBB", chunks[0].data)
    bits = depth * _CHANNELS[colour]
    passes = _ADAM7 if interlacing else ((0, 0, 1, 1),)
    raw = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        raw += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    packed = sum(len(chunk.whole) - 12 for chunk in chunks if chunk.name == b"IDAT")
    if packed * MAX_DEFLATE_RATIO < raw:
        raise refuse("announces more pixels than it holds", "send the whole file")


def _unpack_texts(chunks: Iterable[_Chunk]) -> tuple[bytes, bytes]:
    """Return the EXIF and the XMP, empty where there is none, and refuse what unpacks to too much."""
    exif = raw_exif = xmp = b""
    left = 4 * MAX_TEXT_BYTES
    for chunk in chunks:
        if chunk.name == b"iCCP":
            _unpack(_after_keyword(chunk.data)[1:], MAX_ICC_BYTES)
        elif chunk.name == b"eXIf":
            exif = exif or chunk.data
        elif chunk.name in _TEXTS:
            text = _text_of(chunk)
            left -= max(0, len(text) - len(chunk.whole))  # what is not packed takes no more room than it has here
            if left < 0:
                raise _bomb()
            keyword = _keyword(chunk)
            xmp = text if keyword == XMP_KEYWORD else xmp
            raw_exif = text if keyword == _RAW_EXIF else raw_exif
    return exif or _unhex(raw_exif), xmp


def _keyword(chunk: _Chunk) -> str:
    return chunk.data[:80].partition(b"\x00")[0].decode("latin-1")


def _after_keyword(data: bytes) -> bytes:
    return data[:80].partition(b"\x00")[2] + data[80:]


def _text_of(chunk: _Chunk) -> bytes:
    rest = _after_keyword(chunk.data)
    if chunk.name == b"zTXt":
        return _unpack(rest[1:], MAX_TEXT_BYTES)
    if chunk.name == b"iTXt":
        text = rest[2:].partition(b"\x00")[2].partition(b"\x00")[2]  # behind the language and the translated keyword
        return _unpack(text, MAX_TEXT_BYTES) if rest[:1] == b"\x01" else text
    return rest


def _unpack(packed: bytes, limit: int) -> bytes:
    try:
        unpacked = zlib.decompressobj().decompress(packed, limit + 1)
    except zlib.error as exc:
        raise _damaged("a text or profile that does not unpack") from exc
    if len(unpacked) > limit:
        raise _bomb()
    return unpacked


def _unhex(profile: bytes) -> bytes:
    """Read ImageMagick's way to write EXIF."""
    match = _RAW_HEADER.match(profile)
    try:
        return b"" if match is None else bytes.fromhex(profile[match.end() :].decode("ascii"))
    except ValueError:
        return b""


def _make(name: bytes, data: bytes) -> _Chunk:
    return _Chunk(name, _HEAD.pack(len(data), name) + data + zlib.crc32(name + data).to_bytes(4, "big"))


def _text(keyword: str, data: bytes) -> _Chunk:
    return _make(b"iTXt", keyword.encode("latin-1") + b"\x00" * 5 + data)  # not packed, no language


def _bomb() -> InvalidInputError:
    return refuse("is a PNG whose texts or profile unpack to more than they may", "save it without them")


def _damaged(what: str) -> InvalidInputError:
    return damaged("PNG", what)
