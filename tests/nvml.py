"""A stand-in for `pynvml`, the module of nvidia-ml-py: the functions that the worker calls, their names and errors.

Names, arguments, bits and error classes were compared with nvidia-ml-py 13.615; handles are opaque there, too.
"""

import dataclasses
import threading
import types
from collections.abc import Sequence
from typing import Any


class NVMLError(Exception):
    """As the library's: every failed call raises it or a class below it."""


class NotSupported(NVMLError):  # noqa: N818 - NVMLError_NotSupported there
    pass


class NotFound(NVMLError):  # noqa: N818 - NVMLError_NotFound there
    pass


class InvalidArgument(NVMLError):  # noqa: N818 - NVMLError_InvalidArgument there
    pass


class FunctionNotFound(NVMLError):  # noqa: N818 - NVMLError_FunctionNotFound there
    pass


class GpuIsLost(NVMLError):  # noqa: N818 - NVMLError_GpuIsLost there
    pass


@dataclasses.dataclass
class FakeDevice:
    """One GPU, or a MIG instance (which has no use, temperature or clocks of its own)."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    busy_pct: int = 37
    used: int = 3 * 2**30
    total: int = 80 * 2**30
    temperature: int = 54
    reasons: int = 0
    is_lost: bool = False
    free: threading.Event = dataclasses.field(default_factory=threading.Event)
    """While it is not set, the driver does not answer."""

    def __post_init__(self) -> None:
        self.free.set()

    @property
    def is_mig(self) -> bool:
        return self.uuid.startswith("MIG-")


@dataclasses.dataclass
class FakeNvml:
    """The module; MIG instances are found by their UUIDs only."""

    devices: Sequence[FakeDevice] = ()
    refuses: NVMLError | None = None
    """Raised by nvmlInit: no driver, or none that answers."""
    NVMLError: type[NVMLError] = NVMLError
    is_initialised: bool = False
    is_driver_old: bool = False
    """Before 535: it lacks what newer libraries ask for."""

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name, and so below
        if self.refuses is not None:
            raise self.refuses
        self.is_initialised = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._whole)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeDevice:  # noqa: N802
        self._check()
        if index >= len(self._whole):
            raise InvalidArgument("Invalid Argument")
        return self._whole[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeDevice:  # noqa: N802
        self._check()
        for device in self.devices:
            if device.uuid == uuid:
                return device
        raise NotFound("Not Found")

    def nvmlDeviceGetName(self, handle: FakeDevice) -> str:  # noqa: N802
        return self._ask(handle).name

    def nvmlDeviceGetUUID(self, handle: FakeDevice) -> str:  # noqa: N802
        return self._ask(handle).uuid

    def nvmlDeviceGetUtilizationRates(self, handle: FakeDevice) -> Any:  # noqa: N802
        return types.SimpleNamespace(gpu=self._ask(handle, of_whole=True).busy_pct, memory=12)

    def nvmlDeviceGetMemoryInfo(self, handle: FakeDevice) -> Any:  # noqa: N802
        found = self._ask(handle)
        return types.SimpleNamespace(total=found.total, used=found.used, free=found.total - found.used)

    def nvmlDeviceGetTemperature(self, handle: FakeDevice, sensor: int) -> int:  # noqa: N802
        assert sensor == 0
        return self._ask(handle, of_whole=True).temperature

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: FakeDevice) -> int:  # noqa: N802
        return self._ask(handle, of_whole=True).reasons

    @property
    def _whole(self) -> list[FakeDevice]:
        return [device for device in self.devices if not device.is_mig]

    def _check(self) -> None:
        assert self.is_initialised

    def _ask(self, handle: FakeDevice, *, of_whole: bool = False) -> FakeDevice:
        self._check()
        handle.free.wait(10)
        if handle.is_lost:
            raise GpuIsLost("GPU is lost")
        if of_whole and handle.is_mig:
            raise NotSupported("Not Supported")
        return handle


class NewerNvml(FakeNvml):
    """From nvidia-ml-py 12.535 on the reasons have another name, beside the old one."""

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: FakeDevice) -> int:  # noqa: N802
        if self.is_driver_old:
            raise FunctionNotFound("Function Not Found")
        return self._ask(handle, of_whole=True).reasons
