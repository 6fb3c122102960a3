"""A server under test as a child process: its own process group, its output in a file, ended by id or killed."""

import asyncio
import contextlib
import datetime as dt
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from controlplane.errors import UnavailableError

# A program that is killed, or whose terminal goes, must not leave servers behind: the kernel ends them with it
# (PR_SET_PDEATHSIG). Set by a first program that then becomes the server, since Python's preexec_fn is not safe.
_TETHER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


def tethered(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command line that runs *argv* and ends with the process that starts it, where the kernel can do that."""
    if sys.platform != "linux":
        return tuple(argv)
    return (sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *argv)


class ServerProcess:
    """A program that serves until it is told to stop, or is killed; it may be started again.

    Args:
        argv: The program and its arguments.
        log_file: Where its output goes, appended.
        environment: Variables beside our own.
    """

    def __init__(self, argv: Sequence[str], *, log_file: Path, environment: Mapping[str, str] | None = None) -> None:
        self._argv = tuple(argv)
        self._log_file = log_file
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process."""
        if self._process is not None:
            raise RuntimeError(f"{self._argv[0]} runs already")
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *tethered(self._argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

    async def kill(self) -> None:
        """End the process as a power cut would."""
        await self._end(signal.SIGKILL, dt.timedelta(seconds=10))

    async def stop(self, *, within: dt.timedelta = dt.timedelta(seconds=10)) -> int | None:
        """Ask the process to end; kill it after *within*. Return its exit code, None if it did not run."""
        return await self._end(signal.SIGTERM, within)

    def check_alive(self) -> None:
        """Raise with its last words if the process has ended by itself.

        Raises:
            UnavailableError: It has.
        """
        if self._process is not None and self._process.returncode is not None:
            raise UnavailableError(
                f"{Path(self._argv[0]).name} ended with code {self._process.returncode}: {self.last_words()}"
            )

    def last_words(self, lines: int = 3) -> str:
        """Return the end of the log."""
        text = self._log_file.read_text(errors="replace") if self._log_file.exists() else ""
        return " | ".join(text.strip().splitlines()[-lines:])

    async def _end(self, how: signal.Signals, within: dt.timedelta) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            _signal_group(process, how)
            async with asyncio.timeout(within.total_seconds()):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            # Whatever happened above, also a cancellation: nothing of the group stays behind.
            _signal_group(process, signal.SIGKILL)
        await process.wait()
        return process.returncode


def _signal_group(process: asyncio.subprocess.Process, how: signal.Signals) -> None:
    # The group's id is the process's own (start_new_session), so this reaches its children too, and nobody else.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, how)
