"""DDColor's own part of `hueshift-worker models`: `bench`, and the models that `export` and `add` make of a checkpoint.

Importing this needs no torch: the command line lists these commands on every machine, and says what is missing.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inference_worker.cards import Backend, ModelCard
from inference_worker.catalogue import describe_file, make_folder, record
from inference_worker.ddcolor.published import describe
from inference_worker.ddcolor.variants import VARIANTS
from inference_worker.errors import SettingError
from inference_worker.model_commands import check_needs, copy_in, read_sizes

if TYPE_CHECKING:
    from inference_worker.ddcolor.checkpoint import Checkpoint

COMMANDS: Final = ("bench",)


def add_commands(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `bench` under `models`."""
    command = models.add_parser(
        "bench",
        help="measure DDColor here against the published way: torch, one picture at a time",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the network")
    command.add_argument("--checkpoint", type=Path, help="its weights; without one, random ones")
    command.add_argument("--variant", choices=list(VARIANTS), default="tiny", help="of random weights")
    command.add_argument("--sizes", default="512,640,960,1280", help="sides of the input, with commas between")
    command.add_argument("--rounds", type=int, default=5, help="runs of each way at the first size")
    command.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda is skipped without one")
    command.add_argument("--json", type=Path, help="write the figures there too")


def run(args: argparse.Namespace) -> int:
    """Run `bench`; returns the exit code.

    Raises:
        SettingError: A flag is impossible, or torch is not installed.
        ModelError: The checkpoint is not whole.
    """
    check_needs(args)
    from inference_worker.ddcolor.bench import run_bench  # noqa: PLC0415 - needs torch

    sizes = read_sizes(args.sizes.split(","), "--sizes")
    if not 1 <= args.rounds <= 1000:
        raise SettingError(f"--rounds: {args.rounds} is impossible; give 1 to 1000")
    return run_bench(args, sizes)


def describe_whole(checkpoint: "Checkpoint") -> str:
    """What a checkpoint is, in a line."""
    variant = checkpoint.variant
    return (
        f"DDColor {variant.name}: {variant.tensors} tensors, {variant.parameters / 1e6:.1f} M parameters, "
        f"stored as {checkpoint.stored_as}, computed in float32"
    )


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
    copy_in(args.checkpoint, target)
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
