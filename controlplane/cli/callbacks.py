"""`hueshift jobs callbacks`: whom you want told of the ends of your jobs."""

import pathlib
from typing import Annotated

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, Yes, read_text, surroundings_of

callbacks = typer.Typer(invoke_without_command=True, help="Whom to tell of your jobs' ends: list, apply, test, delete.")

Name = Annotated[str, typer.Argument(help="The callback's name.", show_default=False)]


@callbacks.callback()
def list_callbacks(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Whom to tell of your jobs' ends: list, apply, test, delete."""
    if context.invoked_subcommand is not None:
        return
    from controlplane.api.callback_schemas import CallbackView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get(list[CallbackView], "job-callbacks")
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        table = printing.new_table("CALLBACK", "ADDRESS", "EVENTS", "SIGNED")
        for each in found:
            address = printing.clean(each.address) or "what a task names"
            table.add_row(each.callback, address, ", ".join(each.events), "yes" if each.signed else "no")
        printing.print_page(table, color=surroundings.color)
    else:
        print("you have no callbacks; apply some: hueshift jobs callbacks apply -f FILE")


@callbacks.command("apply")
def apply_callbacks(
    context: typer.Context,
    file: Annotated[
        pathlib.Path,
        typer.Option("--file", "-f", help="Callbacks, one document each, YAML or JSON; - is standard input."),
    ],
    output: OutputOption = Format.TABLE,
) -> None:
    """Declare callbacks.

    Each replaces the one of its name. A secret that was made for one is printed this once.
    """
    from controlplane.api.callback_schemas import CallbackAppliedView, parse_callbacks  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    meant = list(parse_callbacks(read_text(file), source=str(file)))
    with surroundings_of(context).client() as client:
        applied = [
            client.put(CallbackAppliedView, "job-callbacks", each.callback, body=each.model_dump(mode="json"))
            for each in meant
        ]
    if for_programs(output):
        printing.print_data(applied, output)
        return
    for each in applied:
        print(each.words)
        if each.secret is not None:
            print(f"  its secret, shown this once: {each.secret}")


@callbacks.command("secret")
def renew_secret(context: typer.Context, callback: Name, output: OutputOption = Format.TABLE) -> None:
    """Make a new secret and print it, this once.

    The one before signs, too, for a day. The callback `task` is made if it is not there.
    """
    from controlplane.api.callback_schemas import CallbackSecretView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        made = client.post(CallbackSecretView, "job-callbacks", callback, "secret", body={})
    if for_programs(output):
        printing.print_data(made, output)
    else:
        print(made.secret)


@callbacks.command("test")
def check_callback(context: typer.Context, callback: Name, output: OutputOption = Format.TABLE) -> None:
    """Send a callback a message that is of no job, now.

    Exit code 1 says that it was not delivered.
    """
    from controlplane.api.callback_schemas import CallbackTestView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415
    from controlplane.cli.client import ExitCode  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        tested = client.post(CallbackTestView, "job-callbacks", callback, "test", body={})
    if for_programs(output):
        printing.print_data(tested, output)
    else:
        print(printing.clean(f"{callback}: {tested.words}"))
    if not tested.delivered:
        raise typer.Exit(ExitCode.NEGATIVE)


@callbacks.command()
def delete(context: typer.Context, callback: Name, yes: Yes = False) -> None:  # noqa: FBT002 - a flag
    """Forget a callback; what was not delivered to it yet is given up."""
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    confirm(f"callback {callback} goes, with what was not delivered yet,", yes=yes)
    with surroundings_of(context).client() as client:
        client.delete("job-callbacks", callback)
    print(f"callback {callback} is gone")
