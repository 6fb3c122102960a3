"""Helper programs of a lab run: they speak JSON lines, and none outlives the program that started it.

A child reads its standard input and ends when that closes, so it goes even when its parent is killed.
"""

import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from controlplane.errors import ControlPlaneError

START_WITHIN = dt.timedelta(seconds=60)
END_WITHIN = dt.timedelta(seconds=10)
MAX_LINE = 1 << 24
"""Bytes in a child's answer: thousands of streams say when each of them heard of a change."""


class ChildError(ControlPlaneError):
    """A helper program said something else than expected, or ended."""


class JsonChild:
    """A child process that is told and answers one JSON object a line.

    Args:
        argv: The program and its arguments.
        log_file: Where its standard error goes.
    """

    def __init__(self, argv: Sequence[str], *, log_file: Path | None = None) -> None:
        self._argv = tuple(argv)
        self._log_file = log_file
        self._log: BinaryIO | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._started().pid

    async def __aenter__(self) -> Self:
        if self._log_file is not None:
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._log_file.open("ab")
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            limit=MAX_LINE,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._started()
        self.close_input()
        try:
            async with asyncio.timeout(END_WITHIN.total_seconds()):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        finally:
            if process.returncode is None:  # cancelled while waiting
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            if self._log is not None:
                self._log.close()

    def close_input(self) -> None:
        """Tell the child to finish; it does when it is done with what it has begun."""
        stdin = self._started().stdin
        if stdin is not None and not stdin.is_closing():
            stdin.close()

    async def tell(self, message: Mapping[str, Any]) -> None:
        """Send one line."""
        stdin = self._started().stdin
        assert stdin is not None  # noqa: S101 - started with a pipe
        stdin.write(json.dumps(message).encode() + b"\n")
        await stdin.drain()

    async def wait_line(self, *, at_most: dt.timedelta) -> dict[str, Any]:
        """Return the child's next line.

        Raises:
            ChildError: It ended, took longer than *at_most*, or wrote no JSON object.
        """
        stdout = self._started().stdout
        assert stdout is not None  # noqa: S101 - started with a pipe
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                line = await stdout.readline()
        except TimeoutError as exc:
            raise ChildError(f"{self._argv[:4]} said nothing for {at_most}") from exc
        if not line:
            raise ChildError(f"{self._argv[:4]} ended{self._last_words()}")
        try:
            message = json.loads(line)
        except ValueError as exc:
            raise ChildError(f"{self._argv[:4]} wrote {line[:100]!r}") from exc
        if not isinstance(message, dict):
            raise ChildError(f"{self._argv[:4]} wrote {line[:100]!r}")
        if "error" in message:
            raise ChildError(f"{self._argv[:4]}: {message['error']}")
        return message

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ChildError("not started")
        return self._process

    def _last_words(self) -> str:
        if self._log_file is None:
            return ""
        words = self._log_file.read_text(errors="replace").strip().splitlines()
        return f": {words[-1]}" if words else ""


def say(message: Mapping[str, Any]) -> None:
    """In a child: write one line to the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def read_lines(on_line: Callable[[bytes], None]) -> None:
    """In a child: hand each line of standard input to *on_line*; return when the input is closed."""
    # Ctrl-C in a terminal is the parent's to handle: it closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    )
    try:
        while line := await reader.readline():
            on_line(line)
    finally:
        transport.close()
