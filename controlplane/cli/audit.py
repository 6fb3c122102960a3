"""`hueshift audit`: who changed what and why, and who tried to without being allowed."""

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, surroundings_of

if TYPE_CHECKING:
    from rich.table import Table

    from controlplane.api.access_schemas import AuditEntryView

PAGE = 200


class OutcomeOption(enum.StrEnum):
    """What became of an attempt."""

    DONE = "done"
    REFUSED = "refused"
    DENIED = "denied"


def audit(
    context: typer.Context,
    service: Annotated[
        str | None, typer.Option("--service", help="Only what is about this service.", show_default=False)
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Only what this key or person did.", show_default=False)
    ] = None,
    outcome: Annotated[
        OutcomeOption | None, typer.Option("--outcome", help="Only what ended like this.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, the newest.")] = 20,
    output: OutputOption = Format.TABLE,
) -> None:
    """List what people did, newest first: commands, declarations, keys and grants, and what was denied to whom.

    Example: hueshift audit --outcome denied --limit 50
    """
    from controlplane.api.access_schemas import AuditEntryView, AuditPage  # noqa: PLC0415 - see main
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    given = {"service": service, "by": by, "outcome": outcome.value if outcome else None}
    query: dict[str, str | int] = {name: value for name, value in given.items() if value is not None}
    found: list[AuditEntryView] = []
    with surroundings.client() as client:
        while len(found) < limit:
            query["limit"] = min(PAGE, limit - len(found))
            page = client.get(AuditPage, "audit", **query)
            found += page.items
            if page.next is None:
                break
            query["cursor"] = page.next
    if for_programs(output):
        printing.print_data({"entries": [each.model_dump(mode="json") for each in found]}, output)
    elif found:
        printing.print_page(_table(found), color=surroundings.color)
    else:
        print("nobody did anything like that")


def _table(found: "Iterable[AuditEntryView]") -> "Table":
    from controlplane.cli import output as printing  # noqa: PLC0415

    table = printing.new_table("AT", "WHO", "WHAT", "SERVICE", "OUTCOME", "WORDS")
    for each in found:
        times = f" ({each.count} times)" if each.count > 1 else ""
        outcome = f"{each.outcome}{times}"
        table.add_row(each.at.isoformat(timespec="seconds"), each.by, each.what, each.service, outcome, each.words)
    return table


def register(app: typer.Typer) -> None:
    """Add this command to *app*."""
    app.command()(audit)
