"""Which clients a status request is about."""

from typing import Any

import pytest
from envoy.type.matcher.v3 import node_pb2, string_pb2, struct_pb2

from controlplane.errors import InvalidInputError
from controlplane.xds.matchers import read_matchers


def by_id(**pattern: Any) -> Any:
    return node_pb2.NodeMatcher(node_id=string_pb2.StringMatcher(**pattern))


def by_regex(text: str) -> Any:
    return by_id(safe_regex={"regex": text})


@pytest.mark.parametrize(
    ("matcher", "meant", "not_meant"),
    [
        (by_id(exact="edge-1"), ["edge-1"], ["edge-11", "EDGE-1"]),
        (by_id(exact="Edge-1", ignore_case=True), ["edge-1", "EDGE-1"], ["edge-2"]),
        (by_id(prefix="edge-"), ["edge-1"], ["my-edge-1"]),
        (by_id(suffix="-1"), ["edge-1"], ["edge-10"]),
        (by_id(contains="dg"), ["edge-1"], ["egde"]),
        (by_regex("edge-[0-9]+"), ["edge-1", "edge-22"], ["edge-", "edge-1x", "my-edge-1"]),
        (by_regex(r"(?:edge|core)-\d{1,3}\.[*+?)]*"), ["core-12.", "edge-1.*"], ["core-1234."]),
        (node_pb2.NodeMatcher(), ["anyone"], []),
    ],
)
def test_a_matcher_means_nodes(matcher: Any, meant: list[str], not_meant: list[str]) -> None:
    matches = read_matchers([matcher])
    assert [node for node in (*meant, *not_meant) if matches(node)] == meant


def test_one_of_several_matchers_is_enough_and_none_means_everybody() -> None:
    either = read_matchers([by_id(exact="a"), by_id(exact="b")])
    assert [node for node in "abc" if either(node)] == ["a", "b"]
    assert read_matchers([])("anyone")


@pytest.mark.parametrize(
    ("matcher", "words"),
    [
        (by_id(), r"node_matchers\[1\]\.node_id: has nothing to match by; use exact, prefix"),
        (by_id(custom={"name": "x"}), "node_id: has custom to match by; use exact"),
        (node_pb2.NodeMatcher(node_metadatas=[struct_pb2.StructMatcher()]), "node_metadatas: is not kept here; match"),
        (by_regex("("), r"safe_regex\.regex: '\(' is no regular expression"),
        (by_regex("x" * 257), "has 257 characters; use at most 256"),
        (by_regex("(a+)+b"), "may take for ever"),
        (by_regex("(a|a)*b"), "may take for ever"),
        (by_regex("a?" * 30 + "a" * 30), "may take for ever"),
        (by_regex(r"(.)\1"), "may take for ever"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(matcher: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words) as refused:
        read_matchers([matcher])
    assert "\n" not in str(refused.value)


def test_a_refusal_names_the_matcher() -> None:
    with pytest.raises(InvalidInputError, match=r"^node_matchers\[2\]\.node_id"):
        read_matchers([by_id(exact="a"), by_id()])
