"""Draws a page in place, again and again: each frame is one write, on the terminal's other screen.

Lines are written over, never cleared first, so nothing flickers; the terminal's size is asked for at each frame, so a
window that is resized is right again at the next. What was on the terminal before is there again afterwards, also when
the program is told to end.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from controlplane.cli.layout import Page

ENTER: Final = "\x1b[?1049h\x1b[?25l"
LEAVE: Final = "\x1b[?25h\x1b[?1049l"
BEGIN_FRAME: Final = "\x1b[?2026h"
"""Terminals that know it show the whole frame at once; others ignore it."""
END_FRAME: Final = "\x1b[?2026l"
HOME: Final = "\x1b[H"
CLEAR_LINE_END: Final = "\x1b[K"
CLEAR_BELOW: Final = "\x1b[J"
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
"""Signals that would end the program where it stands, with the terminal as it is."""


class Screen:
    """The terminal of *console*, for as long as the context lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, _end) for number in ENDING}
        self._write(ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(LEAVE)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def draw(self, page: Page) -> None:
        """Show *page*; what does not fit below the last line is counted there."""
        width, height = self._console.size
        lines = page.lines(width)
        if len(lines) > height:
            left = len(lines) - height + 1
            lines = [*lines[: height - 1], Text(f"… {left} more lines: enlarge the window", style="dim")]
            lines[-1].truncate(width)
        self._write(BEGIN_FRAME + HOME + "\r\n".join(self._line(line, width) for line in lines) + self._rest(lines))

    def _line(self, line: Text, width: int) -> str:
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="crop")
        # Behind a full line the cursor still stands on its last character, which clearing would take.
        return captured.get() + (CLEAR_LINE_END if cell_len(line.plain) < width else "")

    def _rest(self, lines: list[Text]) -> str:
        full = len(lines) >= self._console.size.height
        return ("" if full else "\r\n" + CLEAR_BELOW) + END_FRAME

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # as shells say it
