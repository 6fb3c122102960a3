"""TIFF 6: one picture of strips or tiles, in either byte order.

Context: offsets may point anywhere, at the same bytes twice, or back at themselves. Choice: what is kept of a file is
written anew, directory, values and pixels in a row, instead of blanking the rest in its place. Consequence: no byte
survives that no kept tag names, maker notes, thumbnails and gaps among them, and the same picture is the same file.
"""

import dataclasses
import math
import struct
from collections.abc import Mapping
from typing import Final, Self

from controlplane.errors import InvalidInputError
from controlplane.pictures.exif import orientation_of
from controlplane.pictures.facts import MAX_ICC_BYTES, Facts, damaged, make_facts, refuse

MAX_ENTRIES: Final = 512
MAX_DIRECTORIES: Final = 16
MAX_PIECES: Final = 65_536
MAX_VALUE_BYTES: Final = 512 * 1024

_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTE, _SHORT, _LONG = 1, 3, 4
_KIND, _WIDTH, _HEIGHT, _BITS, _PACKING, _LIGHT = 254, 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES = 273, 274, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _XMP, _ICC, _RAW_VERSION = 322, 323, 324, 325, 700, 34675, 50706
_KEPT: Final = frozenset(
    {
        *(_WIDTH, _HEIGHT, _BITS, _PACKING, _LIGHT, 263, 266, _ORIENTATION, _SAMPLES, _ROWS, 280, 281, 282, 283),
        *(_PLANES, 290, 291, 292, 293, 296, 301, 317, 318, 319, 320, _TILE_WIDTH, _TILE_HEIGHT, 332, 334, 336),
        *(338, 339, 340, 341, 347, 529, 530, 531, 532, _ICC),
    }
)
"""Tags without which a picture cannot be decoded as it was meant: shape, packing, colour, resolution."""
_NONE, _DEFLATE = 1, frozenset({8, 32946})
_PACKINGS: Final = frozenset({_NONE, 2, 3, 4, 5, 7, 32773}) | _DEFLATE
_PADDING: Final = (b"", b"\x00")
_LIGHTS: Final = frozenset({0, 1, 2, 3, 5, 6, 8})
_DEPTHS: Final = frozenset({1, 2, 4, 8, 12, 16, 32})
_MAX_SAMPLES: Final = 8
_MAX_DEFLATE_RATIO: Final = 1_032


@dataclasses.dataclass(frozen=True, slots=True)
class _Value:
    """A tag's type, how many of it, and the bytes that these are."""

    kind: int
    count: int
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class _Directory:
    """A directory's values; *after* is where the next one is said to be. Those that are too large are *left_out*."""

    values: Mapping[int, _Value]
    left_out: frozenset[int]
    after: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tiff:
    """A TIFF file. *order* is struct's sign for its byte order; *pieces* are its strips or tiles."""

    facts: Facts
    order: str
    values: Mapping[int, _Value]
    is_tiled: bool
    pieces: tuple[memoryview, ...]
    beside: tuple[bytes, ...]
    trailer: bytes = b""

    def stripped(self) -> Self:
        values = {tag: value for tag, value in self.values.items() if tag in _KEPT}
        if _ORIENTATION not in values and self.facts.orientation != 1:
            values[_ORIENTATION] = _Value(_SHORT, 1, struct.pack(f"{self.order}H", self.facts.orientation))
        return dataclasses.replace(self, values=values, beside=())

    def labelled(self, packet: bytes, text: str) -> Self:
        """Return what `stripped` returns, and the label: of other tags not all would bear to be moved."""
        del text
        stripped = self.stripped()
        return dataclasses.replace(stripped, values={**stripped.values, _XMP: _Value(_BYTE, len(packet), packet)})

    def pack(self) -> bytes:
        values = {tag: value for tag, value in self.values.items() if tag in _KEPT or tag == _XMP}
        lengths = [len(piece) for piece in self.pieces]
        values[_TILE_BYTES if self.is_tiled else _STRIP_BYTES] = self._longs(lengths)
        offsets = _TILES if self.is_tiled else _STRIPS
        values[offsets] = self._longs([0] * len(lengths))
        place = 8 + 2 + 12 * len(values) + 4 + sum(_even(len(v.data)) for v in values.values() if len(v.data) > 4)
        starts = []
        for length in lengths:
            starts.append(place)
            place += _even(length)
        values[offsets] = self._longs(starts)
        mark = b"II" if self.order == "<" else b"MM"
        head = struct.pack(f"{self.order}2sHI", mark, 42, 8)
        return b"".join(
            (
                head,
                self._directory(values),
                *(part for piece in self.pieces for part in (piece, _PADDING[len(piece) % 2])),
            )
        )

    def _longs(self, numbers: list[int]) -> _Value:
        return _Value(_LONG, len(numbers), struct.pack(f"{self.order}{len(numbers)}I", *numbers))

    def _directory(self, values: Mapping[int, _Value]) -> bytes:
        entries, behind = [struct.pack(f"{self.order}H", len(values))], []
        place = 8 + 2 + 12 * len(values) + 4
        for tag, value in sorted(values.items()):
            entries.append(struct.pack(f"{self.order}HHI", tag, value.kind, value.count))
            if len(value.data) <= 4:
                entries.append(value.data.ljust(4, b"\x00"))
                continue
            entries.append(struct.pack(f"{self.order}I", place))
            behind.append(value.data + _PADDING[len(value.data) % 2])
            place += len(behind[-1])
        return b"".join((*entries, b"\x00" * 4, *behind))


def read_tiff(content: bytes) -> Tiff:
    """Read a file that begins like a TIFF.

    Raises:
        InvalidInputError: It is none that is sound, has several pages, or is a camera's raw file.
    """
    order = "<" if content.startswith(b"II") else ">"
    if len(content) < 8:
        raise _damaged("it has no end")
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    found = _read_directory(content, order, start)
    _check_only_page(content, order, start, found)
    values = found.values
    if _RAW_VERSION in values or _number(values, order, _KIND, 0) & 1:
        raise refuse("is a camera's raw file, or a thumbnail", "send the developed photo")
    if found.left_out & _KEPT:
        raise _damaged(f"tag {min(found.left_out & _KEPT)}")
    xmp = values[_XMP].data if _XMP in values else b""
    turned = _number(values, order, _ORIENTATION, 0) if _ORIENTATION in values else orientation_of(b"", xmp)
    width, height = _number(values, order, _WIDTH, 0), _number(values, order, _HEIGHT, 0)
    facts = make_facts("image/tiff", width, height, turned if 1 <= turned <= 8 else 1)
    bits = _check_layout(values, order)
    is_tiled = _TILES in values
    ranges = _find_pieces(values, order, facts, is_tiled=is_tiled)
    beside = _check_ranges(content, ranges)
    whole = memoryview(content)
    pieces = tuple(whole[first:last] for first, last in ranges)
    _check_pixels(facts, bits, _number(values, order, _PACKING, _NONE), sum(map(len, pieces)))
    return Tiff(facts, order, values, is_tiled, pieces, beside)


def _read_directory(content: bytes, order: str, start: int) -> _Directory:
    if start < 8 or start + 2 > len(content):
        raise _damaged("its directory is not in it")
    (count,) = struct.unpack_from(f"{order}H", content, start)
    end = start + 2 + 12 * count
    if not count or end + 4 > len(content):
        raise _damaged("its directory is cut off")
    if count > MAX_ENTRIES:
        raise refuse(f"is a TIFF of more than {MAX_ENTRIES} tags", "save it anew")
    values: dict[int, _Value] = {}
    left_out = set()
    for place in range(start + 2, end, 12):
        tag, kind, many = struct.unpack_from(f"{order}HHI", content, place)
        if tag in values or tag in left_out:
            raise _damaged(f"tag {tag} stands twice in it")
        length = _SIZES.get(kind, 0) * many
        first = place + 8 if length <= 4 else struct.unpack_from(f"{order}I", content, place + 8)[0]
        most = MAX_ICC_BYTES if tag == _ICC else MAX_VALUE_BYTES
        if not length or length > most or first + length > len(content):
            left_out.add(tag)
        else:
            values[tag] = _Value(kind, many, content[first : first + length] if tag in _READ else b"")
    return _Directory(values, frozenset(left_out), struct.unpack_from(f"{order}I", content, end)[0])


def _check_only_page(content: bytes, order: str, start: int, first: _Directory) -> None:
    """Follow the chain of directories: thumbnails may be there, and are dropped; pages may not."""
    seen, after = {start}, first.after
    while after:
        if after in seen or len(seen) >= MAX_DIRECTORIES:
            raise refuse("is a TIFF whose directories have no end", "save it anew")
        seen.add(after)
        directory = _read_directory(content, order, after)
        if not _number(directory.values, order, _KIND, 0) & 1:
            raise refuse("has several pages", "send one")
        after = directory.after


def _numbers(values: Mapping[int, _Value], order: str, tag: int) -> tuple[int, ...]:
    value = values.get(tag)
    if value is None:
        return ()
    letter = {_BYTE: "B", _SHORT: "H", _LONG: "I"}.get(value.kind)
    if letter is None:
        raise _damaged(f"tag {tag}")
    return struct.unpack(f"{order}{value.count}{letter}", value.data)


def _number(values: Mapping[int, _Value], order: str, tag: int, default: int) -> int:
    numbers = _numbers(values, order, tag)
    return numbers[0] if numbers else default


def _check_layout(values: Mapping[int, _Value], order: str) -> int:
    """Return the bits of a pixel."""
    samples = _number(values, order, _SAMPLES, 1)
    bits = _numbers(values, order, _BITS) or (1,)
    bits = bits * samples if len(bits) == 1 and 1 <= samples <= _MAX_SAMPLES else bits
    if not 1 <= samples <= _MAX_SAMPLES or len(bits) != samples or not _DEPTHS.issuperset(bits):
        raise refuse("is a TIFF of a kind that few programs read", "save it with 1 to 4 channels of 8 or 16 bits")
    if _number(values, order, _LIGHT, 1) not in _LIGHTS:
        raise refuse("is a camera's raw file, or a TIFF of rare colours", "send the developed photo")
    packing = _number(values, order, _PACKING, _NONE)
    if packing not in _PACKINGS:
        raise refuse(f"is a TIFF packed in a way that few programs read ({packing})", "save it with LZW or Deflate")
    return sum(bits)


def _find_pieces(
    values: Mapping[int, _Value], order: str, facts: Facts, *, is_tiled: bool
) -> tuple[tuple[int, int], ...]:
    if is_tiled:
        wide, high = _number(values, order, _TILE_WIDTH, 0), _number(values, order, _TILE_HEIGHT, 0)
        if _STRIPS in values or not wide or not high or wide % 16 or high % 16:
            raise _damaged("its tiles")
        expected = math.ceil(facts.width_px / wide) * math.ceil(facts.height_px / high)
        if wide * high > 4 * facts.width_px * facts.height_px + 1024 * 1024:
            raise refuse("is a TIFF whose tiles are far larger than it", "save it anew")
    else:
        rows = _number(values, order, _ROWS, facts.height_px)
        expected = math.ceil(facts.height_px / rows) if rows else 0
    if _number(values, order, _PLANES, 1) == 2:
        expected *= _number(values, order, _SAMPLES, 1)
    if expected > MAX_PIECES:
        raise refuse(f"is a TIFF of more than {MAX_PIECES} strips", "save it with larger ones")
    starts = _numbers(values, order, _TILES if is_tiled else _STRIPS)
    lengths = _numbers(values, order, _TILE_BYTES if is_tiled else _STRIP_BYTES)
    if not expected or len(starts) != expected or len(lengths) != expected:
        raise _damaged("its strips do not cover it")
    return tuple((start, start + length) for start, length in zip(starts, lengths, strict=True))


def _check_ranges(content: bytes, ranges: tuple[tuple[int, int], ...]) -> tuple[bytes, ...]:
    """Return what is no pixels; pixels that stand in the file once for several places would be a bomb."""
    beside, end = [], 0
    for first, last in sorted(ranges):
        if first < max(end, 8) or last <= first or last > len(content):
            raise _damaged("its strips are not in it, or share bytes")
        beside.append(content[end:first])
        end = last
    return (*filter(None, beside), content[end:])


def _check_pixels(facts: Facts, bits: int, packing: int, packed: int) -> None:
    raw = (facts.width_px * bits + 7) // 8 * facts.height_px
    if packing == _NONE:
        # Rows may be padded each, in each plane, and colour may have fewer samples: a half is the least that there is.
        least = raw // 2
    elif packing in _DEFLATE:
        least = raw // _MAX_DEFLATE_RATIO
    elif packing == 32773:
        least = raw // 64
    else:
        least = 0  # LZW and fax packings have no such bound; the number of pixels has
    if packed < least:
        raise refuse("announces more pixels than it holds", "send the whole file")


_READ: Final = _KEPT | {_KIND, _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _XMP, _RAW_VERSION}


def _even(length: int) -> int:
    return length + length % 2


def _damaged(what: str) -> InvalidInputError:
    return damaged("TIFF", what)
