"""`hueshift-worker models export` and `add`: from a file that others published to a model that is served.

What a file is, its tensors tell: a DDColor, an AnimeGANv2; or it is a TorchScript archive, a program of its own.
Importing this needs no torch: the command line lists these commands on every machine, and says what is missing.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from inference_worker.backends import Device
from inference_worker.cards import Backend, Family, ModelCard, Source
from inference_worker.catalogue import describe_file, make_folder, record
from inference_worker.clock import SystemClock
from inference_worker.ddcolor.published import DEFAULT_PX
from inference_worker.errors import ModelError, SettingError
from inference_worker.model_commands import check_needs, copy_in, make_reporter, read_sizes
from inference_worker.sizing import LONGEST_TRANSFORM_PX

COMMANDS: Final = ("export", "add")


def add_commands(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands under `models`."""
    texts = {
        "export": "write a checkpoint of DDColor or AnimeGANv2 as ONNX, checked against torch, as a model",
        "add": "check a checkpoint, or a TorchScript file from rgb to rgb, and add it as a model that torch runs",
    }
    for action, text in texts.items():
        command = models.add_parser(action, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the network")
        command.add_argument("checkpoint", type=Path, help="the published .pth, .pt or .bin file, or .safetensors")
        command.add_argument("--out", type=Path, required=True, help="the models folder; --models-dir of `serve`")
        command.add_argument(
            "--size",
            type=int,
            action="append",
            help=f"side of a colorizer's input ({DEFAULT_PX}), or longest side of a picture ({LONGEST_TRANSFORM_PX})",
        )
        command.add_argument("--name", help="name of the model; without one, made of what the file is")
        if action == "add":
            command.add_argument("--darkest", type=int, choices=[-1, 0], default=-1, help="black in a TorchScript file")


def run(args: argparse.Namespace) -> int:
    """Run one of COMMANDS; returns the exit code.

    Raises:
        SettingError: A flag is impossible, or torch is not installed.
        ModelError: The file is not whole, is of no known network, or the export is not equal.
    """
    check_needs(args)
    read_sizes(args.size or [], "--size")
    if len(args.size or []) > 1 and (args.name or args.action == "add"):
        raise SettingError("--size: give one size with --name, and one to `add`")
    say = make_reporter(SystemClock())
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingError(f"--out: {args.out} cannot be made ({exc.strerror}); name a folder of yours") from exc
    take_in(args, say)
    return 0


def take_in(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Find out what the file is, and make a model of it.

    Raises:
        SettingError: The command or a size is not for such a file.
        ModelError: The file is not whole, is of no known network, or the export is not equal.
    """
    from inference_worker.animegan import checkpoint as drawing  # noqa: PLC0415 - as below
    from inference_worker.animegan import commands as animegan  # noqa: PLC0415 - as below
    from inference_worker.checkpoints import is_torchscript, read_tensors  # noqa: PLC0415 - needs torch
    from inference_worker.ddcolor import checkpoint as colorizing  # noqa: PLC0415 - needs torch
    from inference_worker.ddcolor import commands as ddcolor  # noqa: PLC0415 - needs torch

    file: Path = args.checkpoint
    say(f"reading {file.name}")
    if is_torchscript(file):
        add_torchscript(args, read_longest(args), say)
        return
    tensors = read_tensors(file)
    if drawing.STEM in tensors:
        net, stored_as = drawing.build(tensors, file.name)
        say(animegan.describe_whole(stored_as))
        (animegan.add if args.action == "add" else animegan.export)(args, net, read_longest(args), say)
    elif colorizing.STEM in tensors:
        checkpoint = colorizing.build(tensors, file.name)
        say(ddcolor.describe_whole(checkpoint))
        sizes = args.size or [DEFAULT_PX]
        if args.action == "add":
            ddcolor.add(args, checkpoint, sizes[0], say)
        else:
            ddcolor.export(args, checkpoint, sizes, say)
    else:
        raise ModelError(
            f"checkpoint: {file.name} is neither: DDColor has a tensor {colorizing.STEM}, AnimeGANv2 one {drawing.STEM}"
        )


def add_torchscript(args: argparse.Namespace, longest_px: int, say: Callable[[str], None]) -> None:
    """Try a TorchScript archive, and put it into a model's folder, with its card.

    Raises:
        SettingError: The command is `export`.
        ModelError: It does not answer pictures with pictures.
    """
    from inference_worker.backends.torch_rgb import TorchTransformer  # noqa: PLC0415 - needs torch

    file: Path = args.checkpoint
    if args.action == "export":
        raise SettingError(f"models export: {file.name} is TorchScript, which runs as it is; use `models add`")
    TorchTransformer.load(file, threads=args.threads, device=Device.CPU, darkest=args.darkest)
    say("TorchScript: pictures in, pictures out; it brings code of its own, so add files of people whom you trust")
    name = args.name or file.stem
    target = make_folder(args.out, name) / "weights.pt"
    copy_in(file, target)
    card = ModelCard(
        name=name,
        version=name,
        family=Family.RGB_TO_RGB,
        backend=Backend.TORCH,
        about=f"TorchScript from {file.name}.",
        folder=target.parent,
        files=(describe_file(target),),
        weights=Source(licence="the file names none", origin=f"{file.name}, as given by whoever added it"),
        data=Source(licence="the file names none", origin="the file names none"),
        input_px=longest_px,
        darkest=args.darkest,
        head=f"rgb of {args.darkest}..1",
    )
    record(args.out, card)
    say(f"{target} added as {name}")


def read_longest(args: argparse.Namespace) -> int:
    """The longest side that an rgb-to-rgb model shall be given.

    Raises:
        SettingError: It is above the policy, or there are two.
    """
    sizes = args.size or [LONGEST_TRANSFORM_PX]
    if len(sizes) > 1 or sizes[0] > LONGEST_TRANSFORM_PX:
        raise SettingError(f"--size: an rgb-to-rgb model takes one, {LONGEST_TRANSFORM_PX} at most")
    return int(sizes[0])
