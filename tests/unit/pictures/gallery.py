"""Real files of every kind that is read, made by Pillow, with all that a camera or a phone writes into them."""

import functools
import io
import struct
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from tests.small_pictures import chunk

SECRETS = (b"48.8584", b"Ada Lovelace", b"SN-4711", b"2026:07:14", b"secret-thumbnail", b"-home-ada-")
"""Each is written into at least one of the files; none may be left."""
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:creator>Ada Lovelace</dc:creator>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
SIZE = (48, 40)


def pixels(content: bytes) -> NDArray[np.generic]:
    """Decode a file, turned upright as a worker turns it."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def make_exif(orientation: int = 6) -> Image.Exif:
    """Return what a camera says: where, when, with what, by whom."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F], exif[0x0110], exif[0x0132], exif[0x013B] = "Camera", "X", "2026:07:14 12:00:00", "Ada Lovelace"
    exif.get_ifd(0x8769).update({0xA431: "SN-4711", 0x927C: b"secret-thumbnail", 0x9003: "2026:07:14 12:00:00"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0), 29: "2026:07:14"})
    return exif


def photo(mode: str) -> Image.Image:
    """Return a picture with some of everything in it."""
    wide, high = SIZE
    across, down = np.meshgrid(np.arange(wide), np.arange(high))
    planes = [across * 5 % 256, down * 6 % 256, (across * down) % 256, (across + down) * 2 % 256]
    if mode == "I;16":
        return Image.fromarray((across * 1000 + down * 13).astype(np.uint16))
    if mode == "P":
        return photo("RGB").quantize(32)
    channels = len(Image.new(mode, (1, 1)).getbands())
    stacked = np.stack(planes[:channels], axis=-1).astype(np.uint8)
    return Image.fromarray(stacked[..., 0] if channels == 1 else stacked, "L" if mode == "1" else mode).convert(mode)


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


@functools.cache  # it has the time in it
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def segment(marker: int, data: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Put *segments* behind a JPEG's beginning."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Put *chunks* behind a PNG's header."""
    return png[:33] + b"".join(chunks) + png[33:]


def _phone_photo() -> bytes:
    """A JPEG as phones write it: EXIF, XMP, IPTC, comment, a second picture and a video behind the first."""
    plain = save(photo("RGB"), "JPEG", exif=make_exif(), icc_profile=profile(), xmp=XMP + b"<!-- MotionPhoto -->")
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00\x00\x00\x00\x14\x1c\x02\x50\x00\x0cAda Lovelace\x00\x00"
    marked = with_segments(plain, segment(0xED, iptc), segment(0xFE, b"by Ada Lovelace at 48.8584"))
    video = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + b"\x00\x00\x00\x10mdat48.8584 "
    return marked + save(photo("L"), "JPEG", exif=make_exif()) + video


def _text_png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Ada Lovelace")
    info.add_text("Comment", "48.8584 " * 100, zip=True)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    marked = save(photo("RGB"), "PNG", pnginfo=info, exif=make_exif(8), dpi=(300, 300), icc_profile=profile())
    more = chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"tIME", b"\x07\xea\x07\x0e\x0c\x00\x00")
    return with_chunks(marked, *more, chunk(b"prVt", b"SN-4711"))


def _camera_tiff(order: str) -> bytes:
    """A TIFF with everything in it, in both byte orders: Pillow writes the one that EXIF has."""
    exif = make_exif(3)
    exif.endian = order
    exif[700] = XMP
    exif[0x8298], exif[0x83BB] = "Ada Lovelace", b"Ada Lovelace"
    options = {"description": "by Ada Lovelace", "icc_profile": profile(), "compression": "tiff_lzw"}
    return save(photo("RGB"), "TIFF", exif=exif, **options)


def _linked_bmp() -> bytes:
    """A BMP of the fifth version whose profile is a path on somebody's disk."""
    plain = save(photo("RGB"), "BMP")
    info, rows = plain[14:54], plain[54:]
    path = b"C:\\-home-ada-\\screen.icc\x00"
    extra = bytearray(84)
    extra[16:20] = b"KNIL"  # bV5CSType, at 56 of the header
    struct.pack_into("<II", extra, 112 - 40, 124 + len(rows), len(path))
    header = struct.pack("<I", 124) + info[4:] + bytes(extra)
    return struct.pack("<2sIII", b"BM", 14 + 124 + len(rows) + len(path), 0, 14 + 124) + header + rows + path


def _grey_big_endian_tiff() -> bytes:
    """A TIFF of 16 bits in big-endian order, two strips, by hand: Pillow writes little-endian ones by itself."""
    wide, high, rows = 8, 6, 3
    strips = [struct.pack(f">{wide * rows}H", *range(n, n + wide * rows)) for n in (0, 30_000)]
    at = 8 + 2 + 12 * 10 + 4
    artist = b"Ada Lovelace at 48.8584\x00"
    values = [
        (256, 3, 1, struct.pack(">HH", wide, 0)),
        (257, 3, 1, struct.pack(">HH", high, 0)),
        (258, 3, 1, struct.pack(">HH", 16, 0)),
        (259, 3, 1, struct.pack(">HH", 1, 0)),
        (262, 3, 1, struct.pack(">HH", 1, 0)),
        (273, 4, 2, struct.pack(">I", at)),
        (274, 3, 1, struct.pack(">HH", 5, 0)),
        (278, 3, 1, struct.pack(">HH", rows, 0)),
        (279, 3, 2, struct.pack(">HH", *map(len, strips))),
        (315, 2, len(artist), struct.pack(">I", at + 8)),
    ]
    entries = b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in values)
    first = at + 8 + len(artist)
    offsets = struct.pack(">II", first, first + len(strips[0]))
    head = b"MM\x00*" + struct.pack(">IH", 8, len(values))
    return head + entries + bytes(4) + offsets + artist + b"".join(strips)


MAKERS: Mapping[str, Callable[[], bytes]] = {
    "jpeg of a phone": _phone_photo,
    "jpeg grey": lambda: save(photo("L"), "JPEG"),
    "jpeg progressive": lambda: save(photo("RGB"), "JPEG", progressive=True, exif=make_exif(), comment=b"Ada Lovelace"),
    "jpeg cmyk": lambda: save(photo("CMYK"), "JPEG", exif=make_exif(2)),
    "jpeg with restarts": lambda: save(photo("RGB"), "JPEG", restart_marker_blocks=2, subsampling=0),
    "jpeg turned by xmp": lambda: save(
        photo("RGB"), "JPEG", xmp=b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    ),
    "jpeg with padding": lambda: save(photo("L"), "JPEG") + bytes(1000),
    "png with texts": _text_png,
    "png 16 bits": lambda: save(photo("I;16"), "PNG", exif=make_exif()),
    "png palette": lambda: save(photo("P"), "PNG", transparency=3, exif=make_exif()),
    "png one bit": lambda: save(photo("1"), "PNG"),
    "png alpha": lambda: save(photo("RGBA"), "PNG"),
    "png grey with alpha": lambda: save(photo("LA"), "PNG", dpi=(72, 72)),
    "webp lossy": lambda: save(photo("RGB"), "WEBP"),
    "webp lossless": lambda: save(photo("RGB"), "WEBP", lossless=True),
    "webp alpha": lambda: save(photo("RGBA"), "WEBP", quality=70),
    "webp lossless alpha": lambda: save(photo("RGBA"), "WEBP", lossless=True, exact=True, xmp=XMP),
    "webp with everything": lambda: save(
        photo("RGB"), "WEBP", exif=make_exif(7), xmp=XMP, icc_profile=profile(), quality=80
    ),
    "tiff little-endian": lambda: _camera_tiff("<"),
    "tiff big-endian": _grey_big_endian_tiff,
    "tiff raw": lambda: save(photo("RGB"), "TIFF", exif=make_exif(6)),
    "tiff packbits": lambda: save(photo("L"), "TIFF", compression="packbits"),
    "tiff deflate": lambda: save(photo("RGBA"), "TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": lambda: save(photo("RGB"), "TIFF", compression="jpeg"),
    "tiff fax": lambda: save(photo("1"), "TIFF", compression="group4"),
    "tiff 16 bits": lambda: save(photo("I;16"), "TIFF"),
    "tiff palette": lambda: save(photo("P"), "TIFF"),
    "tiff cmyk": lambda: save(photo("CMYK"), "TIFF"),
    "bmp": lambda: save(photo("RGB"), "BMP") + b"Ada Lovelace",
    "bmp palette": lambda: save(photo("P"), "BMP"),
    "bmp one bit": lambda: save(photo("1"), "BMP"),
    "bmp linked profile": _linked_bmp,
}


@functools.cache
def files() -> Mapping[str, bytes]:
    """Return all files by their names."""
    return {name: make() for name, make in MAKERS.items()}
