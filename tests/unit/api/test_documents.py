"""The document of a service: what may be left out, what is refused and in which words, and that nothing gets lost."""

import dataclasses
import datetime as dt
import json
import pathlib
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from controlplane.api.documents import document_of, spec_from
from controlplane.api.objectives import objectives_from, read_objectives
from controlplane.api.problems import InvalidDocumentError
from controlplane.api.reading import parse_service, parse_yaml, read_document
from controlplane.errors import InvalidInputError
from controlplane.rollout.model import Step
from controlplane.rollout.slo import ErrorRateSlo, LatencySlo, Terms
from controlplane.traffic.model import Endpoint, HeaderRule, HealthCheck, ModelPin, ServiceSpec, Share
from tests.unit.api.specs import services

ROOT = pathlib.Path(__file__).parents[3]

SMALLEST = """
service: colorize
versions:
  - {name: v1, endpoints: ["worker:8083"]}
  - {name: v2, endpoints: ["worker:8084"]}
routes: [{name: all, split: true}]
slos: [{name: errors, kind: error_rate, max: 1%}]
"""


def problems(text: str) -> list[str]:
    """Return every line that is said about a document."""
    with pytest.raises(InvalidInputError) as refused:
        parse_service(text, source="service.yaml")
    if isinstance(refused.value, InvalidDocumentError):
        return [str(problem) for problem in refused.value.problems]
    return [str(refused.value)]


def smallest(**changes: Any) -> str:
    """Return the smallest document with something changed; None removes a field."""
    document = {**yaml.safe_load(SMALLEST), **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None})


# -- what is read ------------------------------------------------------------------------------------------------------


def test_the_objectives_in_the_readme_are_taken_as_they_stand_there() -> None:
    section = (ROOT / "docs/objectives.md").read_text("utf-8")
    declared = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])
    found = objectives_from(read_objectives(declared))
    assert len({type(slo) for slo in found}) == 5, "one of each kind"
    for term in dataclasses.fields(Terms):
        assert f"| `{term.name}` |" in section
        assert {getattr(slo.terms, term.name) for slo in found} != {term.default}, "each term is in the example"


def test_the_shipped_service_is_the_articles_configuration() -> None:
    spec = parse_service((ROOT / "deploy" / "colorize.yaml").read_text("utf-8"))
    assert (spec.listener.name, spec.listener.address, spec.listener.port) == ("main_listener", "0.0.0.0", 8080)
    assert (spec.listener.stat_prefix, spec.virtual_host, spec.domains) == ("ingress_http", "ddcolor_service", ("*",))
    assert spec.route_config == "ddcolor_route"
    assert [(version.cluster, *version.endpoints) for version in spec.versions] == [
        ("ddcolor_person_cluster", Endpoint("ddcolor-person-service", 8081)),
        ("ddcolor_building_cluster", Endpoint("ddcolor-building-service", 8082)),
        ("ddcolor_v1", Endpoint("ddcolor-v1-service", 8083)),
        ("ddcolor_v2", Endpoint("ddcolor-v2-service", 8084)),
    ]
    assert {version.connect_timeout for version in spec.versions} == {dt.timedelta(seconds=10)}
    person, building, repair = spec.routes
    for route, value in ((person, "person"), (building, "building")):
        (header,) = route.match.headers
        assert (route.match.prefix, header.name, header.rule, header.value) == (
            "/",
            "x-model-type",
            HeaderRule.EXACT,
            value,
        )
        assert route.version == value
    assert (repair.match.prefix, repair.match.headers, repair.version) == ("/repair", (), None)
    assert {route.timeout for route in spec.routes} == {dt.timedelta(seconds=300)}
    assert spec.initial_split == (Share("v1", 5_000), Share("v2", 5_000))


def test_what_is_left_out_gets_the_documented_defaults() -> None:
    spec = parse_service(SMALLEST)
    assert (spec.listener.name, spec.listener.address, spec.listener.port) == ("colorize_listener", "0.0.0.0", 8080)
    assert (spec.virtual_host, spec.route_config, spec.domains) == ("colorize_service", "colorize_route", ("*",))
    assert [version.cluster for version in spec.versions] == ["colorize-v1", "colorize-v2"]
    assert spec.versions[0].health_check == HealthCheck()
    assert spec.routes[0].timeout == dt.timedelta(seconds=300)
    assert spec.initial_split == (Share("v1", 10_000),)
    assert [step.weight_bp for step in spec.plan.steps] == [500, 1_000, 2_500, 5_000, 10_000]
    assert {step.hold for step in spec.plan.steps} == {dt.timedelta(seconds=30)}


def test_the_friendly_forms_mean_what_they_say() -> None:
    spec = parse_service(
        smallest(
            versions=[
                {
                    "name": "v1",
                    "endpoints": ["10.0.0.1:1", "[::1]:2", "worker.internal:3"],
                    "connect_timeout": "1.5s",
                    "model": {"name": "ddcolor_paper_tiny", "checksum": "sha256:" + "0a" * 32},
                    "health_check": {"path": "/readyz", "interval": "100ms", "unhealthy_threshold": 3},
                }
            ],
            slos=[
                {"name": "e", "kind": "error_rate", "max": 0.005},
                {"name": "l", "kind": "latency", "threshold": "400ms", "quantile": "95%"},
            ],
            plan={"steps": [{"weight": "0.01%", "hold": "2m", "pause": True}, {"weight": "100%"}], "deadline": "90m"},
        )
    )
    assert spec.versions[0].endpoints == (Endpoint("10.0.0.1", 1), Endpoint("::1", 2), Endpoint("worker.internal", 3))
    assert spec.versions[0].connect_timeout == dt.timedelta(milliseconds=1500)
    assert spec.versions[0].health_check == HealthCheck(
        "/readyz", dt.timedelta(milliseconds=100), unhealthy_threshold=3
    )
    assert spec.versions[0].model == ModelPin("ddcolor_paper_tiny", "sha256:" + "0a" * 32)
    assert spec.slos == (ErrorRateSlo("e", 0.005), LatencySlo("l", 400.0, 0.95))
    assert spec.plan.steps[0] == Step(1, dt.timedelta(minutes=2), pause=True)
    assert spec.plan.deadline == dt.timedelta(minutes=90)


@settings(max_examples=25)
@given(services())
def test_every_service_is_written_so_that_it_is_read_back(spec: ServiceSpec) -> None:
    document = document_of(spec).model_dump(mode="json", exclude_none=True)
    assert spec_from(read_document(json.loads(json.dumps(document)))) == spec
    assert parse_service(yaml.safe_dump(document, allow_unicode=True, sort_keys=False)) == spec


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_an_objective_without_numbers_is_refused_by_name() -> None:
    assert problems(smallest(slos=[{"name": "errors", "kind": "error_rate"}, {"name": "slow", "kind": "latency"}])) == [
        "slos.errors.max: is missing; add max: 1%",
        "slos.slow.threshold: is missing; add threshold: 400ms",
        "slos.slow.quantile: is missing; add quantile: 95%",
    ]


def test_a_service_without_objectives_is_refused_since_they_have_no_default() -> None:
    assert problems(smallest(slos=None)) == ["slos: is missing; add slos: - {name: errors, kind: error_rate, max: 1%}"]
    assert problems(smallest(slos=[])) == ["slos: is empty; name at least one"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"service": None}, "service: is missing; add service: colorize"),
        ({"service": False}, "service: False is not a text; put it in quotes"),
        ({"service": "a.b"}, "service: 'a.b' is not a name; use 1 to 63 of a-z, 0-9, - and _, no dots"),
        (
            {"listener": {"tls": {"certificate": ""}}},
            "listener.tls.certificate: '' is not a certificate's name; use a-z, 0-9, -, _ and dots",
        ),
        (
            {"listener": {"tls": {"certificate": "../edge"}}},
            "listener.tls.certificate: '../edge' is not a certificate's name; use a-z, 0-9, -, _ and dots",
        ),
        (
            {"listener": {"tls": {}}},
            "listener.tls.certificate: is missing; add certificate: colorize.example.org",
        ),
        ({"versions": 3}, "versions: 3 is not a list; start each item with - "),
        ({"versions": []}, "versions: is empty; name at least one"),
        ({"routes": [{"name": "x"}]}, "routes.x: goes nowhere; give it version: NAME or split: true"),
        (
            {"routes": [{"name": "x", "version": "v1", "split": True}, {"name": "y", "split": True}]},
            "routes.x: goes to a version and to the split; give it one of them",
        ),
        (
            {"routes": [{"name": "x", "version": "v9"}, {"name": "y", "split": True}]},
            "routes.x.version: 'v9' is not a version; use one of v1, v2",
        ),
        (
            {"routes": [{"name": "x", "version": "v1"}]},
            "routes: no route goes to the split; give one route `split: true`",
        ),
        (
            {"routes": [{"name": "x", "split": True, "match": {"prefix": "repair"}}]},
            "routes.x.match.prefix: 'repair' is not a path prefix; start it with /",
        ),
        (
            {"routes": [{"name": "x", "split": True, "match": {"headers": [{"name": "x-a"}]}}]},
            "routes.x.match.headers.x-a: needs exactly one condition; give one of exact: VALUE, regex: PATTERN and ",
        ),
        (
            {"routes": [{"name": "x", "split": True, "match": {"headers": [{"name": "X-A", "exact": "b"}]}}]},
            "routes.x.match.headers: 'X-A' is not a header name; use a lower-case token",
        ),
        (
            {"routes": [{"name": "x", "split": True, "match": {"prefix": "/a\nb"}}]},
            "routes.x.match.prefix: '/a\\nb' holds characters that cannot be seen; use visible ones",
        ),
        (
            {"routes": [{"name": "x", "split": True, "match": {"headers": [{"name": "a", "exact": "\x00"}]}}]},
            "routes.x.match.headers.a.exact: '\\x00' holds characters that cannot be seen; use visible ones",
        ),
        ({"routes": [{"name": "x", "split": True, "timeout": 300}]}, "routes.x.timeout: 300 has no unit; "),
        ({"routes": [{"name": "x", "split": True, "timeout": "2h"}]}, "routes.x.timeout: 2:00:00 is out of range; "),
        ({"split": {"v1": "90%"}}, "split: the weights sum to 90 %; make them sum to 100 %"),
        ({"split": {"v1": "50%", "v9": "50%"}}, "split.v9: is not a version; use one of v1, v2"),
        ({"split": {"v1": 100}}, "split.v1: 100 has no unit; write 100%"),
        ({"split": {"v1": "101%"}}, "split.v1: 101% is out of range; use 0% to 100%"),
        ({"listener": {"port": 99999}}, "listener.port: 99999 is not a port; use 1 to 65535"),
        ({"listener": {"port": "8080"}}, "listener.port: '8080' is not a whole number; write digits only"),
        ({"listener": {"address": "localhost"}}, "listener.address: 'localhost' is not an IP address; "),
        ({"listner": {}}, "listner: is not a field here; did you mean listener?"),
        ({"banana": {}}, "banana: is not a field here; remove it"),
        (
            {"slos": [{"name": "e", "kind": "speed"}]},
            "slos.e.kind: 'speed' is not known; use one of error_rate, latency, client_errors, query_ratio,",
        ),
        (
            {"slos": [{"name": "e", "kind": "error_rate", "max": "1%", "alpha": "30%"}]},
            "slos.e.alpha: 30 % would roll back too many healthy versions; use 0.0001 % to 20 %; 1 % is usual for all",
        ),
        (
            {"slos": [{"name": "m", "kind": "query_value", "query": "up", "max": 1.5}]},
            "slos.m.query: asks the same for every version, so it cannot tell them apart; select by version=",
        ),
        ({"slos": [{"name": "e"}]}, "slos.e.kind: is missing; add kind: error_rate or kind: latency"),
        (
            {"slos": [{"name": "e", "kind": "error_rate", "max": "60%"}]},
            "slos.e.max: 60 % is out of range; use more than 0 % and less than 50 %",
        ),
        (
            {"slos": [{"name": "l", "kind": "latency", "threshold": "400ms", "quantile": "10%"}]},
            "slos.l.quantile: 10 % is out of range; use 50 % to below 100 %",
        ),
        ({"plan": {"steps": []}}, "plan.steps: has 0 steps; use 1 to 50"),
        ({"plan": {"steps": [{"weight": "5%"}]}}, "plan.steps: ends at 5 %; let the last step be 100 %"),
        (
            {"plan": {"steps": [{"weight": "50%"}, {"weight": "5%"}, {"weight": "100%"}]}},
            "plan.steps[2].weight: 5 % does not grow; use more than 50 %",
        ),
        (
            {"plan": {"steps": [{"weight": "0%"}, {"weight": "100%"}]}},
            "plan.steps[1].weight: 0 % is out of range; use 0.01 % to 100 %",
        ),
        ({"plan": {"steps": [{"hold": "3s"}]}}, "plan.steps[1].weight: is missing; add weight: 5%"),
        ({"plan": {"deadline": "soon"}}, "plan.deadline: 'soon' is not a time; "),
        ({"mirror": {"to": "v9", "share": "10%"}}, "mirror.to: 'v9' is not a version; use one of v1"),
        ({"mirror": {"to": "v1", "share": "0%"}}, "mirror.share: 0 % is out of range; use 0.01 % to 100 %, or leave"),
        ({"mirror": {"to": "v1"}}, "mirror.share: is missing; add share: 10%"),
        ({"mirror": {"to": "v1", "share": "10%"}, "grpc_target": "a"}, "mirror: is nothing that gRPC clients without"),
        ({"draw_header": "host"}, "draw_header: 'host' is no header of your own; use a lower-case token like x-draw"),
        ({"draw_header": "x draw"}, "draw_header: 'x draw' is no header of your own"),
        ({"draw_header": "x-draw", "grpc_target": "a"}, "draw_header: is nothing that gRPC clients without an Envoy"),
        (
            {
                "versions": [
                    {"name": "v1", "endpoints": [], "cluster": "a"},
                    {"name": "v2", "endpoints": [], "cluster": "a-shadow"},
                ],
                "mirror": {"to": "v1", "share": "10%"},
            },
            "mirror.to: the cluster 'a-shadow' is another version's; rename that one",
        ),
        ({"grpc_target": "xds:///a"}, "grpc_target: 'xds:///a' is not a name that gRPC can dial; use a-z, 0-9, "),
        ({"grpc_target": "A"}, "grpc_target: 'A' is not a name that gRPC can dial; "),
        ({"grpc_target": "colorize_listener"}, "grpc_target: 'colorize_listener' is the name of Envoy's listener; "),
        (
            {
                "grpc_target": "a",
                "versions": [{"name": "v1", "endpoints": ["w:1"], "health_check": {"path": "/ready"}}],
            },
            "versions.v1.health_check.path: is never asked for: workers behind a grpc_target answer as grpc.health.v1",
        ),
    ],
)
def test_each_mistake_is_one_line_with_its_field_and_the_fix(changes: dict[str, Any], line: str) -> None:
    (found,) = problems(smallest(**changes))
    assert found.startswith(line)
    assert "\n" not in found


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ({"name": "v1"}, "versions.v1.endpoints: is missing; add endpoints: [worker:8083]"),
        ({"endpoints": []}, "versions[1].name: is missing; add name: v1"),
        ({"name": "V1", "endpoints": []}, "versions[1].name: 'V1' is not a name; "),
        ({"name": "v1", "cluster": "a.b", "endpoints": []}, "versions.v1.cluster: 'a.b' is not a name; "),
        ({"name": "v1", "endpoints": ["http://w:1"]}, "versions.v1.endpoints[1]: 'http://w:1' is not an endpoint; "),
        ({"name": "v1", "endpoints": ["a:1", "b"]}, "versions.v1.endpoints[2]: 'b' is not an endpoint; "),
        ({"name": "v1", "endpoints": ["::1:80"]}, "versions.v1.endpoints[1]: '::1:80' is not an endpoint; "),
        ({"name": "v1", "endpoints": [":80"]}, "versions.v1.endpoints[1]: ':80' names no host; "),
        (
            {"name": "v1", "endpoints": ["w:1"], "model": {"name": "v1", "checksum": "abc"}},
            "versions.v1.model.checksum: 'abc' is not a checksum; use sha256: and 64 lower-case hexadecimal digits; ",
        ),
        (
            {"name": "v1", "endpoints": ["w:1"], "model": {"name": "v1"}},
            "versions.v1.model.checksum: is missing; add checksum: sha256:",
        ),
        ({"name": "v1", "endpoints": ["w:0"]}, "versions.v1.endpoints[1]: 0 is not a port; use 1 to 65535"),
        ({"name": "v1", "endpoints": ["w:x"]}, "versions.v1.endpoints[1]: 'x' is not a port; use 1 to 65535"),
        ({"name": "v1", "endpoints": [80]}, "versions.v1.endpoints[1]: 80 is not an endpoint; "),
        ({"name": "v1", "endpoints": ["w:1", "w:1"]}, "versions.v1.endpoints: an endpoint is named twice; "),
        ({"name": "v1", "endpoints": [], "health_check": {"path": "x"}}, "versions.v1.health_check.path: 'x' is not a"),
        (
            {"name": "v1", "endpoints": [], "health_check": {"interval": "1ms"}},
            "versions.v1.health_check.interval: 0:00:00.001000 is out of range; ",
        ),
        ({"name": "v1", "endpoints": [], "helth_check": {}}, "versions.v1.helth_check: is not a field here; did you"),
    ],
)
def test_a_mistake_in_a_version_is_found_in_its_place(version: dict[str, Any], line: str) -> None:
    name = version.get("name", "v1")
    found = problems(smallest(versions=[version], split={name: "100%"} if name == "V1" else None))
    assert any(one.startswith(line) for one in found), found


def test_all_mistakes_are_told_at_once_and_none_twice() -> None:
    found = problems(
        smallest(
            service="Colorize",
            listener={"port": 0},
            versions=[{"name": "v1", "endpoints": ["w:99999"]}],
            slos=[{"name": "e", "kind": "error_rate", "max": "70%"}],
            split={"v1": "5%"},
        )
    )
    assert [line.partition(":")[0] for line in found] == [
        "service",
        "listener.port",
        "versions.v1.endpoints[1]",
        "slos.e.max",
        "split",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "service.yaml: is empty; start it with service: NAME"),
        ("# nothing", "service.yaml: is empty; start it with service: NAME"),
        ("- a", "document: is not a mapping; start it with service: NAME"),
        ("colorize", "document: is not a mapping; start it with service: NAME"),
        ("a: [1", "service.yaml:1:6: "),
        ("a: 1\nb: {c: 1, c: 2}\n", "service.yaml:2:11: the key 'c' is written twice; correct the YAML there"),
        ("a: 1\n---\nb: 1\n", "service.yaml: holds 2 documents; write one service per file, without ---"),
        ("a: !!python/object/apply:os.system [ls]", "service.yaml:1:4: could not determine a constructor"),
        ("a: \x00", "service.yaml: is not YAML ("),
        ("a: *nowhere", "service.yaml:1:4: found undefined alias"),
        ("? {a: 1}\n: 2", "service.yaml:1:3: found unhashable key"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_place(text: str, line: str) -> None:
    (found,) = problems(text)
    assert found.startswith(line)
    assert "\n" not in found


def test_anchors_and_merges_are_understood() -> None:
    found = parse_yaml("base: &b {x: 1}\nuse: {<<: *b, y: 2}\n")
    assert found == {"base": {"x": 1}, "use": {"x": 1, "y": 2}}
