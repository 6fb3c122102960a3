"""The overload bench, short: what it promises of a real worker does not depend on how fast the machine is."""

from pathlib import Path

import pytest

from controlplane.clock import SystemClock
from controlplane.lab.bench_overload import measure

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


async def test_an_overloaded_worker_refuses_the_rest_and_loses_nothing(tmp_path: Path) -> None:
    found = await measure(seconds=6, queue=8, directory=tmp_path, clock=SystemClock())
    assert found.failures == 0
    assert found.answers["200"] > 0
    assert found.answers["429"] > found.answers["200"], "this was no overload"
    assert (found.exit_code, found.accepted) == (0, found.answered)
    assert found.growth_mib < 150
