"""Pure: which GPU `--device cuda:1` means, to CUDA and to NVML.

CUDA counts the devices that `CUDA_VISIBLE_DEVICES` leaves it, in that variable's order; NVML counts all that the driver
shows. A worker hides all but its own device from CUDA before any runtime is loaded. So it is number 0 to every
runtime, no library opens a context on a neighbour's device by mistake, and what NVML is asked for has a name.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Final

from inference_worker.backends import Device
from inference_worker.errors import SettingError

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
BY_BUS: Final = "PCI_BUS_ID"
"""The order in which NVML, and so nvidia-smi, counts. CUDA's own default is the fastest first."""
PLACE: Final = re.compile(r"(auto|cpu|cuda|tensorrt)(?::(\d{1,3}))?")
LISTED: Final = re.compile(r"\d+|GPU-[0-9a-fA-F-]+|MIG-[0-9a-zA-Z/-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What `--device` says."""

    device: Device
    ordinal: int | None = None
    """Which of the devices that CUDA sees, as torch counts them; None takes the first."""


def read_place(text: str) -> Place:
    """The meaning of `auto`, `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt:1`.

    Raises:
        SettingError: It is none of these.
    """
    found = PLACE.fullmatch(text)
    if found is None or (found[2] is not None and found[1] in {"auto", "cpu"}):
        raise SettingError(f"--device: {text!r} is impossible; give auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N")
    return Place(Device(found[1]), None if found[2] is None else int(found[2]))


def list_visible(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The numbers and UUIDs that CUDA is limited to, in its order, up to a bad one; None if it sees all."""
    if VISIBLE not in environ:
        return None
    entries = [entry.strip() for entry in environ[VISIBLE].split(",")]
    good = next((n for n, entry in enumerate(entries) if not LISTED.fullmatch(entry)), len(entries))
    return tuple(entries[:good])


def confine(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to set, before CUDA is loaded, so that this process sees its own device and no other.

    Raises:
        SettingError: `CUDA_VISIBLE_DEVICES` leaves no device of that number.
    """
    if place.device is Device.CPU:
        return {}
    order = {} if ORDER in environ else {ORDER: BY_BUS}
    if place.ordinal is None:
        return order
    visible = list_visible(environ)
    if visible is None:
        return order | {VISIBLE: str(place.ordinal)}
    if place.ordinal >= len(visible):
        last = f"give 0 to {len(visible) - 1}" if visible else "it leaves none"
        raise SettingError(f"--device: {VISIBLE}={environ[VISIBLE]!r} has no number {place.ordinal}; {last}")
    return order | {VISIBLE: visible[place.ordinal]}


def name_first(environ: Mapping[str, str]) -> str | None:
    """What NVML calls CUDA's device 0: its number, or its UUID, maybe cut short; None if there is none or no telling.

    A number is NVML's only where CUDA counts as NVML does; `confine` sees to that unless the variable was set before.
    """
    visible = list_visible(environ)
    if visible == ():
        return None
    name = "0" if visible is None else visible[0]
    is_told = not name.isdecimal() or environ.get(ORDER) == BY_BUS
    return name if is_told else None
