"""The reference, written from the code: what docs/cli.md, codes.md, settings.md and metrics.md hold.

A hidden command prints them (`hueshift reference cli`); `make docs` writes them, and a test finds that they are old.
"""

import enum
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from controlplane.cli.examples import commands
from controlplane.codes import CATALOGUE

WIDTH: Final = 100

EXIT_CODES: Final = {
    0: "Done; for `status`: promoted.",
    1: "The answer is no: rolled back, a failed check, a bench out of its bounds, a difference.",
    2: "Wrong input or usage; for `status`: not decided in time, or a person must look.",
    3: "The control plane or its database does not answer.",
    4: "Refused: there is no such thing, it conflicts with what runs, or the key may not.",
    130: "Stopped by Ctrl-C; 143 by SIGTERM.",
}


class Book(enum.StrEnum):
    """Which reference."""

    CLI = "cli"
    CODES = "codes"
    SETTINGS = "settings"
    METRICS = "metrics"


def reference(context: typer.Context, book: Annotated[Book, typer.Argument(show_default=False)]) -> None:
    """Print a reference as Markdown."""
    root = context.find_root().command
    if book in {Book.CLI, Book.CODES}:
        lines = cli_lines(root, type(context)) if book is Book.CLI else codes_lines()
    else:
        from controlplane.cli import server_reference as program  # noqa: PLC0415 - it loads all of the server

        lines = program.settings_lines() if book is Book.SETTINGS else program.metrics_lines()
    print("\n".join(lines))


def cli_lines(root: Any, make_context: Any) -> Iterator[str]:
    """Write every command's help, in the order of `hueshift --help`; *make_context* is the class of its contexts."""
    yield "# Commands\n"
    yield "Written from the code by `make docs`; what is said here, `--help` says too.\n"
    yield "Every command that shows something takes `-o table|wide|json|yaml`. On a terminal nothing is wider than"
    yield "the window; in a pipe lines are whole. `--no-color` and the variable `NO_COLOR` do without colours. What"
    yield "destroys something asks first, or takes `--yes`. `--reason` (or `--why`) is kept in the audit.\n"
    yield "## Exit codes\n"
    yield "| code | means |"
    yield "| --- | --- |"
    yield from (f"| {code} | {words} |" for code, words in EXIT_CODES.items())
    yield "\nErrors are one line on standard error, with a [message code](codes.md) at its end.\n"
    yield from _help("hueshift", root, make_context(root, info_name="hueshift", terminal_width=WIDTH))
    for name, command in commands(root):
        parent = make_context(root, info_name="hueshift")
        for part in name.split()[:-1]:
            parent = make_context(parent.command.commands[part], info_name=part, parent=parent)
        context = make_context(command, info_name=name.split()[-1], parent=parent, terminal_width=WIDTH)
        yield from _help(f"hueshift {name}", command, context)


def _help(name: str, command: Any, context: Any) -> Iterator[str]:
    yield f"## `{name}`\n"
    yield "```text"
    yield "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    yield "```\n"


def codes_lines() -> Iterator[str]:
    """Write the catalogue of message codes."""
    yield "# Message codes\n"
    yield "Written from the code by `make docs`; `hueshift codes CODE` says the same. Texts may change with a release,"
    yield "codes do not: search for them, and let scripts match them. The name is the `code` of the API's answers.\n"
    yield "| code | level | title |"
    yield "| --- | --- | --- |"
    yield from (f"| [{code.id}](#{code.id.lower()}) | {code.level} | {code.title} |" for code in CATALOGUE.values())
    for code in CATALOGUE.values():
        yield f"\n## {code.id}\n"
        yield f"**{code.title}** ({code.level}, `{code.slug}`)\n"
        yield code.meaning
        if code.run:
            yield f"\nRun: `{code.run.format(service='SERVICE', subject='NODE')}`"


def register(app: typer.Typer) -> None:
    """Add this command to *app*."""
    app.command(hidden=True)(reference)
