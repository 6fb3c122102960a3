"""A refused configuration stops the rollout with Envoy's words; traffic stays, and newcomers get the last good one."""

import asyncio
import datetime as dt
import pathlib
from typing import Any

import httpx
import pytest

from controlplane.api.answers import RolloutView
from controlplane.clock import SystemClock
from controlplane.errors import ControlPlaneError
from controlplane.lab.api_client import service_document, wait_for_answer
from controlplane.lab.load import LoadPlan, LoadProcess
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import EnvoyServer, Stack, program
from controlplane.lab.upstream import ServerSpec, UpstreamProcess
from controlplane.xds.bootstrap import Variant

pytestmark = pytest.mark.integration

SOON = dt.timedelta(seconds=30)
PLAN = {"steps": [{"weight": "50%", "hold": "10m"}, {"weight": "100%", "hold": "10m"}]}
# A look-ahead: Python's re takes it, and so do our own checks; Envoy's RE2 does not.
REFUSED_ROUTE = {"name": "odd", "match": {"headers": [{"name": "x-odd", "regex": "(?=a)b"}]}, "version": "v1"}


async def run_cli(stack: Stack, directory: pathlib.Path, *arguments: str) -> str:
    key = (directory / "admin.key").read_text().strip()
    process = await asyncio.create_subprocess_exec(
        program("hueshift"),
        *arguments,
        env={"HUESHIFT_URL": f"http://127.0.0.1:{stack.ports.api}", "HUESHIFT_API_KEY": key, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return output.decode()


async def served_routes(admin_port: int) -> dict[str, Any]:
    """Return the one route configuration that an Envoy runs; empty before it has one."""
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            answer = await client.get(f"http://127.0.0.1:{admin_port}/config_dump?resource=dynamic_route_configs")
        except httpx.TransportError:
            return {}
    # Before there is any, Envoy answers with an error in plain text.
    configs = answer.json().get("configs") if answer.is_success else None
    return configs[0]["route_config"] if configs else {}


async def wait_routes(admin_port: int) -> dict[str, Any]:
    async def ask() -> dict[str, Any] | None:
        return await served_routes(admin_port) or None

    return await wait_for_answer(ask, what="routes", clock=SystemClock(), at_most=SOON)


def weights(route_config: dict[str, Any]) -> dict[str, int]:
    (split,) = [
        route["route"]["weighted_clusters"]["clusters"]
        for host in route_config["virtual_hosts"]
        for route in host["routes"]
        if "weighted_clusters" in route["route"]
    ]
    return {entry["name"]: entry["weight"] for entry in split}


@pytest.mark.parametrize("variant", ["sotw", "delta", "delta-per-type", "rest"])
async def test_a_nack_stops_the_rollout_and_never_reaches_a_newcomer(variant: Variant, tmp_path: pathlib.Path) -> None:
    listener, v1, v2, admin = free_ports(4)
    upstreams = [ServerSpec("v1", "v1", port=v1), ServerSpec("v2", "v2", port=v2)]
    # An Envoy that polls does not say that it refuses something, let alone why.
    words = "no words" if variant == "rest" else "invalid perl operator: (?="
    document = service_document("shop", port=listener, endpoints={"v1": v1, "v2": v2}, plan=PLAN)
    clock = SystemClock()
    # The fleet's Envoys may be others than the one of this machine: what that one takes, they may refuse.
    blind = {"HUESHIFT_VALIDATE_WITH_ENVOY": "off"}
    world = Stack(directory=tmp_path, clock=clock, variant=variant, settings=blind)
    async with UpstreamProcess(upstreams), world as stack:
        await stack.api.apply(document)
        await stack.wait_listener(listener)
        rollout = await stack.api.start("shop", to="v2")
        await stack.api.wait_rollout(rollout, lambda view: view.phase == "baking", at_most=SOON)
        async with LoadProcess([LoadPlan(port=listener, rate=200)], directory=tmp_path / "load") as load:
            before = await served_routes(stack.ports.admins[0])
            await stack.api.apply({**document, "routes": [REFUSED_ROUTE, *document["routes"]]})
            stopped = await stack.api.wait_rollout(rollout, is_refused, at_most=SOON)
            assert words in stopped.words
            assert "envoy-1 refused RDS" in stopped.words
            assert words in await run_cli(stack, tmp_path, "get", "shop")

            assert (
                weights(await served_routes(stack.ports.admins[0]))
                == weights(before)
                == {
                    "shop-v1": 5_000,
                    "shop-v2": 5_000,
                }
            )
            newcomer = EnvoyServer("envoy-9", stack.ports, admin, variant=variant, directory=tmp_path)
            await newcomer.start()
            try:
                assert await wait_routes(admin) == before
                await stack.api.command("shop", "resume", why="the bad revision is out")
                await stack.api.wait_rollout(rollout, lambda view: view.phase == "baking", at_most=SOON)
                load.stop()
                records = (await load.wait_records(at_most=SOON))["load"]
            finally:
                await newcomer.server.stop()  # not before: it shares the port, so some of the load is its
        assert records.failures() == {}
        told = await run_cli(stack, tmp_path, "events", "--service", "shop", "-n", "500")
        assert "shop: paused v2 at 50 %: envoy-1 refused RDS" in told
        assert "envoy-1 acknowledged CDS" in told
        assert any(
            "envoy-1 refused RDS" in line and words in line for line in told.splitlines() if "paused" not in line
        )
        status = await stack.api.status("shop")
        assert status.rejected is not None
        assert words in status.rejected.words


def is_refused(view: RolloutView) -> bool:
    return view.phase == "paused (nack)"


async def test_the_door_refuses_what_the_envoy_of_this_machine_refuses(tmp_path: pathlib.Path) -> None:
    (listener,) = free_ports(1)
    document = service_document("shop", port=listener, endpoints={"v1": 9, "v2": 9}, plan=PLAN)
    async with Stack(directory=tmp_path, clock=SystemClock(), envoys=0) as stack:
        await stack.api.apply(document)
        with pytest.raises(ControlPlaneError, match=r"routes\.odd: Envoy refuses it: invalid perl operator: \(\?="):
            await stack.api.apply({**document, "routes": [REFUSED_ROUTE, *document["routes"]]})
        assert (await stack.api.status("shop")).revision.number == 1
