"""The commands around rollouts: the way back, starts that wait, freeze windows."""

from typing import Annotated

import typer

from controlplane.cli.formats import Format
from controlplane.cli.options import OutputOption, Service, Why, surroundings_of
from controlplane.errors import InvalidInputError

Scope = Annotated[str | None, typer.Argument(help="The service's name; or --all.", show_default=False)]
Every = Annotated[bool, typer.Option("--all", help="Every service.")]


def undo(
    context: typer.Context,
    name: Service,
    to: Annotated[
        str | None,
        typer.Option("--to", help="The version that is to get the traffic; else the one before.", show_default=False),
    ] = None,
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Give traffic back to the version before, at once: without steps and without the judge.

    While a rollout runs, its bake at 100 % included, that ends it. Later a rollout of its own goes back, as soon as the
    old version's workers are healthy. Example: hueshift undo colorize --why 'pictures are grey'
    """
    from controlplane.cli import steering  # noqa: PLC0415

    steering.undo(surroundings_of(context), name, to, why, form=output)


def retry(context: typer.Context, name: Service, why: Why = "", output: OutputOption = Format.TABLE) -> None:
    """Start the last rollout, which was rolled back, once more: same versions, same plan.

    Example: hueshift retry colorize --why 'the worker had no memory'
    """
    from controlplane.cli import steering  # noqa: PLC0415

    steering.retry(surroundings_of(context), name, why, form=output)


def queue(
    context: typer.Context,
    name: Service,
    cancel: Annotated[
        str | None,
        typer.Option("--cancel", help="Let this one wait no longer, by its id; or all.", show_default=False),
    ] = None,
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """List the starts that wait, in their order, or cancel one.

    Example: hueshift queue colorize --cancel colorize-8
    """
    from controlplane.cli import steering  # noqa: PLC0415

    if cancel is None:
        steering.show_queue(surroundings_of(context), name, form=output)
    else:
        steering.cancel(surroundings_of(context), name, cancel, why, form=output)


def freeze(
    context: typer.Context,
    name: Scope = None,
    every: Every = False,  # noqa: FBT002 - a flag of the command line
    until: Annotated[
        str | None, typer.Option("--until", help="22:00, +2h, or 2026-12-01T22:00:00Z.", show_default=False)
    ] = None,
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Let no rollout start or get more traffic until then; without --until, list the freezes.

    Rollbacks, abort and undo work all the same. Example: hueshift freeze --all --until +48h --why 'black friday'
    """
    from controlplane.cli import steering  # noqa: PLC0415

    surroundings = surroundings_of(context)
    if until is None:
        if name is not None or every:
            raise InvalidInputError("--until", "is missing", "say when it ends, as --until 22:00")
        steering.show_freezes(surroundings, form=output)
    else:
        steering.freeze(surroundings, _scope(name, every=every), until, why, form=output)


def unfreeze(
    context: typer.Context,
    name: Scope = None,
    every: Every = False,  # noqa: FBT002 - a flag of the command line
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """End a freeze; what waited for its end goes on.

    Example: hueshift unfreeze colorize
    """
    from controlplane.cli import steering  # noqa: PLC0415

    steering.unfreeze(surroundings_of(context), _scope(name, every=every), why, form=output)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    for command in (undo, retry, queue, freeze, unfreeze):
        app.command()(command)


def _scope(name: str | None, *, every: bool) -> str | None:
    """Return the service, None for all of them."""
    if (name is None) != every:
        raise InvalidInputError("name", "is missing" if name is None else "is given beside --all", "give one of them")
    return name
