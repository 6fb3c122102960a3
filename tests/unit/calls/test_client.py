"""What answers behind Envoy mean for a job, and what a call carries."""

import asyncio
import dataclasses
import datetime as dt

import httpx
import pytest

from controlplane.calls.client import EnvoyCalls
from controlplane.errors import InvalidInputError
from controlplane.jobs.model import Away, Coloured, Failed, Refused
from controlplane.jobs.ports import Workers
from tests.job_builders import PHOTO, PNG, make_kind
from tests.unit.jobs.test_model import make_job

ARE_WORKERS: type[Workers] = EnvoyCalls  # mypy sits this exam

Outcome = Coloured | Refused | Away | Failed


async def call(answer: httpx.Response | Exception) -> tuple[Outcome, httpx.Request]:
    seen: list[httpx.Request] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        await request.aread()
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with EnvoyCalls("http://envoy.test/", transport=httpx.MockTransport(handle)) as calls:
        return await calls.colour(make_job(), make_kind(), PHOTO), seen[0]


async def test_a_call_carries_the_photo_the_kinds_headers_and_the_user() -> None:
    answer = httpx.Response(200, content=PNG, headers={"content-type": "image/png", "x-model-version": "v2"})
    outcome, request = await call(answer)
    assert outcome == Coloured(PNG, "image/png", "v2")
    assert (request.method, str(request.url)) == ("POST", "http://envoy.test/repair?size=640")
    assert request.content == PHOTO
    expected = {
        "x-model-type": "person",
        "x-user-id": "ada",
        "x-job-id": "1",
        "x-job-model": "ddcolor-imagenet",
        "x-priority": "bulk",
        "x-hueshift-no-sample": "1",
        "content-type": "image/jpeg",
    }
    assert {name: request.headers[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (httpx.Response(422, json={"error": "in colour"}), Refused("422: in colour")),
        (httpx.Response(413, text="large"), Refused("413: large")),
        (httpx.Response(429, headers={"retry-after": "7"}), Away("429: no words", dt.timedelta(seconds=7))),
        (httpx.Response(503, headers={"retry-after": "99999"}), Away("503: no words", dt.timedelta(minutes=5))),
        (
            httpx.Response(503, headers={"retry-after": "soon"}, text="no\nhealthy\x1b upstream"),
            Away("503: no healthy upstream"),
        ),
        (httpx.Response(404), Away("404: no words")),
        (
            httpx.Response(500, headers={"x-model-version": "v2"}, text="oops"),
            Failed("500 from version v2: oops", "v2"),
        ),
        (httpx.Response(504, text="late"), Failed("504: late")),
        (httpx.Response(302, headers={"location": "http://169.254.169.254/"}), Failed("302: no words")),
        (httpx.ConnectError("refused"), Away("Envoy cannot be reached")),
        (httpx.ReadError("reset"), Failed("the connection broke (ReadError)")),
        (httpx.RemoteProtocolError("closed"), Failed("the connection broke (RemoteProtocolError)")),
    ],
)
async def test_each_answer_is_an_outcome(answer: httpx.Response | Exception, outcome: Outcome) -> None:
    assert (await call(answer))[0] == outcome


async def test_an_answer_that_does_not_come_in_time_is_a_failure() -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with EnvoyCalls("http://envoy.test", transport=httpx.MockTransport(hang)) as calls:
        kind = dataclasses.replace(make_kind(), timeout=dt.timedelta(seconds=1))
        assert await calls.colour(make_job(), kind, PHOTO) == Failed("no answer within 1 s")


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_JOBS_ENVOY"):
        EnvoyCalls(url)
