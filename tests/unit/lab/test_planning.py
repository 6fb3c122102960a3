"""The forecast of a rollout: it agrees with the simulator, and says what to change."""

import dataclasses
import datetime as dt
import json
import pathlib

import pytest

from controlplane.errors import InvalidInputError
from controlplane.lab import planning
from controlplane.lab.simulate import Scenario, simulate
from controlplane.rollout.model import Plan, Step
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.policy import Policy
from controlplane.rollout.recent import RecentTraffic
from controlplane.rollout.slo import ErrorRateSlo, LatencySlo, ValueQuerySlo

STEPS = [Step(weight, dt.timedelta(seconds=30)) for weight in (500, 1_000, 2_500, 5_000)]
PLAN = Plan((*STEPS, Step(10_000, dt.timedelta(seconds=60))), deadline=dt.timedelta(minutes=30))
BUSY = RecentTraffic(seconds=600, requests=60_000, errors=60, p50_ms=100, p95_ms=250)


def test_it_is_what_the_benchmark_says_of_the_same_world() -> None:
    found = {each.name: each.outcome for each in planning.forecast(BUSY, PLAN, Policy(), replications=60)}
    worlds = [
        Scenario("healthy", 100, bad=False, p1=0.001),
        Scenario("5 % more errors", 100, bad=True, p1=0.001, p2=0.051),
        Scenario("latency x1.5", 100, bad=True, p1=0.001, lat2=1.5),
    ]
    for expected in simulate(worlds, replications=60, seed=7):
        mine = found[expected.scenario.id]
        assert mine.promoted == pytest.approx(expected.promoted, abs=0.1)
        for own, other in ((mine.rollback_s, expected.rollback_s), (mine.promotion_s, expected.promotion_s)):
            assert (own is None) == (other is None)
            if own is not None and other is not None:
                assert own[0] == pytest.approx(other[0], rel=0.25)


@pytest.mark.parametrize("factor", [0.2, 30.0])
def test_only_ratios_of_latencies_matter(factor: float) -> None:
    slower = dataclasses.replace(BUSY, p50_ms=100 * factor, p95_ms=250 * factor)
    policy = Policy(latency_threshold_ms=400 * factor)
    assert planning.scaled(policy, slower).latency_threshold_ms == pytest.approx(400)
    assert [world.sigma for world in planning.worlds(slower, PLAN)] == pytest.approx(
        [world.sigma for world in planning.worlds(BUSY, PLAN)]
    )


def test_little_traffic_and_a_tight_slo_are_said(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    thin = RecentTraffic(seconds=600, requests=1_200, errors=9, p50_ms=900, p95_ms=2_300)
    written = tmp_path / "plan.json"
    plan = dataclasses.replace(PLAN, deadline=dt.timedelta(minutes=10))
    policy = Policy(latency_threshold_ms=5_000)
    code = planning.main(service="shop", traffic=thin, plan=plan, policy=policy, replications=20, json_file=written)
    assert code == 0
    document = json.loads(written.read_text())
    assert [row["version"] for row in document["forecasts"]] == list(planning.DEFECTS)
    first, second, third = document["advice"]
    assert "ends inconclusive in" in first
    assert "near the 1.00% that the SLO allows" in second
    assert third.startswith("5 % more errors are caught")
    page = capsys.readouterr().out
    assert "shop: 2 requests/s, 0.75% errors, 900 ms p50, 2300 ms p95" in page
    assert first in page


def test_a_service_that_does_well_gets_no_advice() -> None:
    forecasts = planning.forecast(BUSY, PLAN, Policy(), replications=20)
    assert planning.advice(forecasts, BUSY, PLAN, Policy()) == []
    no_latency = Policy(latency_threshold_ms=None)
    (sentence,) = planning.advice(forecasts, BUSY, PLAN, no_latency)
    assert sentence == "latency is not judged: give the service a latency SLO"


def test_objectives_that_cannot_be_simulated_are_left_out_and_said() -> None:
    memory = ValueQuerySlo("memory", "gpu_memory$version", highest=0.9)
    policy = policy_of([ErrorRateSlo("errors", 0.01), LatencySlo("latency", 400, 0.95), memory])
    left = planning.simulated(policy)
    assert [share.name for share in left.shares] == ["client errors"]
    assert left.thresholds[:2] == pytest.approx(policy.thresholds[:2])
    found = planning.forecast(BUSY, PLAN, policy, replications=20)
    assert found[0].outcome.promoted == 1
    assert "not simulated, so none of this counts memory" in planning.advice(found, BUSY, PLAN, policy)[0]


def test_without_traffic_there_is_nothing_to_go_by() -> None:
    silent = RecentTraffic(seconds=600, requests=0, errors=0, p50_ms=None, p95_ms=None)
    with pytest.raises(InvalidInputError, match="traffic: shop has had no requests of late; say what it will have"):
        planning.main(service="shop", traffic=silent, plan=PLAN, policy=Policy())
