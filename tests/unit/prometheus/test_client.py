"""What is sent to Prometheus, and what becomes of every way to answer badly: one line, which names the server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.prometheus.client import MAX_ANSWER_BYTES, Prometheus
from controlplane.prometheus.metrics import QueryMetrics
from tests.builders import seconds

SEVEN = {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1.5, "7"]}]}}


async def ask(
    answer: Callable[[httpx.Request], httpx.Response], *, url: str = "http://prom:9090", token: str = ""
) -> float | None:
    async with Prometheus(url, token=token, transport=httpx.MockTransport(answer)) as source:
        return await source.ask("up", within=seconds(5))


async def refusal(answer: httpx.Response | Exception) -> str:
    def give(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(UnavailableError) as refused:
        await ask(give)
    return str(refused.value)


async def test_a_query_is_sent_as_a_form_to_below_the_prefix_with_the_token() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=SEVEN)

    assert await ask(answer, url="https://prom.example/some/prefix/", token="sesame") == 7  # noqa: S106 - of nobody
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://prom.example/some/prefix/api/v1/query")
    assert request.headers["authorization"] == "Bearer sesame"
    assert httpx.QueryParams(request.content.decode()) == httpx.QueryParams({"query": "up", "timeout": "5000ms"})
    await ask(answer)
    assert "authorization" not in seen[1].headers


CHECK = "check HUESHIFT_PROMETHEUS_URL"


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (400, {"status": "error", "error": "parse\nerror: \x07 ("}, "answered 400: parse error: ("),
        (503, {"status": "error", "error": "x" * 999}, f"answered 503: {'x' * 299}…"),
        (401, "who are you?", f"answered 401 Unauthorized: {CHECK}"),
        (302, "elsewhere", f"answered 302 Found: {CHECK}"),
        (200, "<html>", f"answered 200 OK, but not as Prometheus does: {CHECK}"),
        (200, [1], f"answered 200 OK, but not as Prometheus does: {CHECK}"),
        (200, {"status": "success"}, f"does not answer as Prometheus does: {CHECK}"),
        (
            200,
            {"status": "success", "data": {"resultType": "scalar", "result": [1, "seven"]}},
            "answers seven, which is no number",
        ),
        (200, " " * (MAX_ANSWER_BYTES + 1), "answers more than 1 MiB: aggregate, for example with sum()"),
    ],
)
async def test_an_answer_that_is_no_number_is_told_in_one_line(status: int, answer: object, words: str) -> None:
    content = answer if isinstance(answer, str) else json.dumps(answer)
    assert await refusal(httpx.Response(status, text=content)) == f"Prometheus at prom:9090 {words}"


async def test_who_cannot_be_reached_is_named() -> None:
    words = await refusal(httpx.ConnectError("All connection attempts failed"))
    assert words == "cannot reach Prometheus at prom:9090 (All connection attempts failed)"
    assert await refusal(httpx.ReadError("")) == "cannot reach Prometheus at prom:9090 (ReadError)"


async def test_the_whole_answer_must_come_in_time() -> None:
    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

    async with Prometheus(
        "http://prom", transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Trickle()))
    ) as source:
        with pytest.raises(UnavailableError, match=r"^Prometheus at prom did not answer within 0\.01 s$"):
            await source.ask("up", within=seconds(0.01))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("prometheus:9090", "is not an HTTP address"),
        ("http://", "is not an HTTP address"),
        ("http://prom:port", "is not an HTTP address"),
        ("http://prom/?query=up", "is not an HTTP address"),
        ("http://ada:sesame@prom", "has a user or password in it"),
    ],
)
def test_an_address_that_is_none_is_refused_by_the_name_of_its_setting(url: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^HUESHIFT_PROMETHEUS_URL: {problem}") as refused:
        Prometheus(url)
    assert "sesame" not in str(refused.value)


async def test_queries_and_their_failures_are_counted() -> None:
    registry = CollectorRegistry()
    answers = [httpx.Response(200, json=SEVEN), httpx.Response(500), httpx.Response(200, json={})]
    transport = httpx.MockTransport(lambda _: answers.pop())
    async with Prometheus("http://prom", metrics=QueryMetrics(registry), transport=transport) as source:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await source.ask("up", within=seconds(5))
        await source.ask("up", within=seconds(5))
    assert registry.get_sample_value("hueshift_query_seconds_count") == 3
    assert registry.get_sample_value("hueshift_query_failures_total") == 2
