"""The flags of `hueshift-worker serve --backend comfyui`, and what they become."""

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inference_worker.cards import Backend, ModelCard, Source
from inference_worker.catalogue import describe_file
from inference_worker.clock import Clock
from inference_worker.comfyui.address import read_address
from inference_worker.comfyui.errors import TemplateError
from inference_worker.comfyui.template import SHIPPED, list_templates, load_template
from inference_worker.comfyui.tracking import Patience
from inference_worker.errors import SettingError
from inference_worker.sizing import STRIDE_PX, SizeRange

if TYPE_CHECKING:
    from inference_worker.comfyui.runner import ComfyUIRunner

DEFAULT_URL: Final = "http://127.0.0.1:8188"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group of flags; they are looked at only with `--backend comfyui`."""
    usual = Patience()
    group = parser.add_argument_group("ComfyUI", "with --backend comfyui; --model then names a checkpoint")
    group.add_argument(
        "--comfyui-url", default=DEFAULT_URL, metavar="URL", help="http://HOST:PORT of a running ComfyUI"
    )
    group.add_argument(
        "--comfyui-allow", action="append", default=[], metavar="NET", help="network beyond the own ones"
    )
    group.add_argument("--template", help="workflow template, a name from the templates' folder")
    group.add_argument("--templates-dir", type=Path, default=SHIPPED, help="folder with NAME.toml and workflows")
    group.add_argument("--comfyui-queue", type=int, choices=(1, 2), default=2, help="prompts in ComfyUI at once")
    group.add_argument("--comfyui-wait-s", type=float, default=usual.queue_s, help="longest wait in ComfyUI's queue")
    group.add_argument("--comfyui-silence-s", type=float, default=usual.silence_s, help="longest run without a sign")


def describe_template(args: argparse.Namespace, sizes: SizeRange | None) -> ModelCard:
    """The template that the flags name, as if it were a model of the catalogue; checks the other flags too.

    Raises:
        SettingError: A flag's value is impossible.
        TemplateError: The template is unknown or not valid.
    """
    if args.template is None:
        shipped = ", ".join(list_templates(args.templates_dir))
        raise SettingError(f"--template: --backend comfyui needs one; choose one of {shipped}")
    read_address(args.comfyui_url, args.comfyui_allow)
    for flag, value in (("--comfyui-wait-s", args.comfyui_wait_s), ("--comfyui-silence-s", args.comfyui_silence_s)):
        if not 1 <= value <= 3600:
            raise SettingError(f"{flag}: {value:g} is impossible; give 1 to 3600")
    template = load_template(args.templates_dir, args.template)
    if args.input_px is not None and not template.low_px <= args.input_px <= template.high_px:
        allowed = f"{template.low_px} to {template.high_px}"
        raise SettingError(f"--input-px: {args.input_px} is not for template {template.name}; give {allowed}")
    if sizes is not None and not template.low_px <= sizes.low_px <= sizes.high_px <= template.high_px:
        allowed = f"{template.low_px} to {template.high_px}"
        raise SettingError(f"--sizes: {args.sizes} is not for template {template.name}; stay within {allowed}")
    try:
        allowed_sizes = SizeRange(template.low_px, template.high_px)
    except ValueError as exc:
        raise TemplateError(template.name, f"sizes {exc}") from exc
    unseen = Source(licence="unknown", origin="the checkpoint in ComfyUI, of which only the name is known here")
    return ModelCard(
        name=template.name,
        version=template.name,
        backend=Backend.COMFYUI,
        folder=args.templates_dir,
        files=(describe_file(args.templates_dir / f"{template.name}.toml"),),
        weights=unseen,
        data=unseen,
        input_px=round(template.size_px / STRIDE_PX) * STRIDE_PX,
        about=template.about,
        sizes=allowed_sizes,
    )


def build_runner(args: argparse.Namespace, clock: Clock) -> "ComfyUIRunner":
    """The runner that the flags ask for; the whole way may take as long as the request may.

    Raises:
        SettingError: As `describe_template`.
        TemplateError: As `describe_template`.
    """
    from inference_worker.comfyui.runner import ComfyUIRunner, ComfyUISettings  # noqa: PLC0415 - `models list`

    settings = ComfyUISettings(
        address=read_address(args.comfyui_url, args.comfyui_allow),
        template=load_template(args.templates_dir, args.template),
        model=args.model,
        places=args.comfyui_queue,
        patience=Patience(queue_s=args.comfyui_wait_s, silence_s=args.comfyui_silence_s, total_s=args.deadline_s),
    )
    return ComfyUIRunner(settings, clock=clock, dice=random.Random())  # noqa: S311 - jitter, not a secret
