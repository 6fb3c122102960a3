"""Asks before something is destroyed: on a terminal by a question, in a script by --yes."""

import sys

import typer

from controlplane.cli.client import NotConfirmedError


def confirm(what: str, *, yes: bool) -> None:
    """Go on only if someone said *yes* to *what* is about to happen, now or on the command line.

    Raises:
        NotConfirmedError: Nobody did.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotConfirmedError("--yes", f"{what} for good, and nobody can be asked here", "add --yes")
    if not typer.confirm(f"{what} for good?", err=True):
        raise NotConfirmedError("--yes", "nothing was done", "answer y, or add --yes")
