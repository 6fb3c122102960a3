"""The fan-out's bench on a small crowd: every stream hears every change. `make bench-fanout` is the long version."""

from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.bench_fanout import Kinds, Plan, Size, Transport, run_plan, running_bench
from controlplane.lab.bench_storm import run_storms
from controlplane.lab.fanout_client import Mode

pytestmark = pytest.mark.integration

CLOCK = SystemClock()


@pytest.mark.parametrize(
    ("mode", "size", "kinds", "transport"),
    [("sotw", "small", "all", "lean"), ("delta", "medium", "rds", "lean"), ("delta", "small", "all", "grpc")],
)
async def test_every_change_comes_to_every_stream(
    mode: Mode, size: Size, kinds: Kinds, transport: Transport, tmp_path: Path
) -> None:
    result = await run_plan(Plan(20, 2, mode, size, kinds, transport), directory=tmp_path, clock=CLOCK)
    assert result.lost == 0
    assert [len(change.at) for change in result.changes] == [20, 20]
    assert all(change.committed < change.published < max(change.at) for change in result.changes)
    assert result.cpu_s > 0
    row = result.to_json()
    assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["last_from_commit_ms"] <= row["max_ms"]
    assert (row["bytes"] > 4_000) == (size == "medium")


async def test_a_crowd_that_drops_and_returns_is_served_again(tmp_path: Path) -> None:
    (storm,) = await run_storms(Plan(50, 0, "sotw", "small", "rds", "lean"), rounds=1, directory=tmp_path, clock=CLOCK)
    assert storm.lost == 0
    assert storm.seconds < 10


async def test_clients_that_read_nothing_delay_nobody(tmp_path: Path) -> None:
    plan = Plan(20, 0, "sotw", "medium", "rds", "lean")
    async with running_bench(tmp_path, transport=plan.transport, clock=CLOCK) as bench:
        await bench.prepare(plan.size, plan.kinds)
        version = (await bench.connect(plan, at_once=20))["version"]
        await bench.stop_reading(5)
        for _ in range(3):
            change, version, _ = await bench.change(version, 15)
            assert len(change.at) == 15
