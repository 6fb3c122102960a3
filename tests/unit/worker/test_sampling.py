"""Samples of live requests: the same ids on every worker, bounded in every way, and shown only to who may see them."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_worker.__main__ import build_parser
from inference_worker.errors import NoSampleError
from inference_worker.imaging import Encoding, encode
from inference_worker.sampling import SamplePolicy, Samples, is_sampled, read_policy
from tests.unit.worker.conftest import ManualClock, draw_colour, draw_grey

Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]

TOKEN = "0123456789abcdef"  # noqa: S105 - of these tests
POLICY = SamplePolicy(token=TOKEN, share=1.0, max_count=3, max_bytes=1000, keep=dt.timedelta(minutes=10))
KEY = {"authorization": f"Bearer {TOKEN}"}
PNG = {"content-type": "image/png"}


class PatientClock(ManualClock):
    """Stands still; whoever sleeps wakes when the test says so."""

    def __init__(self) -> None:
        super().__init__(step_s=0)
        self.woken = asyncio.Event()
        self.asleep = asyncio.Event()

    async def sleep(self, delay: dt.timedelta) -> None:
        self.slept.append(delay)
        self.asleep.set()
        await self.woken.wait()
        self.woken.clear()


def shelf(**changes: Any) -> tuple[Samples, PatientClock]:
    clock = PatientClock()
    return Samples(dataclasses.replace(POLICY, **changes), clock=clock), clock


def offer(samples: Samples, request_id: str, *, size: int = 50, path: str = "/repair") -> None:
    samples.offer(request_id, path=path, version="v1", photo=b"p" * size, answer=b"a" * size)


def ids(samples: Samples) -> list[object]:
    return [row["id"] for row in samples.show()]


# -- which are kept ----------------------------------------------------------------------------------------------------


def test_the_share_is_of_the_ids_and_the_same_ids_on_every_worker() -> None:
    names = [str(uuid.UUID(int=place)) for place in range(20_000)]
    chosen = [name for name in names if is_sampled(name, 0.1)]
    assert 0.09 < len(chosen) / len(names) < 0.11
    assert {name for name in names if is_sampled(name, 0.05)} < set(chosen), "a smaller share is a part of a larger"
    assert all(is_sampled(name, 1.0) for name in names[:100])
    assert not any(is_sampled(name, 0.0) for name in names[:100])
    assert is_sampled("hueshift", 0.5) == (hashlib.sha256(b"hueshift").digest()[0] < 128), "the rule that is documented"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "a b", "a\n", "é", "a?b", "x" * 129])
def test_an_id_that_is_no_plain_word_of_at_most_128_is_not_kept(name: str) -> None:
    samples, _ = shelf()
    offer(samples, name)
    assert samples.show() == []


def test_the_oldest_go_first_when_there_are_too_many() -> None:
    samples, _ = shelf()
    for name in "abcd":
        offer(samples, name)
    assert ids(samples) == ["b", "c", "d"]
    offer(samples, "b")
    assert ids(samples) == ["c", "d", "b"], "an id that comes again is kept once, as it came last"


def test_the_oldest_go_first_when_they_are_too_large_and_what_fits_nowhere_is_not_kept() -> None:
    samples, _ = shelf()
    for name in "abc":
        offer(samples, name, size=200)
    assert ids(samples) == ["b", "c"]
    offer(samples, "large", size=501)
    assert ids(samples) == ["b", "c"]
    offer(samples, "whole", size=500)
    assert ids(samples) == ["whole"]
    samples.clear()
    assert samples.show() == []
    offer(samples, "whole", size=500)
    assert ids(samples) == ["whole"], "what was dropped takes no room"


def test_nothing_is_shown_when_its_time_is_over() -> None:
    samples, clock = shelf()
    offer(samples, "a")
    clock.now_s += 400
    offer(samples, "b")
    assert [row["age_s"] for row in samples.show()] == [400, 0]
    clock.now_s += 201
    assert ids(samples) == ["b"]
    with pytest.raises(NoSampleError):
        samples.find("a")


async def test_what_is_too_old_leaves_memory_though_nobody_asks() -> None:
    samples, clock = shelf()
    offer(samples, "a")
    async with asyncio.TaskGroup() as tasks:
        sweeping = tasks.create_task(samples.run())
        await clock.asleep.wait()
        clock.asleep.clear()
        clock.now_s += 601
        clock.woken.set()
        await clock.asleep.wait()
        assert not samples._kept
        assert max(clock.slept) <= dt.timedelta(seconds=1)
        sweeping.cancel()


def test_flags_say_what_is_kept_and_by_default_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    serve = ["serve", "--model", "v1", "--port", "0"]
    assert read_policy(build_parser().parse_args(serve)) is None
    token = ["--sample-token-file", str(tmp_path / "token")]
    assert read_policy(build_parser().parse_args([*serve, *token])) is None
    given = ["--sample-share", "2.5%", "--sample-keep", "90s", "--sample-max", "5", "--sample-max-mib", "1", *token]
    policy = read_policy(build_parser().parse_args([*serve, *given]))
    assert policy == SamplePolicy(token=TOKEN, share=0.025, keep=dt.timedelta(seconds=90), max_count=5, max_bytes=2**20)
    assert TOKEN not in repr(policy)


# -- over HTTP ---------------------------------------------------------------------------------------------------------


async def post(
    client: httpx.AsyncClient, photo: bytes, request_id: str | None, path: str = "/repair"
) -> httpx.Response:
    headers = PNG if request_id is None else {**PNG, "x-request-id": request_id}
    return await client.post(path, content=photo, headers=headers)


async def test_photo_and_answer_of_a_sampled_request_are_shown(start: Start, grey_png: bytes) -> None:
    samples, _ = shelf(max_bytes=10**6)
    async with start(samples=samples) as worker:
        answer = await post(worker.client, grey_png, "r-1")
        await post(worker.client, grey_png, None)  # the id that the worker makes up is nobody else's
        listed = await worker.client.get("/samples", headers=KEY)
        photo = await worker.client.get("/samples/r-1/input", headers=KEY)
        picture = await worker.client.get("/samples/r-1/output", headers=KEY)
        text = (await worker.client.get("/metrics")).text
    assert listed.json()["samples"] == [
        {
            "id": "r-1",
            "path": "/repair",
            "version": "v9",
            "age_s": 0,
            "input_bytes": len(grey_png),
            "output_bytes": len(answer.content),
            "input_sha256": hashlib.sha256(grey_png).hexdigest(),
        }
    ]
    assert (photo.content, picture.content) == (grey_png, answer.content)
    assert photo.headers["cache-control"] == listed.headers["cache-control"] == "no-store"
    assert photo.headers["content-type"] == "application/octet-stream"
    assert "r-1" not in text, "an id is no label"


async def test_a_request_that_asks_for_it_is_never_kept(start: Start, grey_png: bytes) -> None:
    samples, _ = shelf(max_bytes=10**6)
    async with start(samples=samples) as worker:
        for value in ("1", "0", ""):
            headers = {**PNG, "x-request-id": "job", "X-Hueshift-No-Sample": value}
            assert (await worker.client.post("/repair", content=grey_png, headers=headers)).status_code == 200
        assert samples.show() == []
        await post(worker.client, grey_png, "live")
    assert ids(samples) == ["live"]


async def test_only_good_answers_are_kept(start: Start, colour_png: bytes) -> None:
    samples, _ = shelf(max_bytes=10**6)
    async with start(samples=samples) as worker:
        assert (await post(worker.client, colour_png, "colour")).status_code == 422
        assert (await post(worker.client, b"no picture", "nonsense")).status_code in {415, 422}
        assert (await post(worker.client, colour_png, "forced", "/repair?force=true")).status_code == 200
        assert ids(samples) == ["forced"]
        assert samples.show()[0]["path"] == "/repair"


@pytest.mark.parametrize("given", [{}, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN}x"}, {"x-key": "a"}])
async def test_without_the_token_nothing_is_told_and_nothing_dropped(
    start: Start, grey_png: bytes, given: dict[str, str]
) -> None:
    samples, _ = shelf(max_bytes=10**6)
    async with start(samples=samples) as worker:
        await post(worker.client, grey_png, "r-1")
        for method, path in (
            ("GET", "/samples"),
            ("DELETE", "/samples"),
            ("GET", "/samples/r-1/input"),
            ("GET", "/samples/r-1/output"),
            ("GET", "/samples/unknown/output"),
        ):
            answer = await worker.client.request(method, path, headers=given)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["error"].startswith("authorization: not this worker's sample token; ")
            assert TOKEN not in answer.text
        assert ids(samples) == ["r-1"]


async def test_everything_can_be_dropped_and_what_is_not_kept_is_404(start: Start, grey_png: bytes) -> None:
    samples, _ = shelf(max_bytes=10**6)
    async with start(samples=samples) as worker:
        await post(worker.client, grey_png, "r-1")
        assert (await worker.client.delete("/samples", headers=KEY)).status_code == 204
        assert (await worker.client.get("/samples", headers=KEY)).json() == {"samples": []}
        gone = await worker.client.get("/samples/r-1/output", headers=KEY)
    assert gone.status_code == 404
    assert gone.json()["error"] == "sample: not kept, or no longer; GET /samples lists those that are"


async def test_a_worker_that_does_not_sample_has_no_such_path(start: Start, grey_png: bytes) -> None:
    async with start() as worker:
        await post(worker.client, grey_png, "r-1")
        for path in ("/samples", "/samples/r-1/input"):
            assert (await worker.client.get(path, headers=KEY)).status_code == 404


async def test_no_log_line_has_a_token_an_id_or_a_picture(
    start: Start, grey_png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    samples, _ = shelf(max_bytes=10**6)
    with caplog.at_level(logging.DEBUG):
        async with start(samples=samples) as worker:
            await post(worker.client, grey_png, "some-id")
            await worker.client.get("/samples", headers=KEY)
            await worker.client.get("/samples/some-id/input", headers=KEY)
    own = [f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name.startswith("inference")]
    assert not [line for line in own if TOKEN in line or "some-id" in line or "PNG" in line]


async def test_a_transformed_picture_is_kept_under_its_own_path(start: Start) -> None:
    class Negative:
        def predict(self, stack: Any) -> Any:
            return 1 - stack

    samples, _ = shelf(max_bytes=10**6)
    async with start(samples=samples, transformer=Negative()) as worker:
        assert (await post(worker.client, encode(draw_colour(), Encoding.PNG), "t", "/transform")).status_code == 200
        assert (await post(worker.client, encode(draw_grey(), Encoding.PNG), "r")).status_code == 200
    assert [(row["id"], row["path"], row["version"]) for row in samples.show()] == [
        ("t", "/transform", "t1"),
        ("r", "/repair", "v9"),
    ]
