"""Rules on single fields: each kind says yes and no where protoc-gen-validate does, on message types made for it."""

import dataclasses
import itertools
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value
from validate import validate_pb2

from controlplane.errors import InvalidInputsError
from controlplane.traffic.model import Route, RouteMatch, ServedService, TrafficPlan
from controlplane.xds.pgv import FieldRules, Finding
from controlplane.xds.snapshot import SnapshotCompiler
from tests.builders import make_spec, make_split

_NUMBERS = itertools.count(1)

MANAGER_TYPE = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def make_message(kind: str, rules: str, *, repeated: bool = False, head: str = "") -> Any:
    """Return an empty message of a new type with one field ``f`` under these rules; *head* is more of the type."""
    field = f"name: 'f' number: 1 label: LABEL_{'REPEATED' if repeated else 'OPTIONAL'} "
    field += f"type: TYPE_{kind.upper()}" if kind.islower() else f"type_name: '.{kind}' type: TYPE_MESSAGE"
    if kind == "enum":
        field += " type_name: '.envoy.config.core.v3.TrafficDirection'"
    name = f"rules{next(_NUMBERS)}"
    declared = f"message_type {{ name: 'M' field {{ {field} }} {head} }}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    text_format.Parse(declared, file)
    needed = ("validate/validate", "google/protobuf/any", "google/protobuf/duration", "google/protobuf/wrappers")
    file.dependency.extend([f"{path}.proto" for path in (*needed, "envoy/config/core/v3/base")])
    options = file.message_type[0].field[0].options.Extensions[validate_pb2.rules]
    text_format.Parse(rules, options)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"{name}.M"))()


def findings(message: Any) -> list[Finding]:
    return list(FieldRules().findings(message))


@pytest.mark.parametrize(
    ("kind", "rules", "good", "bad"),
    [
        ("string", "string {const: 'a'}", ["a"], ["", "b"]),
        ("string", "string {min_len: 2 max_len: 3}", ["äö", "abc"], ["", "ä", "abcd"]),
        ("string", "string {len: 2}", ["äö"], ["", "a"]),
        ("string", "string {min_bytes: 2 max_bytes: 3}", ["ä", "abc"], ["", "a", "ää"]),
        ("string", "string {len_bytes: 2}", ["ä"], ["a", "aä"]),
        ("string", "string {prefix: '%' suffix: '%'}", ["%a%"], ["", "%a", "a%"]),
        ("string", "string {contains: 'b'}", ["abc"], ["", "ac"]),
        ("string", "string {not_contains: 'b'}", ["", "ac"], ["abc"]),
        ("string", "string {in: 'a' in: 'b'}", ["a", "b"], ["", "c"]),
        ("string", "string {not_in: 'a'}", ["", "b"], ["a"]),
        ("string", "string {pattern: '^[a-z]+$'}", ["ab"], ["", "aB", "ab\n"]),
        ("string", r"string {pattern: 'a\\$b'}", ["xa$b"], ["ab"]),
        ("string", "string {min_len: 2 ignore_empty: true}", ["", "ab"], ["a"]),
        ("string", "string {well_known_regex: HTTP_HEADER_NAME}", ["x-a", ":path", "a,b"], ["", "a b", "ä", "a\n"]),
        ("string", "string {well_known_regex: HTTP_HEADER_VALUE}", ["", "a\tb", "ä"], ["a\nb", "\x00", "\x7f"]),
        ("string", "string {well_known_regex: HTTP_HEADER_NAME strict: false}", ["", "a b"], ["a\r", "\x00"]),
        ("string", "string {ip: true}", ["10.0.0.1", "::1"], ["", "a", "10.0.0.256"]),
        ("string", "string {ipv4: true}", ["10.0.0.1"], ["::1"]),
        ("string", "string {ipv6: true}", ["::1"], ["10.0.0.1"]),
        ("string", "string {hostname: true}", ["a", "a-b.example.com"], ["", "a_b", "-a.b", "a..b"]),
        ("string", "string {address: true}", ["::1", "a.b"], ["a b"]),
        ("string", "string {email: true}", ["a@b.c"], ["", "a", "@b", "a@b c"]),
        ("string", "string {uri: true}", ["http://a/b"], ["a", "http://[a"]),
        ("string", "string {uri_ref: true}", ["", "a/b"], ["http://[a"]),
        ("string", "string {uuid: true}", ["00000000-0000-4000-8000-000000000000"], ["", "1"]),
        ("bytes", "bytes {min_len: 1 max_len: 2}", [b"a"], [b"", b"abc"]),
        ("bytes", "bytes {const: 'ab'}", [b"ab"], [b"", b"a"]),
        ("bytes", "bytes {prefix: 'a' suffix: 'c' contains: 'b'}", [b"abc"], [b"", b"ac"]),
        ("bytes", "bytes {pattern: '^a'}", [b"ab"], [b"ba"]),
        ("bytes", "bytes {ipv4: true}", [b"\x7f\x00\x00\x01"], [b"", b"::1"]),
        ("bytes", "bytes {in: 'a'}", [b"a"], [b"b"]),
        ("uint32", "uint32 {const: 3}", [3], [0, 4]),
        ("uint32", "uint32 {gte: 1 lte: 3}", [1, 3], [0, 4]),
        ("int64", "int64 {gt: 1 lt: 3}", [2], [0, 1, 3]),
        ("int32", "int32 {gt: 5 lt: 2}", [-1, 1, 6], [2, 3, 5]),
        ("int32", "int32 {gte: 5 lte: 2}", [2, 5, 0], [3, 4]),
        ("uint64", "uint64 {in: 1 in: 2}", [1], [0, 3]),
        ("uint64", "uint64 {not_in: 1}", [0], [1]),
        ("double", "double {gte: 0 lte: 100}", [0, 0.5, 100, float("nan")], [-0.1, 100.1]),
        ("uint32", "uint32 {gte: 2 ignore_empty: true}", [0, 2], [1]),
        ("bool", "bool {const: true}", [True], [False]),
        ("enum", "enum {defined_only: true}", [0, 1, 2], [3, -1]),
        ("enum", "enum {const: 2}", [2], [1]),
        ("enum", "enum {in: 1}", [1], [0, 2]),
        ("enum", "enum {not_in: 1}", [0, 2], [1]),
    ],
)
def test_a_rule_on_one_value(kind: str, rules: str, good: list[Any], bad: list[Any]) -> None:
    message = make_message(kind, rules)
    for value in good:
        message.f = value
        assert findings(message) == []
    for value in bad:
        message.f = value
        assert {finding.path for finding in findings(message)} == {".f"}, repr(value)


@pytest.mark.parametrize(
    ("kind", "rules", "good", "bad"),
    [
        ("string", "repeated {min_items: 1 max_items: 2}", [["a"], ["a", "b"]], [[], ["a", "b", "c"]]),
        ("string", "repeated {min_items: 2 ignore_empty: true}", [[], ["a", "b"]], [["a"]]),
        ("uint32", "repeated {unique: true}", [[], [1, 2]], [[1, 1]]),
    ],
)
def test_a_rule_on_a_list(kind: str, rules: str, good: list[Any], bad: list[Any]) -> None:
    for values, expected in [*((values, 0) for values in good), *((values, 1) for values in bad)]:
        message = make_message(kind, rules, repeated=True)
        message.f.extend(values)
        assert len(findings(message)) == expected, values


def test_a_rule_on_the_items_of_a_list_names_their_places() -> None:
    message = make_message("string", "repeated {items {string {min_len: 1}}}", repeated=True)
    message.f.extend(["a", "", "b", ""])
    assert [finding.path for finding in findings(message)] == [".f[1]", ".f[3]"]


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ("duration {gt {seconds: 1}}", ["1.5s"], ["1s", "-2s"]),
        ("duration {gte {nanos: 1000000} lt {seconds: 2}}", ["0.001s", "1.9s"], ["0s", "0.0009s", "2s"]),
        ("duration {in {seconds: 1}}", ["1s"], ["2s"]),
        ("duration {const {seconds: 1}}", ["1s"], ["1.1s"]),
    ],
)
def test_a_rule_on_a_duration(rules: str, good: list[str], bad: list[str]) -> None:
    message = make_message("google.protobuf.Duration", rules)
    assert findings(message) == [], "one that is not there breaks no bound"
    for text in (*good, *bad):
        span = Duration()
        span.FromJsonString(text)
        message.f.CopyFrom(span)
        assert bool(findings(message)) == (text in bad), text


@pytest.mark.parametrize(
    "span", [{"seconds": -1}, {"nanos": -1}, {"nanos": 1_000_000_000}, {"seconds": 315_576_000_001}]
)
def test_a_duration_is_never_negative_nor_out_of_range(span: dict[str, int]) -> None:
    route = route_components_pb2.Route(match={"prefix": "/"}, route={"cluster": "a", "timeout": span})
    assert [finding.path for finding in findings(route)] == [".route.timeout"]


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("google.protobuf.Duration", "duration {required: true}"),
        ("google.protobuf.Any", "any {required: true}"),
        ("google.protobuf.UInt32Value", "message {required: true}"),
    ],
)
def test_what_is_required_may_be_empty_but_not_missing(kind: str, rules: str) -> None:
    message = make_message(kind, rules)
    assert findings(message) == [Finding(".f", "is missing", "set it")]
    message.f.SetInParent()
    assert findings(message) == []


def test_a_wrapper_is_checked_once_it_is_there() -> None:
    message = make_message("google.protobuf.UInt32Value", "uint32 {gte: 1}")
    assert findings(message) == []
    message.f.CopyFrom(UInt32Value(value=0))
    assert findings(message) == [Finding(".f", "0 is refused", "use at least 1")]


def test_a_packed_message_has_an_allowed_type() -> None:
    message = make_message("google.protobuf.Any", "any {in: 'type.googleapis.com/google.protobuf.Duration'}")
    message.f.Pack(Duration())
    assert findings(message) == []
    message.f.Pack(UInt32Value())
    assert [finding.path for finding in findings(message)] == [".f"]


def test_a_switched_off_message_is_not_checked() -> None:
    for option in ("[validate.disabled]: true", "[validate.ignored]: true"):
        assert findings(make_message("string", "string {min_len: 1}", head=f"options {{ {option} }}")) == []


# -- Envoy's own messages ----------------------------------------------------------------------------------------------


def test_one_of_several_fields_is_required() -> None:
    route = route_components_pb2.Route()
    assert {finding.path for finding in findings(route)} == {".match", ".action"}


def test_a_member_of_a_oneof_is_not_required_while_another_is_set() -> None:
    match = route_components_pb2.RouteMatch(prefix="/")
    assert findings(match) == []
    match.safe_regex.SetInParent()
    assert [finding.path for finding in findings(match)] == [".safe_regex.regex"]


def test_paths_lead_through_messages_lists_maps_and_packed_messages() -> None:
    manager = hcm_pb2.HttpConnectionManager(stat_prefix="")
    manager.rds.config_source.ads.SetInParent()
    chain = listener_components_pb2.FilterChain()
    chain.filters.add(name="hcm").typed_config.Pack(manager)
    cluster = cluster_pb2.Cluster(name="a")
    cluster.metadata.filter_metadata[""].SetInParent()
    assert [finding.path for finding in findings(chain)] == [".filters[0].typed_config.stat_prefix"]
    assert [finding.path for finding in findings(cluster)] == [".metadata.filter_metadata['']"]


def test_a_packed_message_of_a_type_that_is_not_here_is_left_to_envoy() -> None:
    chain = listener_components_pb2.FilterChain()
    chain.filters.add(name="x").typed_config.CopyFrom(Packed(type_url="type.googleapis.com/x.Y", value=b"\xff"))
    assert findings(chain) == []


def test_a_packed_message_that_does_not_parse_is_refused() -> None:
    chain = listener_components_pb2.FilterChain()
    chain.filters.add(name="x").typed_config.CopyFrom(Packed(type_url=MANAGER_TYPE, value=b"\xff"))
    (found,) = findings(chain)
    assert found.path == ".filters[0].typed_config"


def test_what_was_sound_is_remembered_and_what_was_not_is_refused_again() -> None:
    rules = FieldRules()
    route = route_components_pb2.Route(match={"prefix": "/"})
    route.route.cluster = "a"
    routes = route_pb2.RouteConfiguration(virtual_hosts=[{"name": "h", "domains": ["*"], "routes": [route]}])
    for _ in range(2):
        assert list(rules.findings(routes)) == []
    routes.virtual_hosts[0].routes[0].name = "same rules, other content"
    routes.virtual_hosts[0].routes[0].route.cluster = ""
    for _ in range(2):
        assert [finding.path for finding in rules.findings(routes)] == [".virtual_hosts[0].routes[0].route.cluster"]


def test_a_finding_says_value_and_rule() -> None:
    assert findings(base_pb2.HeaderValue(key="a\nb")) == [
        Finding(".key", r"'a\nb' is refused", "use no line breaks and no NUL")
    ]


def test_the_compiler_says_every_broken_rule_with_our_path() -> None:
    spec = dataclasses.replace(
        make_spec(),
        domains=("a\nb", "ok"),
        routes=(Route("main", RouteMatch("/\x00")), *make_spec().routes[:1]),
    )
    with pytest.raises(InvalidInputsError) as refused:
        SnapshotCompiler().compile(TrafficPlan((ServedService(spec, make_split(v1=10_000)),), {}))
    assert [problem.field for problem in refused.value.problems] == [
        "route_config.colorize_routes.virtual_hosts[0].domains[0]"
    ]
