"""What is stripped shows the same pixels and says nothing of anybody."""

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from controlplane.pictures.exif import exif_of, orientation_of
from controlplane.pictures.inspection import inspect, prepare, strip
from tests.small_pictures import SMALL_JPEG, make_png
from tests.unit.pictures.gallery import SECRETS, SIZE, files, make_exif, photo, pixels, profile, save

PERSONAL = ("exif", "xmp", "photoshop", "comment", "mp", "XML:com.adobe.xmp", "Author", "Comment", "description")
KINDS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "tiff": "image/tiff", "bmp": "image/bmp"}


@pytest.mark.parametrize("name", files())
def test_a_file_is_what_it_is(name: str) -> None:
    facts = inspect(files()[name])
    with Image.open(io.BytesIO(files()[name])) as image:
        tags = getattr(image, "tag_v2", None)  # Pillow gives a TIFF's size as it is when turned upright
        assert (facts.width_px, facts.height_px) == ((tags[256], tags[257]) if tags else image.size)
        assert facts.orientation == (tags or image.getexif()).get(0x0112, 1)
    assert facts.media_type == KINDS[name.split(maxsplit=1)[0]]


@pytest.mark.parametrize("name", files())
def test_pixels_are_the_same_and_nothing_personal_is_left(name: str) -> None:
    content = files()[name]
    stripped = strip(content)
    before, after = pixels(content), pixels(stripped)
    assert before.shape == after.shape
    assert before.tobytes() == after.tobytes()
    assert [secret for secret in SECRETS if secret in stripped] == []
    assert strip(stripped) == stripped
    assert inspect(stripped) == inspect(content)
    with Image.open(io.BytesIO(stripped)) as image:
        exif = image.getexif()
        tiff_tags = set(image.getexif()) if image.format == "TIFF" else set()
        assert set(exif) - tiff_tags <= {0x0112}
        assert (dict(exif.get_ifd(0x8825)), dict(exif.get_ifd(0x8769))) == ({}, {})
        assert [key for key in PERSONAL if image.info.get(key) and key != "exif"] == []


def test_every_secret_is_in_some_file() -> None:
    assert [secret for secret in SECRETS if not any(secret in content for content in files().values())] == []


@pytest.mark.parametrize("name", ["jpeg of a phone", "png with texts", "webp with everything", "tiff little-endian"])
def test_a_colour_profile_stays(name: str) -> None:
    with Image.open(io.BytesIO(strip(files()[name]))) as image:
        assert image.info["icc_profile"] == profile()


def test_what_decoding_and_printing_need_stays() -> None:
    with Image.open(io.BytesIO(strip(files()["png with texts"]))) as image:
        assert {"dpi", "gamma", "exif", "icc_profile"} == image.info.keys()
    with Image.open(io.BytesIO(strip(files()["png palette"]))) as image:
        assert image.info["transparency"] is not None
    with Image.open(io.BytesIO(strip(files()["jpeg cmyk"]))) as image:
        assert "adobe_transform" in image.info
    dense = save(photo("L"), "JPEG", dpi=(300, 300))
    with Image.open(io.BytesIO(strip(dense))) as image:
        assert image.info["dpi"] == (300, 300)


@pytest.mark.parametrize("name", files())
def test_what_is_not_to_be_stripped_stays_as_it_came(name: str) -> None:
    assert prepare(files()[name], is_stripped=False) == (inspect(files()[name]), files()[name])


def test_a_phones_second_picture_and_video_are_no_harm_whatever_they_spell() -> None:
    phone = files()["jpeg of a phone"]
    noise = hashlib.shake_128(b"noise").digest(8 * 1024 * 1024)
    assert strip(phone + SMALL_JPEG[:-2] + noise) == strip(phone)


def test_a_plain_picture_is_left_alone() -> None:
    for plain in (SMALL_JPEG, make_png(b"x"), make_png(b"x", channels=3), files()["webp lossy"]):
        assert strip(plain) == plain


@given(st.integers(1, 8), st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]))
def test_every_orientation_is_kept(orientation: int, kind: str) -> None:
    content = save(photo("RGB"), kind, exif=make_exif(orientation))
    assert inspect(content).orientation == orientation
    assert pixels(strip(content)).tobytes() == pixels(content).tobytes()
    assert (inspect(content).width_px, inspect(content).height_px) == SIZE, "as stored"


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_an_orientation_is_read_out_of_anything(exif: bytes, xmp: bytes) -> None:
    for block in (exif, b"II*\x00" + exif, b"Exif\x00\x00MM\x00*\x00\x00\x00\x08" + exif):
        assert 1 <= orientation_of(block, xmp) <= 8
    assert orientation_of(exif_of(7), xmp) == 7


@given(
    st.sampled_from(["L", "RGB", "CMYK", "RGBA", "P", "1"]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP"]),
)
def test_whatever_is_drawn_comes_through(mode: str, width: int, height: int, kind: str) -> None:
    noise = hashlib.shake_128(f"{mode}{width}{height}".encode()).digest(width * height * 3)
    drawn = Image.frombytes("RGB", (width, height), noise)
    if (kind in {"JPEG", "BMP"} and mode in {"RGBA", "P", "1"}) or (kind in {"PNG", "WEBP", "BMP"} and mode == "CMYK"):
        mode = "RGB"
    content = save(drawn.convert(mode), kind)
    assert pixels(strip(content)).tobytes() == pixels(content).tobytes()
