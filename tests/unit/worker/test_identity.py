"""`GET /models`: the wire format that control planes pin releases by."""

import contextlib
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from inference_worker import VERSION
from inference_worker.catalogue import SHIPPED, find_card
from inference_worker.identity import describe_model, find_code_version

Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]
FAKE: Final = {
    "name": "fake",
    "version": "v9",
    "family": "lab-colorizer",
    "backend": "onnx",
    "checksum": "sha256:" + 64 * "0",
}


async def test_a_worker_says_what_it_serves(start: Start) -> None:
    async with start() as worker:
        answer = await worker.client.get("/models")
    assert answer.status_code == 200
    assert answer.json() == {"code_version": "1.2.3+g0123456789ab", "models": [FAKE]}
    assert list(answer.json()) == ["code_version", "models"]


async def test_nothing_is_said_before_the_models_are_loaded(start: Start) -> None:
    free = threading.Event()

    def load() -> Any:
        free.wait(10)
        pytest.fail("the test is over")

    async with start(load=load, is_awaited=False) as worker:
        answer = await worker.client.get("/models")
        free.set()
    assert answer.status_code == 503
    assert answer.json() == {"error": "model: the worker is loading; wait until /readyz answers 200"}


async def test_a_worker_that_leaves_says_it_still(start: Start) -> None:
    async with start() as worker:
        worker.service.leave()
        answer = await worker.client.get("/models")
    assert (answer.status_code, answer.json()["models"]) == (200, [FAKE])


def test_an_alias_is_named_with_the_checksum_of_its_file() -> None:
    person, first = (describe_model(find_card(SHIPPED, name)) for name in ("person", "v1"))
    assert (person.name, person.version, person.family, person.backend) == (
        "person",
        "person",
        "lab-colorizer",
        "onnx",
    )
    assert person.checksum == first.checksum == f"sha256:{find_card(SHIPPED, 'v1').files[0].sha256}"


def test_the_code_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


@pytest.mark.parametrize(
    ("commit", "version"),
    [
        ("0123456789abcdef0123456789abcdef01234567", f"{VERSION}+g0123456789ab"),
        ("0123456", f"{VERSION}+g0123456"),
        ("", VERSION),
        ("unknown", VERSION),
        ("0123456; rm", VERSION),
    ],
)
def test_the_commit_is_told_where_the_image_has_it(monkeypatch: pytest.MonkeyPatch, commit: str, version: str) -> None:
    monkeypatch.setenv("HUESHIFT_COMMIT", commit)
    assert find_code_version() == version
