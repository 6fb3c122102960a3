"""A real worker beside a stand-in for NVIDIA's library: the figures at /metrics are those of CUDA's first device."""

import os
import re
from pathlib import Path

import httpx
import pytest

from tests.programs import SERVE, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
LIBRARY = """
from tests.nvml import FakeDevice, NewerNvml
nvml = NewerNvml([FakeDevice("GPU-aa"), FakeDevice("GPU-bb", name="NVIDIA L4", busy_pct=81, reasons=0x40)])
def __getattr__(name):
    return getattr(nvml, name)
"""


async def test_the_metrics_are_those_of_the_device_that_cuda_sees(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(LIBRARY)
    variables = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}", "CUDA_VISIBLE_DEVICES": "1,0"}
    async with running((*SERVE, "--port", "0"), variables) as worker:
        assert "name='NVIDIA L4' uuid=GPU-bb" in await worker.wait_line("gpu.found")
        found = re.search(r"port=(\d+)", await worker.wait_line("worker.started"))
        assert found
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{found[1]}/metrics")).text
    assert 'hueshift_worker_gpu_info{name="NVIDIA L4",uuid="GPU-bb"} 1.0' in text
    assert "hueshift_worker_gpu_utilisation_ratio 0.81" in text
    assert 'hueshift_worker_gpu_throttled{reason="hardware_thermal"} 1.0' in text


async def test_on_the_cpu_nobody_asks(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(LIBRARY)
    variables = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    async with running((*SERVE, "--port", "0", "--device", "cpu"), variables) as worker:
        await worker.wait_line("model.became_ready")
    assert not any("gpu." in line for line in worker.log)
