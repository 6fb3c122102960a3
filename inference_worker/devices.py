"""`hueshift-worker devices`: what there is to run models on, and what `serve --device` calls it."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping

from inference_worker.nvml import Absent, NvmlGpu, list_gpus
from inference_worker.places import BY_BUS, ORDER, list_visible


def run(environ: Mapping[str, str]) -> int:
    """Print one line each for the GPUs, the runtimes and what `--device auto` takes; the exit code is 0."""
    gpus = list_gpus()
    lines = [f"no GPU to be seen: {gpus.why}"] if isinstance(gpus, Absent) else describe_gpus(gpus, environ)
    sys.stdout.write("\n".join([*lines, *describe_runtimes()]) + "\n")
    return 0


def describe_gpus(gpus: list[NvmlGpu], environ: Mapping[str, str]) -> list[str]:
    """One line each, in NVML's order."""
    visible = list_visible(environ)
    lines = []
    for number, gpu in enumerate(gpus):
        reading = gpu.read()
        memory = "" if reading.total_bytes is None else f", {reading.total_bytes / 2**30:.0f} GiB"
        ordinal = number if visible is None else _find_ordinal(visible, number, gpu.uuid)
        place = f"cuda:{ordinal}" if ordinal is not None else "hidden"
        lines.append(f"{place:8} {gpu.name}{memory}, {gpu.uuid}")
    if environ.get(ORDER, BY_BUS) != BY_BUS:
        lines.append(f"{ORDER}={environ[ORDER]}: CUDA's numbers may be others than these")
    return lines or ["no GPU to be seen: the driver shows none"]


def _find_ordinal(visible: tuple[str, ...], number: int, uuid: str) -> int | None:
    for ordinal, entry in enumerate(visible):
        if entry == str(number) or (not entry.isdecimal() and uuid.lower().startswith(entry.lower())):
            return ordinal
    return None


def describe_runtimes() -> list[str]:
    """What each runtime that is installed was built with."""
    import onnxruntime  # noqa: PLC0415 - no other command needs it

    providers = onnxruntime.get_available_providers()
    lines = [f"ONNX Runtime {onnxruntime.__version__}: {', '.join(providers)}"]
    has_cuda = "CUDAExecutionProvider" in providers
    lines.append(f"  --device auto: {'cuda if a device can be used, else cpu' if has_cuda else 'cpu'}")
    if importlib.util.find_spec("torch") is None:
        return [*lines, "torch: not installed"]
    torch = importlib.import_module("torch")
    has_cuda = torch.cuda.is_available()
    return [*lines, f"torch {torch.__version__}", f"  --device auto: {'cuda' if has_cuda else 'cpu'}"]
