"""`hueshift-worker models export`, `add` and `bench`: from a DDColor checkpoint to a model that is served.

Importing this needs no torch: the command line lists these commands on every machine, and says what is missing.
"""

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inference_worker.cards import Backend, ModelCard
from inference_worker.catalogue import describe_file, make_folder, record
from inference_worker.clock import Clock, SystemClock
from inference_worker.ddcolor.published import DEFAULT_PX, describe
from inference_worker.ddcolor.variants import STRIDE_PX, VARIANTS
from inference_worker.errors import ModelError, SettingError
from inference_worker.sizing import MAX_INPUT_PX

if TYPE_CHECKING:
    from inference_worker.ddcolor.checkpoint import Checkpoint

COMMANDS: Final = ("export", "add", "bench")
NEEDED: Final = ("torch", "safetensors", "onnx")


def add_commands(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands under `models`."""
    as_shown = argparse.ArgumentDefaultsHelpFormatter
    texts = {
        "export": "write a DDColor checkpoint as ONNX, checked against torch, and add it to a models folder",
        "add": "check a DDColor checkpoint and add it to a models folder, to be run by torch",
        "bench": "measure DDColor here against the published way: torch, one picture at a time",
    }
    for action in COMMANDS:
        command = models.add_parser(action, help=texts[action], formatter_class=as_shown)
        command.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the network")
        if action == "bench":
            command.add_argument("--checkpoint", type=Path, help="its weights; without one, random ones")
            command.add_argument("--variant", choices=list(VARIANTS), default="tiny", help="of random weights")
            command.add_argument("--sizes", default="512,640,960,1280", help="sides of the input, with commas between")
            command.add_argument("--rounds", type=int, default=5, help="runs of each way at the first size")
            command.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda is skipped without one")
            command.add_argument("--json", type=Path, help="write the figures there too")
            continue
        command.add_argument("checkpoint", type=Path, help="the official .pth, .pt or .bin file, or .safetensors")
        command.add_argument("--out", type=Path, required=True, help="the models folder; --models-dir of `serve`")
        command.add_argument("--size", type=int, action="append", help=f"side of the input in pixels ({DEFAULT_PX})")
        command.add_argument("--name", help="name of the model; without one, made of variant and size")


def run(args: argparse.Namespace) -> int:
    """Run one of COMMANDS; returns the exit code.

    Raises:
        SettingError: A flag is impossible, or torch is not installed.
        ModelError: The checkpoint is not whole, or the export is not equal.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f"models {args.action}: needs {', '.join(missing)}; pip install 'hueshift[torch]'")
    if not 1 <= args.threads <= 256:
        raise SettingError(f"--threads: {args.threads} is impossible; give 1 to 256")
    if args.action == "bench":
        from inference_worker.ddcolor.bench import run_bench  # noqa: PLC0415 - needs torch

        sizes = read_sizes(args.sizes.split(","), "--sizes")
        if not 1 <= args.rounds <= 1000:
            raise SettingError(f"--rounds: {args.rounds} is impossible; give 1 to 1000")
        return run_bench(args, sizes)
    sizes = read_sizes(args.size or [DEFAULT_PX], "--size")
    if len(sizes) > 1 and (args.name or args.action == "add"):
        raise SettingError("--size: give one size with --name, and one to `add`")
    say = make_reporter(SystemClock())
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingError(f"--out: {args.out} cannot be made ({exc.strerror}); name a folder of yours") from exc
    checkpoint = read_checkpoint(args.checkpoint, say)
    if args.action == "add":
        add(args, checkpoint, sizes[0], say)
    else:
        export(args, checkpoint, sizes, say)
    return 0


def read_sizes(given: list[int] | list[str], flag: str) -> list[int]:
    """The sizes as numbers.

    Raises:
        SettingError: One is no multiple of 32 within the limits.
    """
    sizes = [int(size) if str(size).strip().isdecimal() else 0 for size in given]
    for size, text in zip(sizes, given, strict=True):
        if size % STRIDE_PX or not STRIDE_PX <= size <= MAX_INPUT_PX:
            raise SettingError(f"{flag}: {text} is impossible; give a multiple of 32 from 32 to {MAX_INPUT_PX}")
    return sizes


def make_reporter(clock: Clock) -> Callable[[str], None]:
    """What tells a person how far it is: each line with the seconds since the start."""
    started = clock.read_s()

    def say(what: str) -> None:
        sys.stdout.write(f"{clock.read_s() - started:6.1f} s  {what}\n")
        sys.stdout.flush()

    return say


def read_checkpoint(path: Path, say: Callable[[str], None]) -> "Checkpoint":
    """Load *path* strictly and say what it is.

    Raises:
        ModelError: It is no whole DDColor.
    """
    from inference_worker.ddcolor.checkpoint import load_checkpoint  # noqa: PLC0415 - needs torch

    say(f"reading {path.name}")
    checkpoint = load_checkpoint(path)
    variant = checkpoint.variant
    say(
        f"DDColor {variant.name}: {variant.tensors} tensors, {variant.parameters / 1e6:.1f} M parameters, "
        f"stored as {checkpoint.stored_as}, computed in float32"
    )
    return checkpoint


def export(args: argparse.Namespace, checkpoint: "Checkpoint", sizes: list[int], say: Callable[[str], None]) -> None:
    """Write one ONNX file and its card for each size."""
    import torch  # noqa: PLC0415 - an optional part

    from inference_worker.ddcolor.export import export_onnx  # noqa: PLC0415 - needs torch

    torch.set_num_threads(args.threads)
    net = checkpoint.net.fold()
    for size in sizes:
        name = args.name or f"ddcolor-{checkpoint.variant.name}-{size}"
        target = make_folder(args.out, name) / "weights.onnx"
        export_onnx(net, size, target, threads=args.threads, say=say)
        about = f"DDColor {checkpoint.variant.name} from {args.checkpoint.name}, float32, {size} x {size}."
        record(args.out, make_card(args, name, target, size, Backend.ONNX, about))
        say(f"{target}: {target.stat().st_size / 1e6:.0f} MB, added as {name}")


def add(args: argparse.Namespace, checkpoint: "Checkpoint", size: int, say: Callable[[str], None]) -> None:
    """Put the checkpoint itself into a model's folder, with its card."""
    name = args.name or f"ddcolor-{checkpoint.variant.name}-torch"
    target = make_folder(args.out, name) / f"weights{args.checkpoint.suffix.lower()}"
    if not (target.exists() and target.samefile(args.checkpoint)):
        try:
            shutil.copyfile(args.checkpoint, target)
        except OSError as exc:
            raise ModelError(f"--out: {target} cannot be written ({exc.strerror}); name a folder of yours") from exc
    about = f"DDColor {checkpoint.variant.name}, run by torch at {size} x {size}."
    record(args.out, make_card(args, name, target, size, Backend.TORCH, about))
    say(f"{target} added as {name}")


def make_card(args: argparse.Namespace, name: str, file: Path, size: int, backend: Backend, about: str) -> ModelCard:
    """The card of *file*, which was made of the checkpoint that *args* name."""
    return describe(
        name,
        file.parent,
        describe_file(file),
        backend=backend,
        about=about,
        origin=f"{args.checkpoint.name}, as given by whoever added it",
        size_px=size,
    )
