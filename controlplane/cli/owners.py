"""`hueshift jobs owners`: what is agreed with those who hand jobs in, and what they have used of it."""

import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, Yes, read_text, surroundings_of

if TYPE_CHECKING:
    from rich.table import Table

    from controlplane.api.owner_schemas import OwnerDocument, OwnerView

owners = typer.Typer(invoke_without_command=True, help="List what is agreed with owners of jobs, or apply it.")

OwnerName = Annotated[str, typer.Argument(help="The name of the API key.", show_default=False)]

DEFAULT = "default"


@owners.callback()
def list_owners(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List what is agreed with owners of jobs, or apply it from a file."""
    if context.invoked_subcommand is not None:
        return
    from controlplane.api.owner_schemas import OwnerDocument  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get_all(OwnerDocument, "job-owners")
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        printing.print_page(_table(found), color=surroundings.color)
    else:
        print("nothing is agreed with anybody; apply it: hueshift jobs owners apply -f FILE")


@owners.command("apply")
def apply_owners(
    context: typer.Context,
    file: Annotated[
        pathlib.Path, typer.Option("--file", "-f", help="Owners, one document each, YAML or JSON; - is standard input.")
    ],
    output: OutputOption = Format.TABLE,
) -> None:
    """Declare what is agreed with owners.

    Each replaces what was agreed with the one of its name. The same file again changes nothing.
    """
    from controlplane.api.owner_schemas import OwnerAppliedView, owner_document, parse_owners  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    meant = [owner_document(owner) for owner in parse_owners(read_text(file), source=str(file))]
    with surroundings_of(context).client() as client:
        applied = [
            client.put(OwnerAppliedView, "job-owners", each.owner, body=each.model_dump(mode="json")) for each in meant
        ]
    if for_programs(output):
        printing.print_data(applied, output)
    else:
        for each in applied:
            print(each.words)


@owners.command("show")
def show_owner(context: typer.Context, owner: OwnerName, output: OutputOption = Format.TABLE) -> None:
    """Show what holds for an owner, and what is used of it."""
    from controlplane.api.owner_schemas import OwnerView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        found = client.get(OwnerView, "job-owners", owner)
    if for_programs(output):
        printing.print_data(found, output)
    else:
        for line in _lines(found):
            print(line)


@owners.command("delete")
def delete_owner(context: typer.Context, owner: OwnerName, yes: Yes = False) -> None:  # noqa: FBT002 - a flag
    """Have the settings hold for an owner again."""
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    confirm(f"what is agreed with {owner} goes", yes=yes)
    with surroundings_of(context).client() as client:
        client.delete("job-owners", owner)
    print(f"{owner} has what the settings say")


def _lines(found: "OwnerView") -> Iterable[str]:
    keep = found.agreed and found.agreed.keep
    yield f"{found.owner}: {found.waiting.used} of {found.waiting.most} jobs wait or run"
    yield f"  {found.daily.used} of {found.daily.most} were submitted within 24 hours"
    yield f"  {found.bytes.used} of {found.bytes.most} bytes of pictures are stored"
    yield f"  vip is {'allowed' if found.vip else 'not allowed'}; pictures stay as long as the kind says" + (
        "" if keep is None else f", at most {_shown_keep(found.agreed)}"
    )


def _shown_keep(agreed: "OwnerDocument | None") -> str:
    return DEFAULT if agreed is None or agreed.keep is None else str(agreed.model_dump(mode="json")["keep"])


def _table(found: "Iterable[OwnerDocument]") -> "Table":
    from controlplane.cli import output as printing  # noqa: PLC0415

    table = printing.new_table("OWNER", "KEEP", "MAX WAITING", "MAX DAILY", "MAX BYTES", "VIP")
    for owner in found:
        shown = owner.model_dump(mode="json")
        limits = (shown[name] for name in ("keep", "max_waiting", "max_daily", "max_bytes"))
        row = (DEFAULT if value is None else str(value) for value in limits)
        table.add_row(owner.owner, *row, "yes" if owner.vip else "no")
    return table
