import logging
import sys
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry

from inference_worker import devices
from inference_worker.gpus import GpuMemory, GpuReading, GpuWatch, Throttle
from inference_worker.metrics import Metrics
from inference_worker.nvml import Absent, NvmlGpu, find_gpu, open_gpu
from tests.nvml import FakeDevice, FakeNvml, NewerNvml, NVMLError

BY_BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
MIG = "MIG-41b36db5-df92-5e43-bb42-1d1e8e0c1d3a"
FIRST, SECOND, INSTANCE = FakeDevice("GPU-8932f937-d72c"), FakeDevice("GPU-8932aaaa-0001"), FakeDevice(MIG)


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def read_s(self) -> float:
        return self.now_s

    def read_cpu_s(self) -> float:
        return self.now_s

    async def sleep(self, _: object) -> None:
        raise NotImplementedError


def install(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> FakeNvml:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    nvml.nvmlInit()
    return nvml


def make_gpu(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> NvmlGpu:
    found = find_gpu(install(monkeypatch, NewerNvml([device])), BY_BUS)
    assert isinstance(found, NvmlGpu)
    return found


@pytest.mark.parametrize(
    ("environ", "uuid"),
    [
        (BY_BUS, FIRST.uuid),
        (BY_BUS | {"CUDA_VISIBLE_DEVICES": "1"}, SECOND.uuid),
        (BY_BUS | {"CUDA_VISIBLE_DEVICES": "1,0"}, SECOND.uuid),
        ({"CUDA_VISIBLE_DEVICES": SECOND.uuid}, SECOND.uuid),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932A"}, SECOND.uuid),  # as short as is unique
        ({"CUDA_VISIBLE_DEVICES": MIG}, MIG),
    ],
)
def test_cudas_first_device_is_found(
    environ: Mapping[str, str], uuid: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, FakeNvml([FIRST, SECOND, INSTANCE]))
    with caplog.at_level(logging.INFO):
        found = open_gpu(environ)
    assert found is not None
    assert (found.uuid, found.name) == (uuid, FIRST.name)
    assert [record.message for record in caplog.records] == ["gpu.found"]


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        (BY_BUS | {"CUDA_VISIBLE_DEVICES": "7"}, "asked for 7: Invalid Argument"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-0000"}, "asked for MIG-0000: Not Found"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932"}, "2 devices are called GPU-8932"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-ff"}, "0 devices are called GPU-ff"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "leaves no device"),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, "CUDA_DEVICE_ORDER is not PCI_BUS_ID"),
    ],
)
def test_where_it_cannot_be_found_one_line_says_why(
    environ: Mapping[str, str], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, FakeNvml([FIRST, SECOND, INSTANCE]))
    with caplog.at_level(logging.INFO):
        assert open_gpu(environ) is None
    (record,) = caplog.records
    assert why in vars(record)["fields"]["why"]


def test_without_the_library_or_a_driver_there_is_one_line_and_no_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with caplog.at_level(logging.INFO):
        assert open_gpu(BY_BUS) is None
        monkeypatch.setitem(
            sys.modules,
            "pynvml",
            FakeNvml(refuses=NVMLError("NVML Shared Library Not Found")),
        )
        assert open_gpu(BY_BUS) is None
    whys = [vars(record)["fields"]["why"] for record in caplog.records]
    assert len(whys) == 2
    assert "nvidia-ml-py is not installed" in whys[0]
    assert "NVML Shared Library Not Found" in whys[1]


@pytest.mark.parametrize("is_driver_old", [False, True])
@pytest.mark.parametrize("kind", [FakeNvml, NewerNvml])
def test_a_reading_has_what_the_device_tells(
    kind: type[FakeNvml], monkeypatch: pytest.MonkeyPatch, *, is_driver_old: bool
) -> None:
    hot = FakeDevice("GPU-1", busy_pct=99, used=5, total=10, temperature=88, reasons=0x1 | 0x4 | 0x40 | 0x100)
    found = find_gpu(install(monkeypatch, kind([hot], is_driver_old=is_driver_old)), BY_BUS)
    assert not isinstance(found, Absent)
    assert found.read() == GpuReading(
        busy_ratio=0.99,
        used_bytes=5,
        total_bytes=10,
        temperature_c=88,
        throttles=frozenset({Throttle.POWER_CAP, Throttle.HARDWARE_THERMAL}),
    )


def test_a_mig_instance_tells_its_memory_and_a_lost_gpu_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = install(monkeypatch, FakeNvml([FIRST, FakeDevice(MIG, used=1, total=2)]))
    instance = find_gpu(nvml, {"CUDA_VISIBLE_DEVICES": MIG})
    assert not isinstance(instance, Absent)
    assert instance.read() == GpuReading(used_bytes=1, total_bytes=2)
    lost = FakeDevice("GPU-1")
    gpu = make_gpu(monkeypatch, lost)
    lost.is_lost = True
    assert gpu.read() == GpuReading()


def test_the_meter_is_what_the_device_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice("GPU-1", used=300, total=1000)
    meter = GpuMemory(make_gpu(monkeypatch, device))
    meter.reset_peak()
    assert (meter.read_peak_bytes(), meter.read_limit_bytes()) == (300, 900)
    device.is_lost = True
    assert (meter.read_peak_bytes(), meter.read_limit_bytes()) == (0, 0)


async def test_the_metrics_show_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    assert b"hueshift_worker_gpu" not in await metrics.render()
    device = FakeDevice("GPU-1", name="NVIDIA L4", busy_pct=25, reasons=0x20)
    metrics.watch_gpu(GpuWatch(make_gpu(monkeypatch, device), clock=HandClock()))
    lines = (await metrics.render()).decode().splitlines()
    shown = [line for line in lines if line.startswith("hueshift_worker_gpu_")]
    assert shown == [
        'hueshift_worker_gpu_info{name="NVIDIA L4",uuid="GPU-1"} 1.0',
        "hueshift_worker_gpu_utilisation_ratio 0.25",
        "hueshift_worker_gpu_memory_used_bytes 3.221225472e+09",
        "hueshift_worker_gpu_memory_total_bytes 8.589934592e+10",
        "hueshift_worker_gpu_temperature_celsius 54.0",
        'hueshift_worker_gpu_throttled{reason="power_cap"} 0.0',
        'hueshift_worker_gpu_throttled{reason="hardware"} 0.0',
        'hueshift_worker_gpu_throttled{reason="sync_boost"} 0.0',
        'hueshift_worker_gpu_throttled{reason="thermal"} 1.0',
        'hueshift_worker_gpu_throttled{reason="hardware_thermal"} 0.0',
        'hueshift_worker_gpu_throttled{reason="power_brake"} 0.0',
    ]


def read_busy(watch: GpuWatch) -> float | None:
    registry = CollectorRegistry()
    registry.register(watch)
    return registry.get_sample_value("hueshift_worker_gpu_utilisation_ratio")


async def test_the_device_is_asked_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, device = HandClock(), FakeDevice("GPU-1", busy_pct=10)
    watch = GpuWatch(make_gpu(monkeypatch, device), clock=clock)
    await watch.refresh()
    device.busy_pct = 20
    clock.now_s += 0.9
    await watch.refresh()
    assert read_busy(watch) == 0.1
    clock.now_s += 0.2
    await watch.refresh()
    assert read_busy(watch) == 0.2


async def test_a_driver_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, device = HandClock(), FakeDevice("GPU-1", busy_pct=10)
    watch = GpuWatch(make_gpu(monkeypatch, device), clock=clock, patience_s=0.01)
    watch_soon = GpuWatch(make_gpu(monkeypatch, device), clock=clock)
    await watch_soon.refresh()
    assert read_busy(watch_soon) == 0.1
    device.free.clear()
    await watch.refresh()
    assert read_busy(watch) is None
    clock.now_s += 2
    await watch.refresh()  # the first reading is still under way: no second thread
    assert read_busy(watch) is None
    device.free.set()


def test_the_command_says_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(monkeypatch, FakeNvml([FIRST, SECOND]))
    assert devices.run({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"hidden   {FIRST.name}, 80 GiB, {FIRST.uuid}"
    assert lines[1] == f"cuda:0   {SECOND.name}, 80 GiB, {SECOND.uuid}"
    assert lines[2] == "CUDA_DEVICE_ORDER=FASTEST_FIRST: CUDA's numbers may be others than these"
    assert lines[3].startswith("ONNX Runtime ")
    assert "--device auto: cpu" in lines[4]


def test_the_command_says_that_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, FakeNvml())
    assert devices.run({}) == 0
    assert capsys.readouterr().out.startswith("no GPU to be seen: the driver shows none\n")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices.run({}) == 0
    assert "nvidia-ml-py is not installed" in capsys.readouterr().out
