import contextlib
import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2lab

from inference_worker.errors import TooManyPixelsError, UnreadableImageError, UnsupportedTypeError, WorkerError
from inference_worker.imaging import (
    COLOUR_RESIDUAL,
    Encoding,
    Limits,
    Pixels,
    choose_encoding,
    choose_net_size,
    compute_lab,
    compute_lightness,
    decode,
    encode,
    get_grey_plane,
    measure_residual_chroma,
    prepare,
    recombine,
)

LIMITS = Limits()


def make_noise(width: int, height: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def make_sepia(grey: Pixels) -> Pixels:
    tone = np.array([1.0, 0.82, 0.58]) * 255
    level = grey[..., :1] / 255
    return (tone * level**0.8).astype(np.uint8)


def make_grey_scene() -> Pixels:
    y, x = np.mgrid[0:200, 0:260]
    level = np.clip(128 + 100 * np.sin(x / 21) * np.cos(y / 17), 0, 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)


def test_lab_agrees_with_scikit_image() -> None:
    pixels = make_noise(64, 64)
    assert np.abs(compute_lab(pixels) - rgb2lab(pixels)).max() < 0.02


def test_lightness_is_the_l_of_lab() -> None:
    pixels = make_noise(64, 64)
    assert np.abs(compute_lightness(pixels) - compute_lab(pixels)[..., 0]).max() < 1e-3


@given(seed=st.integers(0, 10_000), chroma=st.floats(0, 120))
@settings(max_examples=25, deadline=None)
def test_lightness_survives_any_predicted_colour(seed: int, chroma: float) -> None:
    random = np.random.default_rng(seed)
    photo = np.repeat(random.integers(0, 256, (70, 90, 1), dtype=np.uint8), 3, axis=2)
    ab = (random.normal(0, 1, (2, 16, 24)) * chroma).astype(np.float32)
    made = recombine(photo, ab)
    assert made.shape == photo.shape
    assert np.abs(compute_lightness(made) - compute_lightness(photo)).max() <= 1.0


def test_no_colour_gives_the_grey_photo_back() -> None:
    photo = make_grey_scene()
    made = recombine(photo, np.zeros((2, 48, 48), np.float32))
    assert np.abs(made.astype(int) - photo.astype(int)).max() <= 1


def test_bands_leave_no_seam() -> None:
    photo = np.full((600, 64, 3), 128, np.uint8)
    ab = np.zeros((2, 48, 16), np.float32)
    ab[0] = np.linspace(-30, 30, 48)[:, None]
    made_a = compute_lab(recombine(photo, ab))[:, 32, 1]
    assert np.abs(np.diff(made_a)).max() < 1.0


@given(width=st.integers(64, 8000), height=st.integers(64, 8000), side=st.sampled_from([96, 192, 256, 512]))
def test_net_size_keeps_cost_and_shape(width: int, height: int, side: int) -> None:
    if max(width, height) > 4 * min(width, height):
        return
    wide, high = choose_net_size(width, height, side)
    assert wide % 32 == 0
    assert high % 32 == 0
    assert 0.5 * side**2 <= wide * high <= 1.8 * side**2
    assert prepare(np.zeros((40, 40, 3), np.uint8), 96).shape == (1, 1, 96, 96)


@pytest.mark.parametrize("gamma", [0.6, 1.0, 1.7])
def test_toned_prints_are_not_colour(gamma: float) -> None:
    grey = make_grey_scene()
    toned = (255 * (make_sepia(grey) / 255) ** gamma).astype(np.uint8)
    assert measure_residual_chroma(grey) < 0.5
    assert measure_residual_chroma(toned) < COLOUR_RESIDUAL / 2


def test_colour_photos_are_found() -> None:
    photo = make_grey_scene().astype(np.int16)
    photo[:100, :, 2] += 60
    photo[100:, :130, 0] += 60
    assert measure_residual_chroma(np.clip(photo, 0, 255).astype(np.uint8)) > COLOUR_RESIDUAL


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "JPEG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGB", "WEBP"),
        ("RGBA", "PNG"),
        ("CMYK", "JPEG"),
        ("YCbCr", "JPEG"),
        ("I;16", "PNG"),
        ("I;16", "TIFF"),
        ("F", "TIFF"),
        ("LAB", "TIFF"),
        ("RGB", "BMP"),
    ],
)
def test_every_pixel_layout_becomes_rgb(mode: str, kind: str) -> None:
    base = Image.fromarray(make_grey_scene()).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(base, dtype=np.uint16) * 257)
    elif mode == "LAB":
        image = Image.merge("LAB", (base, Image.new("L", base.size, 128), Image.new("L", base.size, 128)))
    else:
        image = base.convert("RGB").convert(mode) if mode in {"YCbCr", "CMYK"} else base.convert(mode)
    made = decode(save(image, kind), LIMITS)
    assert made.shape == (200, 260, 3)
    assert made.dtype == np.uint8
    if mode != "1":
        wanted = np.asarray(base, dtype=np.float32)
        tolerance = 45 if mode == "LAB" else 8
        assert np.abs(made.mean(axis=2) - wanted).mean() < tolerance


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (80, 80), (0, 0, 0, 0))
    assert decode(save(image, "PNG"), LIMITS).min() == 255


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = decode(save(Image.new("L", (200, 100)), "JPEG", exif=exif), LIMITS)
    assert made.shape == (200, 100, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow grumbles about tags that it skips
def test_broken_exif_does_not_spoil_the_photo() -> None:
    data = save(Image.new("L", (200, 100)), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert decode(data, LIMITS).shape == (100, 200, 3)


def make_png_header(width: int, height: int) -> bytes:
    small = save(Image.new("L", (64, 64)), "PNG")
    head = bytearray(small)
    head[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    return bytes(head)


@pytest.mark.parametrize("size", [(5000, 5000), (10_000, 10_000), (20_000, 10_000), (60_000, 60_000)])
def test_a_huge_picture_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(TooManyPixelsError, match="24000000 pixels or fewer"):
        decode(make_png_header(*size), LIMITS)


@pytest.mark.parametrize(("size", "word"), [((63, 200), "too small"), ((600, 100), "too narrow")])
def test_unfit_shapes_are_refused(size: tuple[int, int], word: str) -> None:
    with pytest.raises(UnreadableImageError, match=word):
        decode(save(Image.new("L", size), "PNG"), LIMITS)


@pytest.mark.parametrize("data", [b"GIF89a" + bytes(50), b"%PDF-1.7", b"<svg/>", b"hello"])
def test_other_formats_are_named_as_such(data: bytes) -> None:
    with pytest.raises(UnsupportedTypeError):
        decode(data, LIMITS)


def test_garbage_that_claims_to_be_a_jpeg_is_unreadable() -> None:
    with pytest.raises(UnreadableImageError):
        decode(b"not a picture", LIMITS, declared="image/jpeg")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow grumbles about tags that it skips
@given(cut=st.integers(0, 100), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_damaged_files_raise_only_our_errors(kind: str, cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(save(Image.fromarray(make_noise(70, 66)), kind))
    for where, value in flips:
        data[where % len(data)] = value
    with contextlib.suppress(WorkerError):
        decode(bytes(data[: len(data) * (100 - cut // 2) // 100]), LIMITS, declared="image/png")


def test_encodings_round_trip() -> None:
    photo = make_grey_scene()
    assert np.array_equal(decode(encode(photo, Encoding.PNG), LIMITS), photo)
    assert np.abs(decode(encode(photo, Encoding.JPEG), LIMITS).astype(int) - photo).mean() < 3


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("", Encoding.PNG),
        ("*/*", Encoding.PNG),
        ("image/png", Encoding.PNG),
        ("image/jpeg", Encoding.JPEG),
        ("image/jpeg, */*;q=0.5", Encoding.JPEG),
        ("image/png;q=0.5, image/jpeg;q=0.9", Encoding.JPEG),
        ("image/jpeg;q=0.5, image/png", Encoding.PNG),
        ("image/jpeg;q=0", Encoding.PNG),
        ("image/jpeg;q=nonsense", Encoding.PNG),
        ("IMAGE/JPEG", Encoding.JPEG),
        (";;;,,,", Encoding.PNG),
    ],
)
def test_accept_chooses_the_format(accept: str, encoding: Encoding) -> None:
    assert choose_encoding(accept) is encoding


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_without_colour_is_held_as_one_plane(mode: str, kind: str) -> None:
    grey = Image.fromarray(make_grey_scene()).convert("L").convert(mode)
    made = decode(save(grey, kind), LIMITS)
    plane = get_grey_plane(made)
    assert plane is not None
    assert (plane.shape, made.shape) == ((200, 260), (200, 260, 3))
    assert get_grey_plane(make_noise(64, 64)) is None


@given(seed=st.integers(0, 10_000), chroma=st.floats(0, 80))
@settings(max_examples=20, deadline=None)
def test_one_plane_gives_the_picture_that_three_give(seed: int, chroma: float) -> None:
    random = np.random.default_rng(seed)
    plane = random.integers(0, 256, (70, 90), dtype=np.uint8)
    ab = (random.normal(0, 1, (2, 16, 24)) * chroma).astype(np.float32)
    short, full = np.broadcast_to(plane[..., None], (70, 90, 3)), np.repeat(plane[..., None], 3, axis=2)
    assert np.abs(prepare(short, 96) - prepare(full, 96)).max() < 1e-3
    assert np.abs(recombine(short, ab).astype(int) - recombine(full, ab)).max() <= 1


def test_colours_within_srgb_come_out_as_lab_says() -> None:
    photo = np.full((64, 64, 3), 140, np.uint8)
    ab = np.stack([np.full((16, 16), 20.0, np.float32), np.full((16, 16), -15.0, np.float32)])
    made = rgb2lab(recombine(photo, ab)).reshape(-1, 3).mean(axis=0)
    assert np.abs(made - [*rgb2lab(photo)[0, 0, :1], 20.0, -15.0]).max() < 0.6
