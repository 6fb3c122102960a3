"""How benches and drills print: a terminal has its own width, a log has one that tables fit into."""

import sys

from rich.console import Console

LOG_WIDTH = 120


def console(*, stderr: bool = False) -> Console:
    """Return a console for results, or (*stderr*) for progress."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else LOG_WIDTH, highlight=False)
