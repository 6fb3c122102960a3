"""Files that attack: bombs, damage, and known ways to be two files at once (GIFAR, mitra's, ImageTragick's, BMP/JS)."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

from tests.small_pictures import SIGNATURE, SMALL_JPEG, chunk, make_png
from tests.unit.pictures.gallery import files, photo, save, segment, with_chunks, with_segments

PHP = b"<?php system($_GET['c']); ?>"
HTML = b"<!DOCTYPE html><script>alert(document.domain)</script>"
PDF = b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj trailer<</Root 1 0 R>>"
MZ = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\x00\x00\x4c\x01" + bytes(40)
ELF = b"\x7fELF\x02\x01\x01" + bytes(57)
JAVA = b"\xca\xfe\xba\xbe\x00\x00\x00\x37" + bytes(40)
VIDEO = b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp42\x00\x00\x00\x08mdat"


def _zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Main-Class: Evil\n" * 20)
    return target.getvalue()


def _tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("evil"))
    return target.getvalue()


def ihdr(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


IDAT = chunk(b"IDAT", zlib.compress((b"\x00" + bytes(8)) * 8))
JPEG = SMALL_JPEG
SOF = JPEG.index(b"\xff\xc0")
SOS = JPEG.index(b"\xff\xda")


def jpeg_sized(width: int, height: int) -> bytes:
    return JPEG[: SOF + 5] + struct.pack(">HH", height, width) + JPEG[SOF + 9 :]


def _javascript_jpeg() -> bytes:
    """Its first segment's length opens a comment: FF D8 FF E0 are letters of a name."""
    padding = b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + bytes(0x2F2A - 16)
    code = segment(0xFE, b'*/=alert("x");/*')
    return JPEG[:2] + segment(0xE0, padding) + code + JPEG[20:]


def _javascript_webp() -> bytes:
    inner = files()["webp lossy"][12:]
    comment = b"COMM" + struct.pack("<I", 16) + b"*/=1;alert(1);//"
    body = b"WEBP" + inner + comment
    size = 0x2A2F  # "/*"
    rest = size - len(body) - 8
    body += b"JUNK" + struct.pack("<I", rest) + bytes(rest)
    return b"RIFF" + struct.pack("<I", size) + body


def _javascript_bmp() -> bytes:
    plain = save(photo("RGB"), "BMP")
    code = b"*/=1;alert(1);//"
    return b"BM/*" + plain[4:54] + code + plain[54 + len(code) :]


def bmp(width: int = 8, height: int = 8, bits: int = 24, packing: int = 0, planes: int = 1, size: int = 40) -> bytes:
    header = struct.pack("<IiiHHIIiiII", size, width, height, planes, bits, packing, 0, 0, 0, 0, 0)
    return struct.pack("<2sIII", b"BM", 54 + 192, 0, 54) + header + bytes(192)


Entry = tuple[int, int, int, int]


def tiff(*changes: Entry, after: int = 0, without: frozenset[int] = frozenset(), more: bytes = b"") -> bytes:
    """Return a grey TIFF of 8 x 8 in one strip, with *changes* to its (tag, type, count, value)."""
    entries = {
        256: (3, 1, 8),
        257: (3, 1, 8),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        278: (3, 1, 8),
        279: (4, 1, 64),
    }
    entries |= {tag: (kind, count, value) for tag, kind, count, value in changes}
    entries = {tag: entry for tag, entry in entries.items() if tag not in without}
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    directory = struct.pack("<H", len(entries)) + body + struct.pack("<I", after)
    return b"II*\x00" + struct.pack("<I", 72) + bytes(64) + directory + more


def _pages() -> bytes:
    return save(photo("L"), "TIFF", save_all=True, append_images=[photo("L")])


def _webp_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes((flags, 0, 0, 0)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def _lossy() -> tuple[bytes, bytes]:
    return b"VP8 ", files()["webp lossy"][20:]


def _with_deflated(name: bytes, head: bytes, size: int) -> bytes:
    return with_chunks(make_png(b""), chunk(name, head + zlib.compress(bytes(size))))


NOT_PHOTOS: Mapping[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "one byte": lambda: b"\xff",
    "gif": lambda: save(photo("P"), "GIF"),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "svg behind an xml head": lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "heic": lambda: b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40),
    "avif": lambda: b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif" + bytes(40),
    "video": lambda: VIDEO + bytes(40),
    "pdf": lambda: PDF,
    "zip": _zip,
    "web page": lambda: HTML,
    "windows program": lambda: MZ,
    "linux program": lambda: ELF,
    "imagetragick mvg": lambda: b"push graphic-context\nviewbox 0 0 640 480\nfill 'url(https://x|ls \"-la)'",
    "imagetragick postscript": lambda: b"%!PS\nuserdict /setpagedevice undef",
    "big tiff": lambda: b"II+\x00\x08\x00\x00\x00" + bytes(40),
    "photoshop": lambda: b"8BPS\x00\x01" + bytes(40),
    "jpeg xl": lambda: b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(40),
    "icon": lambda: b"\x00\x00\x01\x00" + bytes(40),
    "text that calls itself a bmp": lambda: b"BMW is a car" + bytes(40),
}
BOMBS: Mapping[str, Callable[[], bytes]] = {
    "jpeg without height": lambda: jpeg_sized(8, 0),
    "jpeg of 65535 a side": lambda: jpeg_sized(65_535, 65_535),
    "jpeg that holds less than it says": lambda: jpeg_sized(8_000, 8_000),
    "jpeg of a thousand scans": lambda: JPEG[:-2] + JPEG[SOS:-2] * 1_000 + JPEG[-2:],
    "jpeg of ten thousand segments": lambda: with_segments(JPEG, segment(0xFE, b"") * 10_000),
    "png without width": lambda: png(ihdr(0, 8), IDAT),
    "png of two billion a side": lambda: png(ihdr(2**31 - 1, 2**31 - 1), IDAT),
    "png that holds less than it says": lambda: png(ihdr(9_000, 9_000), IDAT),
    "png whose text is a bomb": lambda: _with_deflated(b"zTXt", b"Comment\x00\x00", 50_000_000),
    "png whose international text is a bomb": lambda: _with_deflated(b"iTXt", b"A\x00\x01\x00\x00\x00", 50_000_000),
    "png whose profile is a bomb": lambda: _with_deflated(b"iCCP", b"icc\x00\x00", 50_000_000),
    "png of many texts that are one": lambda: with_chunks(
        make_png(b""), *[chunk(b"zTXt", b"A\x00\x00" + zlib.compress(bytes(1_000_000)))] * 8
    ),
    "png of ten thousand texts": lambda: with_chunks(make_png(b""), chunk(b"tEXt", b"a\x00b") * 10_000),
    "webp of 16384 a side": lambda: _webp_chunks((b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(9))),
    "webp of ten thousand chunks": lambda: _webp_chunks(_vp8x(48, 40), *[(b"JUNK", b"")] * 10_000, _lossy()),
    "tiff of a billion rows": lambda: tiff((257, 4, 1, 10**9)),
    "tiff without rows": lambda: tiff((257, 4, 1, 0)),
    "tiff whose strips are one": lambda: tiff(
        (257, 3, 1, 16), (273, 4, 2, 174), (279, 4, 2, 182), more=struct.pack("<4I", 8, 8, 64, 64)
    ),
    "tiff of four billion strips": lambda: tiff((273, 4, 2**32 - 1, 8), (279, 4, 2**32 - 1, 8)),
    "tiff of strips of no rows": lambda: tiff((278, 3, 1, 0)),
    "tiff of a hundred thousand strips": lambda: tiff(
        (257, 4, 1, 65_000), (278, 3, 1, 1), (284, 3, 1, 2), (277, 3, 1, 3)
    ),
    "tiff that is its own next page": lambda: tiff(after=72),
    "tiff whose thumbnails go round": lambda: tiff(after=174, more=struct.pack("<HHHIII", 1, 254, 4, 1, 1, 174)),
    "tiff that holds less than it says": lambda: tiff((256, 3, 1, 8_000), (257, 3, 1, 8_000), (278, 3, 1, 8_000)),
    "tiff of tiles larger than any picture": lambda: tiff(
        (322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8), (325, 4, 1, 64), without=frozenset({273, 279})
    ),
    "tiff whose tag has four billion values": lambda: tiff((34675, 7, 2**32 - 1, 8)),
    "bmp of two billion a side": lambda: bmp(2**31 - 1, 2**31 - 1),
    "bmp of a negative width": lambda: bmp(width=-8),
    "bmp that holds less than it says": lambda: bmp(4_000, 4_000),
    "bmp of four billion colours": lambda: bmp(bits=8)[:46] + b"\xff" * 4 + bmp(bits=8)[50:],
}
SEVERAL: Mapping[str, Callable[[], bytes]] = {
    "animated png": lambda: save(photo("RGB"), "PNG", save_all=True, append_images=[photo("RGB").rotate(90)]),
    "animated webp": lambda: save(photo("RGB"), "WEBP", save_all=True, append_images=[photo("RGB").rotate(90)]),
    "webp that says it is animated": lambda: _webp_chunks(_vp8x(48, 40, 2), _lossy()),
    "tiff of two pages": _pages,
    "raw file of a camera": lambda: tiff((50706, 1, 4, 0x0401)),
    "raw file that begins with its thumbnail": lambda: tiff((254, 4, 1, 1)),
}
POLYGLOTS: Mapping[str, Callable[[], bytes]] = {
    "gifar: jpeg and jar": lambda: JPEG + _zip(),
    "png and zip": lambda: make_png(b"") + _zip(),
    "zip in a jpeg's comment": lambda: with_segments(JPEG, segment(0xFE, _zip())),
    "zip in a png's chunk": lambda: with_chunks(make_png(b""), chunk(b"ziPp", _zip())),
    "zip behind a png's packed pixels": lambda: png(ihdr(8, 8), chunk(b"IDAT", IDAT[8:-4] + _zip())),
    "bmp and rar": lambda: bmp() + b"Rar!\x1a\x07\x01\x00" + bytes(20),
    "tiff and 7z": lambda: tiff() + b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(20),
    "webp and gzip": lambda: files()["webp lossy"] + gzip.compress(b"evil"),
    "png and tar": lambda: make_png(b"") + bytes(400) + _tar(),
    "jpeg and office document": lambda: JPEG + b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
    "jpeg and pdf behind": lambda: JPEG + PDF,
    "pdf in a jpeg's comment": lambda: with_segments(JPEG, segment(0xFE, PDF)),
    "pdf in a png's first chunk": lambda: with_chunks(make_png(b""), chunk(b"pdFf", PDF)),
    "pdf in a tiff's gap": lambda: tiff(more=PDF),
    "php in a jpeg's comment": lambda: with_segments(JPEG, segment(0xFE, PHP)),
    "php in exif": lambda: with_segments(JPEG, segment(0xE1, b"Exif\x00\x00II*\x00" + bytes(20) + PHP)),
    "php in a png's text": lambda: with_chunks(make_png(b""), chunk(b"tEXt", b"Comment\x00" + PHP)),
    "php in a png's palette": lambda: png(ihdr(8, 8, 8, 3), chunk(b"PLTE", PHP.ljust(30)), IDAT),
    "php behind a webp": lambda: files()["webp lossy"] + PHP,
    "php in a bmp's gap": lambda: bmp()[:10] + struct.pack("<I", 54 + 30) + bmp()[14:54] + PHP.ljust(30) + bytes(192),
    "html behind a jpeg": lambda: JPEG + HTML,
    "html in any case of letters": lambda: JPEG + b"<ScRiPt>alert(1)</sCrIpT>",
    "html in a png's text": lambda: with_chunks(make_png(b""), chunk(b"iTXt", b"A\x00\x00\x00\x00\x00" + HTML)),
    "svg in a webp's xmp": lambda: _webp_chunks(_vp8x(48, 40, 4), _lossy(), (b"XMP ", b"<x><svg onload=alert(1)>")),
    "script as a jpeg": _javascript_jpeg,
    "script as a webp": _javascript_webp,
    "script as a bmp": _javascript_bmp,
    "shell script behind a jpeg": lambda: JPEG + b"\n#!/bin/sh\nrm -rf /",
    "windows program behind a jpeg": lambda: JPEG + MZ,
    "windows program in a png's chunk": lambda: with_chunks(make_png(b""), chunk(b"exEe", MZ)),
    "linux program behind a bmp": lambda: bmp() + ELF,
    "linux program in an app segment": lambda: with_segments(JPEG, segment(0xE5, ELF)),
    "java class behind a png": lambda: make_png(b"") + JAVA,
    "webassembly behind a jpeg": lambda: JPEG + b"\x00asm\x01\x00\x00\x00",
    "disk image behind a tiff": lambda: tiff() + bytes(32_768) + b"\x01CD001\x01",
    "video behind a png": lambda: make_png(b"") + VIDEO,
    "video behind a jpeg of no phone": lambda: JPEG + VIDEO,
    "gif behind a png": lambda: make_png(b"") + save(photo("P"), "GIF"),
    "jpeg behind a png": lambda: make_png(b"") + JPEG,
    "drawing of imagetragick in a comment": lambda: with_segments(JPEG, segment(0xFE, b"push graphic-context\nimage")),
}
BROKEN: Mapping[str, Callable[[], bytes]] = {
    "jpeg without its end": lambda: JPEG[:-2],
    "jpeg cut in its header": lambda: JPEG[: SOF + 6],
    "jpeg of nothing": lambda: b"\xff\xd8\xff\xd9",
    "jpeg of a segment that is too long": lambda: JPEG[:2] + b"\xff\xe1\xff\xff" + JPEG[2:],
    "jpeg of a segment of no length": lambda: JPEG[:2] + b"\xff\xe1\x00\x00" + JPEG[2:],
    "jpeg of two frames": lambda: JPEG[:SOF] + JPEG[SOF : SOF + 13] + JPEG[SOF:],
    "jpeg whose scan comes first": lambda: JPEG[:2] + JPEG[SOS:],
    "jpeg with rubbish between segments": lambda: JPEG[:SOF] + b"rubbish" + JPEG[SOF:],
    "jpeg of a lossless kind": lambda: JPEG.replace(b"\xff\xc0", b"\xff\xc3"),
    "jpeg of an arithmetic kind": lambda: JPEG.replace(b"\xff\xc0", b"\xff\xc9"),
    "jpeg of 12 bits": lambda: JPEG[: SOF + 4] + b"\x0c" + JPEG[SOF + 5 :],
    "jpeg of no sampling": lambda: JPEG[: SOF + 11] + b"\x00" + JPEG[SOF + 12 :],
    "png without its end": lambda: make_png(b"")[:-12],
    "png of a wrong checksum": lambda: make_png(b"")[:-20] + b"\x00\x00\x00\x00" + make_png(b"")[-16:],
    "png whose header comes late": lambda: png(chunk(b"tEXt", b"a\x00b"), ihdr(8, 8), IDAT),
    "png of two headers": lambda: png(ihdr(8, 8), ihdr(8, 8), IDAT),
    "png without pixels": lambda: png(ihdr(8, 8)),
    "png of a colour there is not": lambda: png(ihdr(8, 8, 8, 5), IDAT),
    "png of a palette that is missing": lambda: png(ihdr(8, 8, 8, 3), IDAT),
    "png of a palette that is odd": lambda: png(ihdr(8, 8, 8, 3), chunk(b"PLTE", b"abcd"), IDAT),
    "png of scattered pixels": lambda: png(ihdr(8, 8), IDAT, chunk(b"tEXt", b"a\x00b"), IDAT),
    "png of iphones only": lambda: SIGNATURE + chunk(b"CgBI", b"\x50\x00\x20\x02") + make_png(b"")[8:],
    "png whose text does not unpack": lambda: with_chunks(make_png(b""), chunk(b"zTXt", b"A\x00\x00rubbish")),
    "webp cut off": lambda: files()["webp lossy"][:-40],
    "webp of two pictures": lambda: _webp_chunks(_vp8x(48, 40), _lossy(), _lossy()),
    "webp of no picture": lambda: _webp_chunks(_vp8x(48, 40)),
    "webp of another canvas": lambda: _webp_chunks(_vp8x(480, 400), _lossy()),
    "webp of a chunk that is too long": lambda: _webp_chunks((b"VP8 ", b""))[:-4] + b"\xff\xff\xff\x7f",
    "tiff whose directory is outside": lambda: b"II*\x00\xff\xff\xff\xff" + bytes(64),
    "tiff cut in its directory": lambda: tiff()[:100],
    "tiff whose strip is outside": lambda: tiff((273, 4, 1, 10**6)),
    "tiff of a strip too few": lambda: tiff((278, 3, 1, 4)),
    "tiff of a packing nobody knows": lambda: tiff((259, 3, 1, 34713)),
    "tiff of old jpeg packing": lambda: tiff((259, 3, 1, 6)),
    "tiff of nine hundred channels": lambda: tiff((277, 3, 1, 900)),
    "tiff of five hundred thousand bits": lambda: tiff((258, 4, 1, 500_000)),
    "bmp of a header there is not": lambda: bmp(size=41),
    "bmp of a jpeg inside": lambda: bmp(bits=0, packing=4),
    "bmp of three planes": lambda: bmp(planes=3),
    "bmp of 23 bits": lambda: bmp(bits=23),
    "bmp cut off": lambda: bmp()[:-1],
}
