"""Seen from outside: the status service, REST and the command line agree with each Envoy's own config_dump."""

import asyncio
import contextlib
import dataclasses
import io
import json
import pathlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf import json_format

from controlplane import running, wiring
from controlplane.cli.main import run
from controlplane.cli.surroundings import Surroundings
from controlplane.lab.api_client import service_document
from controlplane.ports import ConfigCompiler
from controlplane.settings import Role, Settings, ValidateWithEnvoy
from controlplane.xds.bootstrap import Variant
from controlplane.xds.envoy_process import EnvoyProcess
from controlplane.xds.transport import bind_port
from tests.certificates import Authority
from tests.damages import DAMAGES, MARK, DamagingCompiler, Draft
from tests.envoy import CLOCK, bootstrap_for, free_port, running_envoy, running_worker, wait_until

pytestmark = pytest.mark.integration

NODE = "envoy-1"
# A look-ahead: Python's re takes it, and so do we; Envoy's RE2 does not.
REFUSED_ROUTE = {"name": "odd", "match": {"headers": [{"name": "x-odd", "regex": "(?=a)b"}]}, "version": "v1"}
WORDS = "invalid perl operator: (?="

NACKED = config_dump_shared_pb2.NACKED

Documents = dict[str, dict[str, tuple[str, Any]]]
"""Version and content of each resource, by short type name and name."""


@pytest.fixture(params=["sotw", "delta"])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


class Seen:
    """A control plane without its controller, so that nobody takes a refused configuration back, and ways to ask it."""

    def __init__(self, parts: wiring.Parts, api_port: int, key: str) -> None:
        self._environment = {"HUESHIFT_URL": f"http://127.0.0.1:{api_port}", "HUESHIFT_API_KEY": key}
        self.parts = parts
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{api_port}/v1",
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=30,
        )

    async def get(self, path: str, **query: str) -> Any:
        answer = await self.http.get(path, params=query)
        assert answer.is_success, answer.text
        return answer.json()

    async def put(self, path: str, body: Mapping[str, Any]) -> None:
        answer = await self.http.put(path, json=body)
        assert answer.is_success, answer.text

    async def csds(self, request: Any = None) -> dict[str, Any]:
        """Return what the status service says, by node."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.parts.xds.rpc_server.port}") as channel:
            stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
            answer = await stub.FetchClientStatus(request or csds_pb2.ClientStatusRequest())
        return {config.node.id: config for config in answer.config}

    async def cli(self, *arguments: str) -> Ended:
        """Run a command as the shell would, but for the second that a new interpreter takes."""
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = await asyncio.to_thread(run, arguments, Surroundings(environment=self._environment))
        return Ended(code, out.getvalue(), err.getvalue())

    async def statuses(self) -> dict[str, str]:
        return {each["type"]: each["status"] for each in (await self.get(f"/proxies/{NODE}"))["types"]}

    async def wait_statuses(self, **wanted: str) -> None:
        async def has() -> bool:
            answer = await self.http.get(f"/proxies/{NODE}")
            found = {each["type"]: each["status"] for each in answer.json().get("types", ())}
            return all(found.get(kind) == status for kind, status in wanted.items())

        await wait_until(has, f"{NODE} is {wanted}")

    async def wait_synced(self) -> None:
        await wait_until(lambda: _is_synced(self, NODE), f"{NODE} runs what it should")


@contextlib.asynccontextmanager
async def running_seen(
    folder: pathlib.Path, *, compiler: ConfigCompiler | None = None, certificates: pathlib.Path | None = None
) -> AsyncIterator[Seen]:
    settings = Settings(
        data_dir=folder,
        role=Role.XDS,
        xds_port=0,
        telemetry_port=0,
        api_port=0,
        validate_with_envoy=ValidateWithEnvoy.OFF,
        certificates_dir=certificates,
    )
    async with wiring.build(settings, compiler=compiler) as parts:
        with bind_port("127.0.0.1", 0, "HUESHIFT_API_PORT") as listening:
            async with asyncio.TaskGroup() as tasks:
                going = [
                    tasks.create_task(running.run(parts, api_socket=None)),
                    tasks.create_task(running.serve_api(parts.api, listening, 1.0)),
                ]
                seen = Seen(parts, listening.getsockname()[1], (folder / "admin.key").read_text().strip())
                try:
                    await wait_until(lambda: parts.xds.rpc_server.port > 0, "the control plane listens")
                    yield seen
                finally:
                    await seen.http.aclose()
                    for task in going:
                        task.cancel()


@pytest.fixture
async def document() -> AsyncIterator[dict[str, Any]]:
    async with running_worker("v1") as v1, running_worker("v2") as v2:
        yield service_document("shop", port=free_port(), endpoints={"v1": v1, "v2": v2})


# -- four answers to one question --------------------------------------------------------------------------------------


async def own_dump(envoy: EnvoyProcess) -> Documents:
    """Return what the Envoy itself says that it runs."""
    found: Documents = {"cds": {}, "eds": {}, "lds": {}, "rds": {}}
    for section in (await envoy.config_dump())["configs"]:
        for each in section.get("dynamic_active_clusters", ()):
            found["cds"][each["cluster"]["name"]] = (each["version_info"], each["cluster"])
        for each in section.get("dynamic_listeners", ()):
            if state := each.get("active_state"):  # what it refused stands there as well, without a name
                found["lds"][each["name"]] = (state["version_info"], state["listener"])
        for each in section.get("dynamic_route_configs", ()):
            found["rds"][each["route_config"]["name"]] = (each["version_info"], each["route_config"])
        for each in section.get("dynamic_endpoint_configs", ()):
            # Envoy puts this one together from its hosts, without a version and with their health.
            found["eds"][each["endpoint_config"]["cluster_name"]] = ("", addresses(each["endpoint_config"]))
    return found


def addresses(assignment: Mapping[str, Any]) -> set[tuple[str, int]]:
    return {
        (where["address"], where["port_value"])
        for group in assignment.get("endpoints", ())
        for member in group["lb_endpoints"]
        for where in [member["endpoint"]["address"]["socket_address"]]
    }


def seen_in_csds(config: Any) -> Documents:
    kinds = {"Cluster": "cds", "ClusterLoadAssignment": "eds", "Listener": "lds", "RouteConfiguration": "rds"}
    found: Documents = {"cds": {}, "eds": {}, "lds": {}, "rds": {}}
    for each in config.generic_xds_configs:
        if each.client_status != config_dump_shared_pb2.REQUESTED:
            kind = kinds[each.type_url.rpartition(".")[2]]
            content = json_format.MessageToDict(each.xds_config, preserving_proto_field_name=True)
            found[kind][each.name] = ("", addresses(content)) if kind == "eds" else (each.version_info, content)
    return found


def resources(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, Any]]:
    for each in config["types"]:
        for held in each["resources"]:
            if held["version"]:
                yield each["type"], held["name"], each["acked"], held["version"], held["resource"]


async def check_agreement(seen: Seen, envoy: EnvoyProcess, variant: Variant) -> None:
    """Check that the status service, REST and the command line say what the Envoy says, resource by resource."""
    own = await own_dump(envoy)
    assert all(own.values())
    assert seen_in_csds((await seen.csds())[NODE]) == own

    rest: Documents = {"cds": {}, "eds": {}, "lds": {}, "rds": {}}
    for kind, name, of_type, of_resource, content in resources(await seen.get(f"/proxies/{NODE}/resources")):
        version = of_type if variant == "sotw" else of_resource
        rest[kind][name] = ("", addresses(content)) if kind == "eds" else (version, content)
    assert rest == own

    for what, kind in (("clusters", "cds"), ("endpoints", "eds"), ("listeners", "lds"), ("routes", "rds")):
        printed = json.loads((await seen.cli("proxy", NODE, what, "-o", "json")).out)
        if kind == "eds":
            assert {each["cluster_name"]: addresses(each) for each in printed} == {
                name: content for name, (_, content) in own[kind].items()
            }
        else:
            assert {each["name"]: each for each in printed} == {
                name: content for name, (_, content) in own[kind].items()
            }


def split_of(envoys: Documents) -> dict[str, int]:
    ((_, routes),) = envoys["rds"].values()
    (route,) = [each for each in routes["virtual_hosts"][0]["routes"] if "weighted_clusters" in each["route"]]
    return {each["name"]: each["weight"] for each in route["route"]["weighted_clusters"]["clusters"]}


async def test_all_ways_of_looking_agree_with_the_envoy(
    variant: Variant, document: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    async with running_seen(tmp_path) as seen, contextlib.AsyncExitStack() as stack:
        await seen.put("/services/shop", document)
        bootstrap = bootstrap_for(seen.parts.xds.server.port, variant=variant)
        envoy = await stack.enter_async_context(running_envoy(bootstrap, tmp_path / "envoy"))
        await seen.wait_synced()
        await check_agreement(seen, envoy, variant)
        assert await seen.statuses() == dict.fromkeys(("cds", "eds", "lds", "rds"), "SYNCED")
        assert (await seen.cli("proxies", "--check")).code == 0
        assert await seen.cli("proxy", NODE, "diff") == Ended(0, "", "")

        # A weight moves: everybody says so.
        before, counted = (await seen.get(f"/proxies/{NODE}"))["types"], await metrics(seen)
        began = CLOCK.steady()
        await seen.put("/services/shop/split", {"weights": {"v1": "70%", "v2": "30%"}})
        await wait_until(lambda: _moved(seen, before), "the new weight is acknowledged")
        took = {name: value - counted.get(name, 0) for name, value in (await metrics(seen)).items()}
        assert took['hueshift_xds_push_to_ack_seconds_count{type="rds"}'] == 1
        assert 0 < took['hueshift_xds_push_to_ack_seconds_sum{type="rds"}'] < CLOCK.steady() - began
        assert took['hueshift_xds_push_to_ack_seconds_count{type="cds"}'] == 0
        await check_agreement(seen, envoy, variant)
        assert split_of(await own_dump(envoy)) == {"shop-v1": 7_000, "shop-v2": 3_000}
        assert "shop-v1 70%, shop-v2 30%" in (await seen.cli("proxy", NODE, "routes")).out

        # Envoy refuses a route: it runs what it had, and everybody says that and why.
        await seen.put("/services/shop", {**document, "routes": [REFUSED_ROUTE, *document["routes"]]})
        await seen.wait_statuses(rds="NACKED")
        await check_agreement(seen, envoy, variant)
        await check_refusal(seen)

        # The last good declaration again.
        await seen.put("/services/shop", document)
        await seen.wait_synced()
        await check_agreement(seen, envoy, variant)
        assert await seen.cli("proxy", NODE, "diff") == Ended(0, "", "")

        # The Envoy goes: it is remembered as it was, and not taken for one that is there.
        last = seen_in_csds((await seen.csds())[NODE])
        await stack.aclose()
        await wait_until(lambda: _left(seen), "the row of an Envoy that left")
        config = (await seen.csds())[NODE]
        assert seen_in_csds(config) == last
        assert {each.config_status for each in config.generic_xds_configs} == {csds_pb2.UNKNOWN}
        checked = await seen.cli("proxies", "--check")
        assert (checked.code, checked.err) == (1, "hueshift: no Envoy is connected\n")
        assert "left " in checked.out


async def _moved(seen: Seen, before: Any) -> bool:
    now = await seen.get(f"/proxies/{NODE}")
    return now["synced"] is True and now["types"] != before and now["types"][3]["acked"] != before[3]["acked"]


async def _left(seen: Seen) -> bool:
    return (await seen.get(f"/proxies/{NODE}"))["connected"] is False


async def metrics(seen: Seen) -> dict[str, float]:
    text = (await seen.http.get(str(seen.http.base_url.join("/metrics")))).text
    samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


async def check_refusal(seen: Seen) -> None:
    counted = await metrics(seen)
    assert counted['hueshift_xds_nacks_total{type="rds"}'] == 1
    assert counted['hueshift_xds_proxies{state="nacked"}'] == 1
    config = (await seen.csds())[NODE]
    errors = [each for each in config.generic_xds_configs if each.config_status == csds_pb2.ERROR]
    assert [each.name for each in errors] == ["shop_route"]
    assert errors[0].client_status == config_dump_shared_pb2.NACKED
    assert WORDS in errors[0].error_state.details
    assert errors[0].error_state.version_info not in ("", errors[0].version_info)
    refused = json_format.MessageToDict(errors[0].error_state.failed_configuration, preserving_proto_field_name=True)
    assert refused["virtual_hosts"][0]["routes"][0]["name"] == "odd"

    (found,) = (await seen.get("/proxies", state="NACKED"))["items"]
    assert WORDS in found["types"][3]["words"]
    assert found["synced"] is False
    assert (await seen.cli("proxies", "--check")).code == 1
    difference = await seen.cli("proxy", NODE, "diff")
    first, *lines = difference.out.splitlines()
    assert difference.code == 1
    assert WORDS in first
    assert any(line.startswith("+") and "x-odd" in line for line in lines)


def some_listeners(draft: Draft) -> None:
    """Have a good listener beside the service's, which is bad; one of an unknown type Envoy could not dump."""
    draft.add_listener("127.0.0.3")
    DAMAGES["bad_certificate"].apply(draft)


SOME = {
    "some_clusters": DAMAGES["half_applied_clusters"],
    "some_listeners": dataclasses.replace(DAMAGES["bad_certificate"], apply=some_listeners),
}


@pytest.mark.parametrize("damage", list(SOME))
async def test_what_envoy_takes_of_a_response_that_it_refuses_is_seen_as_well(
    damage: str, variant: Variant, document: dict[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DAMAGES, damage, SOME[damage])
    kind = SOME[damage].kind.value
    slo = {"name": f"{MARK}{damage}", "kind": "error_rate", "max": "20%"}
    async with running_seen(tmp_path, compiler=DamagingCompiler()) as seen:
        await seen.put("/services/shop", document)
        bootstrap = bootstrap_for(seen.parts.xds.server.port, variant=variant)
        async with running_envoy(bootstrap, tmp_path / "envoy") as envoy:
            await seen.wait_synced()
            before = await own_dump(envoy)
            await seen.put("/services/shop", {**document, "slos": [*document["slos"], slo]})
            await seen.wait_statuses(**{kind: "NACKED"})
            own = await own_dump(envoy)
            assert own[kind] != before[kind]
            config = (await seen.csds())[NODE]
            assert seen_in_csds(config)[kind] == own[kind]
            (refused,) = [each for each in config.generic_xds_configs if each.client_status == NACKED]
            assert SOME[damage].words in refused.error_state.details
            seen_over_rest = await seen.get(f"/proxies/{NODE}/resources", type=kind)
            assert {name: content for _, name, _, _, content in resources(seen_over_rest)} == {
                name: content for name, (_, content) in own[kind].items()
            }


async def test_a_certificate_is_named_and_its_key_is_shown_nowhere(
    variant: Variant, document: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    pair = Authority().issue("edge.test")
    pair.write(folder, "edge")
    document["listener"]["tls"] = {"certificate": "edge"}
    async with running_seen(tmp_path / "plane", certificates=folder) as seen:
        await seen.put("/services/shop", document)
        bootstrap = bootstrap_for(seen.parts.xds.server.port, variant=variant)
        async with running_envoy(bootstrap, tmp_path / "envoy") as envoy:
            await seen.wait_synced()
            await seen.wait_statuses(sds="SYNCED")
            own = [
                each["name"]
                for section in (await envoy.config_dump())["configs"]
                for each in section.get("dynamic_active_secrets", ())
            ]
            config = (await seen.csds())[NODE]
            (secret,) = [each for each in config.generic_xds_configs if each.type_url.endswith(".Secret")]
            assert [secret.name] == own == ["edge"]
            assert (secret.config_status, secret.client_status) == (csds_pb2.SYNCED, config_dump_shared_pb2.ACKED)
            assert secret.version_info
            assert not secret.HasField("xds_config")
            rest = await seen.get(f"/proxies/{NODE}/resources")
            (held,) = rest["types"][4]["resources"]
            assert held["resource"] == {
                "@type": secret.type_url,
                "name": "edge",
                "version": rest["types"][4]["acked"],
                "private": True,
            }
            assert "SDS" in (await seen.cli("proxy", NODE)).out
            assert await seen.cli("proxy", NODE, "diff") == Ended(0, "", "")
            line = pair.key.splitlines()[1]
            assert line not in config.SerializeToString()
            assert line.decode() not in json.dumps(rest)


async def test_the_status_service_answers_for_the_nodes_that_are_asked_for(
    document: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    request = csds_pb2.ClientStatusRequest
    async with running_seen(tmp_path) as seen:
        await seen.put("/services/shop", document)
        port = seen.parts.xds.server.port
        async with (
            running_envoy(bootstrap_for(port), tmp_path / "one"),
            running_envoy(bootstrap_for(port, node_id="envoy-2"), tmp_path / "two"),
            grpc.aio.insecure_channel(f"127.0.0.1:{seen.parts.xds.rpc_server.port}") as channel,
        ):
            await seen.wait_synced()
            await wait_until(lambda: _is_synced(seen, "envoy-2"), "the second one is in sync")
            assert set(await seen.csds()) == {NODE, "envoy-2"}
            one, other = {"node_id": {"exact": "envoy-2"}}, {"node_id": {"suffix": "-1"}}
            assert set(await seen.csds(request(node_matchers=[one]))) == {"envoy-2"}
            assert set(await seen.csds(request(node_matchers=[one, other]))) == {
                NODE,
                "envoy-2",
            }

            call = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel).StreamClientStatus()
            for asked, found in ((request(node_matchers=[one]), ["envoy-2"]), (request(), [NODE, "envoy-2"])):
                await call.write(asked)
                assert [config.node.id for config in (await call.read()).config] == found
            call.cancel()

            config = (await seen.csds(request(node_matchers=[one], exclude_resource_contents=True)))["envoy-2"]
            assert {each.config_status for each in config.generic_xds_configs} == {csds_pb2.SYNCED}
            assert not any(each.HasField("xds_config") for each in config.generic_xds_configs)
            assert all(each.version_info and each.name for each in config.generic_xds_configs)
            assert (config.node.user_agent_name, config.node.cluster) == ("envoy", "hueshift")

            wrongs: list[dict[str, Any]] = [
                {"node_metadatas": [{}]},
                {"node_id": {"safe_regex": {"regex": "(a+)+"}}},
            ]
            for wrong in wrongs:
                with pytest.raises(grpc.aio.AioRpcError, match=r"node_matchers\[1\]") as refused:
                    await seen.csds(request(node_matchers=[wrong]))
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def _is_synced(seen: Seen, node: str) -> bool:
    answer = await seen.http.get(f"/proxies/{node}")
    return answer.is_success and answer.json()["synced"] is True
