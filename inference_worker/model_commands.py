"""What the commands that make models of published files have in common: flags, checks, progress."""

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from inference_worker.clock import Clock
from inference_worker.errors import ModelError, SettingError
from inference_worker.sizing import MAX_INPUT_PX, STRIDE_PX

NEEDED: Final = ("torch", "safetensors", "onnx")


def check_needs(args: argparse.Namespace) -> None:
    """Refuse a command of torch where it is not installed, and impossible threads.

    Raises:
        SettingError: Says what to install, or what to give.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f"models {args.action}: needs {', '.join(missing)}; pip install 'hueshift[torch]'")
    if not 1 <= args.threads <= 256:
        raise SettingError(f"--threads: {args.threads} is impossible; give 1 to 256")


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


def copy_in(file: Path, target: Path) -> None:
    """Copy a published file into its model's folder.

    Raises:
        ModelError: It cannot be written.
    """
    if target.exists() and target.samefile(file):
        return
    try:
        shutil.copyfile(file, target)
    except OSError as exc:
        raise ModelError(f"--out: {target} cannot be written ({exc.strerror}); name a folder of yours") from exc
