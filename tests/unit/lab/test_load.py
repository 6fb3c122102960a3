# ruff: noqa: S311 - repeatable draws, no secrets

import random
from pathlib import Path

import numpy as np
import pytest

from controlplane.lab.http1 import Message
from controlplane.lab.pacing import Arrivals, LoadPlan, Pacer
from controlplane.lab.records import Outcome, Recorder, Records, summarise


def test_uniform_arrivals_keep_their_rate_without_drift() -> None:
    pacer = Pacer(300.0, Arrivals.UNIFORM, random.Random(1), start=10.0)
    for _ in range(300_000):
        pacer.advance()
    assert pacer.due == pytest.approx(1_010.0, abs=1e-9)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_their_name() -> None:
    pacer = Pacer(100.0, Arrivals.POISSON, random.Random(7), start=0.0)
    moments = []
    for _ in range(100_000):
        pacer.advance()
        moments.append(pacer.due)
    gaps = np.diff([0.0, *moments])
    assert gaps.mean() == pytest.approx(0.01, rel=0.02)
    assert gaps.std() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "192.0.2.1"},
        {"connections": 0},
        {"requests": 10**9},
        {"duration_s": 0},
        {"timeout_s": 0},
        {"rate": 0},
    ],
)
def test_an_unbounded_or_foreign_load_cannot_be_planned(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"use|only"):
        LoadPlan.from_json({"port": 80, **wrong})


def test_a_plan_survives_the_way_to_the_load_process() -> None:
    plan = LoadPlan(port=1, rate=5.0, arrivals=Arrivals.POISSON, headers={"x-a": "b"}, body_files=("p.png",), seed=3)
    assert LoadPlan.from_json(plan.to_json()) == plan


def test_requests_carry_their_bodies_in_turn() -> None:
    plan = LoadPlan(port=8080, method="POST", path="/repair", headers={"content-type": "image/png"})
    first, second = plan.render([b"one", b"three"])
    assert first.startswith(b"POST /repair HTTP/1.1\r\nhost: 127.0.0.1:8080\r\ncontent-type: image/png\r\n")
    assert first.endswith(b"content-length: 3\r\n\r\none")
    assert second.endswith(b"content-length: 5\r\n\r\nthree")
    assert LoadPlan(port=1).render([]) == (b"GET / HTTP/1.1\r\nhost: 127.0.0.1:1\r\n\r\n",)


@pytest.fixture
def records() -> Records:
    recorder = Recorder(("x-version", "x-injected-fault"))
    recorder.answered(0.0, 0.0, 0.1, Message(b"HTTP/1.1 200 OK\r\nX-Version: v1", b"fine"))
    recorder.answered(1.0, 1.0, 1.2, Message(b"HTTP/1.1 500 x\r\nx-version: v2\r\nx-injected-fault: error", b"sorry"))
    recorder.answered(2.0, 2.0, 2.3, Message(b"HTTP/1.1 503 x\r\nserver: envoy", b"no healthy upstream"))
    recorder.failed(3.0, 3.0, 3.4, Outcome.SOCKET_ERROR, "ConnectionResetError")
    recorder.failed(4.0, 4.0, 9.0, Outcome.TIMED_OUT, "no answer in time")
    return recorder.records()


def test_injected_faults_are_no_failures_and_all_else_is(records: Records) -> None:
    assert records.failures() == {
        "503 answered: no healthy upstream": 1,
        "0 socket_error: ConnectionResetError": 1,
        "0 timed_out: no answer in time": 1,
    }
    assert summarise(records)["not_2xx"] == 4


def test_marks_tell_versions_apart(records: Records) -> None:
    assert records.has("x-version").tolist() == [True, True, False, False, False]
    assert records.has("x-version", "v2").tolist() == [False, True, False, False, False]
    assert not records.has("x-version", "v9").any()


def test_records_survive_the_way_back(records: Records, tmp_path: Path) -> None:
    records.save(tmp_path / "r.npz")
    again = Records.read(tmp_path / "r.npz")
    assert again.failures() == records.failures()
    assert again.words == records.words
    assert again.duration_ms == pytest.approx(records.duration_ms)
    assert again.has("x-version", "v2").tolist() == records.has("x-version", "v2").tolist()


def test_nothing_recorded_is_summarised_too() -> None:
    assert summarise(Recorder(("x-version",)).records())["requests"] == 0
