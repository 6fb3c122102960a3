"""rgb-to-rgb models: a tiny real one, written here byte by byte, from its card to its answers."""

import contextlib
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from inference_worker.backends.onnx import OnnxTransformer
from inference_worker.cards import Family, ModelCard, Source
from inference_worker.catalogue import SHIPPED, describe_file, find_card, record, verify
from inference_worker.errors import ModelError
from inference_worker.imaging import Floats, Limits, Pixels, decode
from inference_worker.offers import offer_transformer
from inference_worker.orders import TRANSFORM_PATH
from tests.onnx_files import FREE, pack_model

Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]

PNG: Final = {"content-type": "image/png"}
FIRST: Final = FREE
LAST: Final = ("n", "h", "w", 3)


def write_onnx(path: Path, operator: str = "Neg", shape: tuple[int | str, ...] = FIRST) -> Path:
    """A model of one operator from x to y; Neg on -1..1 is the negative of a photo."""
    path.write_bytes(pack_model([(("x",), operator, "y")], inputs={"x": shape}, output=("y", shape)))
    return path


def write_card(models: Path, **changes: Any) -> Path:
    """A folder of one model, whose card has *changes*."""
    folder = models / "negative"
    folder.mkdir()
    card = ModelCard(
        name="negative",
        version="n1",
        family=Family.RGB_TO_RGB,
        about="The negative of a photo.",
        folder=folder,
        files=(describe_file(write_onnx(folder / "m.onnx")),),
        weights=Source(licence="CC0", origin="this test"),
        data=Source(licence="none", origin="none"),
        input_px=1024,
    )
    record(models, dataclasses.replace(card, **changes))
    return models


def draw_colour(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    planes = (x * 255 / width, y * 255 / height, 255 - x * 255 / width)
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def save(image: Image.Image, kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    image.save(target, kind)
    return target.getvalue()


def read(answer: Any) -> Pixels:
    assert answer.status_code == 200, answer.text
    return decode(answer.content, Limits())


@pytest.mark.parametrize("shape", [FIRST, LAST])
async def test_a_photo_comes_back_transformed(start: Start, tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    model = OnnxTransformer(write_onnx(tmp_path / "m.onnx", shape=shape), threads=1, darkest=-1)
    photo = draw_colour(101, 75)
    async with start(transformer=model) as worker:
        answer = await worker.client.post("/transform", content=save(photo), headers=PNG)
        coloured = await worker.client.post("/repair", content=save(photo.convert("L")), headers=PNG)
        text = (await worker.client.get("/metrics")).text
    assert np.abs(read(answer).astype(int) - (255 - np.asarray(photo, dtype=int))).max() <= 1
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model-version"] == "t1"
    assert answer.headers["x-effective-size"] == "101"
    assert coloured.status_code == 200
    assert coloured.headers["x-model-version"] == "v9"
    assert 'hueshift_worker_images_total{path="/transform"} 1.0' in text
    assert 'http_requests_total{path="/transform",status="200"} 1.0' in text


@pytest.mark.parametrize(
    ("size", "query", "made"),
    [
        ((1600, 1200), "", (1024, 768)),
        ((1200, 1600), "", (768, 1024)),
        ((1600, 1200), "?size=400", (400, 300)),
        ((300, 200), "?size=5000", (300, 200)),
        ((1024, 512), "", (1024, 512)),
    ],
)
async def test_no_side_is_longer_than_the_policy_allows(
    start: Start, tmp_path: Path, size: tuple[int, int], query: str, made: tuple[int, int]
) -> None:
    model = OnnxTransformer(write_onnx(tmp_path / "m.onnx"), threads=1, darkest=-1)
    async with start(transformer=model) as worker:
        answer = await worker.client.post(
            f"/transform{query}", content=save(draw_colour(*size), "JPEG"), headers={"accept": "image/jpeg"}
        )
    assert read(answer).shape == (made[1], made[0], 3)
    assert answer.headers["x-effective-size"] == str(max(made))
    assert answer.headers["content-type"] == "image/jpeg"


async def test_a_model_that_enlarges_keeps_the_shape(start: Start) -> None:
    class Doubling:
        def predict(self, rgb: Floats) -> Floats:
            return rgb.repeat(2, axis=2).repeat(2, axis=3)

    async with start(transformer=Doubling()) as worker:
        answer = await worker.client.post("/transform", content=save(draw_colour(101, 75)), headers=PNG)
    assert np.array_equal(read(answer)[::2, ::2], np.asarray(draw_colour(101, 75)))


async def test_a_worker_without_such_a_model_says_what_it_serves(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        answer = await worker.client.post("/transform", content=grey_png, headers=PNG)
    assert answer.status_code == 404
    assert answer.json() == {"error": "path: no model behind /transform on this worker; it serves /repair"}


async def test_the_guard_holds_here_too(start: Start, tmp_path: Path) -> None:
    model = OnnxTransformer(write_onnx(tmp_path / "m.onnx"), threads=1, darkest=-1)
    async with start(transformer=model) as worker:
        post = worker.client.post
        small = await post("/transform", content=save(draw_colour(63, 63)), headers=PNG)
        narrow = await post("/transform", content=save(draw_colour(600, 100)), headers=PNG)
        broken = await post("/transform", content=save(draw_colour(99, 99))[:250], headers=PNG)
        other = await post("/transform", content=b"GIF89a", headers={"content-type": "image/gif"})
    assert [answer.status_code for answer in (small, narrow, broken, other)] == [422, 422, 422, 415]


def test_a_card_offers_it_behind_its_path(tmp_path: Path) -> None:
    card = find_card(write_card(tmp_path, darkest=0, input_px=512), "negative")
    verify(card)
    offers = offer_transformer(card, threads=1)
    assert list(offers) == [TRANSFORM_PATH]
    loaded = offers[TRANSFORM_PATH].load()
    assert np.allclose(loaded.predict(np.full((1, 3, 32, 32), 0.25, np.float32)), -0.25)
    assert offers[TRANSFORM_PATH].craft.largest_px == 512**2


@pytest.mark.parametrize("shape", [("n", 1, "h", "w"), ("n", 3, 256, 256), ("n", 512, 512, 3), ("n", 3)])
def test_other_models_are_refused_with_the_reason(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    model = write_onnx(
        tmp_path / "m.onnx", shape=tuple(min(side, 99) if isinstance(side, int) else side for side in shape)
    )
    with pytest.raises(ModelError, match=r"four axes|free height"):
        OnnxTransformer(model, threads=1, darkest=-1)


def test_a_colorizer_is_no_rgb_to_rgb_model() -> None:
    with pytest.raises(ModelError, match="four axes"):
        OnnxTransformer(find_card(SHIPPED, "v1").path, threads=1, darkest=-1)
