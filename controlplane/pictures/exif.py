"""Which way up a photo is: read from its EXIF or XMP as Pillow does, and written as the smallest EXIF there is."""

import re
import struct
from typing import Final

PREFIX: Final = b"Exif\x00\x00"
XMP_KEYWORD: Final = "XML:com.adobe.xmp"
_TAG: Final = 0x0112
_SHORT: Final = 3
_MAX_ENTRIES: Final = 1_000
_IN_XMP: Final = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """Return the orientation, 1 to 8; 1 where nothing sound is said. A broken EXIF does not spoil good pixels.

    Args:
        exif: A TIFF block, with or without its prefix; may be anything.
        xmp: A packet, which counts where the EXIF says nothing; may be anything.
    """
    found = _in_exif(exif.removeprefix(PREFIX))
    if found is not None:
        return found if 1 <= found <= 8 else 1
    match = _IN_XMP.search(xmp)
    return int(match[1]) if match else 1


def exif_of(orientation: int) -> bytes:
    """Return a TIFF block that says *orientation* and nothing else."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, _TAG, _SHORT, 1, orientation, 0, 0)


def _in_exif(block: bytes) -> int | None:
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return None
    (place,) = struct.unpack_from(f"{order}I", block, 4)
    if place + 2 > len(block):
        return None
    (count,) = struct.unpack_from(f"{order}H", block, place)
    for number in range(min(count, _MAX_ENTRIES)):
        start = place + 2 + 12 * number
        if start + 12 > len(block):
            return None
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", block, start)
        if tag == _TAG:
            return int(value) if kind == _SHORT and values == 1 else None
    return None
