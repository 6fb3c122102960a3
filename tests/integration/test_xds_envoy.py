"""The xDS side against a real Envoy: what the protocol promises is what traffic sees."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.config.core.v3 import config_source_pb2
from google.protobuf import json_format

from controlplane.api.reading import parse_service
from controlplane.clock import SystemClock
from controlplane.errors import UnavailableError
from controlplane.settings import XdsTransport
from controlplane.traffic.model import (
    Endpoint,
    HeaderMatch,
    HeaderRule,
    Route,
    RouteMatch,
    ServedService,
    ServiceSpec,
)
from controlplane.xds.bootstrap import Variant, config_source
from controlplane.xds.envoy_process import EnvoyProcess
from controlplane.xds.kinds import Kind
from controlplane.xds.server import XdsServer
from controlplane.xds_parts import TRANSPORTS
from tests.builders import make_spec, make_split, make_version
from tests.envoy import (
    Plane,
    Traffic,
    bootstrap_for,
    free_port,
    running_envoy,
    running_plane,
    running_worker,
    wait_until,
)

pytestmark = pytest.mark.integration

GOLDEN = Path(__file__).parents[1] / "golden" / "xds"
NODE = "envoy-1"


@pytest.fixture(params=["sotw", "delta", "sotw-per-type", "delta-per-type", "rest"])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


@dataclasses.dataclass(slots=True, kw_only=True)
class Workers:
    """Ports of workers that answer with their names; the third one takes its time to say that it is healthy."""

    v1: int
    v2: int
    slow: int


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    health_takes = dt.timedelta(milliseconds=700)
    async with (
        running_worker("v1") as v1,
        running_worker("v2") as v2,
        running_worker("slow", health_takes=health_takes) as slow,
    ):
        yield Workers(v1=v1, v2=v2, slow=slow)


@pytest.fixture
def spec(workers: Workers) -> ServiceSpec:
    """Return a service with two real workers and a listener that is free."""
    versions = (
        make_version("v1", endpoints=[Endpoint("127.0.0.1", workers.v1)]),
        make_version("v2", endpoints=[Endpoint("127.0.0.1", workers.v2)]),
    )
    made = make_spec(port=free_port())
    to_the_split = tuple(route for route in made.routes if route.version is None)
    return dataclasses.replace(made, versions=versions, routes=to_the_split)


def serve(spec: ServiceSpec, **weights_bp: int) -> ServedService:
    return ServedService(spec, make_split(**weights_bp))


async def dump(envoy: EnvoyProcess, section: str) -> dict[str, Any]:
    """Return one section of Envoy's config_dump, by the last part of its type's name."""
    for config in (await envoy.config_dump())["configs"]:
        if config["@type"].rpartition(".")[2] == section:
            found: dict[str, Any] = config
            return found
    pytest.fail(f"no {section} in config_dump")


def over_ads(config: Any, variant: Variant) -> Any:
    """Return *config* as clients with ADS get it: all that differs is where else they are sent for more."""
    if isinstance(config, list):
        return [over_ads(part, variant) for part in config]
    if not isinstance(config, dict):
        return config
    if "api_config_source" in config:
        assert as_source(config) == as_source(config_source(variant))
        return config_source("delta")
    return {key: over_ads(part, variant) for key, part in config.items()}


def as_source(config: Any) -> Any:
    return json_format.ParseDict(config, config_source_pb2.ConfigSource())


# -- the default service -----------------------------------------------------------------------------------------------


async def test_envoy_runs_article_1_as_the_golden_file_prints_it(variant: Variant, tmp_path: Path) -> None:
    document = yaml.safe_load((GOLDEN / "article1.yaml").read_text())["services"][0]
    document["listener"] |= {"address": "127.0.0.1", "port": free_port()}
    spec = parse_service(yaml.safe_dump(document, sort_keys=False))
    golden = json.loads((GOLDEN / "article1.json").read_text())
    async with running_plane(variant=variant) as plane:
        record = plane.publish(ServedService(spec, spec.initial_split))
        async with running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path) as envoy:
            await plane.wait_acked(record, NODE)
            (routes,) = (await dump(envoy, "RoutesConfigDump"))["dynamic_route_configs"]
            assert over_ads(routes["route_config"], variant) == golden["rds"]["ddcolor_route"]
            clusters = (await dump(envoy, "ClustersConfigDump"))["dynamic_active_clusters"]
            found = {each["cluster"]["name"]: over_ads(each["cluster"], variant) for each in clusters}
            assert found == golden["cds"]
            (listener,) = (await dump(envoy, "ListenersConfigDump"))["dynamic_listeners"]
            expected = golden["lds"]["main_listener"]
            expected["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": spec.listener.port}
            assert over_ads(listener["active_state"]["listener"], variant) == expected
            if variant in {"sotw", "delta"}:  # without ADS each subscription has such a statistic of its own
                assert (await envoy.statistics("control_plane."))["control_plane.connected_state"] == 1


# -- weights -----------------------------------------------------------------------------------------------------------


async def test_a_weight_moves_traffic_once_it_is_acknowledged(
    variant: Variant, spec: ServiceSpec, tmp_path: Path
) -> None:
    async with running_plane(variant=variant) as plane:
        plane.publish(serve(spec, v1=10_000))
        async with (
            running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path),
            Traffic(spec.listener.port).running() as traffic,
        ):
            for split in ({"v1": 0, "v2": 10_000}, {"v1": 10_000, "v2": 0}):
                record = plane.publish(serve(spec, **split))
                await plane.wait_acked(record, NODE)
                wanted = max(split, key=lambda name: split[name])
                other = min(split, key=lambda name: split[name])
                await traffic.wait_more(10)  # answers that were on their way
                before = traffic.answers.copy()
                await traffic.wait_more(200)
                assert traffic.answers[wanted] > before[wanted]
                assert traffic.answers[other] == before[other]
            assert traffic.failures == []
        assert plane.metric("hueshift_xds_pushes_total", type="lds") == 1
        assert plane.metric("hueshift_xds_pushes_total", type="cds") == 1
        assert plane.metric("hueshift_xds_push_to_ack_seconds_count", type="rds") == 3


# -- NACK --------------------------------------------------------------------------------------------------------------


@pytest.mark.xds_row("nack")
async def test_a_refused_route_leaves_traffic_alone_and_is_sent_once(
    variant: Variant, spec: ServiceSpec, tmp_path: Path
) -> None:
    look_ahead = RouteMatch("/", (HeaderMatch("x-group", HeaderRule.REGEX, "(?=a)b"),))  # RE2 has no look-ahead
    bad = dataclasses.replace(spec, routes=(Route("bad", look_ahead), *spec.routes))
    async with running_plane(variant=variant) as plane:
        good = plane.publish(serve(spec, v1=10_000))
        async with (
            running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path) as envoy,
            Traffic(spec.listener.port).running() as traffic,
        ):
            await plane.wait_acked(good, NODE)
            record = plane.publish(serve(bad, v2=10_000))
            await wait_until(lambda: plane.rows.nodes[NODE].types["rds"].nacked != "", "a refusal in the rows")
            status = plane.rows.nodes[NODE].types["rds"]
            assert (status.nacked, status.acked) == (record.versions["rds"], good.versions["rds"])
            # An Envoy that polls does not say that it refuses: it gets the answer twice, and the words are ours.
            polls = variant == "rest"
            assert ("no words" if polls else "invalid perl operator") in status.words
            plane.publish(serve(dataclasses.replace(bad, versions=with_timeout(bad, 7)), v2=10_000))
            await wait_until(
                lambda: plane.rows.nodes[NODE].types["cds"].acked != good.versions["cds"], "clusters go on"
            )
            await traffic.wait_more(200)
            assert plane.metric("hueshift_xds_pushes_total", type="rds") == 2 + polls
            assert plane.metric("hueshift_xds_nacks_total", type="rds") == 1
            assert (await envoy.statistics("http."))[
                f"http.ingress_http.rds.{spec.route_config}.update_rejected"
            ] == 1 + polls
            assert set(traffic.answers) == {"v1"}
            back = plane.publish(serve(spec, v2=10_000))
            await plane.wait_acked(back, NODE)
            await traffic.wait_more(200)
            assert traffic.answers["v2"] > 0
            assert traffic.failures == []


def with_timeout(spec: ServiceSpec, seconds: int) -> Any:
    timeout = dt.timedelta(seconds=seconds)
    return tuple(dataclasses.replace(version, connect_timeout=timeout) for version in spec.versions)


# -- clusters that change, come and go ---------------------------------------------------------------------------------


@pytest.mark.xds_row("eds-after-cds")
async def test_a_changed_cluster_is_warm_within_seconds(variant: Variant, spec: ServiceSpec, tmp_path: Path) -> None:
    async with running_plane(variant=variant) as plane:
        plane.publish(serve(spec, v1=10_000))
        async with (
            running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path) as envoy,
            Traffic(spec.listener.port).running() as traffic,
        ):
            record = plane.publish(serve(dataclasses.replace(spec, versions=with_timeout(spec, 7)), v1=10_000))
            async with asyncio.timeout(5):
                await plane.wait_acked(record, NODE)

            async def is_warm() -> bool:
                return (await envoy.statistics("cluster_manager."))["cluster_manager.warming_clusters"] == 0

            # Without ADS Envoy acknowledges a cluster before it is warm.
            assert variant not in {"sotw", "delta"} or await is_warm()
            await wait_until(is_warm, "no cluster is warming", within=5)
            assert traffic.failures == []


@pytest.mark.xds_row("order", "rds-not-warmed")
async def test_a_replaced_version_leaves_without_a_failed_request(
    variant: Variant, spec: ServiceSpec, tmp_path: Path
) -> None:
    """v1 goes and v3 comes in one change, again and again, under traffic: make before break."""
    (v1, v2) = spec.versions
    async with running_plane(variant=variant) as plane:
        plane.publish(serve(spec, v1=10_000))
        async with (
            running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path) as envoy,
            Traffic(spec.listener.port).running() as traffic,
        ):
            for number in range(3, 5 if variant == "rest" else 9):  # an Envoy that polls takes its time
                name = f"v{number}"
                newer = dataclasses.replace(v2, name=name, cluster=f"colorize_{name}")
                spec = dataclasses.replace(spec, versions=(newer,), initial_split=make_split(**{name: 10_000}))
                record = plane.publish(serve(spec, **{name: 10_000}))
                await plane.wait_acked(record, NODE)
                await traffic.wait_more(100)
                clusters = (await dump(envoy, "ClustersConfigDump"))["dynamic_active_clusters"]
                assert [each["cluster"]["name"] for each in clusters] == [newer.cluster]
            assert traffic.answers[v1.name] > 0
            assert traffic.failures == []


async def test_a_version_gets_no_request_before_its_workers_have_said_that_they_are_healthy(
    variant: Variant, spec: ServiceSpec, workers: Workers, tmp_path: Path
) -> None:
    """Without ADS Envoy acknowledges a cluster before it is warm, and answers 503 for a route to it."""
    slow = make_version("slow", endpoints=[Endpoint("127.0.0.1", workers.slow)])
    async with running_plane(variant=variant) as plane:
        plane.publish(serve(spec, v1=10_000))
        async with (
            running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path),
            Traffic(spec.listener.port).running() as traffic,
        ):
            added = dataclasses.replace(spec, versions=(*spec.versions, slow))
            record = plane.publish(serve(added, slow=10_000))
            await plane.wait_acked(record, NODE)
            await traffic.wait_more(100)
            assert traffic.answers["slow"] > 0
            assert traffic.failures == []


async def test_a_refused_change_of_cluster_names_keeps_the_old_ones(
    variant: Variant, spec: ServiceSpec, tmp_path: Path
) -> None:
    bad = dataclasses.replace(
        spec,
        versions=(dataclasses.replace(spec.versions[1], cluster="other"),),
        routes=(Route("bad", RouteMatch("/", (HeaderMatch("x-group", HeaderRule.REGEX, "("),)), "v2"), spec.routes[-1]),
        initial_split=make_split(v2=10_000),
    )
    async with running_plane(variant=variant) as plane:
        plane.publish(serve(spec, v1=10_000))
        async with (
            running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path) as envoy,
            Traffic(spec.listener.port).running() as traffic,
        ):
            plane.publish(serve(bad, v2=10_000))
            await wait_until(lambda: plane.rows.nodes[NODE].types["rds"].nacked != "", "a refusal in the rows")
            await traffic.wait_more(200)
            clusters = (await dump(envoy, "ClustersConfigDump"))["dynamic_active_clusters"]
            assert {each["cluster"]["name"] for each in clusters} == {"colorize_v1", "colorize_v2", "other"}
            assert set(traffic.answers) == {"v1"}
            assert traffic.failures == []


# -- the control plane's own life --------------------------------------------------------------------------------------


async def test_envoy_waits_for_the_first_snapshot(variant: Variant, spec: ServiceSpec, tmp_path: Path) -> None:
    async with (
        running_plane(variant=variant) as plane,
        running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path, ready=False) as envoy,
    ):
        await wait_until(lambda: NODE in plane.rows.nodes or has_been_put_off(plane), "Envoy connects")
        assert plane.metric("hueshift_xds_pushes_total", type="cds") == 0
        plane.publish(serve(spec, v1=10_000))
        await envoy.wait_ready()


def has_been_put_off(plane: Plane) -> bool:
    """Whether an Envoy that polls was told to ask again later."""
    labels = {"method": "POST", "route": "/v3/discovery:{resource}", "status": "503"}
    return plane.metric("hueshift_api_requests_total", **labels) > 0


@pytest.mark.xds_row("initial-versions", "sotw-reconnect", "shutdown", "rest")
async def test_a_restart_changes_nothing_and_the_next_change_arrives(
    variant: Variant, spec: ServiceSpec, tmp_path: Path
) -> None:
    port = free_port()
    async with running_plane(port=port, variant=variant) as plane:
        plane.publish(serve(spec, v1=10_000))
        stack = running_envoy(bootstrap_for(plane.port_of(variant), variant=variant), tmp_path)
        envoy = await stack.__aenter__()
        await wait_until(lambda: plane.rows.acked(NODE, "rds") != "", "Envoy is in step")
    try:
        async with Traffic(spec.listener.port).running() as traffic:
            before = await envoy.config_dump()
            await traffic.wait_more(100)
            async with running_plane(port=port, variant=variant) as plane:
                record = plane.publish(serve(spec, v1=10_000))
                await plane.wait_acked(record, NODE)
                assert configured(await envoy.config_dump()) == configured(before)
                if variant.startswith("delta") or variant == "rest":
                    assert plane.metric("hueshift_xds_pushes_total", type="cds") == 0
                    assert plane.metric("hueshift_xds_pushes_total", type="rds") == 0
                record = plane.publish(serve(spec, v2=10_000))
                await plane.wait_acked(record, NODE)
                await traffic.wait_more(200)
            assert traffic.answers["v2"] > 0
            assert traffic.failures == []
    finally:
        await stack.__aexit__(None, None, None)


def configured(config_dump: dict[str, Any]) -> str:
    """Return what Envoy runs, without when it got it."""
    dynamic = [config for config in config_dump["configs"] if not config["@type"].endswith("BootstrapConfigDump")]
    return "\n".join(line for line in json.dumps(dynamic, indent=1).splitlines() if '"last_updated"' not in line)


@pytest.mark.parametrize("transport", list(XdsTransport))
async def test_a_port_in_use_is_refused_in_one_line(transport: XdsTransport) -> None:
    async with running_plane() as plane:
        second = XdsServer(
            cache=plane.cache,
            fleet=plane.fleet,
            clock=SystemClock(),
            metrics=plane.server.streams.metrics,
            transport=TRANSPORTS[transport](port=plane.server.port),
        )
        with pytest.raises(UnavailableError, match="HUESHIFT_XDS_PORT") as refused:
            await second.start()
        assert "\n" not in str(refused.value)


async def test_two_envoys_of_one_name_are_counted_and_the_newest_counts(spec: ServiceSpec, tmp_path: Path) -> None:
    async with running_plane() as plane:
        record = plane.publish(serve(spec, v1=10_000))
        async with running_envoy(bootstrap_for(plane.server.port), tmp_path / "first"):
            await plane.wait_acked(record, NODE)
            async with running_envoy(
                bootstrap_for(plane.server.port, variant="sotw"), tmp_path / "second", ready=False
            ):
                await wait_until(lambda: plane.rows.nodes[NODE].variant == "sotw", "the newest stream's row")
                assert plane.metric("hueshift_xds_streams_superseded_total") == 1
            await wait_until(lambda: plane.rows.nodes[NODE].variant == "delta", "the first one's row again")
            assert plane.rows.nodes[NODE].disconnected_at is None
        await wait_until(lambda: plane.rows.nodes[NODE].disconnected_at is not None, "the row of a node that left")


async def test_a_restart_with_nothing_loaded_takes_nothing_away(
    variant: Variant, spec: ServiceSpec, tmp_path: Path
) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        async with running_plane(port=port, variant=variant) as plane:
            record = plane.publish(serve(spec, v1=10_000))
            await stack.enter_async_context(running_envoy(bootstrap_for(port, variant=variant), tmp_path))
            await plane.wait_acked(record, NODE)
        traffic = await stack.enter_async_context(Traffic(spec.listener.port).running())
        async with running_plane(port=port, variant=variant) as plane:
            await wait_until(lambda: NODE in plane.rows.nodes or has_been_put_off(plane), "Envoy is back")
            await traffic.wait_more(100)
            assert sum(plane.metric("hueshift_xds_pushes_total", type=kind.value) for kind in Kind) == 0
            plane.publish(serve(spec, v1=10_000))
            record = plane.publish(serve(spec, v2=10_000))
            await plane.wait_acked(record, NODE)
            await traffic.wait_more(100)
        assert traffic.answers["v2"] > 0
        assert traffic.failures == []


@pytest.mark.xds_row("initial-versions", "removed-delta")
async def test_what_went_while_nobody_was_there_is_gone_after_the_reconnect(
    variant: Variant, spec: ServiceSpec, tmp_path: Path
) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        async with running_plane(port=port, variant=variant) as plane:
            record = plane.publish(serve(spec, v1=10_000))
            envoy = await stack.enter_async_context(running_envoy(bootstrap_for(port, variant=variant), tmp_path))
            await plane.wait_acked(record, NODE)
        traffic = await stack.enter_async_context(Traffic(spec.listener.port).running())
        one = dataclasses.replace(spec, versions=spec.versions[:1], initial_split=make_split(v1=10_000))
        async with running_plane(port=port, variant=variant) as plane:
            record = plane.publish(serve(one, v1=10_000))
            await plane.wait_acked(record, NODE)
            clusters = (await dump(envoy, "ClustersConfigDump"))["dynamic_active_clusters"]
            assert [each["cluster"]["name"] for each in clusters] == ["colorize_v1"]
            if variant == "delta":
                assert plane.metric("hueshift_xds_pushes_total", type="cds") == 1, "the removal and nothing else"
            await traffic.wait_more(100)
        assert traffic.failures == []
