"""`hueshift codes`: what a message code means, and what mends it."""

import difflib
from typing import Annotated

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption
from controlplane.codes import CATALOGUE, Code
from controlplane.errors import NotFoundError


def codes(
    code: Annotated[
        str | None, typer.Argument(help="One of them, as HS0107; all without it.", show_default=False)
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Explain a message's code, or list all of them. Needs no server."""
    from controlplane.cli import output as printing  # noqa: PLC0415 - see main

    if code is None:
        if for_programs(output):
            printing.print_data([_plain(each) for each in CATALOGUE.values()], output)
        else:
            printing.print_page(printing.rows_table([_row(each) for each in CATALOGUE.values()]))
        return
    found = _find(code)
    if for_programs(output):
        printing.print_data(_plain(found), output)
    else:
        printing.print_page(printing.code_page(found))


def _find(code: str) -> Code:
    name = code.strip().upper()
    if name not in CATALOGUE:
        close = difflib.get_close_matches(name, CATALOGUE, n=5, cutoff=0.5)
        raise NotFoundError("code", code, tuple(sorted(close)) or (next(iter(CATALOGUE)), "..."))
    return CATALOGUE[name]


def _row(code: Code) -> dict[str, str]:
    return {"code": code.id, "level": code.level.value, "title": code.title}


def _plain(code: Code) -> dict[str, str]:
    return {
        "code": code.id,
        "name": code.slug,
        "level": code.level.value,
        "title": code.title,
        "meaning": code.meaning,
        "run": code.run,
    }


def register(app: typer.Typer) -> None:
    """Add this command to *app*."""
    app.command()(codes)
