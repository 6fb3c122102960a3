"""The port `MetricSource`: one number, no data, or one line that says what is wrong; a real Prometheus and the fake."""

import math
from collections.abc import AsyncIterator

import pytest

from controlplane.errors import UnavailableError
from controlplane.ports import MetricSource
from controlplane.prometheus.client import Prometheus
from tests.builders import seconds
from tests.fakes import FakeMetrics
from tests.prometheus import running_prometheus

SOURCES: tuple[type[MetricSource], ...] = (Prometheus, FakeMetrics)  # mypy sits this exam

SLOW = "count_over_time(vector(1)[100d:1s]) + " * 3 + "vector(1)"
FAKED = FakeMetrics(
    {
        "vector(42.5)": 42.5,
        "scalar(vector(-7))": -7,
        "vector(1) / 0": math.inf,
        "vector(1) or label_replace(vector(2), 'a', 'b', '', '')": "it answers with 2 series: aggregate, as with sum()",
        "vector(": "it answered 400: parse error",
        "vector(1)[5m:1m]": "it answers with a matrix instead of one number",
        "'words'": "it answers with a string instead of one number",
        SLOW: "it did not answer within {within} s",
    }
)


@pytest.fixture(params=["fake", pytest.param("prometheus", marks=pytest.mark.integration)])
async def source(request: pytest.FixtureRequest) -> AsyncIterator[MetricSource]:
    if request.param == "fake":
        yield FAKED
        return
    async with running_prometheus() as server, Prometheus(server.url) as client:
        yield client


async def test_what_a_query_gives(source: MetricSource) -> None:
    async def ask(query: str) -> float | None:
        return await source.ask(query, within=seconds(30))

    assert await ask("vector(42.5)") == 42.5
    assert await ask("scalar(vector(-7))") == -7
    assert await ask("vector(1) / 0") == math.inf
    assert await ask("nothing_of_this_name") is None
    assert await ask("vector(0) / 0") is None, "a division by nothing says that nothing happened"
    assert await ask("scalar(nothing_of_this_name)") is None
    for query, words in {
        "vector(1) or label_replace(vector(2), 'a', 'b', '', '')": r"2 series: aggregate.*sum\(\)",
        "vector(": "400: .*parse error",
        "vector(1)[5m:1m]": "matrix instead of one number",
        "'words'": "string instead of one number",
    }.items():
        with pytest.raises(UnavailableError, match=words) as refused:
            await ask(query)
        assert "\n" not in str(refused.value)


async def test_what_takes_too_long_is_given_up(source: MetricSource) -> None:
    with pytest.raises(UnavailableError, match=r"did not answer within 0\.05 s|timed out"):
        await source.ask(SLOW, within=seconds(0.05))
