"""How benches and drills begin, end and print: SIGTERM is as Ctrl-C, an expected failure is one line, tables fit."""

import asyncio
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from rich.console import Console

from controlplane.errors import ControlPlaneError

T = TypeVar("T")

LOG_WIDTH = 120


class EndedEarlyError(Exception):
    """The program has no result; the text says why in one line, *code* is the exit code that fits."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code


def console(*, stderr: bool = False) -> Console:
    """Return a console for results, or (*stderr*) for progress. A terminal has its own width, a log gets one."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else LOG_WIDTH, highlight=False)


def run_program(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end, and have it clean up when it is stopped.

    Raises:
        EndedEarlyError: It was stopped, or something that it needs refused or did not come.
    """
    try:
        return asyncio.run(_until_told(work))
    except (KeyboardInterrupt, asyncio.CancelledError) as exc:
        raise EndedEarlyError("ended early; everything is stopped", 130) from exc
    except BaseExceptionGroup as exc:  # the task group below wraps even a single one
        leaves = tuple(_leaves(exc))
        if not all(isinstance(leaf, ControlPlaneError) for leaf in leaves):
            raise
        raise EndedEarlyError("; ".join(str(leaf) for leaf in leaves), 1) from exc


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(work, name="program")
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return running.result()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
