"""The command that tells what happens, as it happens."""

from typing import Annotated

import typer

from controlplane.cli.formats import Format
from controlplane.cli.options import OutputOption, surroundings_of


def events(
    context: typer.Context,
    service: Annotated[
        list[str] | None, typer.Option("--service", help="Only this service; again for more.", show_default=False)
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            "--types",
            help="Only these, separated by commas: rollout, command, refused, apply, delete, split, revision, freeze, "
            "pictures, ack, nack; and how things stand: state, weights, evidence, series.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--follow", "-f", help="Go on until interrupted.")
    ] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, max=1000, help="How many of the past.")] = 20,
    output: OutputOption = Format.TABLE,
) -> None:
    """Tell what happens to services and rollouts, one sentence each.

    With -f it goes on, and comes back to where it was when the control plane was away. As JSON: one object per line; as
    YAML: one document each.
    """
    from controlplane.cli import following  # noqa: PLC0415 - see main

    asked = following.Asked(services=tuple(service or ()), types=types, last=last, follow=follow)
    following.tell(surroundings_of(context), asked, form=output)


def register(app: typer.Typer) -> None:
    """Add this command to *app*."""
    app.command()(events)
