"""The parts of a stack that need no process."""

import datetime as dt

import pytest

from controlplane.api.documents import spec_from
from controlplane.api.reading import read_document
from controlplane.errors import UnavailableError
from controlplane.lab.api_client import DEFAULT_SLOS, service_document, wait_for_answer
from controlplane.rollout.slo import ErrorRateSlo, LatencySlo

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


class SteppingClock:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.passed = dt.timedelta(0)

    def now(self) -> dt.datetime:
        return NOON + self.passed

    def steady(self) -> float:
        return self.passed.total_seconds()

    async def sleep(self, delay: dt.timedelta) -> None:
        self.passed += delay


async def test_an_answer_is_waited_for_in_small_steps_and_returned() -> None:
    clock = SteppingClock()

    async def ask() -> str | None:
        return "there" if clock.steady() >= 1 else None

    assert await wait_for_answer(ask, what="it", clock=clock, at_most=dt.timedelta(seconds=5)) == "there"
    assert clock.steady() == pytest.approx(1.0, abs=0.2)


async def test_an_answer_that_never_comes_is_an_error_that_names_it() -> None:
    async def ask() -> str | None:
        return None

    with pytest.raises(UnavailableError, match="the moon: not within 5 s"):
        await wait_for_answer(ask, what="the moon", clock=SteppingClock(), at_most=dt.timedelta(seconds=5))


def test_the_declared_service_is_one_that_the_api_reads_with_the_default_objectives() -> None:
    plan = {"steps": [{"weight": "5%", "hold": "30m"}, {"weight": "100%"}]}
    spec = spec_from(read_document(service_document("lane-1", port=8080, endpoints={"v1": 1, "v2": 2}, plan=plan)))
    assert [version.name for version in spec.versions] == ["v1", "v2"]
    assert [step.weight_bp for step in spec.plan.steps] == [500, 10_000]
    assert spec.slos == (ErrorRateSlo("errors", 0.01), LatencySlo("latency", 400.0, 0.95))
    assert len(spec.slos) == len(DEFAULT_SLOS)
