"""Every file that a worker must recognise, made here and sent to it."""

import asyncio
import contextlib
import importlib
import io
import zlib
from collections.abc import Callable
from typing import Any, Final

import httpx
import numpy as np
import pytest
from PIL import Image

from inference_worker.formats import HEIF_LIBRARIES, identify, is_read, load_heif
from inference_worker.imaging import Limits, Pixels, compute_lab, decode

Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]

WIDTH, HEIGHT = 200, 140
UNTYPED: Final = {"content-type": "application/octet-stream"}


def draw_scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    level = np.clip(128 + 100 * np.sin(x / 11) * np.cos(y / 17), 0, 255).astype(np.uint8)
    return Image.fromarray(level)


def tone(grey: Image.Image, *, dark: tuple[int, int, int], light: tuple[int, int, int]) -> Image.Image:
    """A print whose colours run from *dark* to *light* with the light."""
    level = np.asarray(grey, dtype=np.float32)[..., None] / 255
    made = np.array(dark) * (1 - level) + np.array(light) * level
    return Image.fromarray(made.astype(np.uint8))


def draw_colour(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Sky, wall and meadow, each in its own colour."""
    made = np.array(draw_scene(width, height).convert("RGB")).astype(np.int16)
    made[: height // 3] += np.array([-40, 0, 60])
    made[height // 3 : 2 * height // 3] += np.array([50, 10, -40])
    made[2 * height // 3 :] += np.array([-30, 40, -40])
    return Image.fromarray(np.clip(made, 0, 255).astype(np.uint8))


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def rewrite_png_size(data: bytes, width: int, height: int) -> bytes:
    head = bytearray(data)
    head[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    return bytes(head)


def rewrite_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    head = bytearray(data)
    at = data.index(b"\xff\xc0") + 5
    head[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(head)


def repeat_last_scan(data: bytes, times: int) -> bytes:
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * times + data[-2:]


async def post(start: Start, data: bytes, query: str = "", **bounds: Any) -> httpx.Response:
    async with start(**bounds) as worker:
        answer = await worker.client.post(f"/repair{query}", content=data, headers=UNTYPED)
    assert isinstance(answer, httpx.Response)
    return answer


def read_picture(answer: httpx.Response) -> Pixels:
    assert answer.status_code == 200, answer.text
    return decode(answer.content, Limits())


def read_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"])


BOMBS: Final = {
    "png": rewrite_png_size(save(draw_scene(), "PNG"), 30_000, 30_000),
    "png beyond Pillow's own limit": rewrite_png_size(save(draw_scene(), "PNG"), 2**31 - 1, 2**31 - 1),
    "jpeg": rewrite_jpeg_size(save(draw_scene(), "JPEG"), 65_500, 65_500),
    "real png": save(Image.new("1", (6000, 6000)), "PNG"),
    "real webp": save(Image.new("L", (6000, 5000)), "WEBP"),
    "real tiff": save(Image.new("1", (6000, 6000)), "TIFF", compression="group4"),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_decompression_bombs_are_refused_by_their_header(start: Start, name: str) -> None:
    assert len(BOMBS[name]) < 100_000
    answer = await post(start, BOMBS[name])
    assert "scale it down to 24000000 pixels" in read_error(answer, 413)


async def test_a_jpeg_of_endless_scans_is_refused(start: Start) -> None:
    normal = save(draw_scene(), "JPEG", progressive=True)
    assert read_picture(await post(start, normal)).shape == (HEIGHT, WIDTH, 3)
    assert "scans" in read_error(await post(start, repeat_last_scan(normal, 200)), 422)


async def test_photos_share_a_bound_on_decoded_pixels(start: Start) -> None:
    data = save(draw_scene(), "PNG")
    async with start(max_held_pixels=WIDTH * HEIGHT) as worker, asyncio.TaskGroup() as tasks:
        worker.colorizer.hold()
        held = tasks.create_task(worker.client.post("/repair", content=data, headers=UNTYPED))
        while not worker.colorizer.entered.is_set():
            await asyncio.wait([held], timeout=0.005)
        assert "room" in read_error(await worker.client.post("/repair", content=data, headers=UNTYPED), 429)
        worker.colorizer.release()
        assert (await held).status_code == 200
        assert (await worker.client.post("/repair", content=data, headers=UNTYPED)).status_code == 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_colour_photos_need_force(start: Start, kind: str) -> None:
    data = save(draw_colour(), kind)
    assert "force=true" in read_error(await post(start, data), 422)
    assert read_picture(await post(start, data, "?force=true")).shape == (HEIGHT, WIDTH, 3)


TONES: Final = {
    "sepia": ((40, 22, 8), (255, 238, 200)),
    "cyanotype": ((10, 25, 70), (235, 245, 250)),
    "selenium": ((35, 20, 40), (250, 245, 240)),
    "gold": ((60, 30, 10), (255, 250, 225)),
    "false colour, red": ((60, 0, 0), (255, 180, 170)),
}


@pytest.mark.parametrize("name", TONES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
async def test_toned_prints_are_taken(start: Start, name: str, kind: str) -> None:
    dark, light = TONES[name]
    toned = tone(draw_scene(), dark=dark, light=light)
    chroma = compute_lab(np.asarray(toned, dtype=np.uint8))[..., 1:]
    assert np.percentile(np.hypot(chroma[..., 0], chroma[..., 1]), 95) > 6, "chroma alone would refuse it"
    assert read_picture(await post(start, save(toned, kind))).shape == (HEIGHT, WIDTH, 3)


async def test_a_small_patch_of_colour_is_not_a_colour_photo(start: Start) -> None:
    scene = draw_scene().convert("RGB")
    scene.paste((200, 30, 30), (10, 10, 24, 24))  # a stamp on the print
    assert read_picture(await post(start, save(scene, "PNG"))).shape == (HEIGHT, WIDTH, 3)


async def test_the_share_of_colour_inputs_is_counted(start: Start) -> None:
    photos = [draw_scene(), tone(draw_scene(), dark=(40, 22, 8), light=(255, 238, 200)), draw_colour()]
    async with start() as worker:
        for query in ("", "?force=1"):
            for photo in photos:
                await worker.client.post(f"/repair{query}", content=save(photo, "PNG"), headers=UNTYPED)
        text = (await worker.client.get("/metrics")).text
    for kind in ("grey", "toned", "colour"):
        assert f'hueshift_worker_inputs_total{{kind="{kind}"}} 2.0' in text
    assert 'hueshift_worker_refused_total{reason="ColourInput"} 1.0' in text


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    upright = draw_scene()
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if turned is None else upright.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = decode(save(stored, kind, exif=exif), Limits())
    assert np.abs(made[..., 0].astype(int) - np.asarray(upright, dtype=int)).mean() < 4


async def test_an_answer_has_the_shape_that_the_photo_is_seen_in(start: Start) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(await post(start, save(draw_scene(), "JPEG", exif=exif))).shape == (WIDTH, HEIGHT, 3)


def make_kinds() -> dict[str, bytes]:
    grey = draw_scene()
    deep = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    clear = grey.convert("RGBA")
    clear.putalpha(Image.new("L", grey.size, 255))
    return {
        "16-bit png": save(deep, "PNG"),
        "16-bit tiff": save(deep, "TIFF"),
        "float tiff": save(grey.convert("F"), "TIFF"),
        "cmyk jpeg": save(grey.convert("RGB").convert("CMYK"), "JPEG", quality=95),
        "cmyk tiff": save(grey.convert("RGB").convert("CMYK"), "TIFF"),
        "alpha png": save(clear, "PNG"),
        "grey and alpha png": save(grey.convert("LA"), "PNG"),
        "palette png": save(grey.convert("P"), "PNG"),
        "lossy webp": save(grey.convert("RGB"), "WEBP", quality=90),
        "lossless webp with alpha": save(clear, "WEBP", lossless=True),
        "lzw tiff": save(grey, "TIFF", compression="tiff_lzw"),
        "jpeg tiff": save(grey.convert("RGB"), "TIFF", compression="jpeg"),
        "bmp": save(grey.convert("RGB"), "BMP"),
        "progressive jpeg": save(grey, "JPEG", progressive=True, quality=95),
    }


KINDS: Final = make_kinds()


@pytest.mark.parametrize("name", KINDS)
async def test_every_kind_of_file_is_coloured_at_its_own_lightness(start: Start, name: str) -> None:
    made = compute_lab(read_picture(await post(start, KINDS[name])))
    wanted = compute_lab(np.asarray(draw_scene().convert("RGB"), dtype=np.uint8))
    assert made.shape == wanted.shape
    assert np.abs(made[..., 0] - wanted[..., 0]).mean() < 5
    assert made[..., 2].mean() > 10


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
async def test_truncated_files_are_refused(start: Start, kind: str, share: float) -> None:
    whole = save(draw_scene().convert("RGB"), kind)
    answer = await post(start, whole[: int(len(whole) * share)])
    assert "damaged or cut off" in read_error(answer, 422)


def make_heic_header() -> bytes:
    return b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200)


@pytest.mark.parametrize("declared", ["image/heic", "image/jpeg", "application/octet-stream"])
async def test_heic_is_read_with_its_library_and_clearly_refused_without(start: Start, declared: str) -> None:
    data, is_readable = make_heic_header(), load_heif()
    if is_readable:
        importlib.import_module(next(name for name in HEIF_LIBRARIES if importlib.util.find_spec(name)))
        with contextlib.suppress(OSError, KeyError):  # a library that only decodes cannot make a file
            data = save(draw_scene().convert("RGB"), "HEIF")
    async with start() as worker:
        answer = await worker.client.post("/repair", content=data, headers={"content-type": declared})
    if is_readable:
        assert answer.status_code in {200, 422}
    else:
        assert read_error(answer, 415) == (
            "image: type 'image/heic' is not read without the library pi-heif beside the worker; "
            "send JPEG, PNG, WebP, TIFF or BMP"
        )
    assert is_read("image/heic") is is_readable


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GIF89a", "image/gif"),
        (b"%PDF-1.7", "application/pdf"),
        (b"<svg xmlns=''/>", "image/svg+xml"),
        (b"\x00\x00\x00\x1cftypavif", "image/avif"),
        (b"\x00\x00\x00\x1cftypisom", "video/mp4"),
        (b"RIFF\x00\x00\x00\x00WAVE", ""),
        (b"", ""),
    ],
)
async def test_other_files_are_called_by_their_name(start: Start, data: bytes, name: str) -> None:
    assert identify(data) == name
    if name:
        async with start() as worker:
            answer = await worker.client.post(
                "/repair", content=data + bytes(99), headers={"content-type": "image/png"}
            )
        assert f"'{name}'" in read_error(answer, 415)


@pytest.mark.parametrize(
    ("size", "word"),
    [((63, 63), "too small"), ((64, 63), "too small"), ((257, 64), "too narrow"), ((64, 257), "too narrow")],
)
async def test_unfit_shapes_are_refused(start: Start, size: tuple[int, int], word: str) -> None:
    assert word in read_error(await post(start, save(draw_scene(*size), "PNG")), 422)


@pytest.mark.parametrize("size", [(64, 64), (256, 64), (64, 256)])
async def test_shapes_at_the_limit_are_taken(start: Start, size: tuple[int, int]) -> None:
    assert read_picture(await post(start, save(draw_scene(*size), "PNG"))).shape == (size[1], size[0], 3)
