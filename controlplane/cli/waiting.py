"""Says on a terminal that a command still works, once that takes longer than a person waits without wondering."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.status import Status

AFTER_S: Final = 2.0
"""Seconds without anything to see."""


@contextlib.contextmanager
def spinner(words: str, *, color: bool = True, after_s: float | None = None) -> Iterator[Callable[[str], None]]:
    """Turn a wheel with *words* on stderr, after *after_s* seconds or `AFTER_S`, where that is a terminal.

    What is yielded changes the words.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    wheel = _Wheel(words, color=color)
    # A thread of its own, because the one that waits is blocked in a socket.
    timer = threading.Timer(AFTER_S if after_s is None else after_s, wheel.start)
    timer.daemon = True
    timer.start()
    try:
        yield wheel.say
    finally:
        timer.cancel()
        timer.join()
        wheel.stop()


class _Wheel:
    """The wheel; it is made when it is first seen, for Rich takes its time to load."""

    def __init__(self, words: str, *, color: bool) -> None:
        self._words = words
        self._color = color
        self._status: Status | None = None

    def start(self) -> None:
        from controlplane.cli import output  # noqa: PLC0415 - see main

        console = output.console(sys.stderr, color=self._color)
        status = console.status(output.clean(self._words))
        status.start()
        self._status = status

    def say(self, words: str) -> None:
        self._words = words
        if self._status is not None:
            from controlplane.cli import output  # noqa: PLC0415 - see main

            self._status.update(output.clean(words))

    def stop(self) -> None:
        if self._status is not None:
            self._status.stop()
