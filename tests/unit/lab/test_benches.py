"""What the benches compute from what clients recorded."""

import collections
import datetime as dt
import itertools

import pytest

from controlplane.errors import UnavailableError
from controlplane.lab.bench_envoys import Change, FleetAcks, split_of
from controlplane.lab.bench_envoys import VariantResult as FleetResult
from controlplane.lab.bench_flips import Flip, RouteAcks, VariantResult, holds, stale_ms
from controlplane.lab.bench_rollback import SCENARIOS, Exposure, Report, Result, Run, exposure
from controlplane.lab.http1 import Message
from controlplane.lab.records import Outcome, Recorder, Records
from controlplane.lab.soak import Kill, Ride
from controlplane.lab.soak import Report as SoakReport


def answer(status: int, version: str) -> Message:
    fault = "" if status == 200 else "\r\nx-injected-fault: error"
    return Message(f"HTTP/1.1 {status} x\r\nx-version: {version}{fault}".encode(), b"")


def recorded(*rows: tuple[float, float, int, str]) -> Records:
    """Each row: start, end, status (0: no answer in time), version."""
    recorder = Recorder(("x-version", "x-injected-fault"))
    for start, end, status, version in rows:
        if status:
            recorder.answered(start, start, end, answer(status, version))
        else:
            recorder.failed(start, start, end, Outcome.TIMED_OUT, "no answer in time")
    return recorder.records()


def test_exposure_spans_errors_and_slow_answers_of_the_candidate_only() -> None:
    records = recorded(
        (8.0, 9.0, 200, "v2"),  # slow, but before the defect
        (10.0, 10.1, 200, "v2"),
        (10.5, 10.6, 500, "v2"),
        (11.0, 11.9, 200, "v1"),  # slow, but v1's
        (12.0, 12.5, 200, "v2"),  # slow
        (20.0, 20.1, 500, "v2"),  # another run's
    )
    found = exposure(records, candidate="v2", since=10.0, until=15.0, slow_ms=400)
    assert found.seconds == pytest.approx(12.5 - 10.6)
    assert (found.bad, found.served) == (2, 3)


def test_hung_requests_count_by_their_start() -> None:
    found = exposure(recorded((10.0, 40.0, 0, ""), (13.0, 43.0, 0, "")), candidate="v2", since=9.0, until=50.0)
    assert found == Exposure(3.0, 2, 2)


def test_a_version_that_was_never_bad_exposed_nobody() -> None:
    assert exposure(recorded((1.0, 1.1, 200, "v2")), candidate="v2", since=0.0, until=2.0) == Exposure(0.0, 0, 1)


def make_result(name: str, seconds: list[float], outcomes: list[str]) -> Result:
    scenario = next(one for one in SCENARIOS if one.name == name)
    runs = tuple(Run(name, "lane-1", 0.0, 1.0, outcome, "") for outcome in outcomes)
    return Result(scenario, runs, tuple(Exposure(span, 1, 1) for span in seconds))


@pytest.mark.parametrize(
    ("name", "seconds", "outcomes", "expected"),
    [
        ("errors-100", [1.0, 4.9, 30.0], ["rolled_back"] * 3, True),  # the median counts
        ("errors-100", [1.0, 5.1, 30.0], ["rolled_back"] * 3, False),
        ("errors-100", [1.0, 1.0, 1.0], ["rolled_back", "rolled_back", "promoted"], False),
        ("healthy", [0.0, 0.0], ["promoted", "baking at 50%"], True),
        ("healthy", [0.0, 0.0], ["promoted", "rolled_back"], False),
    ],
)
def test_a_scenario_holds_by_its_median_and_by_every_outcome(
    name: str, seconds: list[float], outcomes: list[str], *, expected: bool
) -> None:
    report = Report(results=[make_result(name, seconds, outcomes)])
    assert report.holds is expected
    assert report.to_json()["results"][0]["holds"] is expected


def test_one_failure_that_nobody_asked_for_fails_the_whole_bench() -> None:
    good = make_result("errors-100", [1.0], ["rolled_back"])
    assert not Report(results=[good], failures=collections.Counter({"503 answered: ": 1})).holds


def test_staleness_is_the_last_start_that_met_the_old_version() -> None:
    flips = (Flip("v2", 0.9, 1.0, 1.02), Flip("v1", 1.9, 2.0, 2.02))
    records = recorded(
        (1.005, 1.01, 200, "v1"),
        (1.5, 1.51, 200, "v2"),
        (1.89, 1.95, 200, "v1"),  # answered after the next flip began: not this one's
        (2.5, 2.51, 200, "v1"),
    )
    assert stale_ms(records, flips).tolist() == pytest.approx([5.0, 0.0])


@pytest.mark.parametrize(
    ("ack_s", "per_second", "failures", "expected"),
    [
        (0.02, 2_000, {}, True),
        (0.06, 2_000, {}, False),
        (0.02, 1_500, {}, False),
        (0.02, 2_000, {"503 answered: ": 1}, False),
    ],
)
def test_flips_hold_by_failures_times_and_load(
    ack_s: float, per_second: float, failures: dict[str, int], *, expected: bool
) -> None:
    flips = tuple(Flip("v2", at, at + 0.001, at + 0.001 + ack_s) for at in range(100))
    result = VariantResult("delta", flips, 50_000, per_second, failures, stale_ms(recorded(), flips))
    assert holds([result]) is expected
    assert result.to_json()["commit_to_ack_p50_ms"] == pytest.approx(ack_s * 1_000)


async def test_only_a_change_of_routes_counts_as_their_ack() -> None:
    acks = RouteAcks()
    acks.on_ack("envoy-1", "cds", "c1", 1.0)
    assert acks.version == ""
    acks.on_ack("envoy-1", "rds", "r1", 2.0)
    acks.on_ack("envoy-1", "rds", "r1", 3.0)
    assert await acks.wait_other_than("") == 2.0


async def test_the_last_envoy_counts_and_one_that_lags_is_named() -> None:
    acks = FleetAcks(["envoy-1", "envoy-2"])
    acks.on_ack("stranger", "rds", "r1", 0.5)
    acks.on_ack("envoy-1", "rds", "r1", 1.0)
    acks.on_ack("envoy-2", "cds", "c1", 1.5)
    with pytest.raises(UnavailableError, match=r"from envoy-2 within 0\.01 s"):
        await acks.wait_other_than("", at_most=dt.timedelta(milliseconds=10))
    acks.on_ack("envoy-2", "rds", "r1", 2.0)
    acks.on_ack("envoy-1", "rds", "r1", 3.0)  # again: its first ACK is the one that counts
    assert await acks.wait_other_than("") == (1.0, 2.0)
    acks.on_ack("envoy-2", "rds", "r2", 4.0)
    assert acks.version == ""


def test_changes_in_a_row_differ_and_keep_both_versions() -> None:
    splits = [split_of(number) for number in range(300)]
    assert all(before != after for before, after in itertools.pairwise(splits))
    assert all(sum(share.weight_bp for share in split) == 10_000 for split in splits)
    assert all(share.weight_bp > 0 for split in splits for share in split)


@pytest.mark.parametrize(
    ("usual_s", "slow_s", "slow", "failures", "expected"),
    [
        (0.09, 0.4, 5, {}, True),
        (0.11, 0.4, 5, {}, False),
        (0.02, 0.6, 5, {}, False),
        (0.02, 0.4, 5, {"503 answered: ": 1}, False),
    ],
)
def test_a_fleet_holds_by_its_last_acks_and_failures(
    usual_s: float, slow_s: float, slow: int, failures: dict[str, int], *, expected: bool
) -> None:
    spans = [slow_s if number < slow else usual_s for number in range(100)]
    result = FleetResult(
        variant="delta",
        database="sqlite",
        envoys=20,
        changes=tuple(Change(0.9, 1.0, 1.01, 1.0 + span, 1.1 + span) for span in spans),
        requests=4_000,
        failures=failures,
        cpu_s=5.0,
        seconds=20.0,
    )
    assert result.holds is expected
    assert result.to_json()["commit_to_last_ack_max_ms"] == pytest.approx(slow_s * 1_000)
    assert result.to_json()["control_plane_cpu_share"] == 0.25


def test_a_drill_holds_only_when_every_rollout_ended_right_and_nothing_else_failed() -> None:
    kill = Kill("soak-1", "baking", "10%", 1.0)
    right = Ride("soak-1", "promoted", "promoted", "", 20.0, (kill, kill))
    wrong = Ride("soak-2", "rolled_back", "promoted", "", 20.0, ())
    assert SoakReport(rides=[right]).holds
    assert SoakReport(rides=[right]).kills == 2
    assert not SoakReport(rides=[right, wrong]).holds
    report = SoakReport(rides=[right])
    report.add(recorded((0.0, 0.1, 500, "v2"), (0.0, 1.0, 0, "")))
    assert (report.injected, report.requests) == (1, 2)
    assert not report.holds
    assert report.to_json()["failed"] == 1
