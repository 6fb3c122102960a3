"""`hueshift-worker`: serves one colorizer over HTTP, and lists or checks the shipped models.

argparse rather than Typer: a worker starts in a fraction of a second, and a third of that would be the command line.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from inference_worker import commands as looking
from inference_worker import devices, intake, supervising
from inference_worker.backends import Device, check_runtime, open_colorizer
from inference_worker.cards import Backend, Family, ModelCard
from inference_worker.catalogue import SHIPPED, find_card, verify
from inference_worker.comfyui.command import add_flags as add_comfyui_flags
from inference_worker.comfyui.command import build_runner, fit_card
from inference_worker.ddcolor import commands as ddcolor
from inference_worker.errors import ModelError, SettingError, WorkerError
from inference_worker.faults import FaultPlan, WrongPicture
from inference_worker.places import confine, read_place
from inference_worker.sampling import Samples, add_flags, read_policy
from inference_worker.sizing import MAX_INPUT_PX, SizeRange

EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 1
MIN_HELD_BYTES: Final = 256 * 1024 * 1024

log = logging.getLogger("inference_worker")


class FieldFormatter(logging.Formatter):
    """One line per event: time, level, name, then `key=value` of the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        text = " ".join(f"{key}={value}" for key, value in fields.items())
        head = f"{self.formatTime(record)} {record.levelname.lower()} {record.getMessage()}"
        line = f"{head} {text}" if text else head
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def build_parser() -> argparse.ArgumentParser:
    """All commands and flags; defaults are shown by `--help`."""
    as_shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="hueshift-worker", description="Serve one colorizer, or look at the models.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve one model over HTTP", formatter_class=as_shown)
    serve.add_argument("--model", required=True, help="a name from `models list`; a colorizer, or an rgb-to-rgb model")
    serve.add_argument("--transform", metavar="MODEL", help="an rgb-to-rgb model to serve beside a colorizer")
    serve.add_argument("--port", type=int, required=True, help="TCP port; 0 takes a free one and logs it")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--label", help="sent as x-model-version instead of the model's own version")
    serve.add_argument("--threads", type=int, default=1, help="threads of the network")
    serve.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda, cuda:N, tensorrt, tensorrt:N")
    serve.add_argument("--input-px", type=int, help="side of the network's input instead of the model's own")
    serve.add_argument("--sizes", metavar="LOW-HIGH", help="sides that ?size= may ask for, instead of the model's own")
    serve.add_argument("--max-bytes", type=int, default=32 * 1024 * 1024, help="largest body; above it 413")
    serve.add_argument("--max-pixels", type=int, default=24_000_000, help="largest picture; above it 413")
    serve.add_argument("--queue", type=int, default=16, help="requests held at once; above it 429")
    serve.add_argument("--max-batch", type=int, default=1, help="pictures in one run of the network")
    serve.add_argument("--memory-mb", type=int, help="memory of runs; by default 60 %% of the container's or machine's")
    serve.add_argument("--imaging-threads", type=int, default=1, help="threads that decode and encode")
    serve.add_argument("--deadline-s", type=float, default=60.0, help="longest a request may stay inside")
    serve.add_argument(
        "--linger-s", type=float, default=0.0, help="at stop, how long to be not ready but still serving"
    )
    serve.add_argument("--drain-s", type=int, default=60, help="at stop, how long running requests may then take")
    serve.add_argument(
        "--models-dir", type=Path, default=SHIPPED, help="folder of models, each a folder with model.toml"
    )
    supervising.add_flags(serve)
    add_comfyui_flags(serve)
    faults = serve.add_argument_group("faults for drills", "off by default; no request can switch them on")
    faults.add_argument("--fault-errors", type=float, default=0.0, metavar="SHARE", help="answered with 500")
    faults.add_argument("--fault-hang", type=float, default=0.0, metavar="SHARE", help="never answered")
    faults.add_argument("--fault-delay-factor", type=float, default=1.0, metavar="X", help="times its own latency")
    faults.add_argument("--fault-delay-ms", type=float, default=0.0, metavar="MS", help="added to every answer")
    faults.add_argument("--fault-picture", choices=[w.value for w in WrongPicture], help="spoil the answers")
    faults.add_argument("--fault-oom-above", type=int, metavar="N", help="more pictures in a run are out of memory")
    faults.add_argument("--fault-device-after", type=int, metavar="N", help="after N runs the device fails for good")
    faults.add_argument("--fault-seed", type=int, help="makes the order of faults repeatable")
    add_flags(serve)
    bench = commands.add_parser("bench", help="CPU of a request beside the network", formatter_class=as_shown)
    bench.add_argument("--model", default="v1", help="a name from `models list`")
    bench.add_argument("--side", type=int, default=512, help="side of the photo in pixels")
    bench.add_argument("--requests", type=int, default=100, help="requests of each kind")
    commands.add_parser("devices", help="what there is to run models on, and what --device calls it")
    models = commands.add_parser("models", help="look at the models").add_subparsers(dest="action", required=True)
    looking.add_commands(models)
    intake.add_commands(models)
    ddcolor.add_commands(models)
    return parser


def check_serve_flags(args: argparse.Namespace) -> None:
    """Refuse impossible values before anything is loaded.

    Raises:
        SettingError: Names the flag and what it takes.
    """
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("--port", args.port, 0, 65_535),
        ("--threads", args.threads, 1, 256),
        ("--max-bytes", args.max_bytes, 1024, 2**31),
        ("--max-pixels", args.max_pixels, 64 * 64, 150_000_000),
        ("--queue", args.queue, 1, 10_000),
        ("--max-batch", args.max_batch, 1, 256),
        ("--memory-mb", 64 if args.memory_mb is None else args.memory_mb, 64, 2**24),
        ("--imaging-threads", args.imaging_threads, 1, 256),
        ("--linger-s", args.linger_s, 0, 3600),
        ("--deadline-s", args.deadline_s, 0.1, 3600),
        ("--drain-s", args.drain_s, 0, 3600),
        ("--fault-delay-ms", args.fault_delay_ms, 0, 3_600_000),
    )
    for flag, value, low, high in ranges:
        if not low <= value <= high:
            raise SettingError(f"{flag}: {value:g} is impossible; give {low:g} to {high:g}")
    if args.supervise and not args.port:
        raise SettingError("--port: 0 would be another port after each restart; name one, or leave out --supervise")
    if args.input_px is not None and (args.input_px % 32 or not 32 <= args.input_px <= MAX_INPUT_PX):
        raise SettingError(
            f"--input-px: {args.input_px} is impossible; give a multiple of 32 from 32 to {MAX_INPUT_PX}"
        )


def read_sizes(args: argparse.Namespace) -> SizeRange | None:
    """The sides of `--sizes`, if given.

    Raises:
        SettingError: Not two numbers, or no multiple of 32 between them.
    """
    if args.sizes is None:
        return None
    low, _, high = args.sizes.partition("-")
    try:
        return SizeRange(int(low), int(high))
    except ValueError as exc:
        raise SettingError(f"--sizes: {args.sizes!r} is impossible; give two numbers, such as 460-680") from exc


def read_faults(args: argparse.Namespace) -> FaultPlan:
    """The drill that the flags ask for.

    Raises:
        SettingError: A flag's value is impossible.
    """
    return FaultPlan(
        error_share=args.fault_errors,
        hang_share=args.fault_hang,
        delay_factor=args.fault_delay_factor,
        delay=dt.timedelta(milliseconds=args.fault_delay_ms),
        picture=None if args.fault_picture is None else WrongPicture(args.fault_picture),
        oom_above=args.fault_oom_above,
        device_after=args.fault_device_after,
        seed=args.fault_seed,
    )


def listen(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded.

    Raises:
        SettingError: The port or the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as exc:
        raise SettingError(f"--port: cannot listen on {host}:{port} ({exc.strerror}); choose another port") from exc
    # asyncio sets this only on sockets that name their protocol, and those that are accepted here do not: without it,
    # head and body of an answer leave apart, and every answer on a kept connection waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def choose_card(args: argparse.Namespace) -> ModelCard:
    """The card of `--model`: it fits the other flags, and its files are as recorded.

    Raises:
        SettingError: A flag does not fit it.
        ModelError: It is unknown or damaged, or its runtime is not installed.
    """
    sizes = read_sizes(args)
    card = find_card(args.models_dir, args.model)
    check_runtime(card)
    if card.is_fixed and args.input_px not in {None, card.input_px}:
        raise SettingError(
            f"--input-px: the file of {card.name} is for {card.input_px} only; export it at another size"
        )
    if card.is_fixed and sizes is not None:
        raise SettingError(f"--sizes: the file of {card.name} is for {card.input_px} only; leave them out")
    verify(card)
    if card.backend is Backend.COMFYUI:
        if args.fault_oom_above is not None:
            raise SettingError(f"--fault-oom-above: {card.name} fills no device of this worker; leave it out")
        return fit_card(args, card, sizes)
    if args.checkpoint is not None:
        raise SettingError(f"--checkpoint: {card.name} does not run in ComfyUI; leave it out")
    return card


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit code is 0 unless the model could not be loaded, or the device failed."""
    check_serve_flags(args)
    faults = read_faults(args)
    read_policy(args)  # what it refuses is refused before anything is loaded
    confined = confine(read_place(args.device), os.environ)
    card = choose_card(args)
    if args.transform is not None:
        second = find_card(args.models_dir, args.transform)
        check_runtime(second)
        verify(second)
        if second.family is not Family.RGB_TO_RGB or card.family is not Family.LAB_COLORIZER:
            raise SettingError("--transform: give an rgb-to-rgb model here and a colorizer as --model")
    listener = listen(args.host, args.port)

    start_log()
    if faults.is_active:
        banner = "FAULTS ARE ON: this worker misbehaves on purpose, for a drill"
        log.warning("fault.enabled", extra={"fields": {"faults": ",".join(faults.describe()), "note": f"'{banner}'"}})
    os.environ.update(confined)
    with listener:
        code = asyncio.run(serve_card(args, card, faults, listener))
    if code == supervising.EXIT_DEVICE:
        # The libraries' own clean-up would touch the dead context: it aborts, or never returns.
        logging.shutdown()
        os._exit(code)
    return code


def start_log() -> None:
    """Write one line per event to the standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def serve_supervised(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Serve in a child, which is started anew when its device fails."""
    from inference_worker.clock import SystemClock  # noqa: PLC0415 - only this way of serving needs it

    check_serve_flags(args)
    start_log()
    return asyncio.run(supervising.supervise(supervising.make_command(argv), clock=SystemClock()))


async def serve_card(args: argparse.Namespace, card: ModelCard, faults: FaultPlan, listener: socket.socket) -> int:
    """Build the application around *card* and run it on *listener*."""
    from inference_worker.app import create_app  # noqa: PLC0415 - `models list` must not pay for the server
    from inference_worker.clock import SystemClock  # noqa: PLC0415 - as above
    from inference_worker.gpus import GpuMemory, GpuWatch  # noqa: PLC0415 - as above
    from inference_worker.identity import Identity, describe_model, find_code_version  # noqa: PLC0415 - as above
    from inference_worker.imaging import Limits  # noqa: PLC0415 - as above
    from inference_worker.metrics import Metrics  # noqa: PLC0415 - as above
    from inference_worker.nvml import open_gpu  # noqa: PLC0415 - as above
    from inference_worker.offers import offer_colorizer, offer_transformer  # noqa: PLC0415 - as above
    from inference_worker.server import DrainingServer, make_config  # noqa: PLC0415 - as above
    from inference_worker.service import Service, ServiceSettings  # noqa: PLC0415 - as above

    exit_code = 0

    def give_up() -> None:
        nonlocal exit_code
        exit_code = EXIT_FAILED
        server.should_exit = True

    def lose_device() -> None:
        nonlocal exit_code
        exit_code = supervising.EXIT_DEVICE
        server.hurry()

    served, clock = [describe_model(card)], SystemClock()
    version, device = args.label or card.version, read_place(args.device).device
    card = dataclasses.replace(card, version=version)
    metrics = Metrics()
    gpu = None if device is Device.CPU else open_gpu(os.environ)
    if gpu is not None:
        metrics.watch_gpu(GpuWatch(gpu, clock=clock))
    if card.family is Family.LAB_COLORIZER:
        offers = offer_colorizer(
            card,
            lambda: open_colorizer(card, threads=args.threads, device=device),
            input_px=args.input_px,
            sizes=read_sizes(args),
            runner=build_runner(args, card, clock) if card.backend is Backend.COMFYUI else None,
        )
    else:
        offers = offer_transformer(card, threads=args.threads, device=device)
    if args.transform is not None:
        second = find_card(args.models_dir, args.transform)
        served.append(describe_model(second))
        offers |= offer_transformer(second, threads=args.threads, device=device)
    service = Service(
        settings=ServiceSettings(
            limits=Limits(max_pixels=args.max_pixels),
            max_bytes=args.max_bytes,
            max_held_bytes=max(8 * args.max_bytes, MIN_HELD_BYTES),
            max_inside=args.queue,
            max_held_pixels=4 * args.max_pixels,
            max_batch=args.max_batch,
            imaging_threads=args.imaging_threads,
            memory_bytes=None if args.memory_mb is None else args.memory_mb * 2**20,
            deadline=dt.timedelta(seconds=args.deadline_s),
        ),
        offers=offers,
        metrics=metrics,
        clock=clock,
        faults=faults,
        on_fatal=give_up,
        on_lost=lose_device,
        gpu=None if gpu is None else GpuMemory(gpu),
    )
    policy = read_policy(args)
    if policy is not None:
        facts = {"share": policy.share, "keep_s": policy.keep.total_seconds(), "most": policy.max_count}
        log.warning("samples.enabled", extra={"fields": facts | {"note": "'photos and answers are kept for a while'"}})
    app = create_app(
        service=service,
        metrics=metrics,
        clock=clock,
        version=version,
        identity=Identity(code_version=find_code_version(), models=tuple(served)),
        faults=faults,
        samples=None if policy is None else Samples(policy, clock=clock),
    )
    server = DrainingServer(make_config(app, drain_s=args.drain_s), service=service, linger_s=args.linger_s)
    if args.lifeline is not None:
        supervising.follow_lifeline(args.lifeline, lambda: server.handle_exit(signal.SIGTERM, None))
    host, port = listener.getsockname()[:2]
    log.info("worker.started", extra={"fields": {"model": card.name, "version": version, "host": host, "port": port}})
    await server.serve(sockets=[listener])
    log.info("worker.stopped", extra={"fields": {"exit_code": exit_code, **service.count_requests()}})
    return exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(given)
    try:
        match args.command:
            case "serve" if args.supervise and args.lifeline is None:
                return serve_supervised(args, given)
            case "serve":
                return serve(args)
            case "devices":
                return devices.run(os.environ)
            case "bench":
                from inference_worker.bench import run_bench  # noqa: PLC0415 - only this command needs it

                return run_bench(model=args.model, side_px=args.side, requests=args.requests)
            case _ if args.action in intake.COMMANDS:
                return intake.run(args)
            case _:
                return ddcolor.run(args) if args.action in ddcolor.COMMANDS else looking.run(args)
    except (SettingError, ModelError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return EXIT_USAGE
    except WorkerError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
