"""Other files inside or beside a picture (polyglots): known by what their own readers look for.

A picture's format says where its bytes belong; all that is no pixels is searched. Pixels are not: they look like
anything now and then. Short marks count only with more of their format's header, so that noise is not taken for them.
"""

import re
import struct
from typing import Final

from controlplane.pictures.facts import PictureFile, refuse

_BEGINNINGS: Final = (
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"II+\x00", "a BigTIFF"),
    (b"MM\x00+", "a BigTIFF"),
    (b"GIF87a", "a GIF"),
    (b"GIF89a", "a GIF"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\x8aMNG\r\n\x1a\n", "an animation"),
    (b"\x8bJNG\r\n\x1a\n", "a JNG"),
    (b"qoif", "a QOI"),
    (b"v/1\x01", "an OpenEXR"),
    (b"DDS ", "a texture"),
    (b"%PDF-", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"MSCF\x00\x00\x00\x00", "a cabinet"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\x00asm", "a program"),
    (b"#!", "a script"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"FLV\x01", "a video"),
    (b"OggS", "a recording"),
    (b"ID3", "a recording"),
    (b"fLaC", "a recording"),
)
_TEXTS: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (rb"<\?php\s", "PHP"),
        (rb"<svg(?:\s*>|[\s/]+[a-z][a-z:-]*\s*=)", "an SVG"),
        (rb"<!doctype html", "a web page"),
        (rb"<html[\s>]", "a web page"),
        (rb"<script[\s/>]", "a script"),
        (rb"<iframe[\s/]", "a web page"),
        (rb"<object[\s/]", "a web page"),
        (rb"<embed[\s/]", "a web page"),
        (rb"javascript:", "a script"),
        (rb"onerror=", "a script"),
        (rb"onload=", "a script"),
        (rb"push graphic-context", "an ImageMagick drawing"),
        (rb"#!/bin/", "a script"),
        (rb"#!/usr/", "a script"),
    )
)
"""Looked for in any case of letters. Each says so much that megabytes of noise, a phone's second picture, have none."""
_BYTES: Final = (
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    (b"MSCF\x00\x00\x00\x00", "a cabinet"),
    (b"This program cannot be run in DOS mode", "a Windows program"),
    (b"PE\x00\x00\x4c\x01", "a Windows program"),
    (b"PE\x00\x00\x64\x86", "a Windows program"),
    (b"PE\x00\x00\x64\xaa", "a Windows program"),
    (b"\xcf\xfa\xed\xfe\x07\x00\x00\x01", "a program"),
    (b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01", "a program"),
    (b"\x00asm\x01\x00\x00\x00", "a program"),
    (b"dex\n03", "a program"),
    (b"\x01CD001\x01", "a disk image"),
    (b"ustar\x0000", "a tar archive"),
    (b"ustar  \x00", "a tar archive"),
)
_SHAPES: Final = (
    (re.compile(rb"%PDF-[0-9]"), "a PDF"),
    (
        re.compile(rb"PK\x03\x04[\x00-\x3f][\x00-\x03].{2}[\x00\x08\x09\x0c\x0e\x5d\x5f]\x00", re.DOTALL),
        "a ZIP archive",
    ),
    (re.compile(rb"\x7fELF[\x01\x02][\x01\x02]\x01"), "a program"),
    (re.compile(rb"\xca\xfe\xba\xbe\x00[\x00-\x03]\x00[\x2d-\x60]"), "a program"),
    (re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL), "a gzip archive"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "a bzip2 archive"),
)
_VIDEO: Final = re.compile(rb"ftyp(?<=\x00\x00[\x00\x01].ftyp)", re.DOTALL)  # letters first: they are found fast
_PHONES: Final = (b"MotionPhoto", b"MicroVideo", b"LIVE_")
"""What a phone writes into a photo with a short video behind it."""
_ZIP_END: Final = struct.Struct("<4s4H2IH")
_MAX_ZIP_COMMENT: Final = 65_535
_PDF_WITHIN: Final = 1_024
_FIX: Final = "save the picture anew, by itself"


def identify(content: bytes) -> str:
    """Say what a file seems to be by its beginning, as one reads it after "is"; empty where it says nothing."""
    if content[4:8] == b"ftyp":
        brand = content[8:12]
        if brand in {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
            return "a HEIC"
        return "an AVIF" if brand in {b"avif", b"avis"} else "a video"
    if content.startswith(b"RIFF"):
        return {b"WEBP": "a WebP", b"AVI ": "a video", b"WAVE": "a recording"}.get(content[8:12], "a RIFF file")
    for beginning, name in _BEGINNINGS:
        if content.startswith(beginning):
            return name
    text = content[:1_024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not text.startswith((b"<", b"push ")):
        return ""
    found = next((name for pattern, name in _TEXTS if pattern.search(text)), "")
    return found or ("XML" if text.startswith(b"<?xml") else "")


def check_foreign(content: bytes, file: PictureFile) -> None:
    """Refuse a picture that is another file too, or carries one.

    A phone's video behind its photo, and further pictures behind a JPEG (MPF, gain maps), are no harm.

    Raises:
        InvalidInputError: The text names what was found, and quotes nothing of it.
    """
    found = _as_a_whole(content, file) or _behind(file) or _in_parts(file)
    if found:
        raise refuse(f"holds {found} beside its picture", _FIX)


def _as_a_whole(content: bytes, file: PictureFile) -> str:
    if content[4:8] == b"ftyp":
        return "a video"
    if b"%PDF-" in content[:_PDF_WITHIN]:
        return "a PDF"
    if _ends_like_zip(content):
        return "a ZIP archive"
    # As a script, the file's mark is a name, its length opens a comment, and what is run stands behind that.
    length = content[2:6] if content.startswith((b"\xff\xd8", b"BM")) else content[4:8]
    if b"/*" in length and any(b"*/" in part for part in _script_places(content, file)):
        return "a script"
    return ""


def _script_places(content: bytes, file: PictureFile) -> tuple[bytes, ...]:
    return (content,) if content.startswith(b"BM") else tuple(file.beside)  # a BMP's pixels may be any text


def _behind(file: PictureFile) -> str:
    behind = file.trailer.lstrip(b"\x00\t\r\n ")
    if not behind:
        return ""
    name = identify(behind)
    is_jpeg = file.facts.media_type == "image/jpeg"
    return "" if is_jpeg and name in {"a JPEG", "a video"} else name  # a video is asked for its phone below


def _in_parts(file: PictureFile) -> str:
    is_phones = file.facts.media_type == "image/jpeg" and any(m in part for part in file.beside for m in _PHONES)
    for part in file.beside:
        lower = part.lower()
        for pattern, name in _TEXTS:
            if pattern.search(lower):
                return name
        for mark, name in _BYTES:
            if mark in part:
                return name
        for shape, name in _SHAPES:
            if shape.search(part):
                return name
        if not is_phones and _VIDEO.search(part):
            return "a video"
    return ""


def _ends_like_zip(content: bytes) -> bool:
    """Look for a directory of files that ends where it says: archives are read from their end."""
    tail = max(0, len(content) - _ZIP_END.size - _MAX_ZIP_COMMENT)
    place = content.rfind(b"PK\x05\x06", tail)
    while place >= 0:
        if place + _ZIP_END.size <= len(content):
            _, disk, first_disk, here, files, length, _, _ = _ZIP_END.unpack_from(content, place)
            start = place - length
            if disk == first_disk == 0 and here == files and start >= 0 and content.startswith(b"PK\x01\x02", start):
                return True
        place = content.rfind(b"PK\x05\x06", tail, place)
    return False
