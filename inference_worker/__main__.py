"""`hueshift-worker`: serves one colorizer over HTTP, and lists or checks the shipped models.

argparse rather than Typer: a worker starts in a fraction of a second, and a third of that would be the command line.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from inference_worker.catalogue import MAX_INPUT_PX, SHIPPED, ModelCard, find_card, load_cards
from inference_worker.comfyui.command import add_flags as add_comfyui_flags
from inference_worker.comfyui.command import build_runner, describe_template
from inference_worker.errors import ModelError, SettingError, WorkerError
from inference_worker.faults import FaultPlan, WrongPicture

EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 1

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
    serve.add_argument("--model", help="a name from `models list`")
    serve.add_argument("--backend", choices=("onnx", "comfyui"), default="onnx", help="what runs the model")
    serve.add_argument("--port", type=int, required=True, help="TCP port; 0 takes a free one and logs it")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--label", help="sent as x-model-version instead of the model's own version")
    serve.add_argument("--threads", type=int, default=1, help="threads of the network")
    serve.add_argument("--input-px", type=int, help="side of the network's input instead of the model's own")
    serve.add_argument("--max-bytes", type=int, default=32 * 1024 * 1024, help="largest body; above it 413")
    serve.add_argument("--max-pixels", type=int, default=24_000_000, help="largest picture; above it 413")
    serve.add_argument("--queue", type=int, default=16, help="requests held at once; above it 429")
    serve.add_argument("--max-batch", type=int, default=1, help="pictures in one run of the network")
    serve.add_argument("--deadline-s", type=float, default=60.0, help="longest a request may stay inside")
    serve.add_argument("--drain-s", type=int, default=10, help="at stop, how long running requests may take")
    serve.add_argument("--models-dir", type=Path, default=SHIPPED, help="folder with models.json")
    add_comfyui_flags(serve)
    faults = serve.add_argument_group("faults for drills", "off by default; no request can switch them on")
    faults.add_argument("--fault-errors", type=float, default=0.0, metavar="SHARE", help="answered with 500")
    faults.add_argument("--fault-hang", type=float, default=0.0, metavar="SHARE", help="never answered")
    faults.add_argument("--fault-delay-factor", type=float, default=1.0, metavar="X", help="times its own latency")
    faults.add_argument("--fault-delay-ms", type=float, default=0.0, metavar="MS", help="added to every answer")
    faults.add_argument("--fault-picture", choices=[w.value for w in WrongPicture], help="spoil the colours")
    faults.add_argument("--fault-seed", type=int, help="makes the order of faults repeatable")
    models = commands.add_parser("models", help="look at the models").add_subparsers(dest="action", required=True)
    for action, text in (("list", "name them"), ("show", "all facts of one"), ("verify", "check SHA-256 sums")):
        command = models.add_parser(action, help=text, formatter_class=as_shown)
        command.add_argument("--models-dir", type=Path, default=SHIPPED, help="folder with models.json")
        if action != "list":
            command.add_argument("name", nargs="?" if action == "verify" else None, help="a name from `models list`")
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
        ("--deadline-s", args.deadline_s, 0.1, 3600),
        ("--drain-s", args.drain_s, 0, 3600),
        ("--fault-delay-ms", args.fault_delay_ms, 0, 3_600_000),
    )
    for flag, value, low, high in ranges:
        if not low <= value <= high:
            raise SettingError(f"{flag}: {value:g} is impossible; give {low:g} to {high:g}")
    if args.input_px is not None and (args.input_px % 32 or not 32 <= args.input_px <= MAX_INPUT_PX):
        raise SettingError(
            f"--input-px: {args.input_px} is impossible; give a multiple of 32 from 32 to {MAX_INPUT_PX}"
        )


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


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit code is 0 unless the model could not be loaded."""
    check_serve_flags(args)
    faults = read_faults(args)
    if args.backend == "comfyui":
        card = describe_template(args)
    elif args.model is None:
        raise SettingError("--model: the backend onnx needs one; name a model from `models list`")
    else:
        card = find_card(args.models_dir, args.model)
        card.verify()
    listener = listen(args.host, args.port)

    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if faults.is_active:
        banner = "FAULTS ARE ON: this worker misbehaves on purpose, for a drill"
        log.warning("fault.enabled", extra={"fields": {"faults": ",".join(faults.describe()), "note": f"'{banner}'"}})
    with listener:
        return asyncio.run(serve_card(args, card, faults, listener))


async def serve_card(args: argparse.Namespace, card: ModelCard, faults: FaultPlan, listener: socket.socket) -> int:
    """Build the application around *card* and run it on *listener*."""
    import uvicorn  # noqa: PLC0415 - `models list` must not pay for the server

    from inference_worker.app import create_app  # noqa: PLC0415 - as above
    from inference_worker.backends.onnx import OnnxColorizer  # noqa: PLC0415 - as above
    from inference_worker.clock import SystemClock  # noqa: PLC0415 - as above
    from inference_worker.imaging import Limits  # noqa: PLC0415 - as above
    from inference_worker.metrics import Metrics  # noqa: PLC0415 - as above
    from inference_worker.service import Service, ServiceSettings  # noqa: PLC0415 - as above

    exit_code = 0

    def give_up() -> None:
        nonlocal exit_code
        exit_code = EXIT_FAILED
        server.should_exit = True

    clock, version = SystemClock(), args.label or card.version
    metrics = Metrics(model=card.name, version=version, sha256=card.sha256)
    service = Service(
        settings=ServiceSettings(
            input_px=args.input_px or card.input_px,
            limits=Limits(max_pixels=args.max_pixels),
            max_bytes=args.max_bytes,
            max_inside=args.queue,
            max_batch=args.max_batch,
            deadline=dt.timedelta(seconds=args.deadline_s),
        ),
        load=lambda: OnnxColorizer(card.path, threads=args.threads),
        metrics=metrics,
        wrong_picture=faults.picture,
        on_fatal=give_up,
        runner=build_runner(args, clock) if args.backend == "comfyui" else None,
    )

    class Server(uvicorn.Server):
        """Lets go of hanging requests as soon as a signal comes, and ends with exit code 0, not by the signal."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.stop()
            super().handle_exit(sig, frame)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            for sig in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(sig, self.handle_exit, sig, None)
            yield

    app = create_app(service=service, metrics=metrics, clock=clock, version=version, faults=faults)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=args.drain_s,
        timeout_keep_alive=75,
    )
    server = Server(config)
    host, port = listener.getsockname()[:2]
    log.info("worker.started", extra={"fields": {"model": card.name, "version": version, "host": host, "port": port}})
    await server.serve(sockets=[listener])
    log.info("worker.stopped", extra={"fields": {"exit_code": exit_code}})
    return exit_code


def show_models(args: argparse.Namespace) -> int:
    """Print the manifest's facts, or check files; exit code 1 if one is not as recorded."""
    if args.action == "list":
        for card in load_cards(args.models_dir).values():
            same = f"alias of {card.alias_of}" if card.alias_of else f"{card.path.name}"
            _say(f"{card.name:10} {card.version:10} {same}")
        return 0
    if args.action == "show":
        card = find_card(args.models_dir, args.name)
        for key in ("name", "version", "alias_of", "path", "sha256", "licence", "input_px", "about"):
            _say(f"{key:10} {getattr(card, key)}")
        return 0
    cards = load_cards(args.models_dir)
    chosen = [find_card(args.models_dir, args.name)] if args.name else list(cards.values())
    code = 0
    for card in chosen:
        try:
            card.verify()
            _say(f"{card.name:10} ok")
        except ModelError as exc:
            code = EXIT_FAILED
            _say(f"{card.name:10} {exc}")
    return code


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        return serve(args) if args.command == "serve" else show_models(args)
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
