"""JPEG (ITU-T T.81): segments up to the end of the picture; baseline, extended and progressive, 8 bits, by Huffman.

Further pictures behind the first one (MPF, gain maps, a phone's video) are its trailer.
"""

import dataclasses
import re
import struct
from typing import Final, Self

from controlplane.errors import InvalidInputError
from controlplane.pictures.exif import PREFIX, exif_of, orientation_of
from controlplane.pictures.facts import Facts, damaged, make_facts, refuse

MAX_SEGMENTS: Final = 4_000
MAX_SCANS: Final = 100
"""A progressive JPEG has about ten; each decodes the whole picture again."""

_MARKER: Final = re.compile(rb"\xff+([\x01-\xfe])")
_IN_SCAN: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The first marker behind a scan: neither a stuffed zero nor a restart."""
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_COM: Final = 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
_RARE_FRAMES: Final = frozenset({0xC3, *range(0xC5, 0xD0)}) - {0xCC}
_TABLES: Final = frozenset({0xC4, 0xDB, 0xDD})
_JFIF: Final = b"JFIF\x00"
_JFIF_BYTES: Final = 14
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\x00"
_MORE_XMP: Final = b"http://ns.adobe.com/xmp/extension/\x00"
_ICC: Final = b"ICC_PROFILE\x00"
_ADOBE: Final = b"Adobe"
_ADOBE_BYTES: Final = 12
_NOTHING: Final = memoryview(b"")


@dataclasses.dataclass(frozen=True, slots=True)
class _Segment:
    """A marker with its data, and behind a scan's header what is *coded*."""

    marker: int
    data: bytes
    coded: memoryview = _NOTHING

    def parts(self) -> tuple[bytes | memoryview, ...]:
        return struct.pack(">BBH", 0xFF, self.marker, len(self.data) + 2), self.data, self.coded

    def is_meta(self) -> bool:
        return _APP0 <= self.marker <= _APP15 or self.marker == _COM

    def is_app(self, marker: int, name: bytes) -> bool:
        return self.marker == marker and self.data.startswith(name)


@dataclasses.dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG file."""

    facts: Facts
    segments: tuple[_Segment, ...]
    trailer: bytes

    @property
    def beside(self) -> tuple[bytes, ...]:
        return (*(segment.data for segment in self.segments if segment.is_meta()), self.trailer)

    def stripped(self) -> Self:
        jfif = next((s.data for s in self.segments if s.is_app(_APP0, _JFIF) and len(s.data) >= _JFIF_BYTES), None)
        kept = []
        if jfif is not None:
            kept.append(_Segment(_APP0, jfif[: _JFIF_BYTES - 2] + b"\x00\x00"))  # without its thumbnail
        if self.facts.orientation != 1:
            kept.append(_Segment(_APP1, PREFIX + exif_of(self.facts.orientation)))
        for segment in self.segments:
            if segment.is_app(_APP14, _ADOBE):
                kept.append(_Segment(_APP14, segment.data[:_ADOBE_BYTES]))
            elif not segment.is_meta() or segment.is_app(_APP2, _ICC):
                kept.append(segment)
        return dataclasses.replace(self, segments=tuple(kept), trailer=b"")

    def labelled(self, packet: bytes, text: str) -> Self:
        del text
        xmp = _Segment(_APP1, _XMP + packet)
        kept = [s for s in self.segments if not s.is_app(_APP1, _XMP) and not s.is_app(_APP1, _MORE_XMP)]
        first = 0
        while first < len(kept) and (kept[first].marker == _APP0 or kept[first].is_app(_APP1, PREFIX)):
            first += 1
        kept.insert(first, xmp)
        return dataclasses.replace(self, segments=tuple(kept), trailer=b"")

    def pack(self) -> bytes:
        parts = (part for segment in self.segments for part in segment.parts())
        return b"".join((b"\xff\xd8", *parts, b"\xff\xd9", self.trailer))


def read_jpeg(content: bytes) -> Jpeg:
    """Read a file that begins like a JPEG.

    Raises:
        InvalidInputError: It is none that is sound, or of a kind that few programs read.
    """
    segments: list[_Segment] = []
    size: tuple[int, int] | None = None
    scans = coded = 0
    whole, place = memoryview(content), 2
    while True:
        match = _MARKER.match(content, place)
        if match is None:
            raise _damaged(f"no segment begins at byte {place}")
        marker, place = match[1][0], match.end()
        if marker == _EOI:
            break
        data = _segment_data(content, marker, place)
        place += 2 + len(data)
        if marker in _FRAMES or marker in _RARE_FRAMES:
            if size is not None:
                raise _damaged("two frames")
            size = _read_frame(marker, data)
        elif marker == _SOS:
            scans += 1
            end = _scan_end(content, place, scans, data, has_frame=size is not None)
            segments.append(_Segment(marker, data, whole[place:end]))
            coded += end - place
            place = end
            continue
        elif marker not in _TABLES and not _APP0 <= marker <= _APP15 and marker != _COM:
            raise _damaged(f"marker {marker:02x}")
        segments.append(_Segment(marker, data))
        if len(segments) > MAX_SEGMENTS:
            raise refuse(f"is a JPEG of more than {MAX_SEGMENTS} segments", "save it anew")
    if size is None or not scans:
        raise _damaged("no picture in it")
    facts = make_facts("image/jpeg", *size, _orientation(segments))
    if 8 * coded < -(-facts.width_px // 8) * -(-facts.height_px // 8):  # each block takes a bit at least
        raise refuse("announces more pixels than it holds", "send the whole file")
    return Jpeg(facts, tuple(segments), content[place:])


def _segment_data(content: bytes, marker: int, place: int) -> bytes:
    length = int.from_bytes(content[place : place + 2], "big")
    if length < 2 or place + length > len(content):
        raise _damaged(f"segment {marker:02x} at byte {place}")
    return content[place + 2 : place + length]


def _read_frame(marker: int, data: bytes) -> tuple[int, int]:
    if marker in _RARE_FRAMES:
        raise refuse(f"is a JPEG of a kind that few programs read (SOF{marker - 0xC0})", "save it as a baseline one")
    if len(data) < 6:
        raise _damaged("its frame header")
    bits, height, width, parts = struct.unpack_from(">BHHB", data)
    if bits != 8:
        raise refuse(f"is a JPEG of {bits} bits a sample", "save it with 8")
    if parts not in {1, 3, 4} or len(data) != 6 + 3 * parts:
        raise _damaged("its frame header")
    for number in range(parts):
        wide, high = divmod(data[7 + 3 * number], 16)
        if not 1 <= wide <= 4 or not 1 <= high <= 4:
            raise _damaged("its sampling factors")
    return width, height


def _scan_end(content: bytes, place: int, scans: int, header: bytes, *, has_frame: bool) -> int:
    if scans > MAX_SCANS:
        raise refuse(f"is a JPEG of more than {MAX_SCANS} scans", "save it as a baseline one")
    if not has_frame or not header or not 1 <= header[0] <= 4 or len(header) != 4 + 2 * header[0]:
        raise _damaged("a scan's header")
    match = _IN_SCAN.search(content, place)
    if match is None:
        raise _damaged("it has no end")
    return match.start()


def _orientation(segments: list[_Segment]) -> int:
    exif = next((segment.data for segment in segments if segment.is_app(_APP1, PREFIX)), b"")
    xmp = next((segment.data for segment in segments if segment.is_app(_APP1, _XMP)), b"")
    return orientation_of(exif, xmp)


def _damaged(what: str) -> InvalidInputError:
    return damaged("JPEG", what)
