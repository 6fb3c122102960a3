"""Ticks and histogram edges: what Envoy counts and the judge reads."""

import itertools
from typing import Any

import pytest

from controlplane.rollout.answers import (
    GRPC_BAD_KINDS,
    GRPC_CLIENT_KINDS,
    HTTP_BAD_KINDS,
    HTTP_CLIENT_KINDS,
    check_kinds,
    grpc_status_of,
)
from controlplane.rollout.counting import batch_of, counted
from controlplane.rollout.policy import Answers, Policy, ShareObjective
from controlplane.rollout.windows import (
    BUCKETS,
    LATENCY_EDGES_MS,
    TickWindow,
    VersionTick,
    snap_threshold,
)


def test_edges_grow_by_at_most_a_tenth() -> None:
    assert LATENCY_EDGES_MS[0] == 1
    assert LATENCY_EDGES_MS[-1] == 300_000
    growth = [above / below for below, above in itertools.pairwise(LATENCY_EDGES_MS)]
    assert min(growth) > 1
    assert max(growth) <= 1.1 + 1e-12


def test_usual_thresholds_are_edges() -> None:
    for threshold in (50, 100, 200, 250, 300, 400, 500, 750, 800, 1000, 1500, 2000, 2500, 5000, 30_000):
        assert snap_threshold(threshold) == threshold


def test_threshold_is_rounded_down_to_an_edge() -> None:
    assert snap_threshold(439.9) == 400
    assert snap_threshold(300_000) == 300_000


@pytest.mark.parametrize("threshold", [0.5, 300_001, float("nan")])
def test_threshold_outside_the_edges_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="latency_threshold_ms is"):
        snap_threshold(threshold)


def make_tick(*, slow: int = 0, fast: int = 0) -> VersionTick:
    latency = [0] * BUCKETS
    latency[LATENCY_EDGES_MS.index(400)] = fast  # up to and including 400 ms
    latency[LATENCY_EDGES_MS.index(400) + 1] = slow
    return VersionTick(slow + fast, 0, slow + fast, 0, tuple(latency))


def test_a_value_on_the_threshold_is_not_slow() -> None:
    tick = make_tick(slow=3, fast=10)
    assert tick.slow(400) == 3
    assert tick.slow(401) == 3
    assert tick.slow(300) == 13
    assert tick.slow(300_000) == 0


def test_ticks_of_two_proxies_add_up() -> None:
    total = make_tick(slow=3, fast=10) + VersionTick(7, 2, 8, 1)
    assert (total.completed, total.errors, total.started, total.active) == (20, 2, 21, 1)
    assert total.slow(400) == 3
    assert VersionTick.zero() + total == total


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"completed": 1, "errors": 2, "started": 1, "active": 0}, "errors is 2"),
        ({"completed": -1, "errors": 0, "started": 0, "active": 0}, "negative"),
        ({"completed": 0, "errors": 0, "started": 0, "active": 0, "latency": (1, 2)}, "latency has 2 buckets"),
        ({"completed": 1, "errors": 0, "started": 1, "active": 0, "codes": (("404", -1),)}, "negative"),
        ({"completed": 1, "errors": 0, "started": 1, "active": 0, "codes": (("422", 1), ("404", 1))}, "in order"),
        ({"completed": 2, "errors": 0, "started": 1, "active": 0, "codes": (("404", 1), ("404", 1))}, "each once"),
    ],
)
def test_impossible_counts_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VersionTick(**fields)


# -- answers by kind ---------------------------------------------------------------------------------------------------


def answers(completed: int = 100, errors: int = 0, **codes: int) -> VersionTick:
    """Return a tick with codes given as s503=2 and g14=3."""
    named = {(f"grpc-{name[1:]}" if name[0] == "g" else name[1:]): count for name, count in codes.items()}
    return VersionTick(completed, errors, completed, 0, codes=tuple(sorted(named.items())))


def test_codes_of_two_proxies_add_up() -> None:
    total = answers(s404=1, s503=2, g14=1) + answers(s422=5, s503=3) + answers()
    assert total.codes == (("404", 1), ("422", 5), ("503", 5), ("grpc-14", 1))


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        ((), 0),
        (("5xx",), 5),
        (("4xx",), 13),
        (("429",), 4),
        (("5xx", "429"), 9),
        (("5xx", "503"), 5),
        (("503", "503"), 3),
        (("4xx", "422", "5xx"), 18),
        (("500", "418"), 2),
        (("grpc-14",), 0),
    ],
)
def test_answers_are_counted_by_kind_each_once(kinds: tuple[str, ...], count: int) -> None:
    assert answers(errors=5, s422=9, s429=4, s500=2, s503=3).count(kinds) == count
    assert answers(errors=5, s422=9, s429=4, s500=2, s503=3).count(list(kinds)) == count


def test_server_errors_are_those_of_the_class_where_codes_are_missing_or_behind() -> None:
    assert answers(errors=7).count(HTTP_BAD_KINDS) == 7
    assert answers(errors=7, s429=1).count(HTTP_BAD_KINDS) == 8
    assert answers(errors=7, s503=5).count(("5xx",)) == 7
    assert answers(errors=5, s503=7).count(("5xx",)) == 5
    assert answers(errors=7, s503=5).count(("503",)) == 5


@pytest.mark.parametrize(
    ("tick", "kinds", "count"),
    [
        # Three that Envoy could not connect are 503 and 14; two more the server answered with 14.
        (answers(errors=3, s503=3, g14=5), ("5xx", "grpc-unavailable"), 5),
        (answers(errors=3, s503=3, g14=5), ("503", "grpc-14"), 5),
        (answers(errors=3, s503=3, g14=5), ("grpc-14", "grpc-unavailable"), 5),
        (answers(errors=3, s503=3, g14=5), ("5xx",), 3),
        (answers(errors=3, s503=1, s504=2, g14=5), ("504", "grpc-14"), 5),
        # Other statuses were answered by servers, with 200.
        (answers(errors=3, s503=3, g13=5, g14=3), ("5xx", "grpc-internal"), 8),
        (answers(errors=3, s503=3, g13=5, g14=3, g5=9), GRPC_BAD_KINDS, 8),
        (answers(errors=3, s503=3, g13=5, g14=3, g5=9), GRPC_CLIENT_KINDS, 9),
        # A proxy behind Envoy answered 503 and no gRPC status.
        (answers(errors=3, s503=3), GRPC_BAD_KINDS, 3),
        # An Envoy with an older bootstrap reports no gRPC statuses, and one release before also no codes.
        (answers(errors=3), GRPC_BAD_KINDS, 3),
    ],
)
def test_a_call_that_failed_in_envoy_counts_once(tick: VersionTick, kinds: tuple[str, ...], count: int) -> None:
    assert tick.count(kinds) == count


def test_no_more_answers_are_bad_than_there_are() -> None:
    assert answers(3, g13=2, g14=2).count(GRPC_BAD_KINDS) == 3
    assert answers(0, g13=2).count(GRPC_BAD_KINDS) == 0


def test_by_default_no_answer_is_both_the_service_s_fault_and_the_caller_s() -> None:
    everything = [str(status) for status in range(400, 600)] + [f"grpc-{status}" for status in range(1, 17)]
    ticks = {name: VersionTick(1, int(name[0] == "5"), 1, 0, codes=((name, 1),)) for name in everything}
    for bad, client in ((HTTP_BAD_KINDS, HTTP_CLIENT_KINDS), (GRPC_BAD_KINDS, GRPC_CLIENT_KINDS)):
        blamed = {name for name, tick in ticks.items() if tick.count(bad)}
        share = ShareObjective("client errors", "blaming the client", Answers(client, but=bad), floor=0.01)
        told = {name for name, tick in ticks.items() if counted(TickWindow(1, tick, tick), share)[1] == (1, 1)}
        assert not blamed & told
        check_kinds(bad + client)
    grpc = {name for name in everything if name.startswith("grpc-")}
    placed = {name for name, tick in ticks.items() if tick.count(GRPC_BAD_KINDS + GRPC_CLIENT_KINDS)}
    assert grpc - placed == {"grpc-1"}, "all but CANCELLED have a place"


@pytest.mark.parametrize(
    "kind", ["", "3xx", "200", "399", "600", "5XX", "5030", "grpc-0", "grpc-17", "grpc-014", "unavailable", "grpc-"]
)
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="is no kind of answer"):
        VersionTick.zero().count(("5xx", kind))
    with pytest.raises(ValueError, match="is no kind of answer"):
        check_kinds((kind,))


def test_statuses_become_grpc_s_as_its_specification_says() -> None:
    found = {status: grpc_status_of(status) for status in (400, 401, 403, 404, 429, 500, 502, 503, 504, 422)}
    assert found == {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 500: 2, 502: 14, 503: 14, 504: 14, 422: 2}


def test_windows_are_laid_side_by_side() -> None:
    batch = batch_of([TickWindow(5, make_tick(fast=4), make_tick(slow=2), gap=True)], [Policy()])
    assert batch.tick.tolist() == [5]
    assert batch.gap.tolist() == [True]
    assert batch.completed.tolist() == [[4, 2]]
    assert batch.latency.shape == (1, 2, BUCKETS)
    assert batch.latency.sum() == 6
    assert batch_of([], []).latency.shape == (0, 2, BUCKETS)
