"""What `hueshift-worker models export` and `add` make of AnimeGANv2's checkpoints."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from inference_worker.animegan.export import export_onnx
from inference_worker.animegan.network import PARAMETERS, TENSORS, Generator
from inference_worker.cards import Backend, Family, ModelCard, Source
from inference_worker.catalogue import describe_file, make_folder, record
from inference_worker.model_commands import copy_in

WEIGHTS_LICENCE: Final = "the file names none; the original's weights and what is converted from them: non-commercial"
DATA: Final = Source(
    licence="the file names none", origin="photos, and frames of animated films, by the original authors' account"
)


def describe_whole(stored_as: str) -> str:
    """What a whole checkpoint is, in a line."""
    count = f"{TENSORS} tensors, {PARAMETERS / 1e6:.1f} M parameters"
    return f"AnimeGANv2: {count}, stored as {stored_as}, computed in float32"


def export(args: argparse.Namespace, net: Generator, longest_px: int, say: Callable[[str], None]) -> None:
    """Write the ONNX file and its card."""
    torch.set_num_threads(args.threads)
    name = args.name or "animeganv2"
    target = make_folder(args.out, name) / "weights.onnx"
    export_onnx(net, target, threads=args.threads, say=say)
    record(args.out, describe(name, target, longest_px, Backend.ONNX, args.checkpoint.name))
    say(f"{target}: {target.stat().st_size / 1e6:.1f} MB, added as {name}")


def add(args: argparse.Namespace, _: Generator, longest_px: int, say: Callable[[str], None]) -> None:
    """Put the checkpoint itself into a model's folder, with its card."""
    name = args.name or "animeganv2-torch"
    target = make_folder(args.out, name) / f"weights{args.checkpoint.suffix.lower()}"
    copy_in(args.checkpoint, target)
    record(args.out, describe(name, target, longest_px, Backend.TORCH, args.checkpoint.name))
    say(f"{target} added as {name}")


def describe(name: str, file: Path, longest_px: int, backend: Backend, origin: str) -> ModelCard:
    """The card of an AnimeGANv2 in *file*; *origin* is the name of the checkpoint that its user gave."""
    return ModelCard(
        name=name,
        version=name,
        family=Family.RGB_TO_RGB,
        backend=backend,
        about=f"AnimeGANv2 from {origin}: photos as drawings.",
        folder=file.parent,
        files=(describe_file(file),),
        weights=Source(licence=WEIGHTS_LICENCE, origin=f"{origin}, as given by whoever added it"),
        data=DATA,
        input_px=longest_px,
        head="tanh: rgb of -1..1",
    )
