"""How fast DDColor runs here, against the published way on the same weights, machine and threads, in one run.

The published way: torch, eager, float32, the published operations in their order, spectral norm at every pass, one
picture at a time.

Each figure of the table comes from a process of its own, because memory once taken stays with a process. The gain is
measured in one process, turn by turn, so that whatever else the machine does slows both ways alike.
"""

import argparse
import concurrent.futures
import dataclasses
import enum
import json
import multiprocessing
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import numpy as np
import torch
from onnxruntime import __version__ as onnxruntime_version
from onnxruntime import get_available_providers

from inference_worker.backends import Colorizer, Device
from inference_worker.backends.onnx import CUDA, OnnxColorizer
from inference_worker.backends.torch import TorchColorizer
from inference_worker.clock import SystemClock
from inference_worker.ddcolor.checkpoint import load_checkpoint
from inference_worker.ddcolor.export import export_onnx
from inference_worker.ddcolor.network import LightnessNet
from inference_worker.ddcolor.stand_in import make_stand_in
from inference_worker.ddcolor.variants import VARIANTS
from inference_worker.errors import SettingError
from inference_worker.imaging import Floats
from inference_worker.model_commands import make_reporter

P = ParamSpec("P")
R = TypeVar("R")

PROMISED_GAIN: Final = 1.9
"""Of ONNX Runtime on a CPU over the published way."""
TABLE_RUNS: Final = 2


class Way(enum.StrEnum):
    """How the network is run."""

    PUBLISHED = "published"
    TORCH = "torch"
    ONNX = "onnx"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One way at one size; travels to a process of its own."""

    checkpoint: Path
    graph: Path
    side_px: int
    threads: int
    device: Device


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """Of one picture, the medians."""

    seconds: float
    """On the wall's clock."""
    cpu_seconds: float
    """Of all threads; what is left of `seconds` on one thread, other programs have had."""


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """Of one way at one size."""

    times: Times
    peak_mb: float
    """Largest memory of the process, weights and libraries included."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    size_px: int
    way: Way
    figures: Figures


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that one run found."""

    device: Device
    threads: int
    torch: str
    gains: dict[Way, float] = dataclasses.field(default_factory=dict)
    """Throughput over the published way's at the first size, measured in turns."""
    turns: dict[Way, Times] = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)


class PublishedColorizer:
    """The published way."""

    def __init__(self, path: Path, *, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._net = LightnessNet(load_checkpoint(path).net).eval().to(self._device)

    def predict(self, lightness: Floats) -> Floats:
        with torch.inference_mode():
            singles = [self._net(torch.from_numpy(one[None]).to(self._device)).cpu().numpy() for one in lightness]
        return np.concatenate(singles)


def open_way(way: Way, task: Task) -> Colorizer:
    """Load the network for *way*."""
    match way:
        case Way.PUBLISHED:
            return PublishedColorizer(task.checkpoint, threads=task.threads, device=task.device.value)
        case Way.TORCH:
            return TorchColorizer.load(task.checkpoint, threads=task.threads, device=task.device)
        case Way.ONNX:
            return OnnxColorizer(task.graph, threads=task.threads, device=task.device)


def time_turns(ways: list[Way], task: Task, rounds: int) -> dict[Way, Times]:
    """The times of a picture by each way, in turns, after one that does not count."""
    clock = SystemClock()
    opened = {way: open_way(way, task) for way in ways}
    lightness = (np.random.default_rng(0).random((1, 1, task.side_px, task.side_px)) * 100).astype(np.float32)
    runs: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, colorizer in opened.items():
            started, busy = clock.read_s(), time.process_time()
            colorizer.predict(lightness)
            if turn:
                runs[way].append((clock.read_s() - started, time.process_time() - busy))
    return {way: Times(*map(statistics.median, zip(*found, strict=True))) for way, found in runs.items()}


def measure(way: Way, task: Task) -> Figures:
    """Time and memory of one way; run in a process of its own."""
    return Figures(time_turns([way], task, TABLE_RUNS)[way], read_peak_mb())


def read_peak_mb() -> float:
    """The largest memory that this process has held; Linux's own figure, since getrusage counts its parent's too."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if platform.system() == "Darwin" else peak / 1024


def write_graph(task: Task) -> None:
    """Export the network for the task's size; run in a process of its own, since tracing takes much memory."""
    torch.set_num_threads(task.threads)
    export_onnx(
        load_checkpoint(task.checkpoint).net.fold(), task.side_px, task.graph, threads=task.threads, say=lambda _: None
    )


def in_own_process(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call *function* in a fresh process, and wait for it."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def run_bench(args: argparse.Namespace, sizes: list[int]) -> int:
    """Measure and print; exit code 1 if ONNX Runtime's gain at the first size is below the promise for a CPU.

    Raises:
        SettingError: The file of figures cannot be written.
        ModelError: The checkpoint is not whole, or the export is not equal.
    """
    say = make_reporter(SystemClock())
    if args.device == "cuda" and not torch.cuda.is_available():
        say("SKIPPED: torch finds no CUDA device here. NOTHING WAS MEASURED ON A GPU.")
        return 0
    with tempfile.TemporaryDirectory(prefix="hueshift-bench-ddcolor-") as name:
        folder = Path(name)
        checkpoint = args.checkpoint or write_stand_in(args.variant, folder, say)
        report = measure_all(args, sizes, checkpoint, folder, say)
    if args.json:
        try:
            args.json.write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", encoding="utf-8")
        except OSError as exc:
            raise SettingError(f"--json: {args.json} cannot be written ({exc.strerror})") from exc
    gain = report.gains.get(Way.ONNX, PROMISED_GAIN)
    if args.device == "cpu" and gain < PROMISED_GAIN:
        say(f"the gain of ONNX Runtime is {gain:.2f}, below the promised {PROMISED_GAIN}")
        return 1
    return 0


def describe(times: Times) -> str:
    """The times for a person."""
    return f"{times.seconds:6.2f} s a picture ({times.cpu_seconds:.2f} s of CPU)"


def write_stand_in(variant: str, folder: Path, say: Callable[[str], None]) -> Path:
    """Random weights in the official layout: how fast a network is does not hang on what it has learned."""
    say(f"no --checkpoint: random weights of DDColor {variant}")
    path = folder / f"random_{variant}.pth"
    torch.save({"params": make_stand_in(VARIANTS[variant]).state_dict()}, path)
    return path


def measure_all(
    args: argparse.Namespace, sizes: list[int], checkpoint: Path, folder: Path, say: Callable[[str], None]
) -> Report:
    """Measure each size and say what was found as it goes."""
    device = Device(args.device)
    ways = [way for way in Way if way is not Way.ONNX or device is Device.CPU or CUDA in get_available_providers()]
    report = Report(device=device, threads=args.threads, torch=torch.__version__)
    say(f"{device.value}, {args.threads} threads, torch {torch.__version__}, ONNX Runtime {onnxruntime_version}")
    for size in sizes:
        task = Task(
            checkpoint=checkpoint, graph=folder / f"{size}.onnx", side_px=size, threads=args.threads, device=device
        )
        if Way.ONNX in ways:
            in_own_process(write_graph, task)
        if not report.gains:
            report.turns.update(in_own_process(time_turns, ways, task, args.rounds))
            for way, times in report.turns.items():
                report.gains[way] = report.turns[Way.PUBLISHED].seconds / times.seconds
                say(f"{size} px, in turns: {way.value:9} {describe(times)}, {report.gains[way]:.2f} x the throughput")
        for way in ways:
            figures = in_own_process(measure, way, task)
            report.rows.append(Row(size, way, figures))
            say(f"{size} px, alone: {way.value:9} {describe(figures.times)}, peak {figures.peak_mb:.0f} MB")
        task.graph.unlink(missing_ok=True)
    return report
