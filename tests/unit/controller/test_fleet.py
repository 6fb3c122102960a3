"""A weight is live when every connected Envoy runs it: what counts, who is waited for, whose NACK is heard."""

import dataclasses
import datetime as dt

from controlplane.controller.fleet import RECONNECT_GRACE, fleet_level, unready_members, wanted_version
from controlplane.ports import NAMED, ClusterHealth, NodeStatus, TypeStatus

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
VERSIONS = {"cds": "c1", "eds": "e1", "lds": "l1", "rds": "r1"}
RUNNING = {kind: TypeStatus(sent=version, acked=version) for kind, version in VERSIONS.items()}


def node(name: str, *, left: dt.datetime | None = None, **types: TypeStatus) -> NodeStatus:
    return NodeStatus(
        node=name,
        cluster="edge",
        replica="main",
        variant="delta",
        connected_at=NOW - dt.timedelta(hours=1),
        disconnected_at=left,
        types=RUNNING | types,
    )


def test_one_envoy_that_waits_keeps_the_weight_from_being_live() -> None:
    level = fleet_level([node("a"), node("b", rds=TypeStatus(sent="r1", acked="r0"))], VERSIONS, now=NOW)
    assert (level.acked, level.expected, level.waiting, level.settled) == (1, 2, ("b",), False)


def test_no_envoy_at_all_makes_nothing_live() -> None:
    assert not fleet_level([], VERSIONS, now=NOW).settled


def test_an_envoy_that_just_left_is_waited_for_and_then_forgotten() -> None:
    fleet = [node("a"), node("b", left=NOW - RECONNECT_GRACE / 2)]
    assert not fleet_level(fleet, VERSIONS, now=NOW).settled
    assert fleet_level(fleet, VERSIONS, now=NOW + RECONNECT_GRACE).settled


def test_a_type_nobody_needs_is_not_waited_for() -> None:
    bare = node("a", eds=TypeStatus())
    assert fleet_level([bare], VERSIONS | {"eds": ""}, now=NOW).settled
    assert not fleet_level([bare], VERSIONS, now=NOW).settled


def test_only_a_refusal_of_this_very_version_is_heard() -> None:
    old = node("a", rds=TypeStatus(sent="r1", acked="r0", nacked="r9", words="old story"))
    new = node("b", rds=TypeStatus(sent="r1", acked="r0", nacked="r1", words="bad regex"))
    level = fleet_level([old, new], VERSIONS, now=NOW)
    assert [str(refusal) for refusal in level.refusals] == ["b refused RDS: bad regex"]


def test_who_names_what_is_sent_by_name_only_answers_for_that_and_envoys_do_not() -> None:
    versions = VERSIONS | {f"lds{NAMED}": "l1+g"}
    grpc = node("b", lds=TypeStatus(sent="l1+g", acked="l1+g"))
    assert fleet_level([node("a"), grpc], versions, now=NOW).settled
    behind = node("b", lds=TypeStatus(sent="l1+g", acked="l1+f"))
    assert fleet_level([node("a"), behind], versions, now=NOW).waiting == ("b",)
    refusing = node("b", lds=TypeStatus(sent="l1+g", acked="l1+f", nacked="l1+g", words="no router"))
    (refusal,) = fleet_level([node("a"), refusing], versions, now=NOW).refusals
    assert str(refusal) == "b refused LDS: no router"
    assert wanted_version(versions, "lds", "l1+g") == "l1+g"
    assert wanted_version(versions, "lds", "l0") == "l1"
    assert wanted_version(VERSIONS, "sds", "s1") == ""


def grpc(name: str, *, left: dt.datetime | None = None, **types: TypeStatus) -> NodeStatus:
    return dataclasses.replace(node(name, left=left), is_envoy=False, types=types)


def test_a_grpc_client_is_waited_for_where_it_asked_and_nowhere_else() -> None:
    acked = TypeStatus(sent="r1", acked="r1")
    assert fleet_level([node("a"), grpc("g", rds=acked)], VERSIONS, now=NOW).settled
    behind = grpc("g", rds=dataclasses.replace(acked, acked="r0"))
    assert fleet_level([node("a"), behind], VERSIONS, now=NOW).waiting == ("g",)


def test_a_grpc_client_that_left_or_asked_for_nothing_does_not_count() -> None:
    behind = TypeStatus(sent="r1", acked="r0")
    gone, idle = grpc("g", left=NOW, rds=behind), grpc("h")
    assert fleet_level([node("a"), gone, idle], VERSIONS, now=NOW).settled
    assert not fleet_level([gone, idle], VERSIONS, now=NOW).settled
    assert fleet_level([gone, idle], VERSIONS, now=NOW).expected == 0


def test_a_grpc_client_says_nothing_of_health() -> None:
    health = [ClusterHealth("a", "v2", 1, 1)]
    assert unready_members([node("a"), grpc("g", rds=TypeStatus())], health, "v2", now=NOW) == ()


def test_every_envoy_must_see_a_healthy_worker() -> None:
    fleet = [node("a"), node("b"), node("c", left=NOW - dt.timedelta(hours=1))]
    health = [ClusterHealth("a", "v2", 1, 1), ClusterHealth("b", "v2", 0, 2), ClusterHealth("c", "v2", 0, 1)]
    assert unready_members(fleet, health, "v2", now=NOW) == ("b finds 0 of 2 workers of v2 healthy",)
    assert unready_members(fleet, health[:1], "v2", now=NOW) == ("b has not reported on v2 yet",)
