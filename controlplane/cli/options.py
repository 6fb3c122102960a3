"""Options and arguments that commands share."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from controlplane.cli.formats import Format
from controlplane.cli.surroundings import Surroundings
from controlplane.errors import InvalidInputError

OutputOption = Annotated[
    Format, typer.Option("--output", "-o", help="For people, the same with everything, or for programs.")
]
Service = Annotated[str, typer.Argument(help="The service's name.", show_default=False)]
Why = Annotated[str, typer.Option("--reason", "--why", help="Why, for the audit.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def surroundings_of(context: typer.Context) -> Surroundings:
    """Return what the command was given around it."""
    found = context.find_object(Surroundings)
    return found if found is not None else Surroundings()


def percentages(field: str, texts: Sequence[str]) -> list[str]:
    """Return weights as the API wants them; on the command line the percent sign may be left out.

    Raises:
        InvalidInputError: One is not a percentage.
    """
    from controlplane.api import units  # noqa: PLC0415 - see main

    found = []
    for text in texts:
        try:
            found.append(units.format_weight(units.parse_weight_bp(f"{text.strip().removesuffix('%')}%")))
        except units.UnitError as exc:
            raise InvalidInputError(field, exc.problem, exc.fix) from exc
    return found


def read_text(file: pathlib.Path, *, option: str = "--file") -> str:
    """Return what the file that *option* names holds; ``-`` is standard input.

    Raises:
        InvalidInputError: It cannot be read, or is not text.
    """
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is not UTF-8 text"
        raise InvalidInputError(option, f"{file} cannot be read ({why})", "name a YAML or JSON file") from exc
