"""Every file that attacks is refused in one line, which names no byte of it; so is any other, or it is read well."""

import contextlib
import time
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.errors import InvalidInputError
from controlplane.pictures.facts import MAX_PHOTO_BYTES, MAX_PIXELS
from controlplane.pictures.inspection import inspect, label, strip
from controlplane.pictures.labels import Label
from tests.small_pictures import SMALL_JPEG, chunk, make_png
from tests.unit.pictures.gallery import files, segment, with_chunks, with_segments
from tests.unit.pictures.hostile import BOMBS, BROKEN, NOT_PHOTOS, POLYGLOTS, SEVERAL, bmp, tiff

Maker = Callable[[], bytes]
ALL = {**NOT_PHOTOS, **BOMBS, **SEVERAL, **POLYGLOTS, **BROKEN}
MAX_CPU_S = 20.0
"""A size squared would take days."""


def test_each_has_a_name_of_its_own() -> None:
    assert len(ALL) == sum(map(len, (NOT_PHOTOS, BOMBS, SEVERAL, POLYGLOTS, BROKEN))) >= 40


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_a_file_that_attacks_is_refused_in_one_line(make: Maker) -> None:
    content = make()
    for door in (inspect, strip):
        with pytest.raises(InvalidInputError) as refused:
            door(content)
        assert refused.value.field == "image"
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (NOT_PHOTOS["gif"], "is a GIF, not a photo that workers read"),
        (NOT_PHOTOS["heic"], "is a HEIC, not a photo"),
        (NOT_PHOTOS["svg behind an xml head"], "is an SVG, not a photo"),
        (NOT_PHOTOS["imagetragick mvg"], "is an ImageMagick drawing, not a photo"),
        (BOMBS["png of two billion a side"], "announces 2147483647 x 2147483647 pixels"),
        (BOMBS["jpeg that holds less than it says"], "announces more pixels than it holds"),
        (BOMBS["png whose profile is a bomb"], "unpack to more than they may"),
        (BOMBS["tiff that is its own next page"], "directories have no end"),
        (SEVERAL["animated webp"], "is an animation"),
        (SEVERAL["tiff of two pages"], "has several pages"),
        (SEVERAL["raw file of a camera"], "is a camera's raw file"),
        *[
            (POLYGLOTS[name], f"holds {words} beside its picture")
            for name, words in (
                ("gifar: jpeg and jar", "a ZIP archive"),
                ("zip behind a png's packed pixels", "a ZIP archive"),
                ("bmp and rar", "a RAR archive"),
                ("tiff and 7z", "a 7z archive"),
                ("webp and gzip", "a gzip archive"),
                ("png and tar", "a tar archive"),
                ("pdf in a tiff's gap", "a PDF"),
                ("php in a png's palette", "PHP"),
                ("html in any case of letters", "a script"),
                ("script as a jpeg", "a script"),
                ("script as a webp", "a script"),
                ("script as a bmp", "a script"),
                ("windows program in a png's chunk", "a Windows program"),
                ("linux program in an app segment", "a program"),
                ("video behind a jpeg of no phone", "a video"),
                ("jpeg behind a png", "a JPEG"),
            )
        ],
        (BROKEN["png of a wrong checksum"], "is a damaged or cut-off PNG"),
    ],
)
def test_the_line_says_what_was_found(make: Maker, words: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        inspect(make())
    assert words in str(refused.value)


def test_sizes_are_bounded() -> None:
    with pytest.raises(InvalidInputError, match=f"send at most {MAX_PHOTO_BYTES}"):
        inspect(SMALL_JPEG + bytes(MAX_PHOTO_BYTES))
    with pytest.raises(InvalidInputError, match=f"scale it down to {MAX_PIXELS} pixels"):
        inspect(bmp(10_001, 10_000))


@pytest.mark.parametrize("name", files())
def test_a_file_cut_anywhere_is_refused_or_whole(name: str) -> None:
    content = files()[name]
    for end in range(0, len(content), max(1, len(content) // 400)):
        with contextlib.suppress(InvalidInputError):
            inspect(content[:end])


CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4)
NUMBERS = st.sampled_from(
    [b"\x00" * 4, b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\x80" + b"\x00" * 3, b"\xff\xd8", b"\x00\x00"]
)


@settings(max_examples=600)
@given(
    st.sampled_from(sorted(files())), CHANGES | st.lists(st.tuples(st.integers(0, 400), NUMBERS), max_size=3), st.data()
)
def test_whatever_is_changed_in_a_file_it_is_read_or_refused(
    name: str, changes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    content = bytearray(files()[name])
    for place, patch in changes:
        place %= len(content)  # noqa: PLW2901 - anywhere in this file
        content[place : place + (len(patch) if data.draw(st.booleans()) else 0)] = patch
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    if name.startswith("png"):
        content = bytearray(_with_checksums(bytes(content)))
    try:
        stripped = strip(bytes(content))
        assert strip(stripped) == stripped, "what was stripped is sound"
        assert inspect(label(bytes(content), Label("m"))).width_px == inspect(bytes(content)).width_px
    except InvalidInputError as refused:
        assert str(refused).isprintable()  # noqa: PT017 - either end is fine


@settings(max_examples=300)
@given(
    st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\x00", b"MM\x00*", b"BM", b"RIFF\x40\x00\x00\x00WEBP", b""]
    ),
    st.binary(max_size=400),
)
def test_any_bytes_are_read_or_refused(beginning: bytes, rest: bytes) -> None:
    with contextlib.suppress(InvalidInputError):
        inspect(beginning + rest)


def _with_checksums(png: bytes) -> bytes:
    """Mend a PNG's checksums as far as its chunks can be followed, so that more than these is tried."""
    place, parts = 8, [png[:8]]
    while place + 12 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        if end + 4 > len(png):
            break
        parts += [png[place:end], zlib.crc32(png[place + 4 : end]).to_bytes(4, "big")]
        place = end + 4
    return b"".join((*parts, png[place:]))


ROOM = MAX_PHOTO_BYTES - 4_096


@pytest.mark.parametrize(
    "make",
    [
        lambda: SMALL_JPEG[:2] + b"\xff" * ROOM,
        lambda: SMALL_JPEG[:-2] + b"\xff" * ROOM + b"\xff\xd9",
        lambda: SMALL_JPEG[:-2] + b"\xff\x00" * (ROOM // 2) + b"\xff\xd9",
        lambda: with_segments(SMALL_JPEG, segment(0xFE, b"<scrip" * 10_000) * 500),
        lambda: SMALL_JPEG + b"PK\x05\x06" * (ROOM // 4),
        lambda: SMALL_JPEG + b"ftyp" * (ROOM // 4),
        lambda: SMALL_JPEG + bytes(ROOM),
        lambda: with_chunks(make_png(b""), chunk(b"IDAT", b"") * (ROOM // 12)),
        lambda: tiff(
            *[(tag, 7, 500_000, 8) for tag in (301, 320, 338, 347, 532)],
            more=bytes(ROOM),
        ),
    ],
    ids=[
        "fill",
        "fill in a scan",
        "stuffing",
        "comments",
        "zip ends",
        "boxes",
        "zeros",
        "empty chunks",
        "shared values",
    ],
)
def test_the_largest_file_takes_seconds_at_most(make: Maker) -> None:
    content = make()
    begun = time.process_time()
    with contextlib.suppress(InvalidInputError):
        strip(content)
    assert time.process_time() - begun < MAX_CPU_S
