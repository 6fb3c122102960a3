"""Starts a worker anew when its device has failed or something killed it.

A failed CUDA context ends with its process and in no other way. Under a service manager that restarts what fails
(`restart: unless-stopped`, systemd, Kubernetes) the exit code is enough. Where there is none, `serve --supervise` is
this small parent: it holds neither port nor device, passes SIGTERM and SIGINT on, and gives up on a worker that keeps
dying soon. A worker whose parent is killed notices, and stops as on SIGTERM.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from inference_worker.clock import Clock

log = logging.getLogger(__name__)

EXIT_DEVICE: Final = 75
"""Of a worker whose device has failed for good: sysexits' EX_TEMPFAIL, start me again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often to start again, and when."""

    first_s: float = 0.5
    """Before the first restart in a row; each further one waits twice as long."""
    longest_s: float = 30.0
    steady_s: float = 60.0
    """A worker that lived so long begins a new row."""
    most: int = 6
    """Restarts in a row; then a person, or a service manager, is needed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """How the worker has fared: how many times in a row it died, and whether it has ever had to be restarted."""

    deaths: int = 0
    was_restarted: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Again:
    """Start it once more, after a pause."""

    record: Record
    pause_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Over:
    """Leave it, with this exit code."""

    code: int


def judge_end(record: Record, code: int, *, lived_s: float, patience: Patience) -> Again | Over:
    """What follows when a worker has ended by itself.

    Args:
        record: How it fared before.
        code: Its exit code; below zero, the signal that killed it.
        lived_s: From its start to its end.
        patience: Bounds.
    """
    may_mend = code == EXIT_DEVICE or code < 0 or record.was_restarted  # a first start that is refused stays refused
    deaths = 1 if lived_s >= patience.steady_s else record.deaths + 1
    if code == 0 or not may_mend or deaths > patience.most:
        return Over(show_code(code))
    pause_s = min(patience.longest_s, patience.first_s * 2 ** (deaths - 1))
    return Again(Record(deaths, was_restarted=True), pause_s)


def show_code(code: int) -> int:
    """The exit code as shells tell it: 128 and the signal's number, if one killed the process."""
    return code if code >= 0 else 128 - code


def add_flags(serve: argparse.ArgumentParser) -> None:
    """Declare what belongs to this."""
    serve.add_argument(
        "--supervise", action="store_true", help="start the worker anew when its device fails or it is killed"
    )
    serve.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)


def make_command(argv: Sequence[str]) -> list[str]:
    """What to start for a worker with the flags *argv*; the number of its lifeline follows."""
    return [sys.executable, "-m", "inference_worker", *argv, "--lifeline"]


async def supervise(command: Sequence[str], *, clock: Clock, patience: Patience | None = None) -> int:
    """Run *command*, and the number of a pipe's end as its last argument, until it is over; return its exit code."""
    told = asyncio.Event()
    child: asyncio.subprocess.Process | None = None

    def pass_on(sig: signal.Signals) -> None:
        told.set()
        if child is not None and child.returncode is None:
            child.send_signal(sig)

    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, pass_on, sig)
    record = Record()
    with _lifeline() as end:
        while True:
            started_s = clock.read_s()
            # A session of its own: ctrl-C in a terminal then comes once, through this process.
            child = await asyncio.create_subprocess_exec(*command, str(end), pass_fds=(end,), start_new_session=True)
            if told.is_set():
                child.terminate()
            code = await child.wait()
            if told.is_set():
                return show_code(code)
            lived_s = clock.read_s() - started_s
            facts = {"code": code, "lived_s": f"{lived_s:.1f}"}
            follows = judge_end(record, code, lived_s=lived_s, patience=patience or Patience())
            if isinstance(follows, Over):
                log.info("worker.was_left", extra={"fields": facts})
                return follows.code
            record = follows.record
            log.warning("worker.will_restart", extra={"fields": facts | {"pause_s": f"{follows.pause_s:g}"}})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(follows.pause_s):
                    await told.wait()
                    return 0


@contextlib.contextmanager
def _lifeline() -> Iterator[int]:
    """A pipe's end to give to children: at its end of file, which nobody can forget to send, their parent is gone."""
    end, ours = os.pipe()
    try:
        yield end
    finally:
        os.close(end)
        os.close(ours)


def follow_lifeline(end: int, stop: Callable[[], None]) -> None:
    """Have *stop* called once when the parent at the other end is gone."""
    loop = asyncio.get_running_loop()

    def notice() -> None:
        loop.remove_reader(end)
        stop()

    loop.add_reader(end, notice)
