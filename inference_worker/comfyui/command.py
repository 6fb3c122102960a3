"""The flags of `hueshift-worker serve` for a model that runs in ComfyUI, and what they become."""

import argparse
import dataclasses
import random
import re
from typing import TYPE_CHECKING, Final

from inference_worker.cards import ModelCard
from inference_worker.clock import Clock
from inference_worker.comfyui.address import read_address
from inference_worker.comfyui.template import load_template
from inference_worker.comfyui.tracking import Patience
from inference_worker.errors import SettingError
from inference_worker.sizing import SizeRange

if TYPE_CHECKING:
    from inference_worker.comfyui.runner import ComfyUIRunner

DEFAULT_URL: Final = "http://127.0.0.1:8188"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group of flags; they are looked at only with a model whose card names the backend comfyui."""
    usual = Patience()
    group = parser.add_argument_group("ComfyUI", "for models of the backend comfyui")
    group.add_argument(
        "--comfyui-url", default=DEFAULT_URL, metavar="URL", help="http://HOST:PORT of a running ComfyUI"
    )
    group.add_argument(
        "--comfyui-allow", action="append", default=[], metavar="NET", help="network beyond the own ones"
    )
    group.add_argument("--checkpoint", help="an alias of the template or a file that its node lists")
    group.add_argument("--comfyui-queue", type=int, choices=(1, 2), default=2, help="prompts in ComfyUI at once")
    group.add_argument("--comfyui-wait-s", type=float, default=usual.queue_s, help="longest wait in ComfyUI's queue")
    group.add_argument("--comfyui-silence-s", type=float, default=usual.silence_s, help="longest run without a sign")


def fit_card(args: argparse.Namespace, card: ModelCard, sizes: SizeRange | None) -> ModelCard:
    """The card under the name of what is served: with another checkpoint it is another model, though of the same files.

    Raises:
        SettingError: A flag's value is impossible, or not for this model.
        ModelError: The template is not valid.
    """
    read_address(args.comfyui_url, args.comfyui_allow)
    for flag, value in (("--comfyui-wait-s", args.comfyui_wait_s), ("--comfyui-silence-s", args.comfyui_silence_s)):
        if not 1 <= value <= 3600:
            raise SettingError(f"{flag}: {value:g} is impossible; give 1 to 3600")
    template = load_template(card)
    low, high = template.low_px, template.high_px
    if args.input_px is not None and not low <= args.input_px <= high:
        raise SettingError(f"--input-px: {args.input_px} is not for model {card.name}; give {low} to {high}")
    if sizes is not None and not low <= sizes.low_px <= sizes.high_px <= high:
        raise SettingError(f"--sizes: {args.sizes} is not for model {card.name}; stay within {low} to {high}")
    if args.checkpoint is None:
        return card
    return dataclasses.replace(card, name=f"{card.name}+{re.sub(r'[^A-Za-z0-9._-]', '_', args.checkpoint)}"[:64])


def build_runner(args: argparse.Namespace, card: ModelCard, clock: Clock) -> "ComfyUIRunner":
    """The runner that card and flags ask for; the whole way may take as long as the request may.

    Raises:
        SettingError: As `fit_card`.
        ModelError: As `fit_card`.
    """
    from inference_worker.comfyui.runner import ComfyUIRunner, ComfyUISettings  # noqa: PLC0415 - `models list`

    settings = ComfyUISettings(
        address=read_address(args.comfyui_url, args.comfyui_allow),
        template=load_template(card),
        checkpoint=args.checkpoint,
        places=args.comfyui_queue,
        patience=Patience(queue_s=args.comfyui_wait_s, silence_s=args.comfyui_silence_s, total_s=args.deadline_s),
    )
    return ComfyUIRunner(settings, clock=clock, dice=random.Random())  # noqa: S311 - jitter, not a secret
