"""How versions are asked: in turn, not too many at once, patiently, and not for ever."""

import asyncio
import datetime as dt
import pathlib
from collections.abc import Callable, Coroutine

import httpx
import numpy as np
import pytest

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.quality import answers as asking
from controlplane.quality.answers import Answer, Asker, Target, read_folder
from controlplane.quality.photoset import Photo
from controlplane.quality.sanity import Flaw, Unusable
from tests.fakes import ManualClock

Handler = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]] | Callable[[httpx.Request], httpx.Response]

PIXELS = np.zeros((64, 64, 3), np.uint8)
PHOTOS = [Photo(f"photo{place}", "other", f"photo {place}".encode(), PIXELS) for place in range(12)]
ONE = Target(urls=("http://worker/repair",), headers={"x-model-type": "v2"})


async def ask(
    handler: Handler, target: Target = ONE, *, parallel: int = 3, progress: Callable[[], None] = lambda: None
) -> list[Answer]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        clock = ManualClock()
        return await Asker(target, client=client, clock=clock, parallel=parallel, progress=progress).ask(PHOTOS)


async def test_answers_come_in_the_photos_order_with_what_the_workers_say_they_are() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=request.content + b"!", headers={"x-model-version": "v2"})

    done: list[None] = []
    found = await ask(handler, progress=lambda: done.append(None))
    assert [one.content for one in found] == [photo.data + b"!" for photo in PHOTOS]
    assert {one.said for one in found} == {"v2"}
    assert len(done) == len(PHOTOS)
    assert {request.headers["x-model-type"] for request in seen} == {"v2"}
    assert {request.headers["accept"] for request in seen} == {"image/png"}


async def test_workers_take_turns() -> None:
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(200, content=b"x")

    await ask(handler, Target(urls=("http://one/repair", "http://two/repair", "http://three/repair")))
    assert sorted(hosts) == ["one"] * 4 + ["three"] * 4 + ["two"] * 4


async def test_no_more_photos_are_under_way_than_allowed() -> None:
    inside, most = 0, 0
    go_on = asyncio.Event()

    async def handler(_: httpx.Request) -> httpx.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 3:
            go_on.set()
        await go_on.wait()
        inside -= 1
        return httpx.Response(200, content=b"x")

    await ask(handler, parallel=3)
    assert most == 3


async def test_a_busy_version_is_asked_again_after_the_pause_that_it_wants() -> None:
    tries: dict[bytes, int] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        tries[request.content] = tries.get(request.content, 0) + 1
        if tries[request.content] < 3:
            return httpx.Response(429, headers={"retry-after": "2"}, json={"error": "queue: full"})
        return httpx.Response(200, content=b"x")

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        clock = ManualClock()
        began = clock.steady()
        found = await Asker(ONE, client=client, clock=clock, parallel=1, progress=lambda: None).ask(PHOTOS[:1])
    assert [one.content for one in found] == [b"x"]
    assert clock.steady() - began == pytest.approx(4)


@pytest.mark.parametrize(
    ("status", "words"),
    [(500, "answered 500: model: broken"), (422, "answered 422: model: broken"), (429, "answered 429")],
)
async def test_an_answer_that_is_no_picture_is_kept_with_its_words(status: int, words: str) -> None:
    found = await ask(lambda _: httpx.Response(status, content=b"model:\n broken\x1b"))
    assert all(isinstance(one.content, Unusable) and one.content.words.startswith(words) for one in found)


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_an_address_that_takes_no_photos_is_an_error_and_no_verdict(status: int) -> None:
    with pytest.raises(UnavailableError, match=f"http://worker/repair answered {status}: wrong; is it a worker"):
        await ask(lambda _: httpx.Response(status, content=b"wrong"))


async def test_a_version_that_never_answers_is_given_up_and_named() -> None:
    asked: list[None] = []

    def handler(_: httpx.Request) -> httpx.Response:
        asked.append(None)
        raise httpx.ConnectError("connection refused")

    with pytest.raises(UnavailableError, match=r"http://worker/repair does not answer \(connection refused\)"):
        await ask(handler, parallel=1)
    assert len(asked) == asking.GIVE_UP_AFTER


async def test_a_version_that_dies_on_the_way_keeps_its_answers_and_misses_the_others() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.content >= b"photo 4":
            raise httpx.ReadTimeout("")
        return httpx.Response(200, content=b"x")

    found = await ask(handler, parallel=1)
    content = [one.content for one in found]
    assert content[:4] == [b"x"] * 4
    assert content[4] == Unusable(Flaw.MISSING, "no answer (ReadTimeout)")
    assert content[9] == Unusable(Flaw.MISSING, "not asked: the 5 before got no answer")


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_ANSWER_BYTES", 1 << 20)
    found = await ask(lambda _: httpx.Response(200, content=bytes((1 << 20) + 1)))
    assert found[0].content == Unusable(Flaw.UNREADABLE, "more than 1 MiB")


def test_a_folder_gives_what_it_has(tmp_path: pathlib.Path) -> None:
    (tmp_path / "photo1.png").write_bytes(b"one")
    found = read_folder(tmp_path, PHOTOS[:2])
    assert [one.content for one in found] == [Unusable(Flaw.MISSING, "no such file"), b"one"]


def test_a_folder_without_any_of_the_pictures_says_how_they_should_be_called(tmp_path: pathlib.Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"one")
    with pytest.raises(InvalidInputError, match="name the pictures like the photos: photo0, photo1, photo2, …"):
        read_folder(tmp_path, PHOTOS)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_folder(tmp_path / "nowhere", PHOTOS)


def test_pauses_are_bounded() -> None:
    assert asking._read_pause("3600") == asking.MAX_PAUSE
    assert asking._read_pause("soon") == dt.timedelta(seconds=0.2)
