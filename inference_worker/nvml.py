"""NVIDIA's management library, through `nvidia-ml-py` where that is installed beside the worker.

Nothing here is needed to serve: without library, driver or device there are no figures of it, and one line in the log.
"""

import dataclasses
import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from inference_worker.gpus import GpuReading, Throttle
from inference_worker.places import name_first

log = logging.getLogger(__name__)

R = TypeVar("R")

LIBRARY: Final = "pynvml"
TEMPERATURE_GPU: Final = 0
THROTTLES: Final = {
    0x04: Throttle.POWER_CAP,
    0x08: Throttle.HARDWARE,
    0x10: Throttle.SYNC_BOOST,
    0x20: Throttle.THERMAL,
    0x40: Throttle.HARDWARE_THERMAL,
    0x80: Throttle.POWER_BRAKE,
}
"""nvmlClocksEventReason…; those left out are idleness (0x1) and clocks that somebody set on purpose (0x2, 0x100)."""


class NvmlGpu:
    """One device, or one MIG instance of one."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        """Take the module and one of its handles."""
        self._nvml = nvml
        self._handle = handle
        self.name: str = self._ask(nvml.nvmlDeviceGetName) or "unknown"
        self.uuid: str = self._ask(nvml.nvmlDeviceGetUUID) or "unknown"

    def read(self) -> GpuReading:
        """What it tells now; MIG instances, for one, have no use of their own."""
        nvml = self._nvml
        use = self._ask(nvml.nvmlDeviceGetUtilizationRates)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo)
        reasons = self._read_reasons()
        return GpuReading(
            busy_ratio=None if use is None else use.gpu / 100,
            used_bytes=None if memory is None else int(memory.used),
            total_bytes=None if memory is None else int(memory.total),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, TEMPERATURE_GPU),
            throttles=None if reasons is None else frozenset(t for bit, t in THROTTLES.items() if reasons & bit),
        )

    def _read_reasons(self) -> int | None:
        """By the name of today, or by that before driver 535: library and driver may each lack one."""
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            function = getattr(self._nvml, name, None)
            reasons: int | None = None if function is None else self._ask(function)
            if reasons is not None:
                return reasons
        return None

    def _ask(self, function: Callable[..., R], *args: object) -> R | None:
        try:
            return function(self._handle, *args)
        except self._nvml.NVMLError:  # not supported, no permission, the device is lost: no figure
            return None


@dataclasses.dataclass(frozen=True, slots=True)
class Absent:
    """Why a GPU cannot be looked at."""

    why: str


def load_nvml() -> Any | Absent:
    """The module, ready for use."""
    try:
        nvml = importlib.import_module(LIBRARY)
    except ImportError:
        return Absent("the library nvidia-ml-py is not installed beside the worker")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        return Absent(f"NVML: {exc}")
    return nvml


def list_gpus() -> list[NvmlGpu] | Absent:
    """All devices that the driver shows, in NVML's order."""
    nvml = load_nvml()
    if isinstance(nvml, Absent):
        return nvml
    try:
        return _list(nvml)
    except nvml.NVMLError as exc:
        return Absent(f"NVML: {exc}")


def _list(nvml: Any) -> list[NvmlGpu]:
    return [NvmlGpu(nvml, nvml.nvmlDeviceGetHandleByIndex(number)) for number in range(nvml.nvmlDeviceGetCount())]


def find_gpu(nvml: Any, environ: Mapping[str, str]) -> NvmlGpu | Absent:
    """The device that CUDA, under these variables, counts as number 0."""
    name = name_first(environ)
    if name is None:
        return Absent("CUDA_VISIBLE_DEVICES leaves no device, or CUDA_DEVICE_ORDER is not PCI_BUS_ID")
    try:
        if name.isdecimal():
            return NvmlGpu(nvml, nvml.nvmlDeviceGetHandleByIndex(int(name)))
        if name.startswith("MIG-"):
            return NvmlGpu(nvml, nvml.nvmlDeviceGetHandleByUUID(name))
        found = [gpu for gpu in _list(nvml) if gpu.uuid.lower().startswith(name.lower())]
    except nvml.NVMLError as exc:
        return Absent(f"NVML, asked for {name}: {exc}")
    return found[0] if len(found) == 1 else Absent(f"{len(found)} devices are called {name}")


def open_gpu(environ: Mapping[str, str]) -> NvmlGpu | None:
    """The worker's own device; None, and one line in the log, where there is none to be looked at."""
    nvml = load_nvml()
    found = nvml if isinstance(nvml, Absent) else find_gpu(nvml, environ)
    if isinstance(found, Absent):
        log.info("gpu.unwatched", extra={"fields": {"why": f"'{found.why}'"}})
        return None
    log.info("gpu.found", extra={"fields": {"name": f"'{found.name}'", "uuid": found.uuid}})
    return found
