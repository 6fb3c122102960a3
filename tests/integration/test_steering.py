"""Behind a real Envoy, under load: undo, a newer version that takes a canary's place, a service that is deleted."""

import datetime as dt
import pathlib

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document
from controlplane.lab.load import LoadPlan, LoadProcess
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack, is_listening
from controlplane.lab.upstream import ServerSpec, UpstreamProcess
from tests.envoy import wait_until

pytestmark = pytest.mark.integration

SOON = dt.timedelta(seconds=30)
PLAN = {"steps": [{"weight": "50%", "hold": "10m"}, {"weight": "100%", "hold": "10m"}]}
VERSIONS = ("v1", "v2", "v3")


async def _is_closed(port: int) -> bool:
    return not await is_listening(port)


async def test_no_request_fails_whichever_way_the_traffic_is_sent_back(tmp_path: pathlib.Path) -> None:
    listener, other, *ports = free_ports(2 + len(VERSIONS))
    endpoints = dict(zip(VERSIONS, ports, strict=True))
    upstreams = [ServerSpec(name, name, port=port) for name, port in endpoints.items()]
    stack = Stack(directory=tmp_path, clock=SystemClock())
    async with UpstreamProcess(upstreams), stack:
        api = stack.api
        await api.apply(service_document("shop", port=listener, endpoints=endpoints, plan=PLAN))
        await api.apply(service_document("desk", port=other, endpoints={"v1": endpoints["v1"]}))
        await stack.wait_listener(listener)
        await stack.wait_listener(other)
        async with LoadProcess(
            [LoadPlan(port=listener, rate=200, duration_s=120)], directory=tmp_path / "load"
        ) as load:

            async def reach(rollout: str, state: str, weight: str) -> str:
                """Wait until a rollout is there, and return its cause or words."""
                view = await api.wait_rollout(
                    rollout, lambda view: (view.state, view.weight) == (state, weight), at_most=SOON
                )
                return view.cause or view.words

            # Undo in the bake: the end of the rollout.
            assert await api.start("shop", to="v2") == "shop-1"
            await reach("shop-1", "baking", "50%")
            await api.command("shop", "promote", full=True)
            await reach("shop-1", "baking", "100%")
            await api.command("shop", "undo", why="grey")
            assert await reach("shop-1", "rolled_back", "0%") == "undone"

            # Undo after the promotion: a rollout straight back.
            await api.command("shop", "retry")
            await reach("shop-2", "baking", "50%")
            await api.command("shop", "promote", full=True)
            await reach("shop-2", "baking", "100%")
            await api.command("shop", "promote")
            await reach("shop-2", "promoted", "100%")
            await api.command("shop", "undo", why="grey all the same")
            await reach("shop-3", "promoted", "100%")

            # A newer version arrives during a canary.
            assert await api.start("shop", to="v2") == "shop-4"
            await reach("shop-4", "baking", "50%")
            assert await api.start("shop", to="v3", supersede=True) == "shop-5"
            await reach("shop-5", "baking", "50%")
            assert await reach("shop-4", "rolled_back", "0%") == "superseded"

            # A service goes, and takes nothing of the other along.
            await api.delete("desk")
            await wait_until(lambda: _is_closed(other), "nobody listens for desk")
            await api.apply(service_document("desk", port=other, endpoints={"v1": endpoints["v1"]}))
            await stack.wait_listener(other)
            load.stop()
            records = (await load.wait_records(at_most=SOON))["load"]
        assert records.failures() == {}
        status = await api.status("shop")
        assert {share.version: share.weight for share in status.split} == {"v1": "50%", "v3": "50%"}
