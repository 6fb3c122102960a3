"""Real Envoys in groups: each serves its own services, and a new revision is tried on one of them first."""

import contextlib
import datetime as dt
import pathlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from controlplane.clock import SystemClock
from controlplane.lab.api_client import service_document, wait_for_answer
from controlplane.lab.load import LoadPlan, LoadProcess
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import EnvoyServer, Stack
from controlplane.lab.upstream import ServerSpec, UpstreamProcess

pytestmark = pytest.mark.integration

SOON = dt.timedelta(seconds=30)
CLOCK = SystemClock()
# Envoy's RE2 takes no look-ahead. Ours is switched off, because a fleet's Envoys may be of another release.
REFUSED_ROUTE = {"name": "odd", "match": {"headers": [{"name": "x-odd", "regex": "(?=a)b"}]}, "version": "v1"}
SETTINGS = {"HUESHIFT_VALIDATE_WITH_ENVOY": "off"}


async def ask_admin(port: int, path: str) -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}/{path}")).json()


async def listeners_of(port: int) -> set[str]:
    """Return the names of the listeners that an Envoy has."""
    return {
        listener["name"] for listener in (await ask_admin(port, "listeners?format=json")).get("listener_statuses", [])
    }


async def routes_of(port: int) -> list[str]:
    """Return the names of the routes that an Envoy runs."""
    configs = (await ask_admin(port, "config_dump?resource=dynamic_route_configs")).get("configs", [])
    return [
        route["name"]
        for config in configs
        for host in config["route_config"]["virtual_hosts"]
        for route in host["routes"]
    ]


async def refusals_of(port: int) -> int:
    """Return how many route configurations an Envoy has refused."""
    found = await ask_admin(port, r"stats?format=json&filter=rds\..*update_rejected")
    return sum(stat["value"] for stat in found["stats"])


async def wait_for(what: str, is_there: Any) -> None:
    async def ask() -> bool | None:
        return await is_there() or None

    await wait_for_answer(ask, what=what, clock=CLOCK, at_most=SOON)


@contextlib.asynccontextmanager
async def shop(tmp_path: pathlib.Path, *, envoys: int) -> AsyncIterator[tuple[Stack, Mapping[str, Any]]]:
    """Run Envoys that serve one service, and a worker behind them."""
    listener, v1 = free_ports(2)
    document = service_document("shop", port=listener, endpoints={"v1": v1})
    async with (
        UpstreamProcess([ServerSpec("v1", "v1", port=v1)]),
        Stack(directory=tmp_path, clock=CLOCK, envoys=envoys, settings=SETTINGS) as stack,
    ):
        await stack.api.apply(document)
        await stack.api.wait_fleet(envoys=envoys)
        yield stack, document


async def test_a_service_is_served_by_the_groups_it_names(tmp_path: pathlib.Path) -> None:
    async with shop(tmp_path, envoys=1) as (stack, document):
        admin, port = free_ports(2)
        european = EnvoyServer("eu-1", stack.ports, admin, variant="sotw", directory=tmp_path, group="eu")
        await european.start()
        try:
            await stack.api.wait_fleet(envoys=2)
            local = service_document("local", port=port, endpoints={"v1": free_ports(1)[0]})
            await stack.api.apply({**local, "groups": ["eu"]})
            await wait_for("the listener of its group", lambda: _has(admin, {"shop_listener", "local_listener"}))
            await stack.api.wait_fleet(envoys=2)
            assert await listeners_of(stack.ports.admins[0]) == {"shop_listener"}
            proxies = {proxy.node: proxy for proxy in await stack.api.proxies()}
            assert all(kind.status == "SYNCED" for proxy in proxies.values() for kind in proxy.types)
            assert (await stack.api.status("local")).acks.words == "1/1 ACKed"
            assert (await stack.api.status("shop")).acks.words == "2/2 ACKed"
            assert document["service"] == "shop"
        finally:
            await european.server.stop()


async def _has(admin: int, listeners: set[str]) -> bool:
    return await listeners_of(admin) == listeners


async def test_the_canary_of_a_revision_stops_at_the_first_envoy_when_that_one_refuses(tmp_path: pathlib.Path) -> None:
    async with shop(tmp_path, envoys=3) as (stack, document):
        first, *others = stack.ports.admins
        before = await routes_of(first)
        async with LoadProcess(
            [LoadPlan(port=document["listener"]["port"], rate=100)], directory=tmp_path / "load"
        ) as load:
            refused = {**document, "config_canary": "60s", "routes": [REFUSED_ROUTE, *document["routes"]]}
            await stack.api.apply(refused)

            async def rejected() -> bool:
                return (await stack.api.status("shop")).rejected is not None

            await wait_for("the rejection of the revision", rejected)
            await stack.api.wait_fleet(envoys=3)
            load.stop()
            records = (await load.wait_records(at_most=SOON))["load"]
        assert await refusals_of(first) == 1
        assert [await refusals_of(admin) for admin in others] == [0, 0]
        assert [await routes_of(admin) for admin in stack.ports.admins] == [before] * 3
        assert records.failures() == {}
        status = await stack.api.status("shop")
        assert status.rejected is not None
        assert "invalid perl operator" in status.rejected.words
        assert any("revision 2 is rejected: envoy-1 refused RDS" in event.words for event in status.events)


async def test_a_revision_that_its_canary_runs_well_goes_to_all(tmp_path: pathlib.Path) -> None:
    async with shop(tmp_path, envoys=2) as (stack, document):
        first, second = stack.ports.admins
        route = {"name": "pinned", "match": {"prefix": "/pinned"}, "version": "v1"}
        begun = CLOCK.steady()
        await stack.api.apply({**document, "config_canary": "5s", "routes": [route, *document["routes"]]})
        await wait_for("the new route on the first Envoy", lambda: _routes(first, ["pinned", "all"]))
        if CLOCK.steady() - begun < 5:
            assert await routes_of(second) == ["all"]
        await wait_for("the new route on the second Envoy", lambda: _routes(second, ["pinned", "all"]))
        assert CLOCK.steady() - begun >= 5
        await stack.api.wait_fleet(envoys=2)
        events = [event.words for event in (await stack.api.status("shop")).events]
        assert any(words.startswith("revision 2: ran on envoy-1 for ") for words in events)


async def _routes(admin: int, names: list[str]) -> bool:
    return await routes_of(admin) == names
