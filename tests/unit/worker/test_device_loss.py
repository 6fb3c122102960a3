import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from inference_worker.errors import ModelError
from inference_worker.faults import FaultPlan
from inference_worker.imaging import Floats

Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]
PNG = {"content-type": "image/png"}


async def test_a_lost_device_takes_readiness_away_and_sends_requests_elsewhere(start: Start, grey_png: bytes) -> None:
    lost: list[bool] = []
    async with start(faults=FaultPlan(device_after=1), on_lost=lambda: lost.append(True)) as worker:
        good = await worker.client.post("/repair", content=grey_png, headers=PNG)
        ready = await worker.client.get("/readyz")
        hit = await worker.client.post("/repair", content=grey_png, headers=PNG)
        after = [await worker.client.get(path) for path in ("/readyz", "/ready", "/healthz", "/metrics")]
        late = await worker.client.post("/repair", content=b"never read", headers=PNG)
    assert (good.status_code, ready.status_code) == (200, 200)
    for refused in (hit, late):
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.headers["connection"] == "close"
        assert refused.json()["error"].startswith("device: it has failed and this worker is starting anew; ")
    assert [answer.status_code for answer in after] == [503, 503, 200, 200]
    assert after[0].json() == {"status": "failed"}
    assert "hueshift_worker_ready 0.0" in after[3].text
    assert 'hueshift_worker_injected_faults_total{kind="device"} 1.0' in after[3].text
    assert 'hueshift_worker_refused_total{reason="DeviceLost"} 1.0' in after[3].text
    assert lost == [True]


class DeadOnArrival:
    """A model on a device whose context is gone before anything was measured."""

    def predict(self, _: Floats) -> Floats:
        raise ModelError("model: no") from RuntimeError("CUDA error: unspecified launch failure")


async def test_a_device_lost_at_the_start_ends_the_worker_as_one_lost_later(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    lost = asyncio.Event()

    def never() -> None:
        pytest.fail("the model is not to blame")

    async with start(load=DeadOnArrival, is_awaited=False, on_fatal=never, on_lost=lost.set) as worker:
        await lost.wait()
        assert (await worker.client.get("/readyz")).json() == {"status": "failed"}
    assert "model.load_failed" in caplog.text
